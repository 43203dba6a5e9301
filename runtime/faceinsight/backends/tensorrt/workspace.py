"""How much scratch memory a kernel of TensorRT may ask for: what is free decides. Not run on hardware yet."""

from __future__ import annotations

from ...errors import DeviceError, RequestError
from ...host.machine import available_memory
from .cudart import Cuda

#: Enough for encoders; more was never asked for.
MOST = 1 << 30
#: Never less: a kernel that gets none is a slow one.
LEAST = 64 << 20
#: What a builder takes for its kernels while it builds, of the host's memory and of the GPU's: 1,154 and 1,310 MiB on
#: an Orin NX (NVIDIA/TensorRT issue 3657), 1,227 and 1,235 MiB with Jetson Linux 38.4 (OE4T/meta-tegra issue 2120).
BUILDER_HOST, BUILDER_GPU = 1_227 << 20, 1_310 << 20


def limit(free: int | None) -> int:
    """Bytes of scratch memory where so many are free: half of them, as weights and activations come beside it.

    A power of two, so that a build does not change with every page that another program takes. None: not known.
    """
    if free is None:
        return MOST
    half = min(max(free // 2, LEAST), MOST)
    return 1 << (half.bit_length() - 1)


def limit_before_builder(free: int | None, *, shared: bool) -> int:
    """The same where the builder has yet to load its kernels. shared: CPU and GPU have one memory."""
    return limit(None if free is None else free - BUILDER_GPU - (BUILDER_HOST if shared else 0))


def free_memory(cuda: Cuda | None = None) -> tuple[int | None, bool]:
    """Bytes of the GPU that may still be taken (None: there is no GPU to ask), and whether they are the CPU's too.

    Of shared memory it is what Linux could give, and what a control group leaves: CUDA's own figure has neither.
    """
    try:
        gpu = (cuda or Cuda()).gpu()
        return (available_memory() if gpu.integrated else gpu.free), gpu.integrated
    except (DeviceError, RequestError, AttributeError):  # the last: a libcudart that lacks a function
        return None, False
