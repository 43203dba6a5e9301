"""What becomes of an answer when the machine has other things to do?

    python benchmarks/speed/busy.py --out busy.json
    python benchmarks/peers/weights.py FOLDER --llm        (an LLM of 1.1 B, random weights; minutes, 5 GB)
    python benchmarks/speed/busy.py --llm FOLDER/llm.gguf --out busy-1b.json

Questions about a known face, as the runtime asks them (llama.cpp gets as many threads as are free), with all threads
always, and with threads that spin as long as the library has them by default, beside none, one and two processes that
keep a core busy. The second form measures an LLM alone: QUESTION_TOKENS are decoded behind a face's, then
ANSWER_TOKENS one by one. An arm ends after --rounds or --seconds. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from faceinsight import FaceInsight, __version__
from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.bindings import SPIN, import_llama, uses_amx
from faceinsight.backends.llama_cpp.loader import load_llm
from faceinsight.backends.llama_cpp.model import Llm
from faceinsight.bench.state import machine
from faceinsight.bundle.gguf_header import GgufHeader
from faceinsight.host.machine import cores

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
QUESTION = "Is she wearing glasses?"
#: Of an LLM alone: a quarter of a CLIP's image tokens before the question, and a question with its findings.
FACE_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 144, 24, 24
#: GNU OpenMP's own number of turns, where no more threads run than there are cores.
DEFAULT = {"GOMP_SPINCOUNT": "300000"}
#: Environment, and whether all threads are used always.
ARMS = {
    "as the runtime has it": (SPIN, False),
    "all threads always": (SPIN, True),
    "all threads, as the library has it": (DEFAULT, True),
}


@contextmanager
def nano() -> Iterator[tuple[Llm, Callable[[], object]]]:
    """Its LLM, and a whole answer about a known face."""
    with FaceInsight.load("nano", device="cpu") as insight:
        face = insight.perceive(PHOTO)[0]
        yield insight.language.llm, lambda: insight.ask(face, QUESTION)


@contextmanager
def alone(path: Path) -> Iterator[tuple[Llm, Callable[[], object]]]:
    """An LLM, and the work of an answer."""
    width = GgufHeader.read(path).number("embedding_length")
    total = FACE_TOKENS + QUESTION_TOKENS + ANSWER_TOKENS
    llm = load_llm(path, Device.resolve("cpu"), n_embd=width, n_ctx=-(-total // 64) * 64)
    rows = np.random.default_rng(0).normal(0, 0.02, (total, width)).astype(np.float32)
    llm.decode([rows[:FACE_TOKENS]], 0)

    def answer() -> None:
        llm.truncate(FACE_TOKENS)
        at = llm.decode([rows[:QUESTION_TOKENS]], FACE_TOKENS)
        for row in rows[:ANSWER_TOKENS]:
            llm.logits()
            at = llm.decode([row[None]], at)

    try:
        yield llm, answer
    finally:
        llm.close()


def measure(path: Path | None, rounds: int, seconds: float, *, fixed: bool) -> list[float]:
    """Milliseconds of each answer after the first two; fixed: with all threads always."""
    out: list[float] = []
    with alone(path) if path else nano() as (llm, answer):
        if fixed:
            llm._threads = None
        end = time.monotonic() + seconds
        while len(out) < rounds + 2 and (len(out) < 3 or time.monotonic() < end):
            began = time.perf_counter()
            answer()
            out.append((time.perf_counter() - began) * 1e3)
    return out[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=40, help="after which an arm ends with the rounds it has")
    parser.add_argument("--llm", type=Path, metavar="GGUF", help="measure this LLM alone, not nano")
    parser.add_argument("--fixed", action="store_true", help="all threads always")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.out:
        print(json.dumps(measure(args.llm, args.rounds, args.seconds, fixed=args.fixed)))
        return
    options = ["--rounds", str(args.rounds), "--seconds", str(args.seconds)]
    options += ["--llm", str(args.llm)] if args.llm else []
    answers: dict[str, dict[str, dict[str, float]]] = {}
    for others in (0, 1, 2):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            for name, (environment, fixed) in ARMS.items():
                command = [sys.executable, __file__, *options, *(["--fixed"] if fixed else [])]
                done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
                times = json.loads(done.stdout.splitlines()[-1])
                p50, p90 = np.percentile(times, [50, 90])
                row = {"n": len(times), "p50 ms": round(p50, 1), "p90 ms": round(p90, 1)}
                answers.setdefault(f"{others} busy processes", {})[name] = row
        finally:
            for process in busy:
                process.kill()
    result = {
        "faceinsight": __version__,
        "machine": machine(),
        "AMX": bool(uses_amx(import_llama())),
        "threads": cores(),
        "model": described(args.llm) if args.llm else "nano",
        "whole answer": answers,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def described(path: Path) -> str:
    """Parameters, size, and the work of an answer."""
    parameters = sum(int(np.prod(t.shape)) for t in GgufHeader.read(path).tensors)
    return (
        f"{parameters / 1e9:.1f} B, {path.stat().st_size / 1e6:.0f} MB: a question of {QUESTION_TOKENS} tokens behind "
        f"{FACE_TOKENS}, and {ANSWER_TOKENS} more one by one"
    )


if __name__ == "__main__":
    main()
