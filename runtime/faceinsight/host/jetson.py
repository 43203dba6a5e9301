"""What a Jetson says of itself in /etc, /proc and /sys. Not run on hardware yet."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

#: Compute capability by the system-on-chip in the device tree.
CHIPS = {"tegra234": 87, "tegra264": 110, "tegra194": 72}


@dataclass(frozen=True, slots=True)
class Jetson:
    """A Jetson; what could not be read is None.

    Attributes:
        l4t: release of Jetson Linux, e.g. "36.4.3". A container has none of the files that say it.
        model: the module or kit.
        sm: compute capability, e.g. 87.
        mode: power mode, e.g. "MAXN".
        gpu_hz: GPU clock now, and its maximum.
        gpu_min_hz: the clock it does not go below; the maximum after jetson_clocks.
    """

    l4t: str | None
    model: str
    sm: int | None
    mode: str | None
    gpu_hz: tuple[int, int] | None
    gpu_min_hz: int | None


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """None on any other machine."""
    release = _release(root)
    tree = root / "proc/device-tree"
    chips = read_text(tree / "compatible") or ""
    sm = next((sm for chip, sm in CHIPS.items() if chip in chips), None)
    if release is None and sm is None:
        return None
    clocks = next((c for c in sorted((root / "sys/class/devfreq").glob("*")) if _is_gpu(c.name)), None)
    now, low, most = (read_number(clocks / f"{n}_freq") if clocks else None for n in ("cur", "min", "max"))
    return Jetson(
        release,
        read_text(tree / "model") or "unknown model",
        sm,
        _mode(root),
        (now, most) if now and most else None,
        low,
    )


def _release(root: Path) -> str | None:
    """Release of Jetson Linux: from its own file, else from the package that carries it."""
    text = read_text(root / "etc/nv_tegra_release") or ""
    if match := re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text):
        return f"{match[1]}.{match[2]}"
    packages = read_text(root / "var/lib/dpkg/status") or ""
    installed = re.search(r"^Package: nvidia-l4t-core\n(?:.+\n)*?Version: ([\d.]+)", packages, re.MULTILINE)
    return installed[1] if installed else None


def _mode(root: Path) -> str | None:
    """The nvpmodel keeps the number of its mode in a status file, and the modes' names in its configuration."""
    status = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / "etc/nvpmodel.conf") or "")
    return next((name for number, name in modes if int(number) == int(status[1])), f"mode {int(status[1])}")


def _is_gpu(name: str) -> bool:
    return name.endswith((".gpu", ".ga10b", ".gv11b", "gpc0", "-gpc-0"))


def read_text(path: Path) -> str | None:
    """A file's text, without the zeros that the device tree ends strings with; None where it cannot be read.

    A FIFO in its place is not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """A file's whole number; None where there is none, or it cannot be read."""
    text = read_text(path)
    return int(text) if text and text.removeprefix("-").isdigit() else None
