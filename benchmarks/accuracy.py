"""How right is a bundle? Validation figures through the runtime, into one JSON.

    python benchmarks/accuracy.py --data DIR --out accuracy.json

Every figure is measured on the bundle (ONNX and GGUF), through the runtime's own detector and alignment,
on validation splits that training never saw. `--data` is a folder in the layout of docs/training.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight import Face, FaceInsight
from faceinsight.bundle import Bundle
from faceinsight.device import Device
from faceinsight.labels import NO, YES, Labeler
from faceinsight.manifest import STATES
from faceinsight.perception import Encoded, Perception
from faceinsight.rules import RuleSet
from faceinsight_models.data import read_image
from faceinsight_models.dialogue import describe
from faceinsight_models.wordings import CONCEPTS, closed_question


def rows_of(data: Path, name: str, split: str) -> list[dict[str, str]]:
    with open(data / f"{name}.csv", newline="") as f:
        return [r for r in csv.DictReader(f) if r["split"] == split]


def auc(score: NDArray[Any], label: NDArray[Any]) -> float:
    """Area under the ROC curve by ranks; ties share theirs."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = int(label.sum())
    return float((rank[label > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(label) - positive)))


class Harness:
    """The bundle's perception with every characteristic on, for raw figures; policy is not what is measured here."""

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self.bundle, m = bundle, bundle.manifest
        self.perception = Perception.load(bundle, device, allow=m.sensitive)
        self.numbers = np.arange(len(m.characteristics))
        self.names = [c.name for c in m.characteristics]

    def photo(self, image: NDArray[np.uint8]) -> Encoded | None:
        """The largest face of a whole photo, detector and alignment included."""
        found = self.perception.detector(image)[:1]
        return self.perception.encode(*self.perception.crops(image, found)[1:], self.numbers) if found else None

    def cropped(self, image: NDArray[np.uint8]) -> Encoded:
        """The picture taken as the canonical crop itself."""
        sizes = self.bundle.manifest.parser.size, self.bundle.manifest.encoder.size
        wide, small = (cv2.resize(image, (s, s), interpolation=cv2.INTER_AREA)[None] for s in sizes)
        return self.perception.encode(wide, small, self.numbers)

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        slope, shift = np.array([c.calibration for c in self.bundle.manifest.characteristics]).T
        return np.asarray(slope * logits + shift)


def attributes(h: Harness, data: Path, limit: int) -> tuple[dict[str, Any], list[Encoded | None]]:
    """CelebA-HQ validation: accuracy, AUC, rule violations raw and in reports."""
    rows = rows_of(data, "celebahq", "val")[:limit]
    labels = np.array([[int(r[n]) for n in h.names] for r in rows])
    with zipfile.ZipFile(data / "celebahq.zip") as archive:
        seen = [h.photo(read_image(archive, r["file"])) for r in tqdm(rows, desc="attributes", mininterval=5)]
    found = np.array([e is not None for e in seen])
    z = h.calibrated(np.stack([e.logits[0] for e in seen if e is not None]))
    y = labels[found]
    right = (z > 0) == (y > 0)
    p = 1 / (1 + np.exp(-z))
    m = h.bundle.manifest
    ruled = RuleSet(h.names, m.rules)
    kept = [c for c in m.characteristics if c.group == ""]
    labeler, index = Labeler(kept, m.rules, m.unsure), [m.index(c.name) for c in kept]
    raw = repaired = 0
    states: Counter[str] = Counter()
    for e in (e for e in seen if e is not None):
        raw += len(ruled.violations({n for n, v in zip(h.names, h.calibrated(e.logits[0]) > 0, strict=True) if v}))
        report = labeler(e.logits[0][index], dict(zip(m.regions, e.area[0].tolist(), strict=True)))
        repaired += len(ruled.violations({x.name for x in report if x.state == "yes"}))
        states.update(x.state for x in report)
    recall = np.array([(right[y[:, k] > 0, k].mean(), right[y[:, k] == 0, k].mean()) for k in range(len(h.names))])
    per = {
        n: {
            "prevalence": round(float(y[:, k].mean()), 4), "accuracy": round(float(right[:, k].mean()), 4),
            "balanced": round(float(recall[k].mean()), 4), "auc": round(auc(z[:, k], y[:, k]), 4),
        }
        for k, n in enumerate(h.names)
    }  # fmt: skip
    figures = {
        "images": len(rows),
        "no face found": int((~found).sum()),
        "mean accuracy": round(float(right.mean()), 4),
        "mean balanced accuracy": round(float(recall.mean()), 4),
        "mean AUC": round(float(np.mean([v["auc"] for v in per.values()])), 4),
        "mean ECE (15 bins)": round(float(np.mean([ece(p[:, k], y[:, k]) for k in range(len(h.names))])), 4),
        "rule violations before the rules": raw,
        "rule violations in reports": repaired,
        "states in reports": dict(states),
        "per attribute": per,
    }
    return figures, seen


def ece(p: NDArray[Any], y: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error of the positive class over equal-width bins."""
    which = np.minimum((p * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    return total


def whole_photo(h: Harness, data: Path, count: int) -> dict[str, Any]:
    """The same images through detector and alignment, and taken as crops."""
    rows = rows_of(data, "celebahq", "val")[:count]
    right: dict[str, list[NDArray[Any]]] = {"through the detector": [], "as the crop": []}
    missed = 0
    with zipfile.ZipFile(data / "celebahq.zip") as archive:
        for row in tqdm(rows, desc="whole photo", mininterval=5):
            image = read_image(archive, row["file"])
            y = np.array([int(row[n]) for n in h.names]) > 0
            full = h.photo(image)
            missed += full is None
            # A face that is not found answers nothing: every attribute counts as wrong.
            right["through the detector"].append(
                (h.calibrated(full.logits[0]) > 0) == y if full else np.zeros(len(y), bool)
            )
            right["as the crop"].append((h.calibrated(h.cropped(image).logits[0]) > 0) == y)
    figures: dict[str, Any] = {k: round(float(np.mean(v)), 4) for k, v in right.items()}
    return {"images": count, "no face found": missed} | figures


def parsing(h: Harness, data: Path) -> dict[str, Any]:
    """CelebAMask-HQ validation pairs at 256 px: F1 per class over all pixels.

    The parser alone, on the pairs as they are.
    """
    classes = h.bundle.manifest.parser.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    rows = rows_of(data, "celebamask", "val")
    with zipfile.ZipFile(data / "celebamask.zip") as archive:
        for row in tqdm(rows, desc="parsing", mininterval=5):
            image = read_image(archive, row["file"])
            mask = cv2.imdecode(np.frombuffer(archive.read(row["mask"]), np.uint8), cv2.IMREAD_GRAYSCALE)
            found = h.cropped(image).label_map[0]
            pairs = mask.reshape(-1).astype(np.int64) * len(classes) + found.reshape(-1)
            confusion += np.bincount(pairs, minlength=len(classes) ** 2).reshape(confusion.shape)
    f1 = 2 * np.diag(confusion) / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    return {
        "pairs": len(rows),
        "mean F1, 18 foreground classes": round(float(f1[1:].mean()), 4),
        "F1": {n: round(float(v), 4) for n, v in zip(classes, f1, strict=True)},
    }


def said(text: str) -> str | None:
    """State that a closed answer speaks; None where it is no such answer."""
    starts = {"Yes": "yes", "No": "no", "I am not sure": "unsure", "I cannot tell": "not visible"}
    return next((s for start, s in starts.items() if text.startswith(start)), None)


def closed_questions(insight: FaceInsight, data: Path, count: int) -> dict[str, Any]:
    """Yes/no questions in wordings that training never saw: does the LLM agree with the head, and is it right?"""
    rng = np.random.default_rng(11)
    rows = rows_of(data, "celebahq", "val")
    agree: dict[str, list[bool]] = {s: [] for s in STATES}
    llm_right, head_right, wrong = [], [], []
    with zipfile.ZipFile(data / "celebahq.zip") as archive, tqdm(total=count, desc="questions", mininterval=5) as bar:
        asked = 0
        while asked < count:
            row = rows[rng.integers(len(rows))]
            faces = insight.perceive(read_image(archive, row["file"]))
            if not faces:
                continue
            states = {x.name: STATES.index(x.state) for x in faces[0].labels}
            for _ in range(5):
                concept = CONCEPTS[rng.integers(len(CONCEPTS))]
                state = concept.state(states)
                # Two thirds of all states are "no": without the second draw a parrot would score well.
                if state is None or (state == NO and rng.random() < 0.6) or asked >= count:
                    continue
                question = closed_question(rng, concept, heldout=True)
                text = insight.ask(faces[0], question).text
                spoken, expected = said(text), STATES[state]
                agree[expected].append(spoken == expected)
                if spoken != expected and len(wrong) < 40:
                    wrong.append({"question": question, "head": expected, "answer": text})
                truth = "yes" if (int(row[concept.name]) > 0) != concept.inverted else "no"
                if state in (YES, NO):
                    llm_right.append(spoken == truth)
                    head_right.append(expected == truth)
                asked += 1
                bar.update()
    every = [v for values in agree.values() for v in values]
    return {
        "questions": len(every),
        "agreement with the head": round(float(np.mean(every)), 4),
        "agreement by state": {
            s: {"n": len(v), "agreement": round(float(np.mean(v)), 4)} for s, v in agree.items() if v
        },
        "accuracy against labels, head (yes and no)": round(float(np.mean(head_right)), 4),
        "accuracy against labels, LLM": round(float(np.mean(llm_right)), 4),
        "disagreements": wrong,
    }


def ablation(insight: FaceInsight, data: Path, count: int) -> dict[str, Any]:
    """What each kind of token tells the LLM: accuracy against labels on yes/no questions, half of them yes."""
    rng = np.random.default_rng(12)
    rows = rows_of(data, "celebahq", "val")
    cases: list[tuple[Face, str, bool]] = []
    with zipfile.ZipFile(data / "celebahq.zip") as archive:
        while len(cases) < count:
            row = rows[rng.integers(len(rows))]
            faces = insight.perceive(read_image(archive, row["file"]))
            concepts = [c for c in CONCEPTS if faces and faces[0].label(c.name)]
            wanted = len(cases) % 2 == 0
            fitting = [c for c in concepts if ((int(row[c.name]) > 0) != c.inverted) == wanted]
            if fitting:
                concept = fitting[rng.integers(len(fitting))]
                cases.append((faces[0], closed_question(rng, concept, heldout=True), wanted))
    image = insight.perception.image_tokens
    arms = {
        "image, region and knowledge tokens": "irk",
        "without knowledge tokens": "ir",
        "without image tokens": "rk",
        "without region tokens": "ik",
        "image tokens alone": "i",
        "region tokens alone": "r",
        "knowledge tokens alone": "k",
        "no face tokens": "",
    }
    out: dict[str, Any] = {"questions": count}
    for arm, kept in arms.items():
        right = []
        for face, question, wanted in tqdm(cases, desc=arm, mininterval=5):
            tokens = np.concatenate([face.tokens[:image] if "i" in kept else face.tokens[:0],
                                     face.tokens[image:] if "r" in kept else face.tokens[:0]])  # fmt: skip
            ids = insight.language.read(question)
            about = insight.relevance(ids) if "k" in kept else np.empty(0, np.int64)
            other = dataclasses.replace(face, tokens=tokens, key=face.key + arm)
            findings = insight.relevance.findings(other, about)
            text = "".join(map(str, insight.language.stream(other, ids, findings))).strip()
            right.append(said(text) == ("yes" if wanted else "no"))
        out[arm] = round(float(np.mean(right)), 4)
    return out


def descriptions(insight: FaceInsight, data: Path, count: int) -> dict[str, Any]:
    """Free descriptions: how often the text is exactly what the head's states support."""
    rows = rows_of(data, "celebahq", "val")[:count]
    same, examples = [], []
    with zipfile.ZipFile(data / "celebahq.zip") as archive:
        for row in tqdm(rows, desc="descriptions", mininterval=5):
            for face in insight.perceive(read_image(archive, row["file"]))[:1]:
                text = insight.ask(face, "Describe this face.").text
                expected = describe({x.name: STATES.index(x.state) for x in face.labels})
                same.append(text == expected)
                if text != expected and len(examples) < 10:
                    examples.append({"expected": expected, "answer": text})
    return {
        "descriptions": len(same),
        "exactly as the states support": round(float(np.mean(same)), 4),
        "others": examples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10**9, help="validation images for the attributes (default: all)")
    parser.add_argument("--questions", type=int, default=1000)
    args = parser.parse_args()
    bundle, device = Bundle.open(args.bundle), Device.resolve("cpu")
    harness = Harness(bundle, device)
    began = time.time()
    result: dict[str, Any] = {"bundle": bundle.manifest.name, "bundle sha256": bundle.sha256, "split": "val"}
    result["attributes (CelebA-HQ)"] = attributes(harness, args.data, args.images)[0]
    result["whole photo against crop (CelebA-HQ)"] = whole_photo(harness, args.data, 300)
    result["parsing (CelebAMask-HQ)"] = parsing(harness, args.data)
    with FaceInsight.load(args.bundle, device="cpu") as insight:
        result["closed questions"] = closed_questions(insight, args.data, args.questions)
        result["descriptions"] = descriptions(insight, args.data, max(1, args.questions // 5))
        result["token ablation"] = ablation(insight, args.data, max(2, args.questions // 2))
    result["minutes"] = round((time.time() - began) / 60, 1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    brief = json.loads(json.dumps(result))
    brief["attributes (CelebA-HQ)"].pop("per attribute")
    brief["closed questions"].pop("disagreements")
    brief["descriptions"].pop("others")
    print(json.dumps(brief, indent=1))


if __name__ == "__main__":
    main()
