"""ONNX Runtime: imported with telemetry off, and the one place that makes its sessions."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BundleError, DeviceError
from ..host.dependencies import load
from ..host.machine import saturates
from ..host.offline import telemetry_off
from .session import Session

log = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def import_onnxruntime() -> Any:
    """onnxruntime, or a DependencyError that says how to get it."""
    onnxruntime = load("onnxruntime")
    if not telemetry_off():
        _warn_of_telemetry()
    return onnxruntime


@cache
def _warn_of_telemetry() -> None:
    """Once in a process."""
    log.warning(
        "ONNX Runtime may send telemetry to its maker from this process: set ORT_DISABLE_TELEMETRY=1, or import "
        "faceinsight before onnxruntime"
    )


def preload(ort: Any) -> None:
    """Let ONNX Runtime find CUDA and cuDNN in NVIDIA's pip packages; what it prints goes to stderr."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()


def open_session(model: Path, device: str, *, threads: int, strict: bool, engine_cache: Path | None = None) -> Session:
    """A session on a model.

    Args:
        model: the ONNX file.
        device: "cpu", "cuda" or "tensorrt" (ONNX Runtime's own TensorRT provider).
        threads: for the operators that run on the CPU.
        strict: a provider that does not start is an error; else it is logged and ONNX Runtime falls back.
        engine_cache: folder in which the TensorRT provider keeps its plans.

    Raises:
        DeviceError: the provider did not start.
        BundleError: the file does not load on the CPU.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The stages run one after another: an idle pool must not spin while another works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", str(int(saturates())))
    # Plans for memory are made per batch size and kept beside what the first run took: on a CPU 25 % more memory, and
    # no gain.
    options.enable_mem_pattern = device != "cpu"
    options.log_severity_level = 4  # errors come as exceptions
    wanted = PROVIDERS[device]
    providers = [wanted] if device == "cpu" else _gpu_providers(ort, device, engine_cache)
    try:
        session: Session = ort.InferenceSession(str(model), options, providers=providers)
    except Exception as e:
        if device != "cpu":
            raise DeviceError(f"{model.name} does not start on {wanted}: {e}") from e
        raise BundleError(f"{model} does not load in ONNX Runtime {ort.__version__}: {e}") from e
    if session.get_providers()[0] != wanted:
        message = f"{wanted} did not start; ONNX Runtime fell back to {session.get_providers()[0]}"
        if strict:
            raise DeviceError(message)
        log.warning("device auto: %s", message)
    _release_freed_memory()
    return session


def _gpu_providers(ort: Any, device: str, engine_cache: Path | None) -> list[Any]:
    """Providers, the wanted one first; what TensorRT cannot run goes to CUDA before the CPU."""
    preload(ort)
    if device == "cuda":
        return [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    trt_options = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engine_cache),
        "trt_timing_cache_enable": True,
    }
    cuda = [PROVIDERS["cuda"]] if PROVIDERS["cuda"] in ort.get_available_providers() else []
    return [(PROVIDERS["tensorrt"], trt_options), *cuda, PROVIDERS["cpu"]]


def _release_freed_memory() -> None:
    """Give freed memory back to the system: what ONNX Runtime read of a file it frees once it is laid out for its
    kernels, and glibc would keep it (200 MB of a ViT-L/14 in 8 bits)."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
