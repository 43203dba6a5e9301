"""llama.cpp as llama-cpp-python binds it: imported without the package's own code, silenced, parameters set."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import DependencyError
from ...host.dependencies import installed, unavailable

#: llama.cpp's threads meet after every operation, and who comes first spins: by default for so long that on a machine
#: with anything else to do the late one gets no core (benchmarks/speed/busy.py). It is read when the library is loaded.
SPIN = {"GOMP_SPINCOUNT": "3000"}

_callback: Any = None


class _LazyPackage(ModuleType):
    """A package whose own code runs when one of its names is first looked up; its submodules import without it."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__package__, self.__path__ = spec.name, list(spec.submodule_search_locations or ())
        self._executed, self._executing = False, threading.RLock()

    def __getattr__(self, name: str) -> Any:
        """Names that are not there yet; not those between underscores, which tools look for in every module."""
        wanted = not (name.startswith("__") and name.endswith("__")) or name in ("__all__", "__version__")
        with self._executing:
            if wanted and not self._executed:
                self._executed = True
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                except BaseException:
                    self._executed = False
                    raise
                if name in self.__dict__:
                    return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def import_llama() -> Any:
    """llama.cpp's functions as llama-cpp-python binds them, or a DependencyError that says how to get it.

    The package's own code imports chat templates and a database, which take 40 ms and 11 MB: it is left for whoever
    uses it.
    """
    # A failed assertion would fork for a backtrace, and with threads about that hangs: it must end the process, so that
    # whoever watches it can start it again.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    with _environment(SPIN):
        try:
            if "llama_cpp" not in sys.modules and (spec := find_spec("llama_cpp")):
                sys.modules.setdefault("llama_cpp", _LazyPackage(spec))
            return import_module("llama_cpp.llama_cpp")
        except Exception as e:  # also AttributeError, of a libllama that lacks a function
            raise unavailable("llama_cpp", e) from e


def llama_version() -> str:
    """Of llama-cpp-python, where it is installed as a package."""
    return installed("llama-cpp-python") or "of unknown version"


def libraries(llama: Any) -> Path:
    """The folder of llama.cpp's shared libraries. llama: as `import_llama` gives it."""
    return Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(llama.__file__).parent / "lib")


def built_for_cuda(llama: Any) -> bool:
    """Was llama.cpp compiled for CUDA? `llama_supports_gpu_offload` says whether it sees a GPU, which a CUDA build does
    not where the driver is missing, or too old."""
    return b"CUDA" in llama.llama_print_system_info() or any(libraries(llama).glob("libggml-cuda.*"))


def uses_amx(llama: Any) -> bool:
    """Was llama.cpp compiled for a CPU with AMX?"""
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


def set_params(parameters: Any, values: Mapping[str, Any]) -> Any:
    """llama.cpp's parameters with these values set.

    Raises:
        DependencyError: this release has no such parameter; ctypes would take it and do nothing.
    """
    for name, value in values.items():
        if not hasattr(parameters, name):
            kind = type(parameters).__name__
            raise DependencyError(
                f"this llama-cpp-python has no {kind}.{name}: install a release that faceinsight names"
            )
        setattr(parameters, name, value)
    return parameters


def silence_log(c: Any) -> None:
    """llama.cpp writes to stderr by itself; its messages go nowhere, errors come as return values.

    Called before each load: importing all of llama_cpp installs its own log callback, which writes everything unless a
    level was chosen (as its `Llama(verbose=...)` does).
    """
    global _callback
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    _callback = _callback or c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(_callback, ctypes.c_void_p(0))


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
