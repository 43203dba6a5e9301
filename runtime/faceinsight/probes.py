"""Looks at native libraries from a child process: one that crashes there is a finding, not our end.

`faceinsight.probes NAME` as a program prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Marks our lines among what libraries print.
MARK = "@faceinsight "
TIMEOUT = 120
#: How native code ends that does what it must not; not by the hand of others (SIGKILL where memory is short).
CRASHES = ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE", "SIGABRT")
NO_PYTHON = "sys.executable is no Python interpreter here (a frozen app, or Python inside of another program)"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a child found, or how it ended; neither where there was nothing to try.

    Both: how far it came before it ended so. crashed: by its own doing.
    """

    found: dict[str, Any] | None = None
    error: str | None = None
    crashed: bool = False


@cache
def probe(name: str) -> Probe:
    """Run one probe; remembered for the life of this process."""
    python = interpreter()
    if python is None:
        return Probe(error=NO_PYTHON)
    command = [python, *as_here("faceinsight.probes"), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer within {TIMEOUT} s")
    except OSError as e:
        return Probe(error=f"no child process can be started: {e}")
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    found = json.loads(lines[-1]) if lines else None
    if done.returncode == 0 and found is not None:
        return Probe(error=found["error"]) if "error" in found else Probe(found)
    error = death(done.returncode, done.stderr)
    return Probe(found, error, error.startswith(tuple(f"crashed with {name}" for name in CRASHES)))


def interpreter() -> str | None:
    """The Python program to start for a child. None in a frozen app and where Python is embedded: sys.executable is
    empty there, or the app, which would begin all over again."""
    name = Path(sys.executable or "").name
    python = re.fullmatch(r"(python|pypy)[\d.]*(d|t|w|_d|-dbg|-intel64)?(\.exe)?", name, re.IGNORECASE)
    return sys.executable if python and not getattr(sys, "frozen", False) else None


def as_here(module: str) -> tuple[str, str]:
    """Python's arguments that run a module as a program which finds the packages that this process finds: the same
    sys.path, but for the working directory where nobody named it. A file there that is called like a library is not
    run: PYTHONSAFEPATH, which says so, came with Python 3.11 only, and `-I` would drop the user's PYTHONPATH."""
    chosen = [str(Path(__file__).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    named = any(_is_here(p) for p in chosen if p)
    paths = [p for p in sys.path if p and (named or not _is_here(p))]
    # The path is set before anything is imported but sys, which is built in.
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return "-c", f"import sys; sys.path[:] = {paths!a}; import runpy; {run}"


def _is_here(path: str) -> bool:
    """Is it the working directory?"""
    try:
        return Path(path).samefile(os.curdir)
    except OSError:
        return False


def death(code: int, stderr: str) -> str:
    """How a child ended, with its last words."""
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    if code >= 0:
        return last or f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"crashed with {name}" + (f" after: {last}" if last else "")


def _onnxruntime() -> dict[str, Any]:
    """Version and providers of the build; whether the CUDA provider's library loads, and runs on this GPU."""
    import onnxruntime as ort

    found: dict[str, Any] = {"version": ort.__version__, "providers": ort.get_available_providers()}
    if "CUDAExecutionProvider" in found["providers"]:
        preload(ort)
        found["library"] = _load_provider(Path(ort.__file__).parent / "capi")
        found["run"] = _run_on_cuda(ort)
    return found


def preload(ort: Any) -> None:
    """Let ONNX Runtime find CUDA and cuDNN in NVIDIA's pip packages; what it prints goes to stderr."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()


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
    from .device import import_llama, llama_version
    from .llm import uses_amx

    llama = import_llama()
    return {"version": llama_version(), "gpu": bool(llama.llama_supports_gpu_offload()), "amx": uses_amx(llama)}


def _amx() -> dict[str, Any]:
    """Whether llama.cpp's AMX kernels say what the others say."""
    from .amx import trial

    return trial()


def _cuda() -> dict[str, Any]:
    """The GPU as the CUDA runtime sees it."""
    from .cuda import Cuda

    return asdict(Cuda().gpu())


def _tensorrt() -> dict[str, Any]:
    """TensorRT's version, whether it can build, and on what."""
    import tensorrt as trt

    from .cuda import Cuda

    gpu = Cuda().gpu()
    # Without a driver that fits, this is where it fails, or crashes.
    if not trt.Builder(trt.Logger(trt.Logger.ERROR)):
        raise RuntimeError(f"TensorRT {trt.__version__} cannot make a builder")
    return {"version": trt.__version__, "sm": gpu.sm, "device": gpu.name, "integrated": gpu.integrated}


def _memory() -> dict[str, Any]:
    """Peak bytes of Python and the libraries that answer."""
    import cv2  # noqa: F401
    import onnxruntime  # noqa: F401

    from . import insight  # noqa: F401
    from .device import import_llama

    import_llama().llama_backend_init()
    status = Path("/proc/self/status").read_text().splitlines()
    return {"peak": 1024 * int(next(x for x in status if x.startswith("VmHWM")).split()[1])}


def _opencv() -> dict[str, Any]:
    """OpenCV's version, and whether it has the face detector."""
    import cv2

    return {"version": cv2.__version__, "detector": hasattr(cv2, "FaceDetectorYN")}


def _main(name: str) -> int:
    try:
        found = PROBES[name]()
    except Exception as e:  # noqa: BLE001 - whatever it is, it is the finding
        found = {"error": f"{type(e).__name__}: {e}"}
    say(found)
    return 0


def say(found: dict[str, Any]) -> None:
    """In a child: what was found, also on the way; the last word counts."""
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
    sys.stdout.flush()


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": _onnxruntime,
    "llama": _llama,
    "amx": _amx,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
    "opencv": _opencv,
    "memory": _memory,
}

if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
