"""What is wrong with this machine's set-up, by name, and what to do about it.

`facts.gather` looks, `diagnose` judges what was found and touches nothing.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from ..backends.llama_cpp.amx import FLAGS, verdict
from ..backends.tensorrt.engines import OLDEST
from ..host.child import NO_PYTHON, interpreter
from ..host.dependencies import INSTALL
from .facts import Facts, gather
from .versions import EXPORT, RUNTIME, numbers, too_old, untried

OK, WARN, FAIL = "ok", "warn", "fail"

#: Compute capabilities in the aarch64 wheel of onnxruntime-gpu on PyPI: servers, not Jetson Orin (87) or Thor (110).
WHEEL_AARCH64 = (89, 90, 120, 121)

_LLAMA_BUILD = (
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python 'llama-cpp-python>=0.3.36,<0.4'"
)
_LLAMA_CUDA = f'CMAKE_ARGS="-DGGML_CUDA=on{{arch}}" CUDACXX=/usr/local/cuda/bin/nvcc {_LLAMA_BUILD}'
_LLAMA_AMX = f"CMAKE_ARGS=\"-DCMAKE_CXX_FLAGS='{FLAGS}'\" {_LLAMA_BUILD}"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was checked.
        status: "ok", "warn" or "fail".
        found: what is there.
        expected: what should be.
        do: what mends it; "" where nothing is to be done.
    """

    name: str
    status: str
    found: str
    expected: str = ""
    do: str = ""


def diagnose(facts: Facts) -> tuple[Check, ...]:
    """Every check, in the order in which to mend."""
    checks = (
        _bundle(facts),
        _versions(facts),
        _opencv(facts),
        _gpu(facts),
        _distributions(facts),
        _onnxruntime(facts),
        _telemetry(facts),
        _cuda_library(facts),
        _cuda_kernels(facts),
        _llama(facts),
        _tensorrt(facts),
        _memory(facts),
        *_jetson(facts),
    )
    return tuple(c for c in checks if c is not None)


def finding(device: str) -> str:
    """Why a device that was asked for does not work: the first checks about it that are not ok."""
    if interpreter() is None:
        return f"Why, `faceinsight doctor` tells under another Python: {NO_PYTHON}"
    about = {"cuda": ("distributions", "ONNX Runtime", "CUDA libraries", "CUDA kernels"), "tensorrt": ("TensorRT",)}
    facts = gather(None)
    if not facts.gpu:
        return "No NVIDIA GPU was found: neither a driver in /proc/driver/nvidia nor a Jetson"
    wrong = [c for c in diagnose(facts) if c.status != OK and c.name in ("GPU", *about.get(device, ()))]
    return "; ".join(f"{c.name}: {c.found}: {c.do}" for c in wrong[:2]) or "Run `faceinsight doctor`"


def _bundle(f: Facts) -> Check | None:
    if f.bundle_error:
        return Check("bundle", FAIL, f.bundle_error, "files as the manifest lists them", "export or install it again")
    return Check("bundle", OK, f"{f.bundle}: every file's sha256 is right") if f.bundle else None


def _versions(f: Facts) -> Check | None:
    """Each package against the versions that were tried; what only exporting needs does not stop an answer."""
    if not f.versions:
        return None
    if old := too_old(f.versions):
        pips = {"onnxruntime": next(iter(f.distributions), "onnxruntime")}
        status = FAIL if old.keys() & RUNTIME else WARN
        wanted = ", ".join(f"{(RUNTIME | EXPORT)[name].name} {o.wanted} or newer" for name, o in old.items())
        do = "pip install " + " ".join(f"'{pips.get(name, name)}>={o.wanted}'" for name, o in old.items())
        return Check("versions", status, "; ".join(o.why for o in old.values()), wanted, do)
    text = ", ".join(f"{RUNTIME[name].name} {f.versions[name]}" for name in RUNTIME if name in f.versions)
    newer = untried(f.versions)
    return Check("versions", OK, text + (f"; newer than any that was tried: {', '.join(newer)}" if newer else ""))


def _opencv(f: Facts) -> Check:
    wanted, install = "OpenCV with FaceDetectorYN", "pip install --upgrade opencv-python-headless"
    if f.opencv.found is None:
        return Check("OpenCV", FAIL, f.opencv.error or "", wanted, install)
    version = f.opencv.found["version"]
    return (
        Check("OpenCV", OK, version) if f.opencv.found["detector"] else Check("OpenCV", FAIL, version, wanted, install)
    )


def _gpu(f: Facts) -> Check:
    if f.cuda.found is not None:
        name, free = f.cuda.found["name"], f.cuda.found["free"] / 1e9
        versions = f"driver for CUDA {_dotted(f.cuda.found['driver'])}, runtime {_dotted(f.cuda.found['runtime'])}"
        return Check("GPU", OK, f"{name} (sm_{f.sm}), {free:.1f} GB free, {versions}")
    if not f.gpu:
        return Check("GPU", OK, "no NVIDIA GPU: everything runs on the CPU")
    do = "install CUDA of a major version that the driver supports (nvidia-smi shows it); on a Jetson: nvidia-jetpack"
    return Check("GPU", WARN, f"{f.driver or 'Jetson'}; {f.cuda.error}", "the CUDA runtime sees the GPU", do)


def _distributions(f: Facts) -> Check | None:
    if len(f.distributions) < 2:
        return None
    found = ", ".join(f"{n} {v}" for n, v in f.distributions.items())
    keep = "onnxruntime-gpu" if "onnxruntime-gpu" in f.distributions else next(iter(f.distributions))
    return Check(
        "distributions",
        FAIL,
        f"{found}: they overwrite each other's files",
        "one of them",
        f"pip uninstall -y {' '.join(f.distributions)} && pip install {keep}",
    )


def _onnxruntime(f: Facts) -> Check:
    if f.onnxruntime.found is None:
        install = f"{INSTALL['onnxruntime']}; on a Jetson see docs/devices/jetson.md"
        return Check("ONNX Runtime", FAIL, f.onnxruntime.error or "", "onnxruntime imports", install)
    version, providers = f.onnxruntime.found["version"], f.onnxruntime.found["providers"]
    text = f"{version}: {', '.join(p.removesuffix('ExecutionProvider') for p in providers)}"
    if not f.gpu or "CUDAExecutionProvider" in providers:
        return Check("ONNX Runtime", OK, text)
    do = (
        "use device='tensorrt', or a wheel built for Jetson: docs/devices/jetson.md"
        if f.jetson
        else ("pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'")
    )
    return Check("ONNX Runtime", WARN, f"{text}; no GPU provider in this build", "CUDA beside an NVIDIA GPU", do)


def _telemetry(f: Facts) -> Check:
    if f.telemetry_off:
        return Check("telemetry", OK, "ONNX Runtime sends nothing to its maker")
    found = "ORT_DISABLE_TELEMETRY is not 1: ONNX Runtime 1.32 keeps a device id and looks for its maker's host"
    return Check("telemetry", WARN, found, "nothing leaves this machine", "unset ORT_DISABLE_TELEMETRY, or set it to 1")


def _cuda_library(f: Facts) -> Check | None:
    library = (f.onnxruntime.found or {}).get("library")
    if library is None:
        return None
    if library == "ok":
        return Check("CUDA libraries", OK, "the CUDA provider's library loads")
    missing = re.search(r"lib(cudart|cublas\w*|cudnn\w*|cufft|curand|nvrtc)[\w-]*\.so\.(\d+)", library)
    if missing is None:
        return Check(
            "CUDA libraries", FAIL, library, "the CUDA provider's library loads", "see docs/devices/desktop-gpu.md"
        )
    part, major = missing[1], missing[2]
    what = f"cuDNN {major}" if part.startswith("cudnn") else f"CUDA libraries that bring {missing[0]}"
    runtime = (f.cuda.found or {}).get("runtime")
    have = f"; the CUDA runtime found is {_dotted(runtime)}" if runtime else ""
    return Check(
        "CUDA libraries",
        FAIL,
        f"{missing[0]} is missing{have}",
        f"{what}: this ONNX Runtime was built for it",
        "install that major version (pip install 'onnxruntime-gpu[cuda,cudnn]' brings both), or an ONNX Runtime built "
        "for yours: docs/devices/desktop-gpu.md",
    )


def _cuda_kernels(f: Facts) -> Check | None:
    found = f.onnxruntime.found or {}
    run = found.get("run")
    if run is None or found.get("library") != "ok":
        return None
    if run == "ok":
        return Check("CUDA kernels", OK, "a graph ran on the GPU")
    if "no kernel image" in run or "NoKernelImage" in run or (f.machine == "aarch64" and f.jetson is not None):
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
    return Check("CUDA kernels", FAIL, run, "y = x + x runs on the GPU", do)


def _llama(f: Facts) -> Check:
    build = _LLAMA_CUDA.format(arch=f" -DCMAKE_CUDA_ARCHITECTURES={f.sm}" if f.sm else "")
    if f.llama.found is None:
        do = build if f.gpu else INSTALL["llama_cpp"]
        return Check("llama.cpp", FAIL, f.llama.error or "", "llama_cpp imports", do)
    version = f.llama.found["version"]
    if f.gpu and not f.llama.found["gpu"]:
        return Check(
            "llama.cpp", WARN, f"{version} is a CPU build: the LLM will not use the GPU", "a CUDA build", build
        )
    amx = verdict(f.amx)
    if amx is False or f.amx.error:
        fails = "which fails" if amx is False else "which was not tried"
        found = f"{version}, compiled for AMX, {fails} ({f.amx.error or f.amx.found}): it and rearranged weights are "
        do = _LLAMA_AMX if amx is False else "mend what kept it from being tried, and start again"
        return Check("llama.cpp", WARN, f"{found}left unused", "AMX that works, twice as fast", do)
    kind = "GPU" if f.llama.found["gpu"] else "CPU"
    return Check("llama.cpp", OK, f"{version}, {kind} build{' with AMX' if amx else ''}")


def _tensorrt(f: Facts) -> Check | None:
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
            if f.jetson
            else ("pip install 'tensorrt>=10.3', if you want device='tensorrt'")
        )
    else:
        do = "its CUDA major must be one that the driver supports: nvidia-smi shows it; docs/devices/desktop-gpu.md"
    return Check("TensorRT", WARN, f.tensorrt.error or "", f"{oldest} or newer", do)


def _memory(f: Facts) -> Check | None:
    if f.memory is None:
        return None
    have = f"{f.memory / 1e9:.1f} GB available"
    if f.need is None or f.need <= 0.8 * f.memory:
        return Check("memory", OK, have)
    need = f"about {f.need / 1e9:.1f} GB for this bundle"
    do = "faceinsight fit shows what takes it; close other programs, on a Jetson the desktop (docs/devices/jetson.md)"
    return Check("memory", FAIL if f.need > f.memory else WARN, have, need, do)


def _jetson(f: Facts) -> tuple[Check, ...]:
    j = f.jetson
    if j is None:
        return ()
    old = numbers(j.l4t) < (36,)
    release = Check(
        "L4T release",
        FAIL if old else OK,
        f"{j.l4t} ({j.model})",
        "36.4 (JetPack 6.2) or 39.2 (JetPack 7.2)",
        "JetPack 5 and older are not supported: flash JetPack 6.2 or newer" if old else "",
    )
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


def _dotted(cuda: int) -> str:
    """CUDA's version number 12060 as "12.6"."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def to_dict(checks: tuple[Check, ...]) -> dict[str, Any]:
    """JSON-serialisable."""
    return {"ok": not any(c.status == FAIL for c in checks), "checks": [dataclasses.asdict(c) for c in checks]}
