"""Where inference runs: one thread budget for all engines, and no silent fallback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import whole
from ..errors import DeviceError, RequestError
from ..host.forks import never_freed
from ..host.machine import cores
from . import cuda_trial
from .llama_cpp.bindings import import_llama
from .llama_cpp.gpu import no_gpu_for_llm
from .ort import PROVIDERS, import_onnxruntime, open_session
from .placement import require_gpu_operators
from .session import Session

if TYPE_CHECKING:
    from .tensorrt.target import EngineTarget

log = logging.getLogger(__name__)
#: More than llama.cpp takes; ONNX Runtime would start them all.
MOST_THREADS = 512

DEVICES = ("auto", *PROVIDERS)
#: Faces per run of the encoders: on a CPU two are nearly as fast per face as eight, at a quarter of the memory.
BATCH = {"cpu": 2, "cuda": 8, "tensorrt": 8}


@dataclass(frozen=True, slots=True)
class Device:
    """A resolved choice: what runs the graphs, whether the LLM goes to the GPU, and the thread budget.

    `strict`: the device was asked for by name, so a provider that does not start is an error; `auto` logs it.
    `tensorrt`: the graphs run on TensorRT itself, built for this target; None: on ONNX Runtime.

    The stages run one after another, so each may use the whole budget; what must not happen is that an idle pool
    spins while another works, so ONNX Runtime's pools sleep between runs.
    """

    name: str
    llm_on_gpu: bool
    threads: int
    strict: bool = True
    tensorrt: EngineTarget | None = None

    @classmethod
    def resolve(cls, name: str, *, threads: int | None = None) -> Device:
        """`auto` takes the best that is there and logs it; any other name raises DeviceError if it is not there."""
        if name not in DEVICES:
            raise RequestError(f"device {name!r}; expected one of {', '.join(DEVICES)}")
        threads = whole("threads", threads)
        if threads is not None and threads < 1:
            raise RequestError(f"threads {threads}; expected at least 1")
        if threads is not None and threads > MOST_THREADS:
            raise RequestError(f"threads {threads}; at most {MOST_THREADS}, and {cores()} cores are here")
        budget = threads or cores()
        ort, llama = import_onnxruntime(), import_llama()
        if name == "auto":
            name, gpu_llm = _best(ort), bool(llama.llama_supports_gpu_offload())
            log.info(
                "device auto: %s for the encoders, %s for the LLM, %d threads",
                name,
                "GPU" if gpu_llm else "CPU",
                budget,
            )
            return cls(name, gpu_llm, budget, strict=False)
        target = None if name == "cpu" else _require_gpu(name, ort)
        if name != "cpu" and not llama.llama_supports_gpu_offload():
            raise DeviceError(
                f"device {name!r}: {no_gpu_for_llm(llama)}; or choose device='auto', which may use the CPU"
            )
        return cls(name, name != "cpu", budget, tensorrt=target)

    @property
    def batch(self) -> int:
        """Faces per run of the encoders."""
        return BATCH[self.name]

    def on_cpu(self) -> Device:
        """The CPU with the same thread budget, for what does not run on a GPU."""
        return Device("cpu", False, self.threads)

    def session(self, model: Path) -> Session:
        """A session on this device. Raises DeviceError if what was asked for did not become active."""
        if self.tensorrt is None:
            session = self._on_onnxruntime(model)
        else:
            from .tensorrt import opening

            session = opening.open_session(model, self.tensorrt, partial(self._meanwhile, model))
        never_freed(session)
        return session

    def prepare(self, models: Sequence[Path]) -> None:
        """Build the TensorRT plans that are missing, where CPU and GPU share memory: beside an LLM a build may not fit.

        Raises:
            DeviceError: one cannot be built.
        """
        if self.tensorrt is not None and self.tensorrt.integrated:
            from .tensorrt import opening

            opening.prepare(models, self.tensorrt)

    def _meanwhile(self, model: Path) -> Session | None:
        """What answers while TensorRT builds a plan: CUDA, if this ONNX Runtime can; never the CPU."""
        if PROVIDERS["cuda"] not in import_onnxruntime().get_available_providers():
            return None
        try:
            return Device("cuda", self.llm_on_gpu, self.threads)._on_onnxruntime(model)
        except DeviceError as e:
            log.warning("%s", e)
            return None

    def _on_onnxruntime(self, model: Path) -> Session:
        name = self.name
        if name != "cpu":
            try:
                require_gpu_operators(model)
            except DeviceError as e:
                if self.strict:
                    raise
                log.warning("device auto: %s on the CPU: %s", model.name, e)
                name = "cpu"
        if name == "tensorrt":
            from .ort_half import open_on_provider

            return open_on_provider(model, threads=self.threads, strict=self.strict)
        return open_session(model, name, threads=self.threads, strict=self.strict)


def _best(ort: Any) -> str:
    """What `auto` takes for the graphs: "cuda" where the CUDA provider is there and computes."""
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return "cpu"
    wrong = cuda_trial.failure(ort)
    if wrong is None:
        return "cuda"
    log.warning("device auto: ONNX Runtime's CUDA provider does not work here: %s; see `faceinsight doctor`", wrong)
    return "cpu"


def _require_gpu(name: str, ort: Any) -> EngineTarget | None:
    """What TensorRT builds for, or None where ONNX Runtime runs the graphs. Raises DeviceError if neither can."""
    available = ort.get_available_providers()
    target = _tensorrt(available) if name == "tensorrt" else None
    if target is None and PROVIDERS[name] not in available:
        raise DeviceError(
            f"device {name!r} needs ONNX Runtime's {PROVIDERS[name]}; this build has {', '.join(available)}; "
            "install one that has it, or choose device='cpu'"
        )
    if name == "cuda" and (wrong := cuda_trial.failure(ort)):
        raise DeviceError(f"device 'cuda': ONNX Runtime's CUDA provider does not work here: {wrong}")
    return target


def _tensorrt(available: list[str]) -> EngineTarget | None:
    """TensorRT's own library, or None where ONNX Runtime's provider must do. Raises DeviceError if neither is there."""
    from .tensorrt.target import target

    try:
        return target()
    except DeviceError as e:
        if PROVIDERS["tensorrt"] in available:
            log.info("%s; using ONNX Runtime's %s", e, PROVIDERS["tensorrt"])
            return None
        raise DeviceError(
            f"device 'tensorrt': {e}, and ONNX Runtime's {PROVIDERS['tensorrt']} is not there either (this build has "
            f"{', '.join(available)}); install one of them, or choose device='cpu'"
        ) from e
