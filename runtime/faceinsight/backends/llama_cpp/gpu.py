"""Why this llama.cpp uses no GPU: it was compiled for the CPU, or it was compiled for CUDA and sees none."""

from __future__ import annotations

from typing import Any

from ...host.child import probe
from .bindings import built_for_cuda

#: What makes CMake compile llama.cpp for CUDA.
CMAKE_ARGS = 'CMAKE_ARGS="-DGGML_CUDA=on"'
OTHER_CUDA = "was it compiled for a newer CUDA than the driver's? Compile it again with the toolkit that fits"


def no_gpu_for_llm(llama: Any) -> str:
    """What is wrong, and what to do, where llama.cpp says that it cannot use a GPU: the GPU first, then the build."""
    gpu = probe("cuda")
    if gpu.found is None:
        return (gpu.error or "").removeprefix("DeviceError: ")
    if built_for_cuda(llama):
        return f"this llama-cpp-python is a CUDA build that does not see {gpu.found['name']}: {OTHER_CUDA}"
    return f"this llama-cpp-python is a CPU build: reinstall it with {CMAKE_ARGS} (docs/devices)"
