"""What the graphs say of one face, averaged over its frames: a single frame flickers, a person does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..perception.encoders import Encoded
from ..types import NO, STATES, UNSURE, YES, Label

T = TypeVar("T")
#: Seconds over which readings are averaged: after so long the older ones weigh a third.
SPAN = 2.0
#: Seconds for which a new state must hold before it is shown.
STEADY = 1.0
#: Logits by which the evidence must exceed that of the doubt.
MARGIN = 2.0


class Average:
    """Of readings: their logits, areas and probabilities. Label map and tokens are the newest."""

    def __init__(self) -> None:
        """Of none."""
        self._value: Encoded | None = None
        self._time = 0.0

    def add(self, time: float, encoded: Encoded) -> Encoded:
        """One more reading, of one face; returns the average. time: in seconds."""
        if self._value is None:
            self._value = encoded
        else:
            share = 1 - math.exp(-max(time - self._time, 0.05) / SPAN)
            closeup = encoded.closeup
            if closeup and self._value.closeup:
                closeup = _mixed(self._value.closeup, closeup, share)
            mean = _mix(self._value.logits, encoded.logits, share), _mix(self._value.area, encoded.area, share)
            self._value = replace(encoded, logits=mean[0], area=mean[1], closeup=closeup)
        self._time = time
        return self._value


def _mix(old: NDArray[np.float32], new: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    return (old + share * (new - old)).astype(np.float32)


def _mixed(old: T, new: T, share: float) -> T:
    """A dataclass whose arrays of floats are mixed."""
    out: dict[str, Any] = {}
    for field in fields(new):  # type: ignore[arg-type]
        a, b = getattr(old, field.name), getattr(new, field.name)
        if isinstance(b, np.ndarray) and b.dtype.kind == "f" and a is not None and a.shape == b.shape:
            out[field.name] = _mix(a, b, share)
    return replace(new, **out)  # type: ignore[type-var]


class Steady:
    """States as they are shown.

    One that differs takes their place once it has held for a while. What is in doubt is claimed only when the evidence
    is clearly stronger than it was then: a probability that sways about a bound stays in doubt.

    Attributes:
        labels: as shown; empty before the first ones.
    """

    def __init__(self) -> None:
        """Of nobody yet."""
        self.labels: tuple[Label, ...] = ()
        self._since: dict[str, tuple[str, float]] = {}
        self._doubted: dict[str, float] = {}

    def update(self, time: float, labels: Sequence[Label]) -> list[Label]:
        """The labels of a reading; returns those whose shown state is another one now."""
        before = {label.name: label.state for label in self.labels}
        shown, updates = [], []
        for label in labels:
            old = before.get(label.name)
            if old is None or self._takes_over(time, label, old):
                shown.append(label)
                updates.append(label)
                if label.state == STATES[UNSURE]:
                    self._doubted[label.name] = _strength(label) + MARGIN
            else:
                shown.append(replace(label, state=old))
        self.labels = tuple(shown)
        return updates

    def _takes_over(self, time: float, label: Label, old: str) -> bool:
        """Is the state of this label shown from now on, instead of the old one?"""
        claimed = label.state in (STATES[YES], STATES[NO])
        weak = claimed and _strength(label) < self._doubted.get(label.name, 0.0)
        if label.state == old or weak:
            self._since.pop(label.name, None)
            return False
        state, since = self._since.get(label.name, ("", time))
        if state != label.state:
            since = time
            self._since[label.name] = label.state, since
        if time - since < STEADY:
            return False
        del self._since[label.name]
        return True


def _strength(label: Label) -> float:
    """How far its probability lies from one half, as a logit."""
    p = min(max(label.probability or 0.0, 1e-6), 1 - 1e-6)
    return abs(math.log(p / (1 - p)))
