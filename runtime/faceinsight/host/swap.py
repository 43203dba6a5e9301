"""Swap space: where it lies, and whether it is memory itself (zram)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .jetson import read_text


@dataclass(frozen=True, slots=True)
class Swap:
    """A file or device that memory is swapped to. bytes: its size. zram: it lies in memory, compressed."""

    name: str
    bytes: int
    zram: bool


def read_swaps(root: Path = Path("/")) -> tuple[Swap, ...] | None:
    """Those in use (/proc/swaps, proc(5)); None where that cannot be read. root: where /proc is."""
    text = read_text(root / "proc/swaps")
    if text is None:
        return None
    rows = [line.split() for line in text.splitlines()[1:]]
    return tuple(
        Swap(row[0], int(row[2]) * 1024, Path(row[0]).name.startswith("zram"))
        for row in rows
        if len(row) >= 3 and row[2].isdigit()
    )
