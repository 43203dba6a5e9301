"""How long does each step take here? Medians and p90 over N runs, with versions, providers and bundle hash.

    python benchmarks/latency.py --out latency.json

Run it on an otherwise idle machine: one busy core ruins every figure.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import onnxruntime
from machine import machine

from faceinsight import FaceInsight, __version__
from faceinsight.bundle import Bundle
from faceinsight.device import cores
from faceinsight.imaging import load_image

PHOTO = Path(__file__).parent.parent / "tests" / "data" / "astronaut.png"


def measure(run: Callable[[], object], rounds: int, *, warmup: int = 3) -> dict[str, float]:
    """Milliseconds of `rounds` runs after `warmup`."""
    times = []
    for i in range(rounds + warmup):
        began = time.perf_counter()
        run()
        if i >= warmup:
            times.append((time.perf_counter() - began) * 1e3)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {"n": rounds, "p50 ms": round(p50, 2), "p90 ms": round(p90, 2), "p99 ms": round(p99, 2)}


def cold_start(photo: Path, rounds: int) -> dict[str, float]:
    """A new process from spawn to its first answer."""
    command = [sys.executable, "-m", "faceinsight.cli", "ask", str(photo), "Is she smiling?", "--device", "cpu"]
    return measure(lambda: subprocess.run(command, check=True, capture_output=True), rounds, warmup=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    bundle = Bundle.open(args.bundle)
    steps: dict[str, Any] = {}
    with FaceInsight.load(args.bundle, device="cpu") as insight:
        image = load_image(args.photo)
        (face, *_) = insight.perceive(image)

        def first_token(question: str, *, known: bool) -> None:
            if not known:
                insight.forget()
            # An answer leaves by sentences: a first token is one that may stand alone.
            list(insight.stream(face, question, max_tokens=1))

        question = "Is she wearing glasses?"
        steps["decode the photo"] = measure(lambda: load_image(args.photo), args.rounds)
        steps["detect, align, parse, encode, judge"] = measure(lambda: insight.perceive(image), args.rounds)
        steps["photo file to full report"] = measure(lambda: insight.perceive(args.photo), args.rounds)
        steps["first token, new face (perceived)"] = measure(lambda: first_token(question, known=False), args.rounds)
        steps["first token, known face"] = measure(lambda: first_token(question, known=True), args.rounds)
        steps["whole answer, known face"] = measure(lambda: insight.ask(face, question), args.rounds)
        steps["description, known face"] = measure(lambda: insight.ask(face, "Describe this face."), args.rounds)
        tokens = insight.ask(face, "Describe this face.").timings.tokens
        steps["description, known face"]["tokens"] = tokens
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps["spawn to first answer"] = cold_start(args.photo, max(3, args.rounds // 6))

    result = {
        "faceinsight": __version__,
        "onnxruntime": onnxruntime.__version__,
        "llama-cpp-python": llama_cpp.__version__,
        "provider": "CPUExecutionProvider",
        "threads": cores(),
        "machine": machine(),
        "bundle": bundle.manifest.name,
        "bundle sha256": bundle.sha256,
        "peak RSS MB": round(peak, 1),
        "steps": steps,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
