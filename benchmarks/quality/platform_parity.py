"""Does `nano` say the same on another machine? States, probabilities and answers, on pictures of the same bits.

    python benchmarks/quality/platform_parity.py record --out here.json          on either machine
    python benchmarks/quality/platform_parity.py compare x86.json arm.json --out OUT

The pictures are those of variants.py. States, answers and the number of faces must be the same, and a probability
within TOLERANCE; else `compare` ends with exit code 1. An answer may be worded otherwise where two words were equally
likely to the LLM, within TOLERANCE too: it is counted and reported as a tie. `make test-arm64` does both, the second
machine being emulated.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

import faceinsight
from faceinsight import Face, FaceInsight
from faceinsight.backends.llama_cpp.bindings import import_llama
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.perception.image import load_image
from variants import VARIANTS

PHOTO = Path(__file__).resolve().parents[2] / "tests" / "data" / "astronaut.png"
QUESTIONS = ("Is she smiling?", "Is she wearing glasses?", "What color is the hair?", "Describe this face.")
TOLERANCE = 0.02
THREADS = 2
PACKAGES = ("faceinsight", "numpy", "opencv-python-headless", "onnxruntime", "llama-cpp-python")
Figures = dict[str, Any]


def record(out: Path, note: str | None) -> None:
    """Everything that the runtime says of every picture, into `out`; it goes on where it was stopped."""
    photo = load_image(PHOTO)
    bundle = Bundle.open("nano")
    found = {
        "machine": machine() + (f" ({note})" if note else ""),
        "threads": THREADS,
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in PACKAGES},
        "llama.cpp": import_llama().llama_print_system_info().decode().strip(),
        "bundle sha256": bundle.sha256,
        "code sha256": code(),
        "questions": list(QUESTIONS),
    }
    before = json.loads(out.read_text()) if out.is_file() else {}
    pictures: Figures = before.pop("pictures", {}) if found.items() <= before.items() else {}
    with FaceInsight.load("nano", device="cpu", threads=THREADS, allow=list(bundle.manifest.switches)) as insight:
        for kind, variants in VARIANTS.items():
            for name, make in variants.items():
                made = make(photo)
                source = made if isinstance(made, bytes) else np.ascontiguousarray(made)
                sha = hashlib.sha256(source if isinstance(source, bytes) else source.tobytes()).hexdigest()
                if pictures.setdefault(kind, {}).get(name, {}).get("sha256") == sha:
                    continue
                faces = [read(insight, face) for face in insight.perceive(source)]
                pictures[kind][name] = {"sha256": sha, "faces": faces}
                out.write_text(json.dumps(found | {"pictures": pictures}, indent=1) + "\n")
                print(f"{kind}, {name}: {len(faces)} faces", flush=True)


def code() -> str:
    """SHA-256 of the runtime's source as it is installed here."""
    sha = hashlib.sha256()
    for path in sorted(Path(faceinsight.__file__).parent.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def read(insight: FaceInsight, face: Face) -> Figures:
    """What is said of one face; of each answer the chunks as they were streamed, with their probabilities."""
    answers: Figures = {}
    for question in QUESTIONS:
        chunks = list(insight.stream(face, question))
        spoken = [[str(chunk), round(chunk.probability, 5)] for chunk in chunks]
        answers[question] = {"chunks": spoken, "finish_reason": chunks[-1].finish_reason}
    return {
        "box": [round(float(v), 3) for v in face.box],
        "labels": {x.name: [x.state, None if x.probability is None else round(x.probability, 5)] for x in face.labels},
        "answers": answers,
    }


def compare(first: Figures, second: Figures) -> Figures:
    """Counts and largest differences by kind of picture, and all that is not as expected.

    Raises:
        ValueError: the two are not of the same bundle, code, pictures, questions or labels.
    """
    ties: list[str] = []
    wrong: list[str] = []
    for what in ("bundle sha256", "code sha256", "questions"):
        if first[what] != second[what]:
            raise ValueError(f"{what}: {first[what]} and {second[what]}; expected the same on both machines")
    if first["pictures"].keys() != second["pictures"].keys():
        raise ValueError("expected the same kinds of pictures in both: was one of the two stopped? run `record` again")
    kinds: Figures = {}
    for kind, pictures in first["pictures"].items():
        others = second["pictures"][kind]
        if pictures.keys() != others.keys():
            raise ValueError(f"{kind}: expected the same pictures in both, found {list(pictures)} and {list(others)}")
        kinds[kind] = _kind(kind, pictures, others, ties, wrong)
    machines = [{k: v for k, v in side.items() if k != "pictures"} for side in (first, second)]
    hashes = {kind: {n: p["sha256"] for n, p in pictures.items()} for kind, pictures in first["pictures"].items()}
    return {
        "conditions": {k: first[k] for k in ("machine", "threads")},
        "bundle sha256": first["bundle sha256"],
        "machines": machines,
        "tolerance": TOLERANCE,
        "kinds": kinds,
        "pictures": hashes,
        "ties": ties,
        "wrong": wrong,
    }


def _kind(kind: str, pictures: Figures, others: Figures, ties: list[str], wrong: list[str]) -> Figures:
    row = dict.fromkeys(("pictures", "faces", "labels", "states that differ", "answers", "answers that differ"), 0)
    most = {"probability": 0.0, "box px": 0.0}
    for name, a in pictures.items():
        b, where = others[name], f"{kind}, {name}"
        if a["sha256"] != b["sha256"]:
            raise ValueError(
                f"{where}: the picture itself differs; expected the same bits: is OpenCV's version the same?"
            )
        row["pictures"] += 1
        if len(a["faces"]) != len(b["faces"]):
            wrong.append(f"{where}: {len(a['faces'])} and {len(b['faces'])} faces")
            continue
        for left, right in zip(a["faces"], b["faces"], strict=True):
            if left["labels"].keys() != right["labels"].keys() or left["answers"].keys() != right["answers"].keys():
                raise ValueError(f"{where}: expected the same labels and questions in both")
            row["faces"] += 1
            most["box px"] = max(most["box px"], *(abs(x - y) for x, y in zip(left["box"], right["box"], strict=True)))
            _labels(where, left["labels"], right["labels"], row, most, wrong)
            _answers(where, left["answers"], right["answers"], row, ties, wrong)
    return row | {what: round(value, 5) for what, value in most.items()}


def _labels(where: str, a: Figures, b: Figures, row: dict[str, int], most: dict[str, float], wrong: list[str]) -> None:
    for label, (state, p) in a.items():
        other, q = b[label]
        row["labels"] += 1
        if state != other or (p is None) != (q is None):
            row["states that differ"] += 1
            wrong.append(f"{where}: {label} is {state} ({p}) and {other} ({q})")
        elif p is not None:
            most["probability"] = max(most["probability"], abs(p - q))
            if abs(p - q) > TOLERANCE:
                wrong.append(f"{where}: {label} has probabilities {p} and {q}")


def _answers(where: str, a: Figures, b: Figures, row: dict[str, int], ties: list[str], wrong: list[str]) -> None:
    for question, answer in a.items():
        other = b[question]
        row["answers"] += 1
        if text(answer) == text(other) and answer["finish_reason"] == other["finish_reason"]:
            continue
        row["answers that differ"] += 1
        pairs = zip(answer["chunks"], other["chunks"], strict=False)
        p, q = next(((x[1], y[1]) for x, y in pairs if x[0] != y[0]), (0.0, 1.0))
        line = f"{where}: {question} {text(answer)!r} ({p}) and {text(other)!r} ({q})"
        (ties if abs(p - q) <= TOLERANCE else wrong).append(line)


def text(answer: Figures) -> str:
    """The whole answer."""
    return "".join(chunk for chunk, _ in answer["chunks"]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="what this machine says")
    recorder.add_argument("--note", help="put behind the machine's name, e.g. that it is emulated")
    comparer = commands.add_parser("compare", help="two machines")
    comparer.add_argument("first", type=Path)
    comparer.add_argument("second", type=Path)
    for command in (recorder, comparer):
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "record":
        record(args.out, args.note)
        return
    try:
        result = compare(json.loads(args.first.read_text()), json.loads(args.second.read_text()))
    except ValueError as e:
        sys.exit(str(e))
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for kind, row in result["kinds"].items():
        print(f"{kind}: {', '.join(f'{value:g} {what}' for what, value in row.items())}")
    if result["wrong"]:
        sys.exit("\n".join(["the machines differ:", *result["wrong"]]))


if __name__ == "__main__":
    main()
