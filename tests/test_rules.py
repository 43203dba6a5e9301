"""Rules and labels: exact, consistent, and honest about what cannot be seen."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from faceinsight import BundleError
from faceinsight.labels import Labeler
from faceinsight.manifest import CharacteristicSpec, RegionLimit, RuleSpec
from faceinsight.rules import RuleSet, violates

NAMES = ("a", "b", "c", "d", "e")
RULES = (
    RuleSpec("at_most_one", ("a", "b", "c"), True),
    RuleSpec("excludes", ("c", "d"), True),
    RuleSpec("at_least_one", ("d", "e"), True),
    RuleSpec("at_most_one", ("a", "e"), False),
)


def brute_force(logits):
    """The best of all assignments that obey the hard rules."""
    feasible = [
        bits
        for bits in product((False, True), repeat=len(NAMES))
        if not any(violates(r, {n for n, b in zip(NAMES, bits, strict=True) if b}) for r in RULES if r.hard)
    ]
    return max(feasible, key=lambda bits: float(np.dot(bits, logits)))


def test_map_equals_brute_force():
    rng = np.random.default_rng(0)
    rules = RuleSet(NAMES, RULES)
    for _ in range(300):
        logits = rng.normal(0, 2, 5)
        labels, changes = rules.apply(logits)
        assert tuple(labels) == brute_force(logits)
        assert {c.name for c in changes} == {n for n, v, z in zip(NAMES, labels, logits, strict=True) if v != (z > 0)}
        assert not rules.violations({n for n, v in zip(NAMES, labels, strict=True) if v})


def test_receipt_names_the_rule():
    labels, changes = RuleSet(NAMES, RULES).apply(np.array([2.0, 1.0, -3, 1, -1]))
    assert labels.tolist() == [True, False, False, True, False]
    assert [(c.name, c.value, c.rule) for c in changes] == [("b", False, "at most one of a, b, c")]


def test_rules_over_switched_off_characteristics_do_not_apply():
    labels, changes = RuleSet(("b", "d"), RULES).apply(np.array([1.0, -1.0]))
    assert labels.tolist() == [True, False]
    assert changes == ()


def test_contradicting_rules_are_refused():
    rules = [
        RuleSpec("at_least_one", ("a",), True),
        RuleSpec("excludes", ("b", "a"), True),
        RuleSpec("at_least_one", ("b",), True),
    ]
    with pytest.raises(BundleError, match="contradict"):
        RuleSet(("a", "b"), rules)


def labeler(unsure=(0.35, 0.65)):
    specs = [
        CharacteristicSpec("bangs", "has bangs", "hair", "", (1.0, 0.0), (), hidden_by=RegionLimit("hat", 0.05)),
        CharacteristicSpec("wavy", "has wavy hair", "hair", "", (2.0, -1.0), (), needs=RegionLimit("hair", 0.01)),
        CharacteristicSpec("bald", "is bald", "hair", "", (1.0, 0.0), ()),
    ]
    return Labeler(specs, [RuleSpec("excludes", ("bald", "bangs"), True)], unsure)


def test_calibration_and_abstention():
    bangs, wavy, bald = labeler()(np.array([0.1, 1.0, -4.0], np.float32), {"hair": 0.3, "hat": 0.0})
    assert (bangs.state, wavy.state, bald.state) == ("unsure", "yes", "no")
    assert wavy.probability == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-4)


def test_not_visible_comes_from_the_map_and_frees_the_rules():
    bangs, wavy, bald = labeler()(np.array([6.0, 5.0, 4.0], np.float32), {"hair": 0.001, "hat": 0.2})
    assert (bangs.state, bangs.probability) == ("not visible", None)
    assert wavy.state == "not visible"
    # Bangs would have excluded bald; hidden, they say nothing.
    assert (bald.state, bald.rule) == ("yes", None)


def test_rule_decides_between_two_likely_labels():
    bangs, _, bald = labeler()(np.array([3.0, 0.0, 2.0], np.float32), {"hair": 0.3, "hat": 0.0})
    assert (bangs.state, bald.state) == ("yes", "no")
    assert bald.rule == "bald excludes bangs"
