"""How right is a bundle? Figures through the runtime, into one JSON and a table.

    python benchmarks/accuracy.py --data DIR --out accuracy.json

Every figure is measured on the bundle (ONNX and GGUF), through the runtime's own detector and alignment; a face that is
not found counts as wrong. `--data` is a folder in one of the layouts of benchmarks/datasets.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import answers
import cv2
import datasets
import metrics
import numpy as np
from datasets import Sample
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight import FaceInsight
from faceinsight.bundle import Bundle
from faceinsight.device import Device
from faceinsight.labels import NO, YES, Labeler
from faceinsight.manifest import STATES
from faceinsight.perception import Encoded, Perception
from faceinsight.rules import RuleSet
from faceinsight_models.data import read_image, read_mask, read_rows
from faceinsight_models.vocabulary import CHOICES, CHOSEN, NAMES

Figures = dict[str, Any]


class Harness:
    """The bundle's perception with every characteristic on, for raw figures; policy is not what is measured here."""

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self.bundle, m = bundle, bundle.manifest
        self.perception = Perception.load(bundle, device, allow=[g for g, on in m.switches.items() if not on])
        self.numbers = np.arange(len(m.characteristics))
        self.names = [c.name for c in m.characteristics]
        if tuple(self.names) != NAMES:
            raise SystemExit(f"{bundle.path}: its characteristics are not those of this version; export it again")
        self.labeler = Labeler(m.characteristics, m.rules, soft_weight=m.soft_weight)

    def photo(self, image: NDArray[np.uint8]) -> Encoded | None:
        """The largest face of a whole photo, detector and alignment included."""
        found = self.perception.detector(image)[:1]
        return self.perception.encode(*self.perception.crops(image, found)[1:], self.numbers) if found else None

    def cropped(self, image: NDArray[np.uint8]) -> Encoded:
        """The picture taken as the canonical crop itself."""
        sizes = self.bundle.manifest.parser.size, self.bundle.manifest.encoder.size
        wide, small = (cv2.resize(image, (s, s), interpolation=cv2.INTER_AREA)[None] for s in sizes)
        return self.perception.encode(wide, small, self.numbers)

    def columns(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(n) for n in names]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the bundle makes of a set: p (M,N) calibrated probabilities and states (M,N), labels (M,N), found (M,),
    years (M,); of faces that were not found, p is 0 and the states are "no"."""

    p: NDArray[np.float64]
    states: NDArray[np.int64]
    labels: NDArray[np.float32]
    found: NDArray[np.bool_]
    years: NDArray[np.float64]
    raw: NDArray[np.bool_]


def look(h: Harness, samples: Sequence[Sample], name: str) -> Seen:
    """Run every picture through the runtime once."""
    count, width = len(samples), len(NAMES)
    p, states = np.zeros((count, width)), np.full((count, width), NO)
    raw, found = np.zeros((count, width), bool), np.zeros(count, bool)
    for i, sample in enumerate(tqdm(samples, desc=name, mininterval=5)):
        seen = h.photo(sample.read())
        if seen is None:
            continue
        z, p[i] = h.labeler.calibrated(seen.logits[0])
        raw[i], found[i] = z > 0, True
        report = h.labeler(seen.logits[0], dict(zip(h.bundle.manifest.regions, seen.area[0].tolist(), strict=True)))
        states[i] = [STATES.index(x.state) for x in report]
    labels = np.array([s.labels for s in samples])
    years = np.array([np.nan if s.years is None else s.years for s in samples])
    return Seen(p, states, labels, found, years, raw)


def attributes(h: Harness, seen: Seen) -> Figures:
    """Yes/no characteristics that the set labels: accuracy, balanced accuracy, F1, AUC, mAP, ECE, abstention."""
    per: Figures = {}
    curves: list[dict[str, float]] = []
    for k, name in enumerate(h.names):
        y = seen.labels[:, k]
        if name in CHOSEN or np.isnan(y).all():
            continue
        known = ~np.isnan(y)
        truth, p = y[known] > 0.5, seen.p[known, k]
        right = ((p > 0.5) == truth) & seen.found[known]
        claimed = np.isin(seen.states[known, k], (YES, NO)) & seen.found[known]
        wrong = claimed & ((seen.states[known, k] == YES) != truth)
        curves.append(metrics.abstention(np.maximum(p, 1 - p), right))
        per[name] = {
            "n": int(known.sum()), "prevalence": truth.mean(), "accuracy": right.mean(),
            "balanced": metrics.balanced(p > 0.5, truth), "F1": metrics.f1(p > 0.5, truth),
            "AUC": metrics.auc(p, truth), "AP": metrics.average_precision(p, truth),
            "ECE": metrics.ece(p, truth.astype(float)), "claimed": claimed.mean(),
            "wrong of claimed": wrong.sum() / max(1, claimed.sum()),
        }  # fmt: skip
    mean = lambda key: float(np.nanmean([v[key] for v in per.values()]))  # noqa: E731
    return {
        **{f"mean {key}": mean(key) for key in ("accuracy", "balanced", "F1", "AUC", "AP", "ECE", "claimed")},
        "wrong of claimed": mean("wrong of claimed"),
        "mean accuracy when only the surest answer": {
            share: float(np.mean([c[share] for c in curves])) for share in curves[0]
        },
        "per characteristic": per,
    }


def choice(h: Harness, seen: Seen, task: str) -> Figures | None:
    """Age, race or expression: accuracy, macro-F1, ECE of the likeliest, per class; age also in years."""
    columns = h.columns(CHOICES[task])
    y = seen.labels[:, columns]
    known = ~np.isnan(y[:, 0])
    if not known.any():
        return None
    y, p, found = y[known], seen.p[known][:, columns], seen.found[known]
    truth, predicted = y.argmax(1), p.argmax(1)
    right = (predicted == truth) & found
    top = p.max(1)
    claimed = (seen.states[known][:, columns] == YES).any(1) & found
    out: Figures = {
        "n": len(truth),
        "accuracy": right.mean(),
        "macro F1": metrics.macro_f1(np.where(found, predicted, -1), truth, len(columns)),
        "ECE": metrics.ece(top[found], right[found].astype(float)),
        "claimed": claimed.mean(),
        "wrong of claimed": (claimed & ~right).sum() / max(1, claimed.sum()),
        "accuracy when only the surest answer": metrics.abstention(top, right),
        "per class": {
            n: {"n": int((truth == k).sum()), "recall": float(right[truth == k].mean()) if (truth == k).any() else None}
            for k, n in enumerate(CHOICES[task])
        },
    }
    if task == "age":
        out["accuracy within one bin"] = (np.abs(predicted - truth) <= 1)[found].sum() / len(truth)
        middles = np.array([(low + high) / 2 for low, high in datasets.YEARS])
        years = seen.years[known]
        exact = ~np.isnan(years)
        # Expected age under the probabilities; against the bin's middle where the set gives bins only.
        goal = np.where(exact, np.nan_to_num(years), middles[truth])
        out["mean absolute error in years"] = float(np.abs(p @ middles - goal)[found].mean())
        out["years are"] = "exact" if exact.all() else "middles of bins"
    return out


def fairness(h: Harness, seen: Seen) -> Figures:
    """Accuracy by gender, age and race of those pictured, each with a 95 % interval; groups of at least 20."""
    groups: dict[str, NDArray[np.bool_]] = {}
    male = seen.labels[:, h.names.index("Male")]
    groups |= {"gender: male": male > 0.5, "gender: female": male <= 0.5}
    for task in ("age", "race"):
        for name, column in zip(CHOICES[task], h.columns(CHOICES[task]), strict=True):
            groups[f"{task}: {name}"] = seen.labels[:, column] > 0.5
    young = seen.labels[:, h.names.index("Young")]
    groups |= {"young": young > 0.5, "not young": young <= 0.5}
    tasks: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    binary = [k for k, n in enumerate(h.names) if n not in CHOSEN]
    y = seen.labels[:, binary]
    attributes_known = ~np.isnan(y)
    if attributes_known.any():
        right = ((seen.p[:, binary] > 0.5) == (y > 0.5)) & seen.found[:, None]
        tasks["attributes" if attributes_known.sum(1).max() > 1 else "gender"] = right, attributes_known
    for task, names in CHOICES.items():
        columns = h.columns(names)
        known = ~np.isnan(seen.labels[:, columns[0]])
        if known.any():
            same = (seen.p[:, columns].argmax(1) == seen.labels[:, columns].argmax(1)) & seen.found
            tasks[task] = same[:, None], known[:, None]
    out: Figures = {}
    for task, (right, known) in tasks.items():
        rows: Figures = {}
        for group, members in groups.items():
            kept = known[members]
            if members.sum() < 20 or not kept.any():
                continue
            n = int(kept.sum())
            share = int(right[members][kept].sum())
            rows[group] = {"people": int(members.sum()), "accuracy": share / n, "interval": metrics.wilson(share, n)}
        if rows:
            values = [v["accuracy"] for v in rows.values()]
            out[task] = {"widest gap": max(values) - min(values), "groups": rows}
    return out


def consistency(h: Harness, seen: Seen) -> Figures:
    """Hard rules broken by the outputs taken one by one, and by the reports."""
    ruled = RuleSet(h.names, h.bundle.manifest.rules)
    named = lambda row: {h.names[k] for k in np.flatnonzero(row)}  # noqa: E731
    rows = np.flatnonzero(seen.found)
    raw = [ruled.violations(named(seen.raw[i])) for i in rows]
    # A choice in doubt is still one choice.
    doubt = np.isin(np.arange(len(h.names)), h.columns(CHOSEN))
    said = (seen.states == YES) | ((seen.states == STATES.index("unsure")) & doubt)
    repaired = [ruled.violations(named(said[i])) for i in rows]
    return {
        "faces": len(rows),
        "faces whose raw outputs break a rule": sum(bool(v) for v in raw),
        "raw violations": sum(map(len, raw)),
        "violations in reports": sum(map(len, repaired)),
        "states": {s: int((seen.states[rows] == i).sum()) for i, s in enumerate(STATES)},
    }


def whole_photo(h: Harness, samples: Sequence[Sample]) -> Figures:
    """The same pictures through detector and alignment, and taken as crops."""
    right: dict[str, list[NDArray[Any]]] = {"through the detector": [], "as the crop": []}
    for sample in tqdm(samples, desc="whole photo", mininterval=5):
        image, known = sample.read(), ~np.isnan(sample.labels)
        y = sample.labels[known] > 0.5
        full = h.photo(image)
        # A face that is not found answers nothing: every attribute counts as wrong.
        z = None if full is None else h.labeler.calibrated(full.logits[0])[0][known]
        right["through the detector"].append(np.zeros(len(y), bool) if z is None else (z > 0) == y)
        right["as the crop"].append((h.labeler.calibrated(h.cropped(image).logits[0])[0][known] > 0) == y)
    return {"images": len(samples)} | {k: float(np.mean(v)) for k, v in right.items()}


def parsing(h: Harness, data: Path, split: str) -> Figures | None:
    """CelebAMask-HQ pairs at 256 px: F1 per class over all pixels. The parser alone, on the pairs as they are."""
    if not (data / "celebamask.csv").is_file():
        return None
    classes = h.bundle.manifest.parser.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    rows = [r for r in read_rows(data / "celebamask.csv") if r["split"] == split]
    with zipfile.ZipFile(data / "celebamask.zip") as archive:
        for row in tqdm(rows, desc="parsing", mininterval=5):
            image = read_image(archive, row["file"])
            mask = read_mask(archive, row["mask"])
            found = h.cropped(image).label_map[0]
            pairs = mask.reshape(-1).astype(np.int64) * len(classes) + found.reshape(-1)
            confusion += np.bincount(pairs, minlength=len(classes) ** 2).reshape(confusion.shape)
    f1 = 2 * np.diag(confusion) / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    frequent = [classes.index(n) for n in FREQUENT]
    return {
        "pairs": len(rows),
        "mean F1, 18 foreground classes": float(f1[1:].mean()),
        "mean F1, 10 frequent classes": float(f1[frequent].mean()),
        "F1": dict(zip(classes, f1.tolist(), strict=True)),
    }


#: The ten classes of CelebAMask-HQ that nearly every mask has.
FREQUENT = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "hair")


def rounded(value: Any) -> Any:
    """Four decimals, plain Python types."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4)
    return int(value) if isinstance(value, np.integer) else value


def table(result: Figures) -> str:
    """The main figures as Markdown."""
    lines = ["| | n | figure |", "| --- | --- | --- |"]

    def line(what: str, count: int, *figures: float) -> None:
        lines.append(f"| {what} | {count} | {' / '.join(f'{x:.3f}' for x in figures)} |")

    for name, own in result["sets"].items():
        if a := own.get("attributes"):
            per = a["per characteristic"]
            what = "attributes" if len(per) > 1 else "gender"
            count = next(iter(per.values()))["n"]
            line(f"{name}: {what}, accuracy / AUC / ECE", count, a["mean accuracy"], a["mean AUC"], a["mean ECE"])
        for task in CHOICES:
            if c := own.get(task):
                line(f"{name}: {task}, accuracy / macro F1 / ECE", c["n"], c["accuracy"], c["macro F1"], c["ECE"])
                if task == "age":
                    what = f"{name}: age, mean absolute error in years ({c['years are']})"
                    line(what, c["n"], c["mean absolute error in years"])
    if p := result.get("parsing (CelebAMask-HQ)"):
        figures = p["mean F1, 18 foreground classes"], p["mean F1, 10 frequent classes"]
        line("parsing, mean F1, 18 / 10 frequent classes", p["pairs"], *figures)
    if q := result.get("closed questions"):
        line("closed questions, agreement with the head", q["questions"], q["agreement with the head"])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10**9, help="at most this many pictures per set (default: all)")
    parser.add_argument("--questions", type=int, default=1000, help="at most this many of each kind for the LLM")
    parser.add_argument("--no-llm", action="store_true", help="leave the questions out")
    args = parser.parse_args()
    bundle, device = Bundle.open(args.bundle), Device.resolve("cpu")
    harness = Harness(bundle, device)
    began = time.time()
    sets = {name: samples[: args.images] for name, samples in datasets.find(args.data, args.split).items()}
    result: Figures = {"bundle": bundle.manifest.name, "bundle sha256": bundle.sha256, "split": args.split, "sets": {}}
    for name, samples in sets.items():
        seen = look(harness, samples, name)
        own: Figures = {"images": len(samples), "no face found": int((~seen.found).sum())}
        if not np.isnan(seen.labels[:, harness.names.index("Male")]).all():
            own["attributes"] = attributes(harness, seen)
        own |= {task: figures for task in CHOICES if (figures := choice(harness, seen, task))}
        own |= {"rules": consistency(harness, seen), "fairness": fairness(harness, seen)}
        result["sets"][name] = own
    if mask := parsing(harness, args.data, args.split):
        result["parsing (CelebAMask-HQ)"] = mask
    if "celeba" in sets:
        result["whole photo against crop (CelebA-HQ)"] = whole_photo(harness, sets["celeba"][:300])
    if "celeba" in sets and not args.no_llm:
        with FaceInsight.load(args.bundle, device="cpu") as insight:
            result["questions understood"] = answers.understood(insight, 3 * args.questions)
            result["closed questions"] = answers.closed_questions(insight, sets["celeba"], args.questions)
            result["compound questions"] = answers.compound_questions(insight, sets["celeba"], args.questions // 2)
            result["what the LLM sees"] = answers.ablation(insight, sets["celeba"], min(600, args.questions))
            result["free descriptions"] = answers.descriptions(insight, sets["celeba"][: min(300, args.questions)])
    result["seconds"] = time.time() - began
    result = rounded(result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
