"""The vocabulary as the runtime's manifest types: training and export read the same specs that the runtime obeys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceinsight.bundle.specs import CharacteristicSpec, CloseupSpec, DetectorSpec, RegionLimit

from .data.augment import MEAN, STD
from .data.labels import AGE_YEARS
from .dialogue.concepts import absent, denials, mentions
from .nets.closeup import COVERS, FAULTS, SHARED, SHOWS, TELLS, YEARS
from .recipe import Recipe
from .storage import CLOSEUP, DETECTOR
from .taxonomy import AGES, CELEBA, CHARACTERISTICS, COVERED_BY, HIDDEN_BY, NEEDS, REGIONS

#: How the detector looks at training pictures, and the runtime at photos.
DETECTOR_SPEC = DetectorSpec(DETECTOR, score_threshold=0.6, nms_threshold=0.3, sides=(640, 320, 1280))


def characteristic_specs(calibration: NDArray[np.float64], *, closeup: bool = True) -> tuple[CharacteristicSpec, ...]:
    """Calibration (N,6): slope and shift of each characteristic's logit, bounds of the unsure band, and those for
    pictures of poor quality (0 and 1: nothing is claimed). closeup: is there one, to tell what is hidden?"""

    def limit(table: dict[str, tuple[str, float]], name: str) -> RegionLimit | None:
        return RegionLimit(*table[name]) if name in table else None

    return tuple(
        CharacteristicSpec(
            c.name,
            c.phrase,
            absent(c.name),
            c.region,
            c.group,
            (float(a), float(b)),
            (float(low), float(high)),
            mentions(c.name),
            denials(c.name),
            c.name == "No_Beard",
            limit(NEEDS, c.name),
            limit(HIDDEN_BY, c.name),
            None if (poor_low, poor_high) == (0, 1) else (float(poor_low), float(poor_high)),
            COVERED_BY.get(c.name, ()) if closeup else (),
        )
        for c, (a, b, low, high, poor_low, poor_high) in zip(CHARACTERISTICS, calibration, strict=True)
    )


def closeup_spec(recipe: Recipe) -> CloseupSpec:
    """The close-up's part of the manifest."""
    window = recipe.closeup
    return CloseupSpec(
        file=CLOSEUP,
        left=window.left,
        top=window.top,
        size=window.size,
        mean=(MEAN, MEAN, MEAN),
        std=(STD, STD, STD),
        years=YEARS,
        ages=dict(zip(AGES, AGE_YEARS, strict=True)),
        tells=TELLS,
        faults=FAULTS,
        covers=COVERS,
        shows=SHOWS,
        shared=SHARED,
        poor_below=window.poor_below,
    )


def specialized() -> list[bool]:
    """For each characteristic, is it one that only a set of posed portraits (CelebA) labels? Gender is labelled in the
    wild too, and stays with what is learned from all sets."""
    return [c.name in CELEBA and c.name != "Male" for c in CHARACTERISTICS]


def region_indices() -> list[int]:
    """For each characteristic, the index of the region that shows it."""
    order = list(REGIONS)
    return [order.index(c.region) for c in CHARACTERISTICS]
