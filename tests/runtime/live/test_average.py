"""States that do not flicker, and still follow what really changes."""

from __future__ import annotations

import random

from faceinsight.live.average import STEADY, Steady
from faceinsight.types import Label


def label(state: str, name: str = "Smiling") -> Label:
    return Label(name, "is smiling", "", 0.5, state, "mouth", None)


def test_the_first_reading_is_shown_at_once():
    steady = Steady()
    changed = steady.update(0, [label("yes"), label("no", "Eyeglasses")])
    assert [x.state for x in changed] == ["yes", "no"]
    assert [x.state for x in steady.labels] == ["yes", "no"]


def test_a_state_changes_once_it_has_held():
    steady = Steady()
    steady.update(0, [label("yes")])
    assert steady.update(1.0, [label("no")]) == []
    assert steady.labels[0].state == "yes"
    assert steady.update(1.0 + STEADY / 2, [label("no")]) == []
    (changed,) = steady.update(1.0 + STEADY, [label("no")])
    assert changed.state == steady.labels[0].state == "no"


def test_what_flickers_is_shown_as_it_was():
    steady, rng = Steady(), random.Random(3)
    steady.update(0, [label("yes")])
    for i in range(1, 200):
        changed = steady.update(i / 3, [label("no" if i % 2 else rng.choice(("yes", "unsure")))])
        assert changed == []
    assert steady.labels[0].state == "yes"
    # Another doubt each time is no new state either.
    for i in range(200, 210):
        assert steady.update(i / 3, [label(("no", "unsure")[i % 2])]) == []
