"""What a bundle reads off pictures: the reading of one face, and the table of a whole set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets import Sample
from faceinsight.types import NO
from faceinsight_models.taxonomy import NAMES

Picture = NDArray[np.uint8]
#: Number of the sample and its picture (RGB) -> the picture to read instead.
View = Callable[[int, Picture], Picture]


@dataclass(frozen=True, slots=True)
class Reading:
    """One face, all characteristics of the bundle in the order of its vocabulary (N).

    Attributes:
        box: x, y, width, height in photo pixels.
        landmarks: (5,2) right eye, left eye, nose tip, right and left mouth corner of the person, photo pixels.
        p: (N,) calibrated probabilities, also of what is not visible.
        states: (N,) numbers of manifest.STATES, rules and bands applied.
        raw: (N,) calibrated logit > 0, before rules.
        areas: region -> share of the crop.
        label_map: (S,S) class numbers of the parser.
        quality: 0..1, None where the runtime does not measure it.
        years: expected age, None where the bundle does not say.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    p: NDArray[np.float64]
    states: NDArray[np.int64]
    raw: NDArray[np.bool_]
    areas: dict[str, float]
    label_map: NDArray[np.uint8]
    quality: float | None
    years: float | None


class Reader(Protocol):
    """Whatever reads faces off whole photos."""

    @property
    def names(self) -> Sequence[str]:
        """Of the characteristics, in the order of the vocabulary."""

    @property
    def regions(self) -> Sequence[str]:
        """Whose areas a reading has."""

    def photo(self, image: Picture) -> Reading | None:
        """The largest face, or None."""

    def photos(self, image: Picture) -> list[Reading]:
        """All faces, the largest first."""


@dataclass(frozen=True)
class SetReadings:
    """A set of M pictures as read: p (M,N), states (M,N), raw (M,N), areas (M,R), guess (M,) expected age in years,
    quality (M,), found (M,); beside it what the set says: labels (M,N) and years (M,), NaN where it does not.
    Of faces that were not found p and areas are 0, the states "no", guess and quality NaN."""

    names: tuple[str, ...]
    regions: tuple[str, ...]
    p: NDArray[np.float64]
    states: NDArray[np.int64]
    raw: NDArray[np.bool_]
    areas: NDArray[np.float64]
    guess: NDArray[np.float64]
    quality: NDArray[np.float64]
    found: NDArray[np.bool_]
    labels: NDArray[np.float32]
    years: NDArray[np.float64]

    def columns(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(n) for n in names]

    def state(self, name: str) -> NDArray[np.int64]:
        """(M,) of one characteristic."""
        return self.states[:, self.names.index(name)]

    def label(self, name: str) -> NDArray[np.float32]:
        """(M,) of one characteristic."""
        return self.labels[:, self.names.index(name)]

    def likeliest(self, members: Sequence[str]) -> NDArray[np.int64]:
        """(M,) number of the likeliest member of a choice."""
        return np.asarray(self.p[:, self.columns(members)].argmax(1))


def read_set(reader: Reader, samples: Sequence[Sample], what: str, view: View | None = None) -> SetReadings:
    """Read the largest face of every picture, or of what a view makes of it."""
    progress = tqdm(samples, desc=what, mininterval=5)
    pictures = (s.read() if view is None else view(i, s.read()) for i, s in enumerate(progress))
    return table(reader, [reader.photo(p) for p in pictures], samples)


def table(reader: Reader, readings: Sequence[Reading | None], samples: Sequence[Sample] = ()) -> SetReadings:
    """Readings as arrays; without samples, nothing is labelled."""
    count, names, regions = len(readings), tuple(reader.names), tuple(reader.regions)
    shape = count, len(names)
    p, raw, states = np.zeros(shape), np.zeros(shape, bool), np.full(shape, NO)
    areas, guess, quality = np.zeros((count, len(regions))), np.full(count, np.nan), np.full(count, np.nan)
    for i, r in enumerate(readings):
        if r is not None:
            p[i], raw[i], states[i], areas[i] = r.p, r.raw, r.states, [r.areas[n] for n in regions]
            guess[i] = np.nan if r.years is None else r.years
            quality[i] = np.nan if r.quality is None else r.quality
    found = np.array([r is not None for r in readings], bool)
    labels = np.array([s.labels for s in samples]) if samples else np.full((count, len(NAMES)), np.nan, np.float32)
    years = np.array([np.nan if s.years is None else s.years for s in samples]) if samples else np.full(count, np.nan)
    return SetReadings(names, regions, p, states, raw, areas, guess, quality, found, labels, years)


class Tables(Mapping[str, SetReadings]):
    """What is read of every set; each set's pictures are read once, when first asked for."""

    def __init__(self, reader: Reader, sets: Mapping[str, Sequence[Sample]]) -> None:
        self._reader, self._sets = reader, sets
        self._read: dict[str, SetReadings] = {}

    def __getitem__(self, name: str) -> SetReadings:
        if name not in self._read:
            self._read[name] = read_set(self._reader, self._sets[name], name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)
