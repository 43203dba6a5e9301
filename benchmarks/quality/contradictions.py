"""Claims of one report that cannot both be true, whatever the face."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from faceinsight.types import NO, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS
from figures import Figures
from readings import SetReadings

Bits = NDArray[np.bool_]

COLORS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
#: From this share of the crop on, there is hair whose color can be told.
HAIR = 0.05


def _is(readings: SetReadings, name: str, state: int = YES) -> Bits:
    return np.asarray(readings.state(name) == state)


def _any(readings: SetReadings, names: tuple[str, ...]) -> Bits:
    return np.asarray((readings.states[:, readings.columns(names)] == YES).any(1))


def _colorless(readings: SetReadings) -> Bits:
    """Four times "no", on a head with hair that no hat covers."""
    none = (readings.states[:, readings.columns(COLORS)] == NO).all(1)
    hair = readings.areas[:, readings.regions.index("hair")] >= HAIR
    return np.asarray(none & hair & ~_is(readings, "Bald") & ~_is(readings, "Wearing_Hat"))


KINDS: dict[str, Callable[[SetReadings], Bits]] = {
    "smiling, neutral": lambda s: _is(s, "Smiling") & _is(s, "Neutral"),
    "happy, not smiling": lambda s: _is(s, "Happiness") & _is(s, "Smiling", NO),
    "under 30, not young": lambda s: _any(s, EXCLUSIVE_GROUPS["age"][:4]) & _is(s, "Young", NO),
    "60 or more, young": lambda s: _any(s, EXCLUSIVE_GROUPS["age"][7:]) & _is(s, "Young"),
    "bald, a hair colour": lambda s: _is(s, "Bald") & _any(s, COLORS),
    "two hair colours": lambda s: (s.states[:, s.columns(COLORS)] == YES).sum(1) > 1,
    "no beard, goatee or mustache": lambda s: _is(s, "No_Beard") & _any(s, ("Goatee", "Mustache")),
    "no hair colour, hair": _colorless,
}


def contradictions(tables: Mapping[str, SetReadings]) -> Figures:
    """Reports per set that hold each kind, and the sum of all kinds over all sets."""
    rows: Figures = {}
    for name, readings in tables.items():
        counts = {kind: int((held(readings) & readings.found).sum()) for kind, held in KINDS.items()}
        rows[name] = {"reports": int(readings.found.sum()), "contradictions": sum(counts.values())} | counts
    total = {k: sum(r[k] for r in rows.values()) for k in ("reports", "contradictions", *KINDS)}
    return {"sets": rows, "total": total}
