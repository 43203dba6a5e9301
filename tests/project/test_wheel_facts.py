"""What the pages about devices say of wheels, against the wheels.

The wheels are 1.3 GB, so they are looked at where somebody has put them: $FACEINSIGHT_WHEELS names the folder, which
`pip download --no-deps --only-binary :all: --python-version ... --platform ... PACKAGE==VERSION` fills.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import wheels
from paths import ROOT

from faceinsight.backends.ort import CUDA_OPTIONS
from faceinsight.diagnostics.gpu_checks import WHEEL_AARCH64

FOLDER = os.environ.get("FACEINSIGHT_WHEELS", "")
DESKTOP, JETSON = ((ROOT / "docs" / "devices" / name).read_text() for name in ("desktop-gpu.md", "jetson.md"))
CUDA_PROVIDER, TENSORRT_PROVIDER = (f"libonnxruntime_providers_{name}.so" for name in ("cuda", "tensorrt"))


@dataclass(frozen=True, slots=True)
class Wheel:
    """What is said of one.

    Attributes:
        name: its file's name up to the platform.
        platform: the end of its file's name.
        python: Requires-Python.
        cuda: major version of CUDA that its provider is linked against.
        cubins: compute capabilities that it has machine code for.
        ptx: those that it has code for which a newer GPU compiles.
        cudnn: is the CUDA provider linked against cuDNN? If not, it is loaded when the first operator needs it.
        driver: is it linked against the driver, so that it does not load where there is none?
        tensorrt: major version of TensorRT that its TensorRT provider is linked against; None: it has none.
        cudnn_package: what the extra `cudnn` brings.
    """

    name: str
    platform: str
    python: str
    cuda: int
    cubins: tuple[int, ...]
    ptx: tuple[int, ...]
    cudnn: bool
    driver: bool
    tensorrt: int | None
    cudnn_package: str


X86, ARM = "x86_64", "aarch64"
OLD, NEW = (60, 70, 75, 80, 86, 90), (75, 80, 86, 89, 90, 120)
WHEELS = [
    Wheel("onnxruntime_gpu-1.23.2-cp310", X86, ">=3.10", 12, OLD, (90,), True, False, 10, "nvidia-cudnn-cu12"),
    Wheel("onnxruntime_gpu-1.26.0-cp312", X86, ">=3.11", 12, OLD, (90,), True, False, 10, "nvidia-cudnn-cu12"),
    Wheel(
        "onnxruntime_gpu-1.27.0-cp312",
        X86,
        ">=3.11",
        13,
        (75, 80, 86, 89, 90, 100, 120),
        (120,),
        True,
        True,
        10,
        "nvidia-cudnn-cu13",
    ),
    Wheel("onnxruntime_gpu-1.31.1-cp312", X86, ">=3.11", 13, NEW, (), False, True, 10, "nvidia-cudnn-cu13"),
    Wheel("onnxruntime_gpu-1.31.1-cp312", ARM, ">=3.11", 13, WHEEL_AARCH64, (), False, True, None, "nvidia-cudnn-cu13"),
    Wheel(
        "onnxruntime_gpu_extended-1.23.2.12.9-cp310",
        ARM,
        ">=3.10",
        12,
        (87,),
        (),
        True,
        False,
        None,
        "nvidia-cudnn-cu12",
    ),
]


def test_the_pages_say_what_is_checked_here():
    by_name = {(w.name.split("-cp")[0], w.platform): w for w in WHEELS}
    new, old = by_name["onnxruntime_gpu-1.31.1", X86], by_name["onnxruntime_gpu-1.26.0", X86]
    for wheel, row in ((new, "driver 580 or newer"), (old, "driver 525 to 579")):
        (line,) = re.findall(rf"^\| {row}.*$", DESKTOP, re.MULTILINE)
        version = wheel.name.split("-")[1]
        assert all(text in line for text in (version, f"CUDA {wheel.cuda}", f"Python {wheel.python.strip('>=')}"))
        assert f"sm {wheel.cubins[0]} to {wheel.cubins[-1]}" in line
        assert ("no PTX" in line) != bool(wheel.ptx)
    assert {w.tensorrt for w in WHEELS if w.platform == X86} == {10}
    assert "`libnvinfer.so.10`" in DESKTOP
    board = by_name["onnxruntime_gpu_extended-1.23.2.12.9", ARM]
    assert "onnxruntime-gpu-extended==1.23.2.12.9" in JETSON
    assert f"sm_{board.cubins[0]}" in JETSON
    assert f"kernels for sm_{', '.join(map(str, WHEEL_AARCH64[:-1]))} and {WHEEL_AARCH64[-1]}" in JETSON


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="FACEINSIGHT_WHEELS names no folder of wheels")
@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda w: f"{w.name}-{w.platform}")
def test_a_wheel_is_what_the_pages_say(wheel: Wheel, tmp_path: Path):
    found = [p for p in Path(FOLDER).glob(f"{wheel.name}-*.whl") if p.name.endswith(f"{wheel.platform}.whl")]
    if not found:
        pytest.skip(f"{FOLDER} has no {wheel.name} for {wheel.platform}")
    about = wheels.metadata(found[0])
    assert about["Requires-Python"] == wheel.python
    assert {"cuda", "cudnn"} <= set(about.get_all("Provides-Extra"))
    assert any(f'{wheel.cudnn_package}~=9.0; extra == "cudnn"' in line for line in about.get_all("Requires-Dist"))

    library = wheels.extract(found[0], CUDA_PROVIDER, tmp_path)
    needed = wheels.needed(library)
    assert {f"libcudart.so.{wheel.cuda}", f"libcublasLt.so.{wheel.cuda}"} <= needed
    assert ("libcudnn.so.9" in needed, "libcuda.so.1" in needed) == (wheel.cudnn, wheel.driver)
    assert wheels.architectures(library) == {"cubin": set(wheel.cubins), "ptx": set(wheel.ptx)}
    code = library.read_bytes()
    # The options that sessions are started with, and the operators that they are refused for.
    assert all(text.encode() in code for option in CUDA_OPTIONS.items() for text in option)
    assert b"DynamicQuantizeLinear" not in code
    assert (b"MatMulIntegerIaaE" in code, b"MatMulIntegerIhaE" in code) == (True, False)

    tensorrt = wheels.extract(found[0], TENSORRT_PROVIDER, tmp_path)
    assert (tensorrt is None) == (wheel.tensorrt is None)
    if tensorrt:
        assert f"libnvinfer.so.{wheel.tensorrt}" in wheels.needed(tensorrt)
        options = [f"trt_profile_{bound}_shapes" for bound in ("min", "opt", "max")]
        options += ["trt_engine_cache_path", "trt_timing_cache_path"]
        assert all(name.encode() in tensorrt.read_bytes() for name in options)


def test_the_extra_for_gpus_brings_cuda_and_cudnn():
    text = (ROOT / "pyproject.toml").read_text()
    (wanted,) = re.findall(r'^gpu = \["(onnxruntime-gpu[^"]*)"', text, re.MULTILINE)
    # 1.21 is the first version whose metadata has these extras.
    assert wanted == "onnxruntime-gpu[cuda,cudnn]>=1.21"
