"""Memory of a plan's tensors, as the CPU and as the GPU see it. Not run on hardware yet."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError
from .cudart import Cuda


class TensorBuffer:
    """A tensor's memory, at the largest size the plan was built for; smaller shapes take its beginning.

    Pinned host memory and device memory with copies between them; where CPU and GPU share memory, as on a Jetson, one
    piece of pinned memory that the GPU reads and writes itself, so nothing is held or copied twice.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        """size: in bytes. Raises DeviceError."""
        self._cuda = cuda
        self._size = max(1, size)
        self._shared = cuda.integrated
        if self._shared:
            self._host, self.device = cuda.malloc_mapped(self._size)
            return
        self._host = cuda.malloc_host(self._size)
        try:
            self.device = cuda.malloc(self._size)
        except DeviceError:
            cuda.free_host(self._host)
            raise

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The host's side as an array; it is written and read in place."""
        memory = (ctypes.c_char * self._size).from_address(self._host)
        array: NDArray[Any] = np.ndarray(shape, dtype, memoryview(memory))
        return array

    def to_device(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int) -> None:
        """Let the GPU have what the CPU wrote, in the stream's order."""
        if not self._shared:
            self._cuda.to_device(self.device, self._host, math.prod(shape) * dtype.itemsize, stream)

    def to_host(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int) -> None:
        """Let the CPU have what the GPU wrote, when the stream has come here."""
        if not self._shared:
            self._cuda.to_host(self._host, self.device, math.prod(shape) * dtype.itemsize, stream)

    def free(self) -> None:
        """Free both sides. Raises DeviceError when both were tried."""
        try:
            if not self._shared:
                self._cuda.free(self.device)
        finally:
            self._cuda.free_host(self._host)
