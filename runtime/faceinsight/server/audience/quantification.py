"""How many people have a characteristic, from what was read of each: with an interval, and corrected for misreadings.

Labels that are sometimes wrong are wrong in a crowd as well: of 100 people of whom 5 wear glasses, a reading that finds
2 % of the others to wear them counts 7. Where validation data says which probabilities faces with and without a
characteristic are given, the number of people is what explains their sum (Bella et al. 2010, "Quantification via
probability estimators": the scaled probability average; of choices, the same with a matrix):

    T = (sum p - N m0) / (m1 - m0)         m1, m0: mean probability of those who have it, and who do not

A person's contribution to T, (p - m0) / (m1 - m0), is 1 on average for those who have it and 0 for the others. Its
variance v in either class says how T varies. The means themselves are known with an error e: they were measured on n
faces, and differ from one set of pictures to the next (e = v / n, and the variance between sets where there are
several). An interval holds every number of people that does not contradict T: the solutions x of

    (T - x)^2 <= z^2 (x v1 + (N - x) v0 + x^2 e1 + (N - x)^2 e0)                   Wilson 1927, Fieller 1954

What it assumes: people of one class are read here as those of the validation data were. Those are single photos of
other people; a camera averages several frames of one person. corrections.json has those of the shipped bundles, by the
bundle's SHA-256; benchmarks/quality/audience.py writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("corrections.json")
#: Quantile of the normal distribution for 95 %.
Z = 1.96


@dataclass(frozen=True, slots=True)
class Correction:
    """How summed probabilities become numbers of people, for C classes of which everybody is in one.

    Attributes:
        classes: each as the characteristics whose probabilities are summed: one, or some that cannot be told apart
            in a crowd. Where they are C - 1, the last class is all others: the "no" of a single characteristic, or the
            members of a choice that are too rare to be measured.
        faces: (C,) labelled faces that it was measured on, by class.
        weights: (C,C) what each sum of probabilities adds to each class's number; that of the last class is N less the
            others.
        variance: (C,C) of one person's contribution to the number of the first index, for somebody of the second.
        error: (C,C) variance of the mean of these contributions, as it was measured.
    """

    classes: tuple[tuple[str, ...], ...]
    faces: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    variance: tuple[tuple[float, ...], ...]
    error: tuple[tuple[float, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(map("+".join, self.classes))

    def counts(self, sums: Mapping[str, float], people: int) -> list[float]:
        """Numbers of people of each class (C), neither whole nor within 0..people.

        sums: of each characteristic's probabilities over `people`."""
        summed = [sum(sums[name] for name in names) for names in self.classes]
        rest = [people - sum(summed)] if len(self.faces) > len(summed) else []
        return [sum(w * s for w, s in zip(row, (*summed, *rest), strict=True)) for row in self.weights]

    def interval(self, number: int, counts: Sequence[float], people: int) -> tuple[int, int]:
        """95 % interval of how many of so many people are of a class.

        Args:
            number: of the class.
            counts: of all classes.
            people: how many there are.

        Returns:
            Lower and upper bound, whole numbers within 0..people.
        """
        variance, error, others = self.variance[number], self.error[number], self._shares(number, counts)
        v1, e1 = variance[number], error[number]
        v0 = sum(share * variance[k] for k, share in others.items())
        e0 = sum(share**2 * error[k] for k, share in others.items())
        # The inequality above as a x^2 - b x + c <= 0.
        a = 1 - Z**2 * (e1 + e0)
        b = 2 * counts[number] + Z**2 * (v1 - v0 - 2 * people * e0)
        c = counts[number] ** 2 - Z**2 * (people * v0 + people**2 * e0)
        if a <= 0:
            # The two classes are not told apart.
            return 0, people
        middle, half = b / (2 * a), math.sqrt(max(0.0, b * b - 4 * a * c)) / (2 * a)
        if middle + half < 0 or middle - half > people or b * b < 4 * a * c:
            # No number fits: these people are read otherwise than the validation faces. It is near one of the ends.
            middle = clip(counts[number], people)
            rest = people - middle
            half = Z * math.sqrt(middle * v1 + rest * v0 + middle**2 * e1 + rest**2 * e0)
        return math.floor(clip(middle - half, people)), math.ceil(clip(middle + half, people))

    def _shares(self, number: int, counts: Sequence[float]) -> dict[int, float]:
        """Of each other class among all the others; equal ones where nobody is of them."""
        others = {k: max(0.0, count) for k, count in enumerate(counts) if k != number}
        total = sum(others.values())
        return {k: count / total if total else 1 / len(others) for k, count in others.items()}


def clip(count: float, people: int) -> float:
    """Within 0..people."""
    return min(max(count, 0.0), float(people))


def corrections(bundle_sha256: str) -> Mapping[str, Correction]:
    """Characteristic -> correction, of the bundle with this SHA-256; empty for one that was not measured."""
    return _recorded().get(bundle_sha256, {})


@lru_cache(maxsize=1)
def _recorded() -> dict[str, dict[str, Correction]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(RECORD.read_text())
    return {sha256: _by_name(map(decode, rows)) for sha256, rows in found.items()}


def _by_name(found: Iterable[Correction]) -> dict[str, Correction]:
    return {name: correction for correction in found for names in correction.classes for name in names}


def decode(fields: Mapping[str, Any]) -> Correction:
    """A correction as it is recorded."""
    classes, *matrices = (tuple(map(tuple, fields[name])) for name in ("classes", "weights", "variance", "error"))
    return Correction(classes, tuple(fields["faces"]), *matrices)
