"""From logits to labels a person can rely on: calibrated, consistent, and honest about what cannot be seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.specs import CharacteristicSpec, RuleSpec
from ..types import HIDDEN, NO, STATES, UNSURE, YES, Label
from .rules import RuleSet

#: Bounds between which every probability lies: nothing is claimed.
NOTHING = (-1.0, 2.0)


def calibrated(
    logits: NDArray[np.floating],
    slope: NDArray[np.float64],
    shift: NDArray[np.float64],
    choices: Sequence[NDArray[np.int64]],
    open_choices: Sequence[NDArray[np.int64]] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw logits (...,K) -> calibrated logits and probabilities.

    choices: columns of which exactly one holds: their probabilities sum to one. open_choices: columns of which at most
    one holds: beside them stands "none of these", with the logit 0.
    """
    z = np.clip(slope * logits + shift, -30, 30)
    probability = 1 / (1 + np.exp(-z))
    for columns, rest in (*((c, False) for c in choices), *((c, True) for c in open_choices)):
        group_z = z[..., columns]
        highest = group_z.max(-1, keepdims=True)
        if rest:
            highest = np.maximum(highest, 0)
        e = np.exp(group_z - highest)
        probability[..., columns] = e / (e.sum(-1, keepdims=True) + rest * np.exp(-highest))
    return z, probability


class Labeler:
    """Calibration, visibility, rules and abstention over a fixed choice of characteristics."""

    def __init__(
        self, characteristics: Sequence[CharacteristicSpec], rules: Sequence[RuleSpec], *, soft_weight: float = 0.0
    ) -> None:
        """For these characteristics; soft_weight: what breaking a soft rule costs, in calibrated logits."""
        self._specs = tuple(characteristics)
        names = [c.name for c in self._specs]
        self._slope, self._shift = np.array([c.calibration for c in self._specs]).reshape(-1, 2).T
        self._rules = RuleSet(names, rules, soft_weight=soft_weight)
        self._choices = [np.array([names.index(n) for n in choice]) for choice in self._rules.choices]
        self._open = [np.array([names.index(n) for n in choice]) for choice in self._rules.open_choices]
        self._chosen_from = {int(i) for choice in self._choices for i in choice}

    def calibrated(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raw logits (...,K) -> calibrated logits and probabilities; of a choice's members, given that one holds."""
        return calibrated(logits, self._slope, self._shift, self._choices, self._open)

    def label(
        self,
        logits: NDArray[np.float32],
        area: Mapping[str, float],
        *,
        poor: bool = False,
        covered: Collection[str] = (),
    ) -> tuple[Label, ...]:
        """Raw logits (K,) in the order of the characteristics; area: region -> share of the crop; poor: can the picture
        hardly be read; covered: faults that hide a part of the face."""
        z, probability = self.calibrated(logits)
        hidden = np.array([self._hidden(c, area, covered) for c in self._specs], bool)
        # What cannot be seen takes no part in the rules: a strong "no" keeps it from excluding anything.
        values, changes = self._rules.apply(np.where(hidden, -30.0, z))
        changed = {c.name: c.rule for c in changes}
        states = [
            HIDDEN if hidden[i] else self._state(i, bool(values[i]), float(probability[i]), c.name in changed, poor)
            for i, c in enumerate(self._specs)
        ]
        claimed = {c.name for c, state in zip(self._specs, states, strict=True) if state == YES}
        for i, c in enumerate(self._specs):
            # A label that a rule turned round is claimed where what is claimed leaves no other value.
            if c.name in changed and states[i] == UNSURE and not poor:
                given = claimed | {c.name} if values[i] else claimed - {c.name}
                if self._rules.forced(c.name, given):
                    states[i] = YES if values[i] else NO
        for names in self._rules.at_least_one:
            # Not all of them are denied in one breath: the likeliest that what is claimed leaves open is in doubt.
            of = [i for i, c in enumerate(self._specs) if c.name in names]
            free = [i for i in of if not self._rules.forced(self._specs[i].name, claimed - {self._specs[i].name})]
            if free and all(states[i] == NO for i in of):
                states[max(free, key=lambda i: float(probability[i]))] = UNSURE
        return tuple(
            Label(
                c.name,
                c.phrase,
                c.group,
                None if hidden[i] else round(float(probability[i]), 4),
                STATES[states[i]],
                c.region,
                changed.get(c.name),
            )
            for i, c in enumerate(self._specs)
        )

    def _state(self, i: int, value: bool, probability: float, changed: bool, poor: bool) -> int:
        """What its own evidence allows to be claimed; of a label that a rule turned round, nothing."""
        spec = self._specs[i]
        low, high = (spec.poor or NOTHING) if poor else spec.unsure
        if i in self._chosen_from:
            # One holds: the likeliest is claimed or in doubt, the others are not it.
            return (YES if probability >= high else UNSURE) if value else NO
        if changed or low < probability < high or value != (probability >= high):
            return UNSURE
        return YES if value else NO

    @staticmethod
    def _hidden(spec: CharacteristicSpec, area: Mapping[str, float], covered: Collection[str]) -> bool:
        if any(fault in covered for fault in spec.covered_by):
            return True
        if spec.hidden_by and area[spec.hidden_by.region] > spec.hidden_by.area:
            return True
        return spec.needs is not None and area[spec.needs.region] < spec.needs.area
