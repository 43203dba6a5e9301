"""From logits to labels a person can rely on: calibrated, consistent, and honest about what cannot be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .manifest import STATES, CharacteristicSpec, RuleSpec
from .rules import RuleSet

NO, YES, UNSURE, HIDDEN = range(4)


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one characteristic.

    Attributes:
        name: its name in the bundle's vocabulary.
        phrase: completes "The person ...".
        group: "" or the sensitive group it belongs to.
        probability: calibrated, 0..1; None where it is not visible.
        state: "yes", "no", "unsure" or "not visible".
        region: the face region that shows it.
        rule: the rule that turned the label round, if one did.
    """

    name: str
    phrase: str
    group: str
    probability: float | None
    state: str
    region: str
    rule: str | None = None


def calibrated(
    logits: NDArray[np.floating],
    slope: NDArray[np.float64],
    shift: NDArray[np.float64],
    choices: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw logits (...,K) -> calibrated logits and probabilities; those of a choice's members (their columns are given)
    sum to one."""
    z = np.clip(slope * logits + shift, -30, 30)
    probability = 1 / (1 + np.exp(-z))
    for choice in choices:
        e = np.exp(z[..., choice] - z[..., choice].max(-1, keepdims=True))
        probability[..., choice] = e / e.sum(-1, keepdims=True)
    return z, probability


class Labeler:
    """Calibration, visibility, rules and abstention over a fixed choice of characteristics."""

    def __init__(
        self, characteristics: Sequence[CharacteristicSpec], rules: Sequence[RuleSpec], *, soft_weight: float = 0.0
    ) -> None:
        self._specs = tuple(characteristics)
        names = [c.name for c in self._specs]
        self._slope, self._shift = np.array([c.calibration for c in self._specs]).reshape(-1, 2).T
        self._rules = RuleSet(names, rules, soft_weight=soft_weight)
        self._choices = [np.array([names.index(n) for n in choice]) for choice in self._rules.choices]
        self._chosen_from = {int(i) for choice in self._choices for i in choice}

    def calibrated(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raw logits (...,K) -> calibrated logits and probabilities; of a choice's members, given that one holds."""
        return calibrated(logits, self._slope, self._shift, self._choices)

    def __call__(self, logits: NDArray[np.float32], area: Mapping[str, float]) -> tuple[Label, ...]:
        """Raw logits (K,) in the order of the characteristics; area: region -> share of the crop."""
        z, probability = self.calibrated(logits)
        hidden = np.array([self._hidden(c, area) for c in self._specs], bool)
        # What cannot be seen takes no part in the rules: a strong "no" keeps it from excluding anything.
        values, changes = self._rules.apply(np.where(hidden, -30.0, z))
        changed = {c.name: c.rule for c in changes}
        return tuple(
            Label(
                c.name, c.phrase, c.group, None if hidden[i] else round(float(probability[i]), 4),
                STATES[self._state(i, bool(values[i]), float(probability[i]), bool(hidden[i]), c.name in changed)],
                c.region, changed.get(c.name),
            )
            for i, c in enumerate(self._specs)
        )  # fmt: skip

    def _state(self, i: int, value: bool, probability: float, hidden: bool, changed: bool) -> int:
        if hidden:
            return HIDDEN
        low, high = self._specs[i].unsure
        if i in self._chosen_from:
            # One holds: the likeliest is claimed or in doubt, the others are not it.
            return (YES if probability >= high else UNSURE) if value else NO
        if low < probability < high and not changed:
            return UNSURE
        return YES if value else NO

    @staticmethod
    def _hidden(spec: CharacteristicSpec, area: Mapping[str, float]) -> bool:
        if spec.hidden_by and area[spec.hidden_by.region] > spec.hidden_by.area:
            return True
        return spec.needs is not None and area[spec.needs.region] < spec.needs.area
