"""What NVIDIA's management library says of a desktop's or server's GPU, through ctypes. Not run on hardware yet.

A Jetson has no such sensors in NVML: its are in sysfs (`sensors`, `state`).
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_uint, c_ulonglong, c_void_p
from typing import Any

#: nvmlTemperatureSensors_t, nvmlClockType_t.
_DIE, _SM_CLOCK = 0, 1
#: Reasons for lowered clocks that mean too hot or too much power (nvml.h, nvmlClocksThrottleReasons).
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes of the GPU's memory."""

    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class Nvml:
    """One GPU. What it does not tell is None."""

    def __init__(self, library: Any) -> None:
        """Raises OSError where there is no GPU, or no driver."""
        self._library = library
        self._handle = c_void_p()
        if library.nvmlInit_v2() != 0 or not self._open(os.environ.get("CUDA_VISIBLE_DEVICES", "")):
            raise OSError("NVML does not start, or sees no GPU")

    def _open(self, visible: str) -> bool:
        """The GPU that CUDA calls 0: the first that is visible. NVML counts in PCI order, which CUDA's usually is."""
        first = visible.split(",")[0].strip()
        handle = ctypes.byref(self._handle)
        if first.startswith("GPU-"):
            return bool(self._library.nvmlDeviceGetHandleByUUID(c_char_p(first.encode()), handle) == 0)
        index = int(first) if first.isdigit() else 0
        return bool(self._library.nvmlDeviceGetHandleByIndex_v2(c_uint(index), handle) == 0)

    def _number(self, name: str, value: c_uint | c_ulonglong, *before: c_uint) -> int | None:
        call = getattr(self._library, name, None)
        if call is None or call(self._handle, *before, ctypes.byref(value)) != 0:
            return None
        return int(value.value)

    def name(self) -> str:
        """As NVIDIA sells it."""
        text = ctypes.create_string_buffer(96)
        self._library.nvmlDeviceGetName(self._handle, text, c_uint(len(text)))
        return text.value.decode("utf-8", "replace")

    def watts(self) -> float | None:
        """Power of the board."""
        mw = self._number("nvmlDeviceGetPowerUsage", c_uint())
        return None if mw is None else mw / 1e3

    def joules(self) -> float | None:
        """Energy since the driver was loaded; Volta and newer."""
        mj = self._number("nvmlDeviceGetTotalEnergyConsumption", c_ulonglong())
        return None if mj is None else mj / 1e3

    def used_bytes(self) -> int | None:
        """Memory in use, by all processes."""
        call, memory = getattr(self._library, "nvmlDeviceGetMemoryInfo", None), _Memory()
        if call is None or call(self._handle, ctypes.byref(memory)) != 0:
            return None
        return int(memory.used)

    def celsius(self) -> float | None:
        """Temperature of the die."""
        return self._number("nvmlDeviceGetTemperature", c_uint(), c_uint(_DIE))

    def mhz(self) -> float | None:
        """Clock of the multiprocessors."""
        return self._number("nvmlDeviceGetClockInfo", c_uint(), c_uint(_SM_CLOCK))

    def throttled(self) -> tuple[str, ...] | None:
        """Why its clock is lowered now."""
        found = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", c_ulonglong())
        return None if found is None else tuple(text for bit, text in REASONS.items() if found & bit)


def open_nvml(library: Any = None) -> Nvml | None:
    """None where there is no driver or no GPU. library: for tests."""
    try:
        return Nvml(library or ctypes.CDLL("libnvidia-ml.so.1"))
    except OSError:
        return None
