"""Figures into one JSON file, written as they come: an interrupted run keeps what it has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Figures = dict[str, Any]


def rounded(value: Any) -> Any:
    """Four decimals, plain Python types; no number is null."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


class Ledger:
    """The figures of one bundle under one set of options.

    What the file holds already is kept if it was made of the same (`head`), so that a run goes on where it stopped.
    """

    def __init__(self, path: Path, head: Figures, *, fresh: bool = False) -> None:
        """fresh: measure anew whatever the file holds."""
        self.path, self.kept = path, 0
        self.result: Figures = rounded(head)
        if not fresh and path.is_file():
            before = json.loads(path.read_text())
            if all(before.get(k) == v for k, v in self.result.items()):
                self.result, self.kept = before, len(before) - len(head)

    def has(self, *keys: str) -> bool:
        """Is there a figure under these keys?"""
        at = self.result
        for key in keys:
            if key not in at:
                return False
            at = at[key]
        return True

    def figure(self, make: Callable[[], Any], *keys: str) -> None:
        """Make a figure unless it is there, and write the file. None is no figure."""
        if self.has(*keys):
            return
        began = time.time()
        value = make()
        if value is None:
            return
        at = self.result
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = rounded(value)
        # Time of all runs that went into the file; last, as it always was.
        self.result["seconds"] = round(self.result.pop("seconds", 0.0) + time.time() - began, 4)
        self.write()

    def write(self) -> None:
        """Replace the file at once: whoever reads it sees the old or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(json.dumps(self.result, indent=1) + "\n")
        temporary.replace(self.path)
