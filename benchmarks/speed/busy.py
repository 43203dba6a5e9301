"""What becomes of an answer when the machine has other things to do?

    python benchmarks/speed/busy.py --out busy.json

Questions about a known face, as the runtime asks them (llama.cpp gets as many threads as are free), with all threads
always, and with threads that spin as long as the library has them by default, beside none, one and two processes that
keep a core busy. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from faceinsight import FaceInsight, __version__
from faceinsight.backends.llama_cpp.bindings import SPIN
from faceinsight.bench.state import machine
from faceinsight.host.machine import cores

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
QUESTION = "Is she wearing glasses?"
#: GNU OpenMP's own number of turns, where no more threads run than there are cores.
DEFAULT = {"GOMP_SPINCOUNT": "300000"}
#: Environment, and whether all threads are used always.
ARMS = {
    "as the runtime has it": (SPIN, False),
    "all threads always": (SPIN, True),
    "all threads, as the library has it": (DEFAULT, True),
}


def ask(rounds: int, *, fixed: bool) -> list[float]:
    """Milliseconds of each answer; fixed: with all threads always."""
    out = []
    with FaceInsight.load("nano", device="cpu") as insight:
        if fixed:
            insight.language.llm._threads = None
        face = insight.perceive(PHOTO)[0]
        for _ in range(rounds + 2):
            began = time.perf_counter()
            insight.ask(face, QUESTION)
            out.append((time.perf_counter() - began) * 1e3)
    return out[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fixed", action="store_true", help="all threads always")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.out:
        print(json.dumps(ask(args.rounds, fixed=args.fixed)))
        return
    answers: dict[str, dict[str, dict[str, float]]] = {}
    for others in (0, 1, 2):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            for name, (environment, fixed) in ARMS.items():
                command = [sys.executable, __file__, "--rounds", str(args.rounds), *(["--fixed"] if fixed else [])]
                done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
                p50, p90 = np.percentile(json.loads(done.stdout.splitlines()[-1]), [50, 90])
                row = {"n": args.rounds, "p50 ms": round(p50, 1), "p90 ms": round(p90, 1)}
                answers.setdefault(f"{others} busy processes", {})[name] = row
        finally:
            for process in busy:
                process.kill()
    result = {"faceinsight": __version__, "machine": machine(), "threads": cores(), "whole answer": answers}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
