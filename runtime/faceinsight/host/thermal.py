"""Heat, and what holds clocks back, from /sys. Not run on a Jetson yet."""

from __future__ import annotations

from pathlib import Path

from .jetson import read_number, read_text

#: Cooling devices that hold a processor back (a fan does not): Jetson's, cpufreq's, devfreq's, ACPI's.
HOLDING_BACK = ("throttle", "alert", "cpufreq", "devfreq", "Processor")


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius by thermal zone; those that cannot be read are left out."""
    out: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        # A zone whose part is switched off cannot be read.
        name, value = read_text(zone / "type"), read_number(zone / "temp")
        if name and value is not None:
            out[name if name not in out else f"{name} {zone.name.removeprefix('thermal_zone')}"] = value / 1e3
    return out


def throttled(root: Path = Path("/")) -> tuple[str, ...] | None:
    """What holds clocks back now; None where nothing here tells."""
    found: list[str] = []
    readable = False
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        name, level = read_text(device / "type"), read_number(device / "cur_state")
        if name and level is not None and any(part in name for part in HOLDING_BACK):
            readable = True
            found += [name] * (level > 0)
    return tuple(dict.fromkeys(found)) if readable else None
