"""Does a kiosk stay as it was? Thousands of questions about thousands of faces; memory, handles, threads and latency.

    python benchmarks/speed/soak.py --out soak.json                          (about ten minutes on two cores)
    python benchmarks/speed/soak.py --out soak.json --faces 20 --questions 200

Faces are views of the given photos, each moved, scaled and lit otherwise; they come and go as people do: a few stand
there and are asked, then others. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight import Face, FaceInsight, __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.perception.image import load_image

sys.path.append(str(Path(__file__).parents[1]))
from memory import RESIDENT, memory_mb

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
QUESTIONS = (
    "Is she smiling?", "Is she wearing glasses?", "What color is the hair?", "Does she have a hat on?",
    "Is there a beard?", "What is the expression?", "Is this a man or a woman?", "Who painted this?",
    "Is she wearing earrings, and is the mouth open?", "Describe this face.",
)  # fmt: skip
#: How many stand there at a time.
CROWD = 12
#: Parts of the run that are compared: the first and the last tenth. Before it the caches fill.
WARM_UP, TENTHS = 0.1, 10


def view(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The photo as another camera, in another light, would have taken it."""
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 6), rng.uniform(0.7, 1.1))
    matrix[:, 2] += rng.normal(0, 0.03, 2) * (width, height)
    moved = cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(moved * rng.uniform(0.6, 1.25) + rng.normal(0, 8), 0, 255).astype(np.uint8))


def state() -> dict[str, float]:
    """Resident memory in MB (10^6 bytes), open files, threads of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "RSS MB": memory_mb(RESIDENT),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": next(int(x.split()[1]) for x in status if x.startswith("Threads:")),
    }


def run(insight: FaceInsight, photos: list[NDArray[np.uint8]], faces: int, questions: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    crowd: list[Face] = []
    seconds, states = [], []
    visits = missed = 0
    for i in tqdm(range(questions), mininterval=5):
        # A new face every so many questions, so that all have come by the end.
        while visits * questions <= i * faces and visits < faces:
            found = insight.perceive(view(photos[rng.integers(len(photos))], rng))
            visits, missed = visits + 1, missed + (not found)
            crowd = [*crowd, *found[:1]][-CROWD:]
        face, question = crowd[rng.integers(len(crowd))], QUESTIONS[rng.integers(len(QUESTIONS))]
        began = time.perf_counter()
        insight.ask(face, question)
        seconds.append(time.perf_counter() - began)
        if i % max(1, questions // 100) == 0:
            states.append({"question": i} | state())
    warm = [s for s in states if s["question"] >= questions * WARM_UP]
    ms = np.array(seconds) * 1e3
    first, last = np.array_split(ms, TENTHS)[:: TENTHS - 1]
    p99 = [float(np.percentile(part, 99)) for part in (first, last)]
    return {
        "faces": visits,
        "views without a face": missed,
        "questions": questions,
        "answer ms": {f"p{p}": round(float(np.percentile(ms, p)), 2) for p in (50, 90, 99)},
        "p99 of the last tenth / the first": round(p99[1] / p99[0], 3),
        "after warm-up": warm[0],
        "at the end": warm[-1],
        "RSS growth": round(warm[-1]["RSS MB"] / warm[0]["RSS MB"] - 1, 5),
        "states": states,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--photo", type=Path, action="append", help="may be given several times")
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=20000)
    parser.add_argument("--cache-mb", type=float, default=4, help="so that faces leave the cache all the time")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos = [load_image(p) for p in args.photo or [PHOTO]]
    with FaceInsight.load(args.bundle, device="cpu", cache_mb=args.cache_mb, forget_after=60) as insight:
        result = {
            "faceinsight": __version__,
            "machine": machine(),
            "bundle sha256": Bundle.open(args.bundle).sha256,
            "cache MB": args.cache_mb,
        } | run(insight, photos, args.faces, args.questions)
        result["python threads"] = threading.active_count()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "states"}, indent=1))


if __name__ == "__main__":
    main()
