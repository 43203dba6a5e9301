"""Where inference runs: one thread budget for all engines, and no silent fallback."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .arguments import whole
from .dependencies import load, unavailable
from .errors import BundleError, DeviceError, RequestError
from .forks import never_freed
from .graph import Session
from .offline import telemetry_off

if TYPE_CHECKING:
    from .engines import Target

log = logging.getLogger(__name__)
#: More than llama.cpp takes; ONNX Runtime would start them all.
MOST_THREADS = 512

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
DEVICES = ("auto", *PROVIDERS)
#: Faces per run of the encoders: on a CPU two are nearly as fast per face as eight, at a quarter of the memory.
BATCH = {"cpu": 2, "cuda": 8, "tensorrt": 8}
#: llama.cpp's threads meet after every operation, and who comes first spins: by default for so long that on a machine
#: with anything else to do the late one gets no core (benchmarks/busy.py). It is read when the library is loaded.
SPIN = {"GOMP_SPINCOUNT": "3000"}


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
    tensorrt: Target | None = None

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
        target = _tensorrt(available) if name == "tensorrt" else None
        if target is None and PROVIDERS[name] not in available:
            raise DeviceError(
                f"device {name!r} needs ONNX Runtime's {PROVIDERS[name]}; this build has {', '.join(available)}. "
                f"{_finding(name)}; or choose device='cpu'"
            )
        if name != "cpu" and not gpu_llm:
            raise DeviceError(
                f"device {name!r}: this llama-cpp-python is a CPU build. Reinstall it with "
                'CMAKE_ARGS="-DGGML_CUDA=on" or choose device="auto" to run the LLM on the CPU'
            )
        return cls(name, name != "cpu", budget, tensorrt=target)

    @property
    def batch(self) -> int:
        """Faces per run of the encoders."""
        return BATCH[self.name]

    def session(self, model: Path) -> Session:
        """A session on this device. Raises DeviceError if what was asked for did not become active."""
        if self.tensorrt is None:
            session = self._onnxruntime(model)
        else:
            from .engines import open_session

            session = open_session(model, self.tensorrt, self._meanwhile(model))
        never_freed(session)
        return session

    def _meanwhile(self, model: Path) -> Session | None:
        """What answers while TensorRT builds a plan: CUDA, if this ONNX Runtime can; never the CPU."""
        if PROVIDERS["cuda"] not in import_onnxruntime().get_available_providers():
            return None
        try:
            return Device("cuda", self.llm_on_gpu, self.threads)._onnxruntime(model)
        except DeviceError as e:
            log.warning("%s", e)
            return None

    def _onnxruntime(self, model: Path) -> Session:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", str(int(saturates())))
        # Plans for memory are made per batch size and kept beside what the first run took: a quarter more, for nothing.
        options.enable_mem_pattern = self.name != "cpu"
        options.log_severity_level = 4  # errors come as exceptions
        wanted = PROVIDERS[self.name]
        providers = [wanted] if self.name == "cpu" else _on_gpu(ort, self.name)
        try:
            session: Session = ort.InferenceSession(str(model), options, providers=providers)
        except Exception as e:
            if self.name != "cpu":
                raise DeviceError(f"{model.name} does not start on {wanted}: {e}. {_finding(self.name)}") from e
            raise BundleError(f"{model} does not load in ONNX Runtime {ort.__version__}: {e}") from e
        if session.get_providers()[0] != wanted:
            message = f"{wanted} did not start; ONNX Runtime fell back to {session.get_providers()[0]}"
            if self.strict:
                raise DeviceError(f"{message}. {_finding(self.name)}")
            log.warning("device auto: %s", message)
        _release()
        return session


def _release() -> None:
    """Give freed memory back to the system: what ONNX Runtime read of a file it frees once it is laid out for its
    kernels, and glibc would keep it (200 MB of a ViT-L/14 in 8 bits)."""
    with suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _tensorrt(available: list[str]) -> Target | None:
    """TensorRT's own library, or None where ONNX Runtime's provider must do. Raises DeviceError if neither is there."""
    from .engines import target

    try:
        return target()
    except DeviceError as e:
        if PROVIDERS["tensorrt"] in available:
            log.info("%s; using ONNX Runtime's %s", e, PROVIDERS["tensorrt"])
            return None
        raise DeviceError(
            f"device 'tensorrt': {e}, and ONNX Runtime's {PROVIDERS['tensorrt']} is not there either (this build has "
            f"{', '.join(available)}). {_finding('tensorrt')}; or choose device='cpu'"
        ) from e


def _on_gpu(ort: Any, name: str) -> list[Any]:
    """Providers for ONNX Runtime, the wanted one first; what TensorRT cannot run goes to CUDA before the CPU."""
    from .probes import preload

    preload(ort)
    if name == "cuda":
        return [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    from .engines import EngineCache

    folder = str(EngineCache().folder)
    kept = {"trt_engine_cache_enable": True, "trt_engine_cache_path": folder, "trt_timing_cache_enable": True}
    cuda = [PROVIDERS["cuda"]] if PROVIDERS["cuda"] in ort.get_available_providers() else []
    return [(PROVIDERS["tensorrt"], kept), *cuda, PROVIDERS["cpu"]]


def _finding(name: str) -> str:
    from .doctor import finding

    return finding(name)


@cache
def saturates(root: Path = Path("/")) -> bool:
    """Would 8-bit layers be wrong on this CPU? x86 without VNNI adds two products in 16 bits, which do not hold them;
    ONNX Runtime can be told to compute exactly, at a fraction of the speed. root: where /proc is."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        found = set(re.findall(r"\w+", (root / "proc/cpuinfo").read_text()))
    except OSError:
        return True
    return not found & {"avx512_vnni", "avx_vnni", "amx_int8"}


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def import_onnxruntime() -> Any:
    """onnxruntime, or a DependencyError that says how to get it."""
    onnxruntime = load("onnxruntime")
    if not telemetry_off():
        log.warning(
            "ONNX Runtime may send telemetry to its maker from this process: set ORT_DISABLE_TELEMETRY=1, or import "
            "faceinsight before onnxruntime"
        )
    return onnxruntime


def import_llama() -> Any:
    """llama.cpp's functions as llama-cpp-python binds them, or a DependencyError that says how to get it."""
    # A failed assertion would fork for a backtrace, and with threads about that hangs: it must end the process, so that
    # whoever watches it can start it again.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    with _environment(SPIN):
        try:
            return _submodule("llama_cpp", "llama_cpp")
        except (ImportError, RuntimeError, OSError) as e:
            raise unavailable("llama_cpp", e) from e


def installed(distribution: str) -> str | None:
    """Its version; None where it is not installed as a package."""
    # Imported where it is needed: it takes longer than all of this package.
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def llama_version() -> str:
    """Of llama-cpp-python, where it is installed as a package."""
    return installed("llama-cpp-python") or "of unknown version"


def cache_folder() -> Path:
    """Where what was found out about this machine is kept for the next process. Raises OSError where the user has no
    home."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative one counts for nothing (XDG Base Directory Specification).
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "faceinsight"
    except RuntimeError as e:
        raise FileNotFoundError(f"{e}: set HOME or XDG_CACHE_HOME") from e


def _submodule(package: str, name: str) -> ModuleType:
    """A module of a package without the package's own code: that of llama_cpp imports chat templates and a database,
    which take 40 ms and 11 MB. Whoever imports the package afterwards gets all of it."""
    spec = find_spec(package) if package not in sys.modules else None
    if spec is None:
        return import_module(f"{package}.{name}")
    sys.modules[package] = module_from_spec(spec)
    try:
        return import_module(f"{package}.{name}")
    finally:
        del sys.modules[package]


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Have these variables set, unless the user has chosen."""
    chosen = "OMP_WAIT_POLICY" in os.environ
    added = [name for name in wanted if not chosen and name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
