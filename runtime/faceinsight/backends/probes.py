"""What a child process finds out about native libraries (`host.child.probe` starts it).

`python -m faceinsight.backends.probes NAME` prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..host.child import say
from .ort import preload


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
    """A list of providers says what was compiled, not what runs: y = x + x on the GPU."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    import numpy as np

    try:
        session = ort.InferenceSession(tiny_model(), options, providers=["CUDAExecutionProvider"])
        (y,) = session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as e:  # noqa: BLE001 - whatever it is, it is the finding
        return str(e).splitlines()[0]
    return "ok" if y[0] == 2 else f"1 + 1 gives {y[0]}"


def tiny_model() -> bytes:
    """An ONNX model of one Add, written by hand: onnx.proto's fields and their lengths."""
    value = bytes([10, 1]), bytes([18, 10, 10, 8, 8, 1, 18, 4, 10, 2, 8, 1])  # name; float tensor of shape (1,)
    x, y = (value[0] + name + value[1] for name in (b"x", b"y"))
    node = bytes([10, 1]) + b"x" + bytes([10, 1]) + b"x" + bytes([18, 1]) + b"y" + bytes([34, 3]) + b"Add"
    graph = bytes([10, len(node)]) + node + bytes([18, 1]) + b"g"
    graph += bytes([90, len(x)]) + x + bytes([98, len(y)]) + y
    return bytes([8, 8, 58, len(graph)]) + graph + bytes([66, 2, 16, 13])


def _llama() -> dict[str, Any]:
    """Version of llama-cpp-python, whether it can use a GPU, and whether it was compiled for AMX."""
    from .llama_cpp.bindings import import_llama, llama_version, uses_amx

    llama = import_llama()
    return {"version": llama_version(), "gpu": bool(llama.llama_supports_gpu_offload()), "amx": uses_amx(llama)}


def _amx(model: str) -> dict[str, Any]:
    """Whether llama.cpp's AMX kernels say what the others say, of a GGUF."""
    from .llama_cpp.amx import trial

    return trial(Path(model))


def _cuda() -> dict[str, Any]:
    """The GPU as the CUDA runtime sees it."""
    from .tensorrt.cudart import Cuda

    return asdict(Cuda().gpu())


def _tensorrt() -> dict[str, Any]:
    """TensorRT's version, whether it can build, and on what."""
    import tensorrt as trt

    from .tensorrt.cudart import Cuda

    gpu = Cuda().gpu()
    # Without a driver that fits, this is where it fails, or crashes.
    if not trt.Builder(trt.Logger(trt.Logger.ERROR)):
        raise RuntimeError(f"TensorRT {trt.__version__} cannot make a builder")
    return {"version": trt.__version__, "sm": gpu.sm, "device": gpu.name, "integrated": gpu.integrated}


def _memory() -> dict[str, Any]:
    """Peak bytes of Python and the libraries that answer."""
    import onnxruntime  # noqa: F401

    from .. import FaceInsight  # noqa: F401 - with it all that an answer needs
    from .llama_cpp.bindings import import_llama

    import_llama().llama_backend_init()
    status = Path("/proc/self/status").read_text().splitlines()
    return {"peak": 1024 * int(next(x for x in status if x.startswith("VmHWM")).split()[1])}


def _opencv() -> dict[str, Any]:
    """OpenCV's version, and whether it has the face detector."""
    import cv2

    return {"version": cv2.__version__, "detector": hasattr(cv2, "FaceDetectorYN")}


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
    "opencv": _opencv,
    "memory": _memory,
}

if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
