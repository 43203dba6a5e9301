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
#: cuDNN's default tries every algorithm anew for each shape that a convolution has not had yet: 634 ms a shape against
#: 1.9 ms, and no faster afterwards (PaddlePaddle/PaddleX pull request 5057). Questions differ in length, photos in
#: faces. The arena would double itself, beside an LLM in the same memory.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


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


@cache
def preload(ort: Any) -> None:
    """Let ONNX Runtime find CUDA and cuDNN in NVIDIA's pip packages; what it prints goes to stderr, once."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()


def open_session(
    model: Path,
    device: str,
    *,
    threads: int,
    strict: bool,
    engine_cache: Path | None = None,
    data: bytes | None = None,
) -> Session:
    """A session on a model.

    Args:
        model: the ONNX file.
        device: "cpu", "cuda" or "tensorrt" (ONNX Runtime's own TensorRT provider).
        threads: for the operators that run on the CPU.
        strict: a provider that does not start is an error; else it is logged and ONNX Runtime falls back.
        engine_cache: folder in which the TensorRT provider keeps its plans.
        data: what is loaded in the file's place: the same model, rewritten.

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
    try:
        session = _start(ort, model, data, options, _providers(ort, device, model, data, engine_cache))
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


def _start(ort: Any, model: Path, data: bytes | None, options: Any, choices: list[list[Any]]) -> Session:
    """With the first choice of providers that starts; the last one's error is raised."""
    given = data or str(model)
    for providers in choices[:-1]:
        try:
            return ort.InferenceSession(given, options, providers=providers)  # type: ignore[no-any-return]
        except Exception as e:  # noqa: BLE001 - whatever it is, the next choice is tried
            log.info("%s: %s", model.name, e)
    return ort.InferenceSession(given, options, providers=choices[-1])  # type: ignore[no-any-return]


def _providers(ort: Any, device: str, model: Path, data: bytes | None, engine_cache: Path | None) -> list[list[Any]]:
    """Choices of providers with their options, the wanted one first; what TensorRT cannot run goes to CUDA before the
    CPU."""
    cpu = PROVIDERS["cpu"]
    if device == "cpu":
        return [[cpu]]
    preload(ort)
    cuda = (PROVIDERS["cuda"], CUDA_OPTIONS)
    if device == "cuda":
        return [[cuda, cpu]]
    others = [cuda, cpu] if PROVIDERS["cuda"] in ort.get_available_providers() else [cpu]
    from .tensorrt import provider

    wanted = provider.options(model, data, engine_cache)
    # Of a graph that TensorRT takes in parts only, the profile would have to name what passes between them: it is
    # refused then, and plans follow the shapes as they come.
    profiles = provider.profiles(model)
    return [[(PROVIDERS["tensorrt"], wanted | profile), *others] for profile in ([profiles] if profiles else []) + [{}]]


def _release_freed_memory() -> None:
    """Give freed memory back to the system: what ONNX Runtime read of a file it frees once it is laid out for its
    kernels, and glibc would keep it (200 MB of a ViT-L/14 in 8 bits)."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
