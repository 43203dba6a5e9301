"""Memory of a process as Linux states it, in MB of 10^6 bytes. No other unit stands in a result."""

from __future__ import annotations

from pathlib import Path

#: Resident now, and the most that ever was (/proc/PID/status).
RESIDENT, PEAK = "VmRSS", "VmHWM"


def memory_mb(field: str, pid: int | str = "self", root: Path = Path("/")) -> float:
    """RESIDENT or PEAK memory of a process in MB.

    Args:
        field: RESIDENT or PEAK.
        pid: the process; "self" is this one.
        root: where `proc` lies, for tests.

    Returns:
        MB of 10^6 bytes. Linux writes kB and means 1,024 bytes.

    Raises:
        ValueError: the system does not state it.
    """
    for line in (root / f"proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return round(int(value.split()[0]) * 1024 / 1e6, 2)
    raise ValueError(f"/proc/{pid}/status has no {field}")
