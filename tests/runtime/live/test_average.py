"""States that do not flicker, and still follow what really changes."""

from __future__ import annotations

import random

from faceinsight.live.average import STEADY, Steady
from faceinsight.types import Label


def label(state: str, name: str = "Smiling", probability: float | None = 0.9) -> Label:
    return Label(name, "is smiling", "", probability, state, "mouth", None)


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


def test_a_probability_that_sways_about_a_bound_is_in_doubt():
    """Claimed from 0.85 on: it sways between 0.82 and 0.88, and is then clearly above."""
    steady = Steady()
    steady.update(0, [label("unsure", probability=0.83)])
    for i in range(1, 100):
        probability = 0.85 + 0.03 * (1 if i // 10 % 2 else -1)
        state = "yes" if probability > 0.85 else "unsure"
        assert steady.update(i / 3, [label(state, probability=probability)]) == []
    updates = [x for i in range(100, 110) for x in steady.update(i / 3, [label("yes", probability=0.97)])]
    assert [x.state for x in updates] == ["yes"]


def test_a_claim_that_becomes_doubtful_is_withdrawn_once():
    steady, states = Steady(), []
    steady.update(0, [label("yes", probability=0.88)])
    for i in range(1, 100):
        probability = 0.82 if i // 10 % 2 else 0.88
        state = "yes" if probability > 0.85 else "unsure"
        states += [x.state for x in steady.update(i / 3, [label(state, probability=probability)])]
    assert states == ["unsure"]


def test_what_is_hidden_and_comes_back_is_said():
    steady, states = Steady(), []
    steady.update(0, [label("yes", probability=0.99)])
    for i in range(1, 30):
        new = label("not visible", probability=None) if i < 10 else label("yes", probability=0.99)
        states += [x.state for x in steady.update(i / 3, [new])]
    assert states == ["not visible", "yes"]
