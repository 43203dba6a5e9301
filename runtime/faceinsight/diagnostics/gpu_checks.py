"""What is wrong with the GPU's side of an installation: driver, ONNX Runtime's CUDA, TensorRT, the Jetson."""

from __future__ import annotations

import re

from ..backends.tensorrt.cudart import NO_DRIVER
from ..backends.tensorrt.target import OLDEST
from ..backends.tensorrt.workspace import BUILDER_GPU, BUILDER_HOST, LEAST
from ..host.dependencies import INSTALL
from ..host.jetson import Jetson
from .check import FAIL, OK, WARN, Check
from .facts import Facts
from .versions import numbers

#: Compute capabilities in the aarch64 wheel of onnxruntime-gpu on PyPI: servers, not Jetson Orin (87) or Thor (110).
WHEEL_AARCH64 = (89, 90, 120, 121)
#: Jetson Linux in which cudaMalloc fails with memory free (ggml-org/llama.cpp pull request 23732).
NVMAP = (36, 4, 7)

#: So many times what a build takes is enough without swap: models and the LLM come on top.
ENOUGH = 3
_SWAP = "a swap file: docs/devices/jetson.md, step 6"
_ONNXRUNTIME_GPU = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def gpu(f: Facts) -> Check:
    """Driver, runtime and GPU, as the CUDA runtime sees them."""
    if f.cuda.found is not None:
        name, free = f.cuda.found["name"], f.cuda.found["free"] / 1e9
        versions = f"driver for CUDA {_dotted(f.cuda.found['driver'])}, runtime {_dotted(f.cuda.found['runtime'])}"
        return Check("GPU", OK, f"{name} (sm_{f.sm}), {free:.1f} GB free, {versions}")
    if not f.gpu:
        return Check("GPU", OK, "no NVIDIA GPU: everything runs on the CPU")
    do = "install CUDA of a major version that the driver supports (nvidia-smi shows it); on a Jetson: nvidia-jetpack"
    if NO_DRIVER in (f.cuda.error or ""):
        do = NO_DRIVER
    elif f.jetson and f.jetson.l4t is None:
        do = (
            "this looks like a container on a Jetson: start it with --runtime nvidia, from an image with JetPack's CUDA"
        )
    return Check("GPU", WARN, f"{f.driver or 'Jetson'}; {f.cuda.error}", "the CUDA runtime sees the GPU", do)


def distributions(f: Facts) -> Check | None:
    """Packages that bring one and the same module."""
    if len(f.distributions) < 2:
        return None
    found = ", ".join(f"{n} {v}" for n, v in f.distributions.items())
    keep = f"pip install {next(iter(f.distributions))}"
    if "onnxruntime-gpu" in f.distributions:
        keep = "one of docs/devices/jetson.md, step 4" if f.on_jetson else _ONNXRUNTIME_GPU
    return Check(
        "distributions",
        FAIL,
        f"{found}: they overwrite each other's files",
        "one of them",
        f"pip uninstall -y {' '.join(f.distributions)}, then {keep}",
    )


def onnxruntime(f: Facts) -> Check:
    """Its version, and whether it was built for a GPU."""
    if f.onnxruntime.found is None:
        install = f"{INSTALL['onnxruntime']}; on a Jetson see docs/devices/jetson.md"
        return Check("ONNX Runtime", FAIL, f.onnxruntime.error or "", "onnxruntime imports", install)
    version, providers = f.onnxruntime.found["version"], f.onnxruntime.found["providers"]
    text = f"{version}: {', '.join(p.removesuffix('ExecutionProvider') for p in providers)}"
    if not f.gpu or "CUDAExecutionProvider" in providers:
        return Check("ONNX Runtime", OK, text)
    do = (
        "use device='tensorrt', or a wheel built for Jetson: docs/devices/jetson.md"
        if f.on_jetson
        else f"pip uninstall -y onnxruntime, then {_ONNXRUNTIME_GPU}"
    )
    return Check("ONNX Runtime", WARN, f"{text}; no GPU provider in this build", "CUDA beside an NVIDIA GPU", do)


def cuda_library(f: Facts) -> Check | None:
    """Whether the library of the CUDA provider loads; nothing to say where there is no GPU."""
    library = (f.onnxruntime.found or {}).get("library")
    if library is None or not f.gpu:
        return None
    if library == "ok":
        return Check("CUDA libraries", OK, "the CUDA provider's library loads")
    missing = re.search(r"lib(cudart|cublas\w*|cudnn\w*|cufft|curand|nvrtc)[\w-]*\.so\.(\d+)", library)
    if missing is None:
        do = NO_DRIVER if "libcuda.so" in library else "see docs/devices/desktop-gpu.md"
        return Check("CUDA libraries", FAIL, library, "the CUDA provider's library loads", do)
    part, major = missing[1], missing[2]
    what = f"cuDNN {major}" if part.startswith("cudnn") else f"CUDA libraries that bring {missing[0]}"
    runtime = (f.cuda.found or {}).get("runtime")
    have = f"; the CUDA runtime found is {_dotted(runtime)}" if runtime else ""
    return Check(
        "CUDA libraries",
        FAIL,
        f"{missing[0]} is missing{have}",
        f"{what}: this ONNX Runtime was built for it",
        f"install that major version ({_ONNXRUNTIME_GPU} brings both), or an ONNX Runtime built for yours: "
        "docs/devices/desktop-gpu.md",
    )


def cuda_kernels(f: Facts) -> Check | None:
    """Whether a graph runs on the GPU."""
    found = f.onnxruntime.found or {}
    run = found.get("run")
    if run is None or found.get("library") != "ok" or not f.gpu:
        return None
    if run == "ok":
        return Check("CUDA kernels", OK, "a convolution and a matrix product ran on the GPU")
    if "cudnn" in run.lower():
        # ONNX Runtime no longer links cuDNN, so that its library loads says nothing of it.
        do = "sudo apt install nvidia-jetpack" if f.on_jetson else _ONNXRUNTIME_GPU
        return Check("CUDA kernels", FAIL, run, "cuDNN 9, which convolutions need", do)
    if "no kernel image" in run or "NoKernelImage" in run or (f.machine == "aarch64" and f.on_jetson):
        wheel = ", ".join(map(str, WHEEL_AARCH64))
        return Check(
            "CUDA kernels",
            FAIL,
            f"none for this GPU (sm_{f.sm}): {run}",
            "an ONNX Runtime with kernels for it",
            f"the aarch64 wheel on PyPI has sm {wheel} only, not Orin (87) nor Thor (110): docs/devices/jetson.md"
            if f.machine == "aarch64"
            else "install a newer onnxruntime-gpu, or one built for this GPU",
        )
    do = "check the driver with nvidia-smi; docs/devices/desktop-gpu.md"
    return Check("CUDA kernels", FAIL, run, "a convolution and a matrix product run on the GPU", do)


def tensorrt(f: Facts) -> Check | None:
    """Its version, and whether it can build."""
    oldest = ".".join(map(str, OLDEST))
    if f.tensorrt.found is not None:
        version = f.tensorrt.found["version"]
        if numbers(version) < OLDEST:
            return Check("TensorRT", WARN, version, f"{oldest} or newer", "on a Jetson: JetPack 6.2 or newer")
        return Check("TensorRT", OK, f"{version} on {f.tensorrt.found['device']} (sm_{f.tensorrt.found['sm']})")
    if not f.gpu and "No module named" in (f.tensorrt.error or ""):
        return None
    absent = "No module named" in (f.tensorrt.error or "")
    if absent:
        do = (
            "sudo apt install python3-libnvinfer, in a venv with --system-site-packages"
            if f.on_jetson
            else "pip install 'tensorrt>=10.3', if you want device='tensorrt'"
        )
    else:
        do = "its CUDA major must be one that the driver supports: nvidia-smi shows it; docs/devices/desktop-gpu.md"
    return Check("TensorRT", WARN, f.tensorrt.error or "", f"{oldest} or newer", do)


def swap(f: Facts) -> Check | None:
    """Swap where CPU and GPU share memory: compressed memory takes from both, and without any a build may be killed."""
    if not f.on_jetson or f.swaps is None:
        return None
    found = ", ".join(f"{s.name} {s.bytes / 1e9:.1f} GB" for s in f.swaps) or "none"
    wanted = "a file on a disk, for building plans and compiling"
    if any(s.zram for s in f.swaps):
        found = f"{found}: zram is compressed memory, of the same memory that the GPU uses"
        return Check("swap", WARN, found, wanted, f"sudo systemctl disable --now nvzramconfig, then {_SWAP}")
    builds = BUILDER_HOST + BUILDER_GPU + LEAST
    if not f.swaps and f.memory is not None and f.memory < ENOUGH * builds:
        found = f"none: TensorRT's builder takes about {builds / 1e9:.1f} GB, {f.memory / 1e9:.1f} GB are available"
        return Check("swap", WARN, found, wanted, _SWAP)
    return Check("swap", OK, found)


def jetson(f: Facts) -> tuple[Check, ...]:
    """Release, power mode and clocks of a board."""
    j = f.jetson
    if j is None:
        return ()
    release = _release(j)
    full = j.mode is None or "MAXN" in j.mode.upper()
    power = Check(
        "power mode",
        OK if full else WARN,
        j.mode or "not readable",
        "MAXN, for speed",
        "" if full else "sudo nvpmodel -p --verbose lists the modes, sudo nvpmodel -m N sets one",
    )
    if j.gpu_hz is None:
        return release, power
    now, most = (hz / 1e6 for hz in j.gpu_hz)
    locked = j.gpu_min_hz == j.gpu_hz[1]
    clocks = Check(
        "GPU clock",
        OK if locked else WARN,
        f"{now:.0f} of {most:.0f} MHz, {'held' if locked else 'it varies'}",
        "held at its maximum while measuring",
        "" if locked else "sudo jetson_clocks",
    )
    return release, power, clocks


def _release(j: Jetson) -> Check:
    expected = "36.4 (JetPack 6.2) or 39.2 (JetPack 7.2)"
    if j.l4t is None:
        return Check("L4T release", OK, f"not readable, as in a container ({j.model})", expected)
    status, found, do = OK, f"{j.l4t} ({j.model})", ""
    if numbers(j.l4t) < (36,):
        status, do = FAIL, "JetPack 5 and older are not supported: flash JetPack 6.2 or newer"
    elif numbers(j.l4t) == NVMAP:
        status, found = WARN, f"{found}: CUDA may fail to allocate (NvMap error 12) while memory is free"
        do = "where it happens, reboot and drop the page cache: docs/devices/jetson.md, pitfalls"
    return Check("L4T release", status, found, expected, do)


def _dotted(cuda: int) -> str:
    """CUDA's version number 12060 as "12.6"."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"
