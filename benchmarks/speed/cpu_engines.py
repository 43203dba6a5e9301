"""Would OpenVINO run the graphs faster than ONNX Runtime does, on an Intel or AMD CPU?

    pip install --no-deps --target OPENVINO openvino
    pip install --no-deps --target ORT_OPENVINO onnxruntime-openvino
    python benchmarks/speed/cpu_engines.py --openvino OPENVINO --ort-openvino ORT_OPENVINO --clip --out cpu-engines.json

Graphs of `nano` on what they are given for tests/data/astronaut.png and a question; with --clip the vision encoder of a
LLaVA-1.5 too (ViT-L/14-336, random weights: time is that of real ones). onnxruntime-openvino has the same module as
onnxruntime, so the packages lie in folders of their own, and each engine runs in a process of its own, with the same
number of threads. A round runs all engines once, from another one on; the others wait. Run it on an otherwise idle
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

# Before ONNX Runtime: it switches the telemetry off.
from faceinsight import FaceInsight, __version__

# isort: split

import cv2
import numpy as np
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.backends.session import CheckedSession
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.host.machine import cores
from faceinsight.perception.yunet import PARTS, STRIDES

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
QUESTION = "Is she wearing glasses?"
DETECTOR = "detector.onnx"
#: Another engine is worth a dependency from here on: times as fast, and largest difference of an output relative to its
#: largest value (of whole numbers, the share that differs).
FASTER, SAME = 1.3, 0.01

Arrays = dict[str, NDArray[Any]]
#: Inputs by name -> outputs in the graph's order.
Run = Callable[[Arrays], list[NDArray[Any]]]


def opencv(path: Path, threads: int) -> Run:
    """The detector in OpenCV's own engine, which takes any size too."""
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(path))
    names = [f"{part}_{stride}" for part in PARTS for stride in STRIDES]

    def run(feeds: Arrays) -> list[NDArray[Any]]:
        net.setInput(feeds["input"])
        return list(net.forward(names))

    return run


def onnxruntime(path: Path, threads: int) -> Run:
    """As the runtime opens its graphs."""
    session = Device("cpu", False, threads).session(path)
    return lambda feeds: session.run(None, feeds)


def openvino(path: Path, threads: int, *, precision: str | None = "f32") -> Run:
    """precision: None is OpenVINO's own choice, bfloat16 on a CPU that has it."""
    from openvino import Core  # type: ignore[import-not-found,unused-ignore]

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    core = Core()
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    return lambda feeds: list(request.infer(feeds).to_tuple())


def ort_openvino(path: Path, threads: int) -> Run:
    """OpenVINO as a provider of ONNX Runtime.

    Raises:
        RuntimeError: the provider did not start.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    wanted = "OpenVINOExecutionProvider"
    settings = {"device_type": "CPU", "num_of_threads": str(threads), "precision": "FP32"}
    session = ort.InferenceSession(str(path), options, providers=[(wanted, settings)])
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"{wanted} did not start; {session.get_providers()[0]} did")
    return lambda feeds: list(session.run(None, feeds))


ENGINES: dict[str, Callable[[Path, int], Run]] = {
    "OpenCV": opencv,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "OpenVINO, its own precision": partial(openvino, precision=None),
    "ONNX Runtime with OpenVINO": ort_openvino,
}


def serve(engine: str, path: Path, feeds: Path, out: Path, threads: int) -> None:
    """Open a graph, keep what it says in `out`, then run it for each line of stdin and print the milliseconds."""
    given = dict(np.load(feeds))
    began = time.perf_counter()
    run = ENGINES[engine](path, threads)
    opened = time.perf_counter() - began
    np.savez(out, *run(given))
    print(f"{opened:.3f}", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run(given)
        print(f"{(time.perf_counter() - began) * 1e3:.4f}", flush=True)


class Worker:
    """An engine with a graph in a process of its own."""

    def __init__(self, engine: str, path: Path, feeds: Path, out: Path, threads: int, packages: Path | None) -> None:
        command = [sys.executable, __file__, "--serve", engine, str(path), str(feeds), str(out)]
        environment = dict(os.environ) | ({"PYTHONPATH": str(packages)} if packages else {})
        self.engine = engine
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.seconds_to_open = self._read()
        self.outputs: Arrays = dict(np.load(out))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def run(self) -> float:
        """Milliseconds of one run."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> float:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended with exit code {self.process.wait()}: see its message above")
        return float(line)


def difference(expected: Arrays, found: Arrays) -> float:
    """The largest of all outputs: relative to its largest value, or the share of whole numbers that differ.

    Raises:
        RuntimeError: the outputs are of other shapes.
    """
    shapes = [{name: value.shape for name, value in arrays.items()} for arrays in (expected, found)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"outputs of shapes {shapes[1]}; expected {shapes[0]}")
    worst = 0.0
    for name, a in expected.items():
        b = found[name]
        if np.issubdtype(a.dtype, np.floating):
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)))
        else:
            worst = max(worst, float((a != b).mean()))
    return worst


def measure(
    path: Path, feeds: Arrays, packages: dict[str, Path | None], *, rounds: int, threads: int, warmup: int = 3
) -> dict[str, dict[str, float]]:
    """Engine -> median, p10 and p90 in milliseconds, and the difference from the first engine's outputs."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        given = Path(folder) / "feeds.npz"
        np.savez(given, **feeds)  # type: ignore[arg-type,unused-ignore]
        workers = [
            stack.enter_context(Worker(engine, path, given, Path(folder) / f"{number}.npz", threads, where))
            for number, (engine, where) in enumerate(packages.items())
        ]
        times: dict[str, list[float]] = {worker.engine: [] for worker in workers}
        for turn in range(rounds + warmup):
            first = turn % len(workers)
            for worker in workers[first:] + workers[:first]:
                milliseconds = worker.run()
                if turn >= warmup:
                    times[worker.engine].append(milliseconds)
        out = {}
        for worker in workers:
            p10, p50, p90 = (round(float(p), 3) for p in np.percentile(times[worker.engine], [10, 50, 90]))
            out[worker.engine] = {
                "n": rounds, "p10 ms": p10, "p50 ms": p50, "p90 ms": p90,
                "s to open": round(worker.seconds_to_open, 2),
                "difference": float(f"{difference(workers[0].outputs, worker.outputs):.3g}"),
            }  # fmt: skip
        return out


def nano_feeds(threads: int) -> dict[str, Arrays]:
    """Graph -> what it is given when a photo is perceived and a question is asked."""
    seen: dict[str, Arrays] = {}
    call = CheckedSession.__call__

    def recorded(session: CheckedSession, **feeds: NDArray[Any]) -> Any:
        seen.setdefault(session.name, {name: np.array(value) for name, value in feeds.items()})
        return call(session, **feeds)

    CheckedSession.__call__ = recorded  # type: ignore[assignment,method-assign]
    try:
        with FaceInsight.load("nano", device="cpu", threads=threads) as insight:
            insight.ask(insight.perceive(PHOTO)[0], QUESTION)
    finally:
        CheckedSession.__call__ = call  # type: ignore[method-assign]
    # Rows are looked up, nothing is computed.
    seen.pop("knowledge.onnx", None)
    return {name: seen[name] for name in sorted(seen)}


def clip(folder: Path, rounds: int, packages: dict[str, Path | None], threads: int) -> dict[str, Any]:
    """A LLaVA-1.5's vision encoder of random weights, in float32 and in 8 bits."""
    from vision import Seeded, export, images

    source, out = Seeded(tiny=False), {}
    for precision in ("fp32", "int8"):
        path = folder / "vision.onnx"
        export(precision, path, source)
        feeds = {"pixels": images(source)[:1]}
        out[f"ViT-L/14-336 {precision}"] = measure(path, feeds, packages, rounds=rounds, threads=threads, warmup=1)
        path.unlink()
    return out


def versions(packages: dict[str, Path | None]) -> dict[str, str]:
    """Of the engines, as pip says."""
    found = {name: metadata.version(name) for name in ("onnxruntime", "opencv-python-headless")}
    for folder in filter(None, packages.values()):
        found |= {
            d.metadata["Name"]: d.version
            for d in metadata.distributions(path=[str(folder)])
            if d.metadata["Name"] in ("openvino", "onnxruntime-openvino")
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--openvino", type=Path, metavar="FOLDER", help="where the package openvino lies")
    parser.add_argument("--ort-openvino", type=Path, metavar="FOLDER", help="where onnxruntime-openvino lies")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--clip", action="store_true", help="the vision encoder too; 4 GB of memory")
    parser.add_argument("--clip-rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=4, metavar=("ENGINE", "GRAPH", "FEEDS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        engine, path, feeds, out = args.serve
        serve(engine, Path(path), Path(feeds), Path(out), args.threads)
        return
    if not args.out or not (args.openvino or args.ort_openvino):
        parser.error("--out FILE and one of --openvino, --ort-openvino are needed")
    packages: dict[str, Path | None] = {"ONNX Runtime": None}
    if args.openvino:
        packages |= {"OpenVINO": args.openvino.resolve(), "OpenVINO, its own precision": args.openvino.resolve()}
    if args.ort_openvino:
        packages["ONNX Runtime with OpenVINO"] = args.ort_openvino.resolve()
    bundle, graphs = Bundle.open("nano"), {}
    for name, given in nano_feeds(args.threads).items():
        print(name, file=sys.stderr)
        engines = packages | ({"OpenCV": None} if name == DETECTOR else {})
        graphs[name] = measure(bundle.file(name), given, engines, rounds=args.rounds, threads=args.threads)
    if args.clip:
        with tempfile.TemporaryDirectory() as folder:
            graphs |= clip(Path(folder), args.clip_rounds, packages, args.threads)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    result = {
        "faceinsight": __version__,
        "versions": versions(packages),
        "machine": machine(),
        "AMX": "amx_int8" in flags,
        "threads": args.threads,
        "bundle sha256": bundle.sha256,
        "worth it from": {"times as fast": FASTER, "difference": SAME},
        "graphs": graphs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
