"""The close-up: age, gender, race and expression, and how well a face can be read, from the middle of its crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backends.session import CheckedSession, Session
from ..bundle.manifest import Manifest
from ..bundle.specs import CloseupSpec
from ..types import Age, Quality
from .alignment import normalize

_FLOOR = 1e-8
#: Share of the years' distribution that lies outside of an age's bounds, on each side.
_TAIL = 0.1


@dataclass(frozen=True, slots=True)
class CloseupReading:
    """Of B faces: logits (B,C) of the characteristics in `columns` (C,), probabilities of the years (B,Y) or None where
    age is switched off, of the faults (B,F), and of zero to three quarter turns (B,4)."""

    columns: NDArray[np.int64]
    logits: NDArray[np.float32]
    years: NDArray[np.float32] | None
    faults: NDArray[np.float32]
    turns: NDArray[np.float32]


class Closeup:
    """The second trunk of a bundle, for a fixed choice of characteristics: what is switched off is not computed."""

    def __init__(
        self, manifest: Manifest, spec: CloseupSpec, session: Session, characteristic_ids: NDArray[np.int64]
    ) -> None:
        """characteristic_ids: the enabled characteristics, in the order of a face's labels."""
        size = spec.size
        inputs = {"pixels": (None, 3, size, size), "outputs": (None,)}
        self.graph = CheckedSession(session, spec.file, inputs, {"logits": (None, None)})
        self.spec = spec
        names = [manifest.characteristics[n].name for n in characteristic_ids]
        ages, tells, occluded = ([n for n in names if n in of] for of in (spec.ages, spec.tells, spec.shows))
        self._with_age = bool(ages)
        # Ranges of years as rows, so that one product makes the bins.
        self._bins = np.array([_between(spec.years, *spec.ages[n]) for n in ages], np.float32)
        at = spec.years + len(spec.tells)
        self._outputs = np.array(
            [
                *(range(spec.years) if ages else ()),
                *(spec.years + spec.tells.index(n) for n in tells),
                *range(at, at + len(spec.faults) + 4),
            ],
            np.int64,
        )
        self._occluded = [spec.faults.index(spec.shows[n]) for n in occluded]
        self._columns = np.array([names.index(n) for n in (*ages, *tells, *occluded)], np.int64)

    def read(self, parser_crops: NDArray[np.uint8]) -> CloseupReading:
        """Canonical crops (B,S,S,3) RGB of the parser's size."""
        s = self.spec
        window = parser_crops[:, s.top : s.top + s.size, s.left : s.left + s.size]
        (z,) = self.graph(pixels=normalize(window, s.mean, s.std), outputs=self._outputs)
        count = s.years if self._with_age else 0
        tells = z.shape[1] - count - len(s.faults) - 4
        years, tells_z, faults, turns = np.split(z, np.cumsum([count, tells, len(s.faults)]), axis=1)
        parts, distribution = [tells_z, faults[:, self._occluded]], None
        if self._with_age:
            distribution = _softmax(years)
            parts.insert(0, np.log(np.maximum(distribution @ self._bins.T, _FLOOR)))
        return CloseupReading(
            self._columns, np.concatenate(parts, 1), distribution, 1 / (1 + np.exp(-faults)), _softmax(turns)
        )

    def quality(self, reading: CloseupReading, face: int) -> Quality:
        """How well one of the faces can be read."""
        found = dict(zip(self.spec.faults, reading.faults[face].tolist(), strict=True))
        covered = tuple(n for n in self.spec.covers if found.pop(n) > 0.5)
        found["not upright"] = 1 - float(reading.turns[face, 0])
        reason = max(found, key=found.__getitem__)
        value = 1 - found[reason]
        return Quality(round(value, 4), reason if value < 0.5 else None, covered)

    def age(self, reading: CloseupReading, face: int, bins: NDArray[np.float64]) -> Age | None:
        """Of one of the faces; bins: calibrated probabilities of the age bins, in the order of the labels. Each bin's
        years are weighed so that together they have the bin's probability."""
        if reading.years is None:
            return None
        years = reading.years[face].astype(np.float64)
        weight = bins / np.maximum(self._bins @ years, _FLOOR)
        p = years * (weight @ self._bins)
        p /= p.sum()
        reached = np.cumsum(p)
        # A hair's breadth less: sums of float32 fall short of round characteristic_ids.
        low, high = (int(np.searchsorted(reached, q - 1e-6)) for q in (_TAIL, 1 - _TAIL))
        return Age(round(float(p @ np.arange(len(p))), 1), low, min(high, len(p) - 1))


def _between(count: int, first: int, last: int) -> NDArray[np.bool_]:
    year = np.arange(count)
    return np.asarray((year >= first) & (year <= last))


def _softmax(z: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True), np.float32)
