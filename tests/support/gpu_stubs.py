"""A GPU's libraries without a GPU: cudart_stub.c compiled, and fake_tensorrt.py as a module of its own."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from faceinsight.backends.tensorrt.cudart import Cuda
from faceinsight.backends.tensorrt.session import TensorRtSession
from faceinsight.backends.tensorrt.shapes import AXES
from faceinsight.bundle.onnx_header import OnnxHeader

HERE = Path(__file__).parent
FAKE = HERE / "fake_tensorrt.py"


class Stub:
    """The compiled stub, as new. integrated: memory is shared, as on a Jetson."""

    def __init__(self, path: Path, *, integrated: bool = False) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.stub_violations.restype = self.library.stub_names.restype = ctypes.c_char_p
        self.library.stub_bytes.restype = ctypes.c_long
        self.library.stub_reset(int(integrated))

    def fail(self, call: int, error: int) -> None:
        """Let the call after the next `call` - 1 fail."""
        self.library.stub_fail(call, error)

    @property
    def calls(self) -> list[str]:
        """All calls until now, by name."""
        return self.library.stub_names().decode().split()

    @property
    def violations(self) -> str:
        """What was done that CUDA forbids."""
        return self.library.stub_violations().decode()

    @property
    def live(self) -> int:
        """Blocks of memory, streams and graphs that are not freed."""
        return self.library.stub_live()

    @property
    def launches(self) -> int:
        """Of graphs."""
        return self.library.stub_launches()

    def bytes(self, *, device: bool) -> int:
        """Live memory."""
        return self.library.stub_bytes(int(device))


@cache
def compiler() -> str | None:
    return shutil.which("cc")


def compile_stub(folder: Path, name: str = "libstub.so") -> Path:
    """The stub as a library of this name; skips the test where there is no compiler.

    As libcudart.so.13 it is what a process finds that has loaded it: for child processes only.
    """
    if compiler() is None:
        pytest.skip("no C compiler (cc)")
    path = folder / name
    source = HERE / "cudart_stub.c"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{path.name}"]
    subprocess.run([compiler(), *options, str(source), "-o", str(path)], check=True)
    return path


def fake_tensorrt(stub: Stub) -> ModuleType:
    """A fake of its own."""
    spec = importlib.util.spec_from_file_location("fake_tensorrt", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CUDART = stub.library
    return module


def plan_of(trt: ModuleType, model: Path) -> bytes:
    """A plan as the fake's builder makes it of a model."""
    profile = {
        v.name: [[d if isinstance(d, int) else AXES[d][i] for d in v.shape] for i in range(3)]
        for v in OnnxHeader.read(model).inputs
    }
    return trt.plan_of(model.read_bytes(), {"profile": profile})


def open_plan(trt: ModuleType, stub: Stub, plan: bytes) -> TensorRtSession:
    return TensorRtSession(plan, name="m.onnx", trt=trt, cuda=Cuda(stub.library))


def doubles(session: TensorRtSession, rows: int) -> bool:
    """Does the session give y = x + x?"""
    x = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    return np.array_equal(session.run(["y"], {"x": x})[0], 2 * x)
