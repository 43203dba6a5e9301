"""The same weights, photos and questions on every runtime that somebody would take instead.

    python benchmarks/peers/weights.py FOLDER                        (once)
    python benchmarks/peers/run.py FOLDER --out peers.json --llama-server PATH
    python benchmarks/peers/run.py --nano --out peers-nano.json         (the shipped bundle: see nano.py)

Each runtime lives in a process of its own (arms.py) and waits while another works; every round asks all of them,
from another one on. Questions carry the same measured findings for all. Ours is timed from the photo on, with face
detection, parsing and labels; of a LLaVA the others are given the face's picture ready-made. llama-server is left out
where no binary is given. Run it on an otherwise idle machine: about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Before ONNX Runtime: it switches the telemetry off.
from faceinsight import __version__

# isort: split

import cv2
import llama_cpp
import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

import nano
from faceinsight import FaceInsight
from faceinsight.bench.state import machine
from faceinsight.host.machine import cores
from faceinsight.perception.image import load_image

sys.path.append(str(Path(__file__).parents[1]))
import tables

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
OURS = ("ours", "ours, a quarter of the tokens")
ARMS = (*OURS, "chat handler, best", "llama-server", "transformers, best", "transformers, bfloat16",
        "chat handler, defaults", "transformers, defaults")  # fmt: skip
NANO_ARMS = ("nano", "nano on transformers, best", "nano on transformers, defaults")
QUESTIONS = (
    "Is she smiling?", "Is she wearing glasses?", "Does she have a hat on?", "Is there a beard?",
    "Does she have bangs?", "Is her mouth open?", "Does she have brown hair?", "Is she wearing lipstick?",
)  # fmt: skip
#: What is asked of each arm in a round, in this order: which picture (this round's or the last one's), how.
STEPS = (("new", 0), ("again", 0), ("back", 1))


class Child:
    """An arm in its process."""

    def __init__(self, name: str, folder: Path, server: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("arms.py")), name, str(folder), server]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, **command: Any) -> dict[str, float]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def photos(folder: Path, count: int) -> list[Path]:
    """Pictures not seen before: the photo in another light each time."""
    photo, out = load_image(PHOTO), []
    for i in range(count):
        out.append(folder / f"photo{i}.png")
        _save(out[-1], (photo * (1 - 0.02 * i)).astype(np.uint8))
    return out


def views(folder: Path, count: int) -> list[Path]:
    """The faces in such photos, as our encoder sees them."""
    out = []
    with FaceInsight.load(folder / "ours", device="cpu") as insight:
        for path in photos(folder, count):
            (face,) = insight.perceive(path)
            assert face.picture is not None
            out.append(path.with_name(path.name.replace("photo", "face")))
            _save(out[-1], face.picture)
    return out


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    cv2.imwrite(str(path), image[:, :, ::-1])


def with_findings(folder: Path, path: Path) -> dict[str, str]:
    """Question -> the question with what our runtime tells its LLM of the face, for the others."""
    with FaceInsight.load(folder / "ours", device="cpu") as insight:
        (face,) = insight.perceive(path.with_name(path.name.replace("face", "photo")))
        return {q: f"{q}{insight.questions.findings(face, insight.questions.label_ids(q))}" for q in QUESTIONS}


def run(folder: Path, server: str, arms: list[str], rounds: int, reports: int, *, nano: bool) -> dict[str, Any]:
    pictures = photos(folder, rounds + 2) if nano else views(folder, rounds + 2)
    words = {} if nano else with_findings(folder, pictures[0])
    results: dict[str, dict[str, list[float]]] = {a: {} for a in arms}
    children: dict[str, Child] = {}
    questions_of: dict[str, list[str]] = {}

    def note(arm: str, what: str, value: float) -> None:
        results[arm].setdefault(what, []).append(value)

    for arm in arms:
        questions = list(QUESTIONS if nano or arm in OURS else words.values())
        began = time.perf_counter()
        children[arm] = Child(arm, folder, server)
        children[arm](do="new", picture=str(pictures[0]), question=questions[0])
        note(arm, "spawn to first answer", time.perf_counter() - began)
        questions_of[arm] = questions
    for turn in tqdm(range(rounds), desc="rounds"):
        for arm in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            child, questions = children[arm], questions_of[arm]
            for i, (step, back) in enumerate(STEPS):
                picture = str(pictures[turn + 1 - back])
                found = child(do=step, picture=picture, question=questions[(turn + i) % len(questions)])
                note(arm, f"{step}: first token", found["first"])
                note(arm, f"{step}: {int(found['tokens'])} tokens", found["all"])
                note(arm, "per token", found["token"])
            if turn < reports:
                note(arm, "report of 8", child(do="report", picture=picture, questions=questions)["all"])
    for arm, child in children.items():
        note(arm, "peak RSS MB", child(do="memory")["MB"])
        child.close()
    return {arm: {what: spread(values) for what, values in figures.items()} for arm, figures in results.items()} | {
        "ratios": {arm: ratios(results[arms[0]], results[arm]) for arm in arms[1:]}
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"p50": round(float(middle), 4), "p25": round(float(low), 4), "p75": round(float(high), 4), "n": len(values)}


def ratios(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> dict[str, float]:
    """How many times longer, or larger: the median of the rounds' ratios."""
    return {
        what: round(float(np.median([t / o for o, t in zip(ours[what], values, strict=False)])), 3)
        for what, values in theirs.items()
        if what in ours
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="made by weights.py")
    parser.add_argument("--llama-server", default="", metavar="PATH")
    parser.add_argument("--nano", action="store_true", help="the shipped bundle, beside torch and transformers")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reports", type=int, default=2, help="rounds with a report: eight slow calls for some")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if bool(args.folder) == args.nano or not args.out:
        parser.error("a folder or --nano, and --out, are needed")
    arms = list(NANO_ARMS) if args.nano else [a for a in args.arms if a != "llama-server" or args.llama_server]
    if "llama-server" in args.arms and not args.nano and not args.llama_server:
        print("left out, no binary given: llama-server", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.nano:
            nano.write(folder)
        exports = folder / "exports.json"
        result = {
            "faceinsight": __version__,
            "llama-cpp-python": llama_cpp.__version__,
            "llama.cpp": llama_cpp.llama_print_system_info().decode(),
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": machine(),
            "threads": cores(),
            "rounds": args.rounds,
            "exports": json.loads(exports.read_text()) if exports.exists() else {},
            "arms": run(folder, args.llama_server, arms, args.rounds, args.reports, nano=args.nano),
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables.peers(result))


if __name__ == "__main__":
    main()
