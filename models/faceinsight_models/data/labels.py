"""How the rows of each set's CSV become labels of our characteristics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..taxonomy import AGES, CELEBA, EXPRESSIONS, NAMES, RACES


def _blank(count: int) -> NDArray[np.float32]:
    return np.full((count, len(NAMES)), np.nan, np.float32)


def _one_of(labels: NDArray[np.float32], names: Sequence[str], chosen: Sequence[int]) -> None:
    """Write one choice into the label table: 1 for the chosen name, 0 for the others."""
    columns = [NAMES.index(n) for n in names]
    labels[:, columns] = np.eye(len(names), dtype=np.float32)[list(chosen)]


def celebahq_labels(rows: Sequence[dict[str, str]]) -> NDArray[np.float32]:
    """CelebA's 40 attributes."""
    labels = _blank(len(rows))
    labels[:, [NAMES.index(n) for n in CELEBA]] = [[int(r[n]) for n in CELEBA] for r in rows]
    return labels


#: First and last year of each age bin.
AGE_YEARS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 100))


def age_bin(years: float) -> int:
    """Number of the age bin that holds an age."""
    return max(i for i, (first, _) in enumerate(AGE_YEARS) if years >= first)


#: FairFace's words in the order of our names.
FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
FAIRFACE_RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")


def fairface_labels(rows: Sequence[dict[str, str]]) -> NDArray[np.float32]:
    """Age, race, and gender as CelebA's Male."""
    labels = _blank(len(rows))
    _one_of(labels, tuple(AGES), [FAIRFACE_AGES.index(r["age"]) for r in rows])
    _one_of(labels, tuple(RACES), [FAIRFACE_RACES.index(r["race"]) for r in rows])
    labels[:, NAMES.index("Male")] = [r["gender"] == "Male" for r in rows]
    return labels


def ferplus_labels(rows: Sequence[dict[str, str]]) -> NDArray[np.float32]:
    """Shares of the ten annotators' votes for the eight expressions."""
    votes = np.array([[float(r[f"votes_{n.lower()}"]) for n in EXPRESSIONS] for r in rows], np.float32)
    labels = _blank(len(rows))
    labels[:, [NAMES.index(n) for n in EXPRESSIONS]] = votes / np.maximum(votes.sum(1, keepdims=True), 1)
    return labels


#: UTKFace's words -> ours. "Others" are Hispanic, Latino, Middle Eastern and more.
UTKFACE_RACES = {
    "White": ("White",), "Black": ("Black",), "Asian": ("East_Asian", "Southeast_Asian"), "Indian": ("Indian",),
    "Others": ("Latino_Hispanic", "Middle_Eastern"),
}  # fmt: skip


def utkface_labels(rows: Sequence[dict[str, str]]) -> NDArray[np.float32]:
    """The bin of the age in years, gender as CelebA's Male, and race: one of those that UTKFace's word may mean."""
    labels = _blank(len(rows))
    _one_of(labels, tuple(AGES), [age_bin(float(r["age"])) for r in rows])
    labels[:, NAMES.index("Male")] = [r["gender"] == "Male" for r in rows]
    labels[:, [NAMES.index(n) for n in RACES]] = [[n in UTKFACE_RACES[r["race"]] for n in RACES] for r in rows]
    return labels


#: Set -> how its CSV rows become labels. A set that is not in the data folder is left out.
SETS: dict[str, Callable[[Sequence[dict[str, str]]], NDArray[np.float32]]] = {
    "celebahq": celebahq_labels,
    "fairface": fairface_labels,
    "ferplus": ferplus_labels,
    "utkface": utkface_labels,
}
