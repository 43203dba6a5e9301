"""Heat, clocks, throttling and memory of the machine, from /proc and /sys (and NVML). Not run on a Jetson yet."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..errors import RequestError
from ..host.jetson import read_jetson, read_number, read_text
from ..host.machine import available_memory
from ..host.thermal import temperatures, throttled
from .nvml import Nvml


@dataclass(frozen=True, slots=True)
class MachineState:
    """A moment; what could not be read is None or missing.

    Attributes:
        celsius: temperature by thermal zone.
        cpu_mhz: mean clock of the cores now, and the highest they may run at.
        gpu_mhz: the GPU's clock.
        throttled: what holds clocks back now; None: nothing here tells.
        throttle_events: how often it happened since boot, by counter.
        available_mb: memory that a process may still take.
        gpu_used_mb: a GPU's own memory in use, by all processes.
    """

    celsius: dict[str, float]
    cpu_mhz: float | None
    cpu_max_mhz: float | None
    gpu_mhz: float | None
    throttled: tuple[str, ...] | None
    throttle_events: dict[str, int]
    available_mb: float | None
    gpu_used_mb: float | None = None


def read_state(root: Path = Path("/"), nvml: Nvml | None = None) -> MachineState:
    """Now. root: where /proc and /sys are. nvml: of the GPU that is used."""
    celsius = temperatures(root)
    if nvml and (die := nvml.celsius()) is not None:
        celsius["GPU"] = float(die)
    now, most = (_mean_mhz(root, f"scaling_{kind}_freq") for kind in ("cur", "max"))
    jetson = read_jetson(root)
    gpu = jetson.gpu_hz[0] / 1e6 if jetson and jetson.gpu_hz else nvml.mhz() if nvml else None
    try:
        available = round(available_memory(root) / 1e6, 1)
    except RequestError:
        available = None
    used = nvml.used_bytes() if nvml else None
    used_mb = None if used is None else round(used / 1e6, 1)
    return MachineState(celsius, now, most, gpu, _throttled(root, nvml), _events(root), available, used_mb)


def throttling(states: Sequence[MachineState]) -> tuple[str, ...] | None:
    """What held clocks back at any of these moments, or was counted between the first and the last; None: unknown."""
    first, last = states[0], states[-1]
    known = [s.throttled for s in states if s.throttled is not None]
    if not known and not last.throttle_events:
        return None
    grown = [name for name, count in last.throttle_events.items() if count > first.throttle_events.get(name, count)]
    return tuple(dict.fromkeys([name for names in known for name in names] + grown))


def machine(root: Path = Path("/")) -> str:
    """System, architecture, and processor or board."""
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    board = read_text(root / "proc/device-tree/model")
    return f"{platform.system()} {platform.machine()} {board or cpu}".strip()


def governor(root: Path = Path("/")) -> str | None:
    """How the CPU's clock is chosen, e.g. "performance"."""
    return read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def peak_mb(process: int | str = "self", root: Path = Path("/")) -> float | None:
    """Peak resident memory of a process, 10^6 bytes. getrusage would count what the parent held before exec."""
    lines = (read_text(root / f"proc/{process}/status") or "").splitlines()
    peak = next((int(x.split()[1]) for x in lines if x.startswith("VmHWM:")), None)
    return None if peak is None else round(peak * 1024 / 1e6, 1)


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds since boot: of all cores together, what of it was work, and what of that was this process's."""

    total: float
    busy: float
    process: float


def cpu_time(root: Path = Path("/")) -> CpuTime | None:
    """Now; None where /proc/stat does not tell."""
    line = (read_text(root / "proc/stat") or "").partition("\n")[0].split()
    if line[:1] != ["cpu"] or len(line) < 9:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in line[1:9]]
    return CpuTime(sum(ticks), sum(ticks) - ticks[3] - ticks[4], time.process_time())


def others_share(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """0..1: of the machine's CPU time in between, what others took, a virtual machine's neighbours among them."""
    if before is None or after is None or after.total <= before.total:
        return None
    others = (after.busy - before.busy) - (after.process - before.process)
    return round(min(max(others / (after.total - before.total), 0.0), 1.0), 3)


def _mean_mhz(root: Path, file: str) -> float | None:
    cores = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{file}")
    khz = [v for c in cores if (v := read_number(c)) is not None]
    return round(fmean(khz) / 1e3, 1) if khz else None


def _throttled(root: Path, nvml: Nvml | None) -> tuple[str, ...] | None:
    found = throttled(root)
    if nvml and (reasons := nvml.throttled()) is not None:
        found = (*(found or ()), *(f"GPU: {reason}" for reason in reasons))
    return None if found is None else tuple(dict.fromkeys(found))


def _events(root: Path) -> dict[str, int]:
    """Counters: Intel's of heat, by core and package; a Jetson's of over-current."""
    out: dict[str, int] = {}
    intel = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    jetson = (root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")
    for path in (*intel, *jetson):
        count = read_number(path)
        if count is not None:
            name = path.name.removesuffix("_throttle_count").removesuffix("_event_cnt")
            out[f"{name} throttling"] = out.get(f"{name} throttling", 0) + count
    return out
