"""What is wrong with this machine's set-up, by name, and what to do about it.

`facts.gather` looks, `diagnose` judges what was found and touches nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..backends.llama_cpp.amx import FLAGS, verdict
from ..backends.llama_cpp.gpu import OTHER_CUDA
from ..backends.tensorrt.cudart import NO_DRIVER
from ..host.child import NO_PYTHON, interpreter
from ..host.dependencies import INSTALL
from . import gpu_checks
from .check import FAIL, OK, WARN, Check
from .facts import Facts, gather
from .versions import EXPORT, RUNTIME, too_old, untried

__all__ = ["FAIL", "OK", "WARN", "Check", "diagnose", "finding", "to_dict"]

_LLAMA_BUILD = (
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python 'llama-cpp-python>=0.3.36,<0.4'"
)
_LLAMA_CUDA = f'CMAKE_ARGS="-DGGML_CUDA=on{{arch}}" CUDACXX=/usr/local/cuda/bin/nvcc {_LLAMA_BUILD}'
#: On a Jetson. Without NO_VMM, ggml reserves 32 GB of addresses there, and ends the process where it gets none
#: (ggml-org/llama.cpp issue 29142); LLAVA_BUILD is for llama.cpp's own vision, which is not used here.
_JETSON = " -DGGML_CUDA_NO_VMM=on -DLLAVA_BUILD=off"
_LLAMA_AMX = f"CMAKE_ARGS=\"-DCMAKE_CXX_FLAGS='{FLAGS}'\" {_LLAMA_BUILD}"


def diagnose(facts: Facts) -> tuple[Check, ...]:
    """Every check, in the order in which to mend."""
    checks = (
        _bundle(facts),
        _versions(facts),
        _opencv(facts),
        gpu_checks.gpu(facts),
        gpu_checks.distributions(facts),
        gpu_checks.onnxruntime(facts),
        _telemetry(facts),
        gpu_checks.cuda_library(facts),
        gpu_checks.cuda_kernels(facts),
        _llama(facts),
        gpu_checks.tensorrt(facts),
        _memory(facts),
        gpu_checks.swap(facts),
        *gpu_checks.jetson(facts),
    )
    return tuple(c for c in checks if c is not None)


def finding(device: str) -> str:
    """Why a device that was asked for does not work: the first checks about it that are not ok."""
    if interpreter() is None:
        return f"Why, `faceinsight doctor` tells under another Python: {NO_PYTHON}"
    about = {
        "cuda": ("distributions", "ONNX Runtime", "CUDA libraries", "CUDA kernels", "llama.cpp"),
        "tensorrt": ("TensorRT", "llama.cpp"),
    }
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
    if f.opencv.found is None:
        return Check("OpenCV", FAIL, f.opencv.error or "", "OpenCV", "pip install opencv-python-headless")
    return Check("OpenCV", OK, f.opencv.found["version"])


def _telemetry(f: Facts) -> Check:
    if f.telemetry_off:
        return Check("telemetry", OK, "ONNX Runtime sends nothing to its maker")
    found = "ORT_DISABLE_TELEMETRY is not 1: ONNX Runtime 1.32 keeps a device id and looks for its maker's host"
    return Check("telemetry", WARN, found, "nothing leaves this machine", "unset ORT_DISABLE_TELEMETRY, or set it to 1")


def _llama(f: Facts) -> Check:
    arch = f" -DCMAKE_CUDA_ARCHITECTURES={f.sm}" if f.sm else ""
    build = _LLAMA_CUDA.format(arch=arch + (_JETSON if f.on_jetson else ""))
    if f.llama.found is None:
        error = f.llama.error or ""
        do = build if f.gpu else INSTALL["llama_cpp"]
        if "libcuda.so" in error:
            do = f"it was compiled for CUDA and needs NVIDIA's driver: {NO_DRIVER}; without a GPU: {_LLAMA_BUILD}"
        return Check("llama.cpp", FAIL, error, "llama_cpp imports", do)
    version = f.llama.found["version"]
    if f.gpu and not f.llama.found["gpu"]:
        return _no_gpu_for_llm(f, version, build)
    amx = verdict(f.amx)
    if amx is False or f.amx.error:
        fails = "which fails" if amx is False else "which was not tried"
        found = f"{version}, compiled for AMX, {fails} ({f.amx.error or f.amx.found}): it and rearranged weights are "
        do = _LLAMA_AMX if amx is False else "mend what kept it from being tried, and start again"
        return Check("llama.cpp", WARN, f"{found}left unused", "AMX that works, twice as fast", do)
    kind = "GPU" if f.llama.found["gpu"] else "CPU"
    return Check("llama.cpp", OK, f"{version}, {kind} build{' with AMX' if amx else ''}")


def _no_gpu_for_llm(f: Facts, version: str, build: str) -> Check:
    """It was compiled for the CPU, or for CUDA and sees no GPU: where CUDA sees none either, that comes first."""
    if not (f.llama.found or {}).get("cuda_build"):
        found = f"{version} is a CPU build: the LLM will not use the GPU"
        return Check("llama.cpp", WARN, found, "a CUDA build", build)
    found = f"{version} is a CUDA build that sees no GPU"
    if f.cuda.found is None:
        return Check("llama.cpp", WARN, f"{found}: {f.cuda.error}", "the GPU is seen", "mend what is said of the GPU")
    return Check("llama.cpp", WARN, f"{found}, though CUDA does", "the GPU is seen", f"{OTHER_CUDA}: {build}")


def _memory(f: Facts) -> Check | None:
    if f.memory is None:
        return None
    have = f"{f.memory / 1e9:.1f} GB available"
    if f.need is None or f.need <= 0.8 * f.memory:
        return Check("memory", OK, have)
    need = f"about {f.need / 1e9:.1f} GB for this bundle"
    do = "faceinsight fit shows what takes it; close other programs, on a Jetson the desktop (docs/devices/jetson.md)"
    return Check("memory", FAIL if f.need > f.memory else WARN, have, need, do)


def to_dict(checks: tuple[Check, ...]) -> dict[str, Any]:
    """JSON-serialisable."""
    return {"ok": not any(c.status == FAIL for c in checks), "checks": [dataclasses.asdict(c) for c in checks]}
