"""Rules and labels: exact, consistent, and honest about what cannot be seen."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from faceinsight import BundleError
from faceinsight.bundle.specs import CharacteristicSpec, RegionLimit, RuleSpec
from faceinsight.perception.labeler import Labeler
from faceinsight.perception.rules import RuleSet

NAMES = ("a", "b", "c", "d", "e", "f", "g")
RULES = (
    RuleSpec("at_most_one", ("a", "b", "c"), True),
    RuleSpec("excludes", ("c", "d"), True),
    RuleSpec("at_least_one", ("d", "e"), True),
    RuleSpec("at_most_one", ("a", "e"), False),
    RuleSpec("exactly_one", ("e", "f", "g"), True),
    RuleSpec("implies", ("g", "a", "d"), False),
    RuleSpec("implies", ("b", "d"), True),
)


def clauses(rule, on):
    """How often a set of true characteristics breaks the rule, written out."""
    count = sum(n in on for n in rule.of)
    first, others = rule.of[0] in on, rule.of[1:]
    return {
        "at_most_one": count * (count - 1) // 2,
        "at_least_one": int(count == 0),
        "exactly_one": int(count != 1),
        "excludes": sum(n in on for n in others) * first,
        "implies": sum(n not in on for n in others) * first,
    }[rule.kind]


def brute_force(logits, soft_weight):
    """The best of all assignments that obey the hard rules, soft rules costing their weight."""

    def score(bits):
        on = {n for n, b in zip(NAMES, bits, strict=True) if b}
        if any(clauses(r, on) for r in RULES if r.hard):
            return -np.inf
        return float(np.dot(bits, logits)) - soft_weight * sum(clauses(r, on) for r in RULES if not r.hard)

    return max(product((False, True), repeat=len(NAMES)), key=score)


@pytest.mark.parametrize("soft_weight", [0.0, 0.7])
def test_map_equals_brute_force(soft_weight):
    rng = np.random.default_rng(0)
    rules = RuleSet(NAMES, RULES, soft_weight=soft_weight)
    for _ in range(300):
        logits = rng.normal(0, 2, len(NAMES))
        labels, changes = rules.apply(logits)
        assert tuple(labels) == brute_force(logits, soft_weight)
        alone = {n for n, z in zip(NAMES[:4], logits, strict=False) if z > 0} | {"efg"[int(np.argmax(logits[4:]))]}
        assert {c.name for c in changes} == {n for n, v in zip(NAMES, labels, strict=True) if v != (n in alone)}
        assert all(c.rule in map(str, RULES) or c.rule == "the rules together" for c in changes)
        assert not rules.violations({n for n, v in zip(NAMES, labels, strict=True) if v})


def test_receipt_names_the_rule():
    labels, changes = RuleSet(NAMES, RULES).apply(np.array([2.0, 1.0, -3, 1, -1, 3, -2]))
    assert labels.tolist() == [True, False, False, True, False, True, False]
    assert [(c.name, c.value, c.rule) for c in changes] == [("b", False, "at most one of a, b, c")]


def test_rules_over_switched_off_characteristics_do_not_apply():
    labels, changes = RuleSet(("b", "e"), RULES).apply(np.array([1.0, -1.0]))
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


def labeler():
    unsure = (0.35, 0.65)
    hat, hair = RegionLimit("hat", 0.05), RegionLimit("hair", 0.01)
    specs = [
        CharacteristicSpec("bangs", "has bangs", "has no bangs", "hair", "", (1.0, 0.0), unsure, (), hidden_by=hat),
        CharacteristicSpec(
            "wavy", "has wavy hair", "has straight hair", "hair", "", (2.0, -1.0), unsure, (), needs=hair
        ),
        CharacteristicSpec("bald", "is bald", "is not bald", "hair", "", (1.0, 0.0), unsure, ()),
    ]
    return Labeler(specs, [RuleSpec("excludes", ("bald", "bangs"), True)])


def test_calibration_and_abstention():
    bangs, wavy, bald = labeler().label(np.array([0.1, 1.0, -4.0], np.float32), {"hair": 0.3, "hat": 0.0})
    assert (bangs.state, wavy.state, bald.state) == ("unsure", "yes", "no")
    assert wavy.probability == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-4)


def test_not_visible_comes_from_the_map_and_frees_the_rules():
    bangs, wavy, bald = labeler().label(np.array([6.0, 5.0, 4.0], np.float32), {"hair": 0.001, "hat": 0.2})
    assert (bangs.state, bangs.probability) == ("not visible", None)
    assert wavy.state == "not visible"
    # Bangs would have excluded bald; hidden, they say nothing.
    assert (bald.state, bald.rule) == ("yes", None)


def test_rule_decides_between_two_likely_labels():
    bangs, _, bald = labeler().label(np.array([3.0, 0.0, 2.0], np.float32), {"hair": 0.3, "hat": 0.0})
    assert (bangs.state, bald.state) == ("yes", "no")
    assert bald.rule == "bald excludes bangs"


def test_of_a_choice_one_is_claimed_or_in_doubt():
    names = ("young", "middle", "old")
    specs = [CharacteristicSpec(n, f"is {n}", f"is not {n}", "face", "age", (1.0, 0.0), (0.0, 0.6), ()) for n in names]
    judge = Labeler(specs, [RuleSpec("exactly_one", names, True)])
    sure = judge.label(np.array([-4.0, -1.0, -3.5], np.float32), {"face": 0.5})
    assert [x.state for x in sure] == ["no", "yes", "no"]
    assert sum(x.probability for x in sure) == pytest.approx(1, abs=1e-3)
    # One must hold: that is the choice itself, no rule turned it round.
    assert sure[1].rule is None
    unsure = judge.label(np.array([2.0, 2.2, -3.5], np.float32), {"face": 0.5})
    assert [x.state for x in unsure] == ["no", "unsure", "no"]


def test_at_most_one_shares_probability_with_none():
    names = ("black", "blond")
    specs = [CharacteristicSpec(n, f"has {n}", f"no {n}", "hair", "", (1.0, 0.0), (0.2, 0.6), ()) for n in names]
    black, blond = Labeler(specs, [RuleSpec("at_most_one", names, True)]).label(
        np.array([1.0, -1.0], np.float32), {"hair": 0.5}
    )
    total = np.exp(1) + np.exp(-1) + 1
    assert (black.probability, blond.probability) == pytest.approx((np.exp(1) / total, np.exp(-1) / total), abs=1e-4)
    assert (black.state, blond.state) == ("yes", "no")


def test_a_rule_claims_only_what_its_claims_leave_open():
    """Young follows from a claimed age; from an age in doubt it does not."""
    ages = ("twenties", "seventies")
    specs = [
        *(CharacteristicSpec(n, f"is {n}", f"not {n}", "face", "age", (1.0, 0.0), (0.0, 0.8), ()) for n in ages),
        CharacteristicSpec("young", "is young", "is not young", "face", "age", (1.0, 0.0), (0.4, 0.6), ()),
    ]
    rules = [
        RuleSpec("exactly_one", ages, True), RuleSpec("implies", ("twenties", "young"), True),
        RuleSpec("excludes", ("seventies", "young"), True),
    ]  # fmt: skip
    judge = Labeler(specs, rules)
    twenties, _, young = judge.label(np.array([6.0, -3.0, -1.0], np.float32), {"face": 0.5})
    assert (twenties.state, young.state) == ("yes", "yes")
    twenties, _, young = judge.label(np.array([1.0, 0.2, -0.5], np.float32), {"face": 0.5})
    assert (twenties.state, young.state) == ("unsure", "unsure")


def test_poor_pictures_and_covered_parts():
    spec = CharacteristicSpec(
        "smiling", "is smiling", "is not", "mouth", "", (1.0, 0.0), (0.4, 0.6), (), covered_by=("mask",)
    )
    judge = Labeler([spec], [])
    z = np.array([4.0], np.float32)
    assert judge.label(z, {"mouth": 0.5})[0].state == "yes"
    assert judge.label(z, {"mouth": 0.5}, poor=True)[0].state == "unsure"
    assert judge.label(z, {"mouth": 0.5}, covered=("mask",))[0].state == "not visible"
    wide = Labeler(
        [
            CharacteristicSpec(
                "smiling", "is smiling", "is not", "mouth", "", (1.0, 0.0), (0.4, 0.6), (), poor=(0.1, 0.9)
            )
        ],
        [],
    )
    assert [wide.label(np.array([x], np.float32), {"mouth": 0.5}, poor=True)[0].state for x in (4.0, 1.0)] == [
        "yes",
        "unsure",
    ]


def test_not_everything_is_denied_of_what_must_be_one_thing():
    """Hair has a colour: the likeliest stays in doubt, unless what is claimed excludes it."""
    names = ("black", "gray")
    specs = [
        *(CharacteristicSpec(n, f"has {n}", f"no {n}", "hair", "", (1.0, 0.0), (0.4, 0.6), ()) for n in names),
        CharacteristicSpec("child", "is a child", "is no child", "face", "", (1.0, 0.0), (0.4, 0.6), ()),
    ]
    rules = [RuleSpec("at_least_one", names, False), RuleSpec("excludes", ("child", "gray"), True)]

    def states(z):
        labels = Labeler(specs, rules).label(np.array(z, np.float32), {"hair": 0.5, "face": 0.5})
        return [x.state for x in labels]

    assert states([-3.0, -2.0, -5.0]) == ["no", "unsure", "no"]
    assert states([-3.0, -2.0, 5.0]) == ["unsure", "no", "yes"]
    assert states([3.0, -2.0, 5.0]) == ["yes", "no", "yes"]
