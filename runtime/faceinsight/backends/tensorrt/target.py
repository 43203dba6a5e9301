"""What a plan is built for: the TensorRT and the GPU of this device. Not run on hardware yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import DeviceError
from ...host.child import probe
from .cudart import Cuda

#: What TensorRT 10.3 (JetPack 6) to 11 have in common is what is used here.
OLDEST = (10, 3)


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """What a plan is built for; a plan fits nothing else.

    Attributes:
        version: of TensorRT.
        library: size of its libnvinfer in bytes: the wheels for CUDA 12 and CUDA 13 have one and the same version.
        device: name of the GPU. "Orin" is a Nano, an NX and an AGX: they differ in the following two.
        multiprocessors: of the GPU.
        memory: of the GPU, in GiB.
        sm: compute capability, e.g. 87.
        driver: newest CUDA that the driver supports, 13020 for 13.2.
        integrated: CPU and GPU share memory.
    """

    version: str
    library: int
    device: str
    multiprocessors: int
    memory: int
    sm: int
    driver: int
    integrated: bool


def target() -> EngineTarget:
    """TensorRT and GPU of this device, looked at in a child process.

    Whether TensorRT can build is found when it builds: trying it takes seconds and a gigabyte.

    Raises:
        DeviceError: TensorRT or the GPU is missing, too old, or does not start.
    """
    tried = probe("tensorrt", "Runtime")
    if tried.found is None:
        raise DeviceError(f"TensorRT cannot be used: {tried.error}")
    version = tried.found["version"]
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST:
        raise DeviceError(f"TensorRT {version} is too old; expected {'.'.join(map(str, OLDEST))} or newer")
    return EngineTarget(**{f.name: tried.found[f.name] for f in fields(EngineTarget)})


def describe(trt: Any, cuda: Cuda | None = None) -> dict[str, Any]:
    """EngineTarget's fields, of the TensorRT that this process has loaded. Raises DeviceError without a GPU."""
    gpu = (cuda or Cuda()).gpu()
    target = EngineTarget(
        version=trt.__version__,
        library=_library_size(),
        device=gpu.name,
        multiprocessors=gpu.multiprocessors,
        memory=round(gpu.total / 2**30),
        sm=gpu.sm,
        driver=gpu.driver,
        integrated=gpu.integrated,
    )
    return asdict(target)


def _library_size() -> int:
    """Bytes of the libnvinfer that this process has mapped; 0 where that cannot be seen."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {Path(line.split(maxsplit=5)[5]) for line in lines if "/libnvinfer.so" in line}
        return sum(path.stat().st_size for path in paths)
    except (OSError, IndexError):
        return 0
