"""Where inference runs: one thread budget for all engines, and no silent fallback."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BundleError, DependencyError, DeviceError, RequestError

log = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
DEVICES = ("auto", *PROVIDERS)


@dataclass(frozen=True, slots=True)
class Device:
    """A resolved choice: the provider for ONNX Runtime, whether the LLM goes to the GPU, and the thread budget.

    `strict`: the device was asked for by name, so a provider that does not start is an error; `auto` logs it.

    The stages run one after another, so each may use the whole budget; what must not happen is that an idle pool
    spins while another works, so ONNX Runtime's pools sleep between runs.
    """

    name: str
    llm_on_gpu: bool
    threads: int
    strict: bool = True

    @classmethod
    def resolve(cls, name: str, *, threads: int | None = None) -> Device:
        """`auto` takes the best that is there and logs it; any other name raises DeviceError if it is not there."""
        if name not in DEVICES:
            raise RequestError(f"device {name!r}; expected one of {', '.join(DEVICES)}")
        if threads is not None and threads < 1:
            raise RequestError(f"threads {threads}; expected at least 1")
        budget = threads or cores()
        available = import_onnxruntime().get_available_providers()
        gpu_llm = bool(import_llama().llama_supports_gpu_offload())
        if name == "auto":
            name = "cuda" if PROVIDERS["cuda"] in available else "cpu"
            log.info(
                "device auto: %s for the encoders, %s for the LLM, %d threads",
                name,
                "GPU" if gpu_llm else "CPU",
                budget,
            )
            return cls(name, gpu_llm, budget, strict=False)
        if PROVIDERS[name] not in available:
            raise DeviceError(
                f"device {name!r} needs ONNX Runtime's {PROVIDERS[name]}; this build has {', '.join(available)}. "
                "Install a GPU build (extra [gpu], on Jetson NVIDIA's wheel) or choose device='cpu'"
            )
        if name != "cpu" and not gpu_llm:
            raise DeviceError(
                f"device {name!r}: this llama-cpp-python is a CPU build. Reinstall it with "
                'CMAKE_ARGS="-DGGML_CUDA=on" or choose device="auto" to run the LLM on the CPU'
            )
        return cls(name, name != "cpu", budget)

    def session(self, model: Path) -> Any:
        """An ONNX Runtime session on this device. Raises if the provider did not become active."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        wanted = PROVIDERS[self.name]
        providers = [wanted] if self.name == "cpu" else [wanted, PROVIDERS["cpu"]]
        try:
            session = ort.InferenceSession(str(model), options, providers=providers)
        except Exception as e:
            raise BundleError(f"{model} does not load in ONNX Runtime {ort.__version__}: {e}") from e
        if session.get_providers()[0] != wanted:
            message = f"{wanted} did not start; ONNX Runtime fell back to {session.get_providers()[0]}"
            if self.strict:
                raise DeviceError(message)
            log.warning("device auto: %s", message)
        return session


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def import_onnxruntime() -> Any:
    """onnxruntime, or a DependencyError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as e:
        raise DependencyError("onnxruntime is not installed: pip install 'faceinsight[cpu]' or [gpu]") from e
    return onnxruntime


def import_llama() -> Any:
    """llama_cpp, or a DependencyError that says how to get it."""
    try:
        import llama_cpp
    except ImportError as e:
        raise DependencyError("llama-cpp-python is not installed: pip install 'faceinsight[cpu]' or [gpu]") from e
    return llama_cpp
