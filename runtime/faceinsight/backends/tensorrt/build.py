"""Builds a TensorRT plan in a child process. Not run on hardware yet.

A TensorRT that does not fit its driver can crash instead of raising: the child's death is an error message here.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import DeviceError
from ...host.child import MARK, NO_PYTHON, as_here, death, interpreter
from .rewrite import for_tensorrt, mapped
from .shapes import Shape
from .workspace import free_memory, limit


def build(
    model: Path,
    sha256: str,
    profile: Mapping[str, tuple[Shape, Shape, Shape]],
    timing_cache_in: Path,
    out: Path,
    timing_cache_out: Path,
    progress: Callable[[str], None],
    *,
    half: bool = False,
) -> None:
    """Build an engine in a child process.

    Args:
        model: the ONNX file.
        sha256: that it must still have.
        profile: input -> (min, opt, max) shape.
        timing_cache_in: kernel timings of earlier builds, if the file exists.
        out: where the serialized engine (the plan) is written.
        timing_cache_out: where the kernel timings are written.
        progress: called with a line now and then.
        half: compute in half precision where that is safe.

    Raises:
        DeviceError: with TensorRT's reason, or how the child ended.
    """
    request = {
        "model": str(model),
        "sha256": sha256,
        "profile": dict(profile),
        "timing_cache_in": str(timing_cache_in),
        "out": str(out),
        "timing_cache_out": str(timing_cache_out),
        "half": half,
    }
    python = interpreter()
    if python is None:
        raise DeviceError(f"TensorRT plans are built in a child process: {NO_PYTHON}; build them beforehand")
    command = [python, *as_here("faceinsight.backends.tensorrt.build"), json.dumps(request)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # A build goes on in a thread that no one waits for: it must not outlive us.
    atexit.register(child.kill)
    words: deque[str] = deque(maxlen=40)
    listener = threading.Thread(target=lambda: words.extend(child.stderr or ()), daemon=True)
    listener.start()
    failure = None
    try:
        for line in child.stdout or ():
            if line.startswith(MARK):
                said = json.loads(line.removeprefix(MARK))
                failure = said.get("error", failure)
                if "progress" in said:
                    progress(said["progress"])
        child.wait()
    finally:
        child.kill()
        child.wait()
        listener.join()
        atexit.unregister(child.kill)
    if failure is None and child.returncode != 0:
        failure = death(child.returncode, "".join(words))
    if failure is not None:
        raise DeviceError(f"TensorRT could not build a plan of {model.name}: {failure}")
    if not out.is_file():
        raise DeviceError(f"TensorRT could not build a plan of {model.name}: it wrote none")


def build_here(request: dict[str, Any], trt: Any, say: Callable[[str], None]) -> None:
    """The child's work. Raises RuntimeError with TensorRT's reason."""
    model = Path(request["model"])
    if hashlib.sha256(mapped(model)).hexdigest() != request["sha256"]:
        raise RuntimeError(f"{model} changed meanwhile")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Needed up to TensorRT 10, where the other kind was the default; 11 has this kind only and ignores the flag.
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    scratch = Path(f"{request['out']}.onnx")
    try:
        if not parser.parse(mapped(for_tensorrt(model, scratch, half=request["half"]))):
            raise RuntimeError(f"its ONNX parser says: {_reasons(parser)}")
    finally:
        scratch.unlink(missing_ok=True)
    config = builder.create_builder_config()
    # The builder and the network are loaded by now: what is free is what a kernel's trial may take.
    workspace = limit(free_memory()[0])
    say(f"kernels may take {workspace >> 20} MiB of scratch memory")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    profile = builder.create_optimization_profile()
    for name, shapes in request["profile"].items():
        profile.set_shape(name, *(tuple(s) for s in shapes))
    if config.add_optimization_profile(profile) < 0:
        raise RuntimeError(f"it does not take the shapes {request['profile']}")
    timings = Path(request["timing_cache_in"])
    cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    config.progress_monitor = _monitor(trt, say)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"TensorRT {trt.__version__} made no plan; its messages are above")
    _write(Path(request["out"]), plan)
    if (cache := config.get_timing_cache()) is not None:
        _write(Path(request["timing_cache_out"]), cache.serialize())


def _reasons(parser: Any) -> str:
    """What the parser found, of each operator the first: one that it does not know comes in every layer, and the text
    of the error may be no more than "false"."""
    first: dict[str, str] = {}
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        where = f"{error.node_operator()} {error.node_name()}".strip()
        first.setdefault(error.node_operator(), f"{where}: {error.desc()}" if where else error.desc())
    return "; ".join(first.values())


def _monitor(trt: Any, say: Callable[[str], None]) -> Any:
    """Tells of the outermost phases, in tenths."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                say(f"{phase_name} ...")

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self.steps.get(phase_name, 0)
            if steps and step * 10 // steps < (step + 1) * 10 // steps:
                say(f"{phase_name} {100 * (step + 1) // steps} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _write(path: Path, data: Any) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(memoryview(data))


def _say(**fields: str) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(fields)}\n")
    sys.stdout.flush()


def _main(text: str) -> int:
    try:
        import tensorrt as trt

        build_here(json.loads(text), trt, lambda line: _say(progress=line))
    except Exception as e:  # noqa: BLE001 - the parent raises it
        _say(error=f"{type(e).__name__}: {e}" if not isinstance(e, RuntimeError) else str(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
