"""NVIDIA's own Python bindings and builder, from wheels, on a machine that has no TensorRT and no GPU.

The wheels: `tensorrt-cu13-bindings` (or `-cu12-`) for the Python side, `onnxruntime-ep-nv-tensorrt-rtx-cu13` for the
builder of TensorRT-RTX. nvinfer_bridge.c lies between them; a C compiler is needed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BRIDGE = Path(__file__).with_name("nvinfer_bridge.c")
RTX = "onnxruntime_ep_nv_tensorrt_rtx"
#: Run by tensorrt_bindings before it loads its native part: that finds its libraries loaded, by their names.
LIBRARIES = """
import ctypes, os
from pathlib import Path
os.environ.update({environment!r})
for name in {names!r}:
    ctypes.CDLL(str(Path(__file__).with_name(name)), ctypes.RTLD_GLOBAL)
"""
MODULE = """
from tensorrt_bindings import *
from tensorrt_bindings import __version__
"""


def make_tensorrt(site: Path, wheels: Path, *, build: bool) -> None:
    """Write a module `tensorrt` that stands on the bindings of a wheel.

    Args:
        site: a new folder; with it and `wheels` in front of sys.path, `import tensorrt` works.
        wheels: where the wheels are installed (`pip install --target`, or a site-packages folder).
        build: with the builder of TensorRT-RTX; else the functions below the bindings return 0.

    Raises:
        FileNotFoundError: a wheel or the compiler is missing.
        RuntimeError: the bridge does not compile.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (cc)")
    version = bindings_version(wheels)
    if version is None:
        raise FileNotFoundError(f"tensorrt_bindings is not in {wheels}")
    major = version.split(".")[0]
    site.mkdir()
    (site / "empty.c").touch()
    names = [f"lib{part}.so.{major}" for part in ("nvinfer", "nvinfer_plugin", "nvonnxparser")]
    for name, source in zip(names, (BRIDGE, site / "empty.c", site / "empty.c"), strict=True):
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-O1",
            f"-Wl,-soname,{name}",
            str(source),
            "-ldl",
            "-o",
            str(site / name),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{BRIDGE.name} does not compile: {done.stderr}")
    environment = _builder(wheels) if build else {}
    (site / "tensorrt_libs.py").write_text(LIBRARIES.format(environment=environment, names=names))
    (site / "tensorrt.py").write_text(MODULE)


def bindings_version(wheels: Path) -> str | None:
    """Of the bindings that are installed in a folder, if any."""
    found = sorted(wheels.glob("tensorrt_cu1?_bindings-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").split("-")[1] if found else None


def _builder(wheels: Path) -> dict[str, str]:
    libraries = {"BRIDGE_BUILDER": "libtensorrt_rtx.so.*", "BRIDGE_PARSER": "libtensorrt_onnxparser_rtx.so.*"}
    found = {variable: sorted((wheels / RTX).glob(pattern)) for variable, pattern in libraries.items()}
    if not all(found.values()):
        raise FileNotFoundError(f"{RTX} is not in {wheels}")
    return {variable: str(paths[0]) for variable, paths in found.items()}
