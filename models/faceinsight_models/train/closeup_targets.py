"""Targets of the close-up: what each set's labels say of age, race and expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.faces import Faces
from ..nets.closeup import YEARS, years_of_bins
from ..taxonomy import AGES, EXPRESSIONS, NAMES, RACES
from .calibration import columns

Floats = NDArray[np.float32]

#: What CelebA's words say of the age in years: first and last.
YOUNG, NOT_YOUNG, GRAY = (0, 49), (28, 100), (38, 100)
#: Below this probability of what the set says, a guess is not used.
TRUST = 0.02


@dataclass
class Targets:
    """Training targets of one exclusive group.

    Attributes:
        values: (N,K).
        kind: (N,) 0: nothing is known; 1: `values` is a distribution; 2: one of those that are 1 holds.
        open: (N,) may a guess say more?
    """

    values: Floats
    kind: NDArray[np.int64]
    open: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Values (B,K) and kind (B,) of some faces."""
        return torch.from_numpy(self.values[chosen]), torch.from_numpy(self.kind[chosen])


def age_targets(faces: Faces) -> Targets:
    """Exact ages as a narrow normal distribution (label distribution learning, Gao et al. 2018), ranges as ranges."""
    count, year = len(faces.files), np.arange(YEARS)
    values, kind = np.zeros((count, YEARS), np.float32), np.zeros(count, np.int64)
    bins, label = years_of_bins().numpy(), faces.labels[:, columns(tuple(AGES))]
    ranged = ~np.isnan(label[:, 0])
    values[ranged], kind[ranged] = label[ranged] @ bins, 2
    exact = ~np.isnan(faces.years)
    mean = np.minimum(faces.years[exact], YEARS - 1)[:, None]
    spread = np.maximum(0.8, 0.06 * mean)
    density = np.exp(-((year - mean) ** 2) / (2 * spread**2))
    values[exact], kind[exact] = density / density.sum(1, keepdims=True), 1
    young, gray = (faces.labels[:, NAMES.index(n)] for n in ("Young", "Gray_Hair"))
    weak = (kind == 0) & ~np.isnan(young)
    allowed = np.ones((count, YEARS), bool)
    for says, (first, last) in ((young == 1, YOUNG), (young == 0, NOT_YOUNG), ((gray == 1) & (young == 0), GRAY)):
        allowed[says] &= (year >= first) & (year <= last)
    values[weak], kind[weak] = allowed[weak], 2
    return Targets(values, kind, weak | (kind == 0))


def race_targets(faces: Faces) -> Targets:
    """One race, or one of those that a set's word may mean."""
    values = faces.labels[:, columns(tuple(RACES))]
    kind = np.where(np.isnan(values[:, 0]), 0, 2)
    values = np.nan_to_num(values)
    return Targets(values, kind, values.sum(1) != 1)


def expression_targets(faces: Faces) -> Targets:
    """Shares of votes; where a set says who smiles: happy, or anything but happy.

    These bounds alone must not teach: "not happy" is met by any certain other answer, whatever the picture.
    """
    values = faces.labels[:, columns(tuple(EXPRESSIONS))]
    kind = np.where(np.isnan(values[:, 0]), 0, 1)
    values = np.nan_to_num(values)
    smiling, order = faces.labels[:, NAMES.index("Smiling")], list(EXPRESSIONS)
    weak = (kind == 0) & ~np.isnan(smiling)
    happy = np.array([n == "Happiness" for n in order], np.float32)
    values[weak] = np.where(smiling[weak, None] == 1, happy, 1 - happy)
    return Targets(values, np.where(weak, 2, kind), kind != 1)


def completed(from_labels: Targets, guessed: Floats) -> Targets:
    """Targets in which a guess replaces what labels leave open: its distribution, restricted to what they allow."""
    values, kind = from_labels.values.copy(), from_labels.kind.copy()
    allowed = np.where((kind == 0)[:, None], 1.0, values) * guessed
    mass = allowed.sum(1)
    # Where the guess contradicts the labels they stay as they are: alternatives, not a distribution.
    usable = from_labels.open & (mass > TRUST)
    values[usable], kind[usable] = allowed[usable] / mass[usable, None], 1
    return Targets(values, kind, from_labels.open & ~usable)


def choice_loss(z: Tensor, values: Tensor, kind: Tensor, shift: Tensor | None = None) -> Tensor:
    """(B,): cross-entropy against a distribution (with the shift on the logits), or -log of the probability that it is
    one of those allowed; 0 where nothing is known."""
    soft = -(values * F.log_softmax(z if shift is None else z + shift, 1)).sum(1)
    inside = z.masked_fill(values <= 0, -1e4).logsumexp(1)
    return torch.where(kind == 1, soft, torch.where(kind == 2, z.logsumexp(1) - inside, 0.0))
