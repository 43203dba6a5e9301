"""What the graphs say of one face, averaged over its frames: a single frame flickers, a person does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..perception.closeup import CloseupReading
from ..perception.encoders import Encoded
from ..types import NO, STATES, UNSURE, YES, Label

#: Seconds over which readings of what changes (a smile) are averaged: after so long the older ones weigh a third.
SPAN = 2.0
#: The same of all else, at most: of a shorter visit the whole counts. Not longer, since hats are taken off.
LASTING = 8.0
#: Seconds for which a new state must hold before it is shown.
STEADY = 1.0
#: Logits by which the evidence must exceed that of the doubt.
MARGIN = 0.7


class Average:
    """Of readings: their logits, areas and probabilities. Label map and tokens are the newest."""

    def __init__(self, changing: NDArray[np.bool_]) -> None:
        """Of none. changing: (K,), which of the characteristics change while somebody stands there."""
        self._changing = changing
        self._value: Encoded | None = None
        self._began = self._time = 0.0

    def add(self, time: float, encoded: Encoded) -> Encoded:
        """One more reading, of one face; returns the average. time: in seconds."""
        old = self._value
        if old is None:
            self._value, self._began = encoded, time
        else:
            seconds = max(time - self._time, 0.05)
            quick = _share(seconds, SPAN)
            slow = _share(seconds, min(max(time - self._began, SPAN), LASTING))
            shares = np.where(self._changing, quick, slow).astype(np.float32)
            closeup = encoded.closeup
            if closeup and old.closeup:
                closeup = _mix_closeups(old.closeup, closeup, shares, quick, slow)
            mean = _mix(old.logits, encoded.logits, shares), _mix(old.area, encoded.area, quick)
            self._value = replace(encoded, logits=mean[0], area=mean[1], closeup=closeup)
        self._time = time
        return self._value


def _share(seconds: float, span: float) -> float:
    """Of the newest reading in the average, after so many seconds."""
    return 1 - math.exp(-seconds / span)


def _mix(old: NDArray[np.float32], new: NDArray[np.float32], share: float | NDArray[np.float32]) -> NDArray[np.float32]:
    return (old + share * (new - old)).astype(np.float32)


def _mix_closeups(
    old: CloseupReading, new: CloseupReading, shares: NDArray[np.float32], quick: float, slow: float
) -> CloseupReading:
    years = new.years if new.years is None or old.years is None else _mix(old.years, new.years, slow)
    return replace(
        new,
        logits=_mix(old.logits, new.logits, shares[new.columns]),
        years=years,
        faults=_mix(old.faults, new.faults, quick),
        turns=_mix(old.turns, new.turns, quick),
    )


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
