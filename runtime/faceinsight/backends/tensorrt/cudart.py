"""The few calls of the CUDA runtime that the native TensorRT runner needs, through ctypes. Not run on hardware yet."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import DeviceError

#: Majors whose calls used here have one and the same form.
MAJORS = (13, 12)
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
#: cudaStreamNonBlocking: does not wait for the default stream; cudaStreamCaptureModeThreadLocal: others may allocate.
_NON_BLOCKING, _CAPTURE_THREAD_LOCAL = 1, 1
#: cudaHostAllocMapped: the device sees it too.
_MAPPED = 2
#: cudaDeviceAttr: multiprocessors, integrated (memory shared with the CPU), compute capability.
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
#: Where the toolkit lies, which is not always in the loader's path (iuliaferoli/jetson-jp7.2-install).
TOOLKIT = Path("/usr/local/cuda/lib64")
NO_DRIVER = "install it, or start the container with --runtime nvidia or --gpus all"
#: cudaDeviceProp begins with char name[256] in all versions; its whole size differs, and is below this.
_PROPERTIES_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Gpu:
    """Device 0. sm: compute capability, e.g. 87. Versions as CUDA writes them: 12060 is 12.6. Memory in bytes.

    integrated: CPU and GPU share memory, as on a Jetson; then `free` leaves out what Linux could reclaim.
    multiprocessors: their number; boards of one name may differ in it.
    """

    name: str
    sm: int
    multiprocessors: int
    integrated: bool
    driver: int
    runtime: int
    free: int
    total: int


class Cuda:
    """libcudart with checked calls. Pointers, streams and graphs are plain integers."""

    def __init__(self, library: Any = None) -> None:
        """library: for tests; by default the first libcudart that loads. Raises DeviceError."""
        self._library = library or _load()
        count = c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        if count.value < 1:
            raise DeviceError("CUDA sees no GPU: is one there, and is it in CUDA_VISIBLE_DEVICES?")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            say = self._library.cudaGetErrorString
            say.restype = ctypes.c_char_p
            # Reading the last error clears it, unless it is one of those that only a new process clears.
            self._library.cudaGetLastError()
            text = (say(status) or b"").decode("utf-8", "replace")
            raise DeviceError(f"{name} failed: {text} (CUDA error {status}); if this goes on, restart the process")

    def gpu(self) -> Gpu:
        """What device 0 is, and how much of its memory is free."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        # CUDA 12 has the call of today's structure under another name.
        modern = hasattr(self._library, "cudaGetDeviceProperties_v2")
        self._call("cudaGetDeviceProperties_v2" if modern else "cudaGetDeviceProperties", properties, c_int(0))
        count, major, minor = (self._attribute(a) for a in (_MULTIPROCESSORS, _MAJOR, _MINOR))
        driver, runtime, free, total = c_int(), c_int(), c_size_t(), c_size_t()
        self._call("cudaDriverGetVersion", ctypes.byref(driver))
        self._call("cudaRuntimeGetVersion", ctypes.byref(runtime))
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        name = properties.raw[:256].split(b"\0")[0].decode("utf-8", "replace")
        return Gpu(
            name=name,
            sm=major * 10 + minor,
            multiprocessors=count,
            integrated=self.integrated,
            driver=driver.value,
            runtime=runtime.value,
            free=free.value,
            total=total.value,
        )

    @cached_property
    def integrated(self) -> bool:
        """Do CPU and GPU share memory, as on a Jetson?"""
        return bool(self._attribute(_INTEGRATED))

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), c_int(number), c_int(0))
        return value.value

    def stream(self) -> int:
        """A stream of its own."""
        handle = c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(handle), c_uint(_NON_BLOCKING))
        return handle.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on the stream is done."""
        self._call("cudaStreamSynchronize", c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        """Free it."""
        self._call("cudaStreamDestroy", c_void_p(stream))

    def malloc(self, size: int) -> int:
        """Device memory; at least one byte."""
        pointer = c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), c_size_t(max(1, size)))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", c_void_p(pointer))

    def malloc_host(self, size: int) -> int:
        """Pinned host memory, which copies can be captured from and to."""
        pointer = c_void_p()
        self._call("cudaMallocHost", ctypes.byref(pointer), c_size_t(max(1, size)))
        return pointer.value or 0

    def malloc_mapped(self, size: int) -> tuple[int, int]:
        """Pinned host memory that the GPU reads and writes in place: its address for the CPU and for the GPU."""
        host, device = c_void_p(), c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(host), c_size_t(max(1, size)), c_uint(_MAPPED))
        try:
            self._call("cudaHostGetDevicePointer", ctypes.byref(device), host, c_uint(0))
        except DeviceError:
            self.free_host(host.value or 0)
            raise
        return host.value or 0, device.value or 0

    def free_host(self, pointer: int) -> None:
        """Free pinned host memory, mapped or not."""
        self._call("cudaFreeHost", c_void_p(pointer))

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy host memory to the device, in the stream's order."""
        self._copy(device, host, size, _HOST_TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy device memory to the host, in the stream's order."""
        self._copy(host, device, size, _DEVICE_TO_HOST, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", c_void_p(to), c_void_p(source), c_size_t(size), c_int(kind), c_void_p(stream))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts on the stream, instead of doing it: a graph, ready to launch.

        Raises:
            DeviceError: it cannot be recorded. The stream records no more then, whatever failed.
        """
        self._call("cudaStreamBeginCapture", c_void_p(stream), c_int(_CAPTURE_THREAD_LOCAL))
        graph, executable = c_void_p(), c_void_p()
        try:
            work()
        except BaseException:
            # Ends the recording too where it reports an error; what work() raised is the cause.
            with contextlib.suppress(DeviceError):
                self._call("cudaStreamEndCapture", c_void_p(stream), ctypes.byref(graph))
                self._call("cudaGraphDestroy", graph)
            raise
        self._call("cudaStreamEndCapture", c_void_p(stream), ctypes.byref(graph))
        if not graph.value:
            raise DeviceError("cudaStreamEndCapture recorded nothing: the work cannot be captured")
        try:
            self._call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, c_uint64(0))
        finally:
            # Its executable form does not need it; that it stays is no reason to give that up.
            with contextlib.suppress(DeviceError):
                self._call("cudaGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Put recorded work on the stream."""
        self._call("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Free recorded work."""
        self._call("cudaGraphExecDestroy", c_void_p(graph))


def _load() -> ctypes.CDLL:
    """The first libcudart that sees a GPU: one of a newer CUDA than the driver's loads, and fails at its first call.

    Raises DeviceError, with each kind of error and what had it.
    """
    missing: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
            status = library.cudaGetDeviceCount(ctypes.byref(c_int()))
        except (OSError, AttributeError) as e:
            missing.setdefault(str(e).removeprefix(f"{name}: "), []).append(name)
            continue
        if status == 0:
            return library
        say = library.cudaGetErrorString
        say.restype = ctypes.c_char_p
        failed.setdefault(f"{(say(status) or b'').decode('utf-8', 'replace')} (CUDA error {status})", name)
    if failed:
        raise DeviceError(f"CUDA sees no GPU: {'; '.join(f'{n}: {e}' for e, n in failed.items())}. {_driver()}")
    majors = " or ".join(map(str, MAJORS))
    found = "; ".join(f"{', '.join(names)}: {error}" for error, names in missing.items())
    raise DeviceError(
        f"no CUDA runtime found ({found}): install the CUDA toolkit {majors} (on a Jetson: JetPack), or the "
        "package nvidia-cuda-runtime"
    )


def _driver() -> str:
    """Whether NVIDIA's driver library is here at all."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        return f"NVIDIA's driver is not visible ({e}): {NO_DRIVER}"
    return "The driver is here: nvidia-smi shows the newest CUDA that it supports"


def _candidates() -> list[str]:
    """By version for the loader, then where NVIDIA's pip packages, the toolkit and JetPack put it."""
    names = [f"libcudart.so.{major}" for major in MAJORS]
    folders = ("nvidia/cuda_runtime/lib", "nvidia/cu13/lib")
    places = [Path(p) / folder for p in sys.path if p for folder in folders] + [TOOLKIT]
    found = [place / name for place in places for name in names]
    return names + [str(p) for p in found if p.is_file()] + ["libcudart.so"]
