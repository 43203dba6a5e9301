"""What a child process finds out about native libraries (`host.child.probe` starts it).

`python -m faceinsight.backends.probes NAME` prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..host.child import say
from .ort import CUDA_OPTIONS, PROVIDERS, preload


def _onnxruntime() -> dict[str, Any]:
    """Version and providers of the build; whether the CUDA provider's library loads, and runs on this GPU."""
    import onnxruntime as ort

    found: dict[str, Any] = {"version": ort.__version__, "providers": ort.get_available_providers()}
    if "CUDAExecutionProvider" in found["providers"]:
        preload(ort)
        found["library"] = _load_provider(Path(ort.__file__).parent / "capi")
        found["run"] = _run_on_cuda(ort)
    return found


def _load_provider(folder: Path) -> str:
    try:
        # The provider takes symbols from the shared part, which ONNX Runtime loads first.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as e:
        return str(e)
    return "ok"


def _run_on_cuda(ort: Any) -> str:
    """A list of providers says what was compiled, not what runs: a convolution, which needs cuDNN, and a product."""
    import numpy as np

    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    feeds = {"x": np.ones((1, 1, 4, 4), np.float32), "w": np.ones((1, 1, 3, 3), np.float32)}
    try:
        session = ort.InferenceSession(tiny_model(), options, providers=[(PROVIDERS["cuda"], CUDA_OPTIONS)])
        (y,) = session.run(None, feeds)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is the finding
        return str(e).splitlines()[0]
    return "ok" if (y == TINY_RESULT).all() else f"a convolution and a product of ones give {y.ravel().tolist()}"


#: y of the tiny model, where x and w are ones: 9 = 3 x 3, and 162 = 9 x 9 + 9 x 9.
TINY_RESULT = 162


def tiny_model() -> bytes:
    """An ONNX model written by hand (onnx.proto's fields): c = Conv(x, w), y = MatMul(c, c).

    x (1,1,4,4), w (1,1,3,3), y (1,1,2,2), all float32.
    """

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def value(name: bytes, side: int) -> bytes:
        shape = b"".join(field(1, bytes([1 << 3, size])) for size in (1, 1, side, side))
        return field(1, name) + field(2, field(1, bytes([1 << 3, 1]) + field(2, shape)))

    def node(op: bytes, inputs: bytes, output: bytes) -> bytes:
        return field(1, b"".join(field(1, bytes([name])) for name in inputs) + field(2, output) + field(4, op))

    graph = node(b"Conv", b"xw", b"c") + node(b"MatMul", b"cc", b"y") + field(2, b"g")
    graph += field(11, value(b"x", 4)) + field(11, value(b"w", 3)) + field(12, value(b"y", 2))
    return bytes([1 << 3, 8]) + field(7, graph) + field(8, bytes([2 << 3, 13]))


def _llama() -> dict[str, Any]:
    """Version of llama-cpp-python, whether it sees a GPU, and whether it was compiled for CUDA and for AMX."""
    from .llama_cpp.bindings import built_for_cuda, import_llama, llama_version, uses_amx

    llama = import_llama()
    return {
        "version": llama_version(),
        "gpu": bool(llama.llama_supports_gpu_offload()),
        "cuda_build": built_for_cuda(llama),
        "amx": uses_amx(llama),
    }


def _amx(model: str) -> dict[str, Any]:
    """Whether llama.cpp's AMX kernels say what the others say, of a GGUF."""
    from .llama_cpp.amx import trial

    return trial(Path(model))


def _cuda() -> dict[str, Any]:
    """The GPU as the CUDA runtime sees it."""
    from .tensorrt.cudart import Cuda

    return asdict(Cuda().gpu())


def _tensorrt(wanted: str = "Builder") -> dict[str, Any]:
    """TensorRT on this GPU, and whether its builder, or only its runtime, starts.

    wanted: "Builder" or "Runtime". Making a builder loads its kernels: 3 to 10 s, and 1.2 GB each of host and of GPU
    memory for that time (NVIDIA/TensorRT#3657).
    """
    import tensorrt as trt

    from .tensorrt.target import describe

    # Without a driver that fits, this is where it fails, or crashes.
    if not getattr(trt, wanted)(trt.Logger(trt.Logger.ERROR)):
        raise RuntimeError(f"TensorRT {trt.__version__} cannot make a {wanted.lower()}")
    return describe(trt)


def _plan(model: str, plan: str, shapes: str) -> dict[str, Any]:
    """How far a TensorRT plan is from ONNX Runtime on the CPU. Paths; shapes of the inputs by name, as JSON."""
    from .plan_check import deviation
    from .tensorrt.session import TensorRtSession

    path = Path(model)
    session = TensorRtSession(Path(plan).read_bytes(), name=path.name)
    try:
        return {"deviation": deviation(path, session, {n: tuple(s) for n, s in json.loads(shapes).items()})}
    finally:
        session.close()


def _memory() -> dict[str, Any]:
    """Peak bytes of Python and the libraries that answer."""
    import onnxruntime  # noqa: F401

    from .. import FaceInsight  # noqa: F401 - with it all that an answer needs
    from .llama_cpp.bindings import import_llama

    import_llama().llama_backend_init()
    status = Path("/proc/self/status").read_text().splitlines()
    return {"peak": 1024 * int(next(x for x in status if x.startswith("VmHWM")).split()[1])}


def _opencv() -> dict[str, Any]:
    """OpenCV's version."""
    import cv2

    return {"version": cv2.__version__}


def _main(name: str, *arguments: str) -> int:
    try:
        found = PROBES[name](*arguments)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is the finding
        found = {"error": f"{type(e).__name__}: {e}"}
    say(found)
    return 0


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "onnxruntime": _onnxruntime,
    "llama": _llama,
    "amx": _amx,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
    "plan": _plan,
    "opencv": _opencv,
    "memory": _memory,
}

if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
