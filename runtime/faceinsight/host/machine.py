"""The machine: cores, memory, CPU features, and where findings about it are kept."""

from __future__ import annotations

import math
import os
import platform
import re
from functools import cache
from pathlib import Path

from ..errors import RequestError


@cache
def saturates(root: Path = Path("/")) -> bool:
    """Would 8-bit layers be wrong on this CPU? x86 without VNNI adds two products in 16 bits, which do not hold them;
    ONNX Runtime can be told to compute exactly, at a fraction of the speed. root: where /proc is."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        found = set(re.findall(r"\w+", (root / "proc/cpuinfo").read_text()))
    except OSError:
        return True
    return not found & {"avx512_vnni", "avx_vnni", "amx_int8"}


def cores(root: Path = Path("/")) -> int:
    """Cores this process may use: those it may run on, or fewer where a control group limits its time (Docker's
    `--cpus`): more threads than that stop each other. root: where /proc and /sys are."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(count, _quota(root))))


def _quota(root: Path) -> float:
    """Cores' worth of time that the control groups of this process leave it; infinite where none limits it."""
    try:
        found = re.findall(r"^\d+:([^:]*):(/.*)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
    except OSError:
        return math.inf
    quota, groups = math.inf, root / "sys/fs/cgroup"
    for controllers, path in found:
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has no controllers' names here. In a container the group's own folder is the top one.
        top = groups / "cpu" if controllers else groups
        for folder in {top, *(top / part for part in (Path(path.strip("/")), *Path(path.strip("/")).parents))}:
            try:
                if controllers:
                    limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    limit, period = (folder / "cpu.max").read_text().split()
                quota = min(quota, int(limit) / int(period)) if int(limit) > 0 else quota
            except (OSError, ValueError, ZeroDivisionError):
                continue  # no limit here ("max" or -1), or another layout
    return quota


def cache_folder() -> Path:
    """Where what was found out about this machine is kept for the next process. Raises OSError where the user has no
    home."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative one counts for nothing (XDG Base Directory Specification).
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "faceinsight"
    except RuntimeError as e:
        raise FileNotFoundError(f"{e}: set HOME or XDG_CACHE_HOME") from e


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process may still take: MemAvailable, less where a control group limits it.

    Linux counts reclaimable cache as available; cudaMemGetInfo does not, which misleads where CPU and GPU share memory.
    Raises RequestError where it cannot be told.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) * 1024
    except (OSError, StopIteration) as e:
        raise RequestError(f"{root}proc/meminfo does not tell the memory available: give it, e.g. --memory 8GB") from e
    groups = root / "sys/fs/cgroup"
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            available = min(available, int((groups / limit).read_text()) - int((groups / used).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or "max": no limit
    return available
