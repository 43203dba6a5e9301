"""The benchmark's sections on readings made up for the purpose: every planted fault is counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import claims
import contradictions
import crossset
import degraded
import figures
import flicker
import groups
import metrics
import strangers
from datasets import Sample
from faceinsight.types import HIDDEN, NO, UNSURE, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, NAMES, REGIONS
from readings import Picture, Reading, SetReadings, table

BLANK = np.zeros((8, 8, 3), np.uint8)


class Fake:
    """Reads what it is told to; counts how often it is asked."""

    names: Sequence[str] = NAMES
    regions: Sequence[str] = tuple(REGIONS)

    def __init__(self, *readings: Reading | None) -> None:
        self.readings, self.asked = readings, 0

    def photo(self, image: Picture) -> Reading | None:
        self.asked += 1
        return self.readings[(self.asked - 1) % len(self.readings)]

    def photos(self, image: Picture) -> list[Reading]:
        return [r for r in self.readings if r]


def reading(*yes: str, p: Mapping[str, float] | None = None, years: float | None = None, hair: float = 0.0, **states):
    """A face of which these are claimed, and all else is a "no"; states: name -> number."""
    probability, state = np.full(len(NAMES), 0.01), np.full(len(NAMES), NO)
    for name, number in {**dict.fromkeys(yes, YES), **states}.items():
        state[NAMES.index(name)] = number
        probability[NAMES.index(name)] = 0.99 if number == YES else 0.01
    for name, value in (p or {}).items():
        probability[NAMES.index(name)] = value
    areas = dict.fromkeys(REGIONS, 0.0) | {"hair": hair}
    marks = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
    return Reading(
        (0, 0, 100, 120), marks, probability, state, probability > 0.5, areas, np.zeros((4, 4), np.uint8), None, years
    )


def sample(labels: Mapping[str, float], years: float | None = None) -> Sample:
    """A picture that says this; a choice of which one member is named is known in whole."""
    y = np.full(len(NAMES), np.nan, np.float32)
    for names in EXCLUSIVE_GROUPS.values():
        if any(n in labels for n in names):
            y[[NAMES.index(n) for n in names]] = 0
    for name, value in labels.items():
        y[NAMES.index(name)] = value
    return Sample(lambda: BLANK, y, years)


def seen(*rows: tuple[Reading | None, Sample]) -> SetReadings:
    return table(Fake(), [r for r, _ in rows], [s for _, s in rows])


def test_one_of_several_is_right():
    labels = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 1]], np.float32)
    members, truth, class_of = metrics.classes(labels)
    assert members.tolist() == [[True, False, False], [False, True, True]]
    assert (truth.tolist(), class_of.tolist()) == ([1, 0, 1], [0, 1, 1])
    assert metrics.among(np.array([2, 2, 0]), labels).tolist() == [True, False, False]
    # Shares of votes: the member with most of them.
    assert metrics.among(np.array([1, 0]), np.array([[0.3, 0.7], [0.3, 0.7]])).tolist() == [True, False]


def test_race_that_a_set_does_not_tell_apart():
    asian = sample({"East_Asian": 1, "Southeast_Asian": 1})
    both = seen((reading("Southeast_Asian"), asian), (reading("White"), asian))
    found = figures.choice(both, "race")
    assert found["accuracy"] == 0.5
    assert found["per class"]["East_Asian or Southeast_Asian"] == {"n": 2, "recall": 0.5}


def test_a_constant_on_sets_that_do_not_label_it_is_caught():
    sure, doubt = reading("Age_20_29"), reading(p={"Age_20_29": 0.4, "Age_3_9": 0.35}, Age_20_29=UNSURE)
    labelled = seen(*[(doubt, sample({"Age_20_29": 1}))] * 10)
    constant = seen(*[(sure, sample({"Young": 0, "Smiling": 1}))] * 10, (None, sample({"Young": 0, "Smiling": 1})))
    found = crossset.cross_set({"fairface": labelled, "celeba": constant})
    age = found["age"]
    assert (age["sets"]["celeba"]["above 0.95"], age["sets"]["fairface"]["above 0.95"]) == (1, 0)
    assert (age["sets"]["celeba"]["labelled"], age["sets"]["celeba"]["classes in use"]) == (False, 1)
    assert age["sets"]["celeba"]["claimed"] == 1
    assert age["widest gap to the labelled sets"] == 1
    assert age["widest gap, same mix of answers"] == 1
    bearing = found["agreement with labels that bear on it"]["celeba"]
    assert bearing["labelled not Young: age 30 or more"] == {"n": 10, "share": 0}


def test_another_mix_of_people_is_no_gap():
    """Sure of Age_3_9 and not of Age_20_29 on both sets: only the mix differs."""
    child, adult = reading("Age_3_9"), reading(p={"Age_20_29": 0.6}, Age_20_29=UNSURE)
    labelled = seen(*[(child, sample({"Age_3_9": 1}))] * 5, *[(adult, sample({"Age_20_29": 1}))] * 5)
    children = seen(*[(child, sample({"Smiling": 1}))] * 10)
    age = crossset.cross_set({"fairface": labelled, "celeba": children})["age"]
    assert age["widest gap to the labelled sets"] == 0.5
    assert age["widest gap, same mix of answers"] == 0


def test_smiling_without_a_label_is_what_the_report_says():
    neutral = seen(*[(reading("Smiling", "Neutral"), sample({"Male": 1}))] * 10)
    rows = crossset.cross_set({"fairface": neutral})["agreement with labels that bear on it"]["fairface"]
    assert rows["Smiling claimed: Neutral likeliest"] == {"n": 10, "share": 1}
    labelled = seen(*[(reading("Neutral"), sample({"Smiling": 1}))] * 10)
    rows = crossset.cross_set({"celeba": labelled})["agreement with labels that bear on it"]["celeba"]
    assert rows["labelled Smiling: Neutral likeliest"]["share"] == 1


PLANTED = {
    "smiling, neutral": reading("Smiling", "Neutral"),
    "happy, not smiling": reading("Happiness"),
    "under 30, not young": reading("Age_20_29"),
    "60 or more, young": reading("Age_70", "Young"),
    "bald, a hair colour": reading("Bald", "Gray_Hair"),
    "two hair colours": reading("Gray_Hair", "Black_Hair"),
    "no beard, goatee or mustache": reading("No_Beard", "Mustache"),
    "no hair colour, hair": reading(hair=0.2),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_each_contradiction_is_counted_once(kind: str):
    found = contradictions.contradictions({"a": table(Fake(), [PLANTED[kind], None])})
    assert {k: v for k, v in found["total"].items() if v} == {"reports": 1, "contradictions": 1, kind: 1}


def test_what_is_no_contradiction():
    fine = [
        reading("Smiling", "Happiness", Young=UNSURE), reading("Age_20_29", "Young"), reading("Age_60_69"),
        reading("Bald", hair=0.2), reading("Wearing_Hat", hair=0.2), reading(hair=0.04),
        reading(hair=0.3, Brown_Hair=UNSURE), reading("Neutral", Smiling=UNSURE), reading("Black_Hair", hair=0.3),
    ]  # fmt: skip
    assert contradictions.contradictions({"a": table(Fake(), fine)})["total"]["contradictions"] == 0


def test_a_rare_attribute_cannot_hide_behind_its_noes():
    bald, hairy = sample({"Bald": 1}), sample({"Bald": 0})
    rows = [(reading(), hairy)] * 900 + [(reading("Bald"), hairy)] * 40 + [(reading("Bald"), bald)] * 60
    found = claims.claims(seen(*rows))
    assert found["yes-claims"]["per characteristic"]["Bald"] == {"claims": 100, "wrong": 0.4}
    assert found["no-claims"]["per characteristic"]["Bald"] == {"claims": 900, "wrong": 0}
    kept = found["promised risk kept"]
    assert (kept["yes-claims"]["kept"], kept["yes-claims"]["surely broken"]) == (0, ["Bald"])
    assert (kept["no-claims"]["kept"], kept["no-claims"]["share"]) == (1, 1)
    assert found["together"] == pytest.approx(
        {"labels": 1000, "claimed yes": 0.1, "yes-claims wrong": 0.4, "claimed no": 0.9, "no-claims wrong": 0}
    )


def test_of_a_choice_the_claimed_member_is_the_claim():
    rows = [(reading("Age_20_29"), sample({"Age_20_29": 1})), (reading("Age_20_29"), sample({"Age_70": 1}))]
    counted = claims.tally(seen(*rows, (reading(Age_20_29=UNSURE), sample({"Age_70": 1})), (None, rows[0][1])))
    k = counted.names.index("age")
    assert [int(x[k]) for x in (counted.labelled, counted.yes, counted.yes_wrong, counted.no)] == [4, 2, 1, 0]
    assert "Attractive" not in counted.names
    assert int((counted + counted).yes[k]) == 4


def test_children_and_the_old_have_their_own_rows():
    girl, old = sample({"Age_3_9": 1, "Male": 0}, 5), sample({"Age_70": 1, "Male": 1}, 80)
    rows = groups.age_groups({
        "utkface": seen(
            (reading("Male", "Wearing_Lipstick", "No_Beard", "Age_3_9", years=7), girl),
            (reading("No_Beard", years=5), girl), (reading("Male", years=60), old),
        )
    })["utkface"]  # fmt: skip
    child = rows["0-9"]
    assert (child["gender accuracy"], child["gender claimed and wrong"], child["n"]) == (0.5, 0.5, 2)
    assert child["claimed"] == {"lipstick": 0.5, "earrings": 0, "bald": 0, "necktie": 0, "beard": 0}
    assert (child["mean absolute error in years"], child["age bin accuracy"]) == (1, 0.5)
    assert (rows["60 and over"]["mean absolute error in years"], "20-59" in rows) == (20, False)
    assert "claimed" not in rows["60 and over"]


def test_years_by_decade():
    old, girl = sample({"Age_70": 1, "Male": 1}, 80), sample({"Age_3_9": 1, "Male": 0}, 5)
    adult = sample({"Age_50_59": 1, "Male": 1}, 59)
    made = seen((reading(years=60), old), (reading(years=6), girl), (reading(years=50), adult), (None, adult))
    found = groups.years({"utkface": made})["utkface"]
    assert found["50-59"] == {"n": 1, "mean absolute error": 9, "bias": -9}
    assert found["80-89"] == found["60 and over"] == {"n": 1, "mean absolute error": 20, "bias": -20}
    assert found["under 10"]["mean absolute error"] == 1
    bins = seen((reading("Age_3_9", years=8), sample({"Age_3_9": 1})))
    assert figures.choice(bins, "age")["mean absolute error in years"] == pytest.approx(2)
    assert "fairface" not in groups.years({"fairface": bins})


def boxed(face: Reading, x: float, y: float) -> Reading:
    return dataclasses.replace(face, box=(x, y, 100.0, 100.0))


def test_strangers_are_matched_by_their_middles():
    left, right = boxed(reading(), 0, 0), boxed(reading(), 60, 0)
    # Both boxes hold the first point, the second is held by none.
    assert strangers.match([(70, 50), (300, 50)], [left, right]) == [0, None]
    assert strangers.match([(70, 50), (75, 50)], [left, right]) == [0, 1]
    assert strangers.match([(90, 50), (95, 50)], [left]) == [0, None]


def test_plausible_ages_have_a_bin_of_slack():
    assert strangers.plausible(25, 39) == {"Age_10_19", "Age_20_29", "Age_30_39", "Age_40_49"}
    assert strangers.plausible(0, 2) == {"Age_0_2", "Age_3_9"}
    assert strangers.plausible(75, 90) == {"Age_60_69", "Age_70"}


def test_strangers_wrong_and_claimed():
    said = dict.fromkeys(("glasses", "hat", "smile", "bald", "beard", "hair", "expression", "gender", "age_from"), "-")
    person = said | {"age_from": "60", "age_to": "75", "expression": "X", "hair": "g", "hat": "1", "gender": "F"}
    wrong = reading("Age_20_29", "Happiness", "Male", years=25)
    right = reading("Age_60_69", "Sadness", "Gray_Hair", "Wearing_Hat", years=66, Black_Hair=UNSURE)
    found = strangers.judged([(person, wrong), (person, right), (said, wrong)], strangers.Reads(NAMES))
    age, expression, hair, hat = (found[k] for k in ("age", "expression", "hair colour", "hat"))
    assert (age["n"], age["more than one bin off"], age["more than one bin off, claimed"]) == (2, 1, 1)
    assert age["years outside the plausible range, mean"] == (60 - 25) / 2
    assert expression == {
        "n": 2, "wrong": 1, "wrong, claimed": 1, "strong": 2, "strong, right": 1, "strong, claimed and wrong": 1,
    }  # fmt: skip
    assert (hair['true colour said "no"'], hair["true colour claimed"], hair["another colour claimed"]) == (1, 1, 0)
    assert (hat["worn"], hat["missed"], hat["false"]) == (2, 1, 0)
    assert found["gender"] == {"n": 2, "right": 1, "claimed": 2, "claimed and wrong": 1}


def test_changes_of_state():
    track = np.array([[NO, YES], [UNSURE, YES], [YES, YES], [UNSURE, HIDDEN], [YES, YES]])
    every, between = flicker.changes(track)
    assert (every.tolist(), between.tolist()) == ([4, 2], [1, 0])


def test_flicker_is_what_the_reading_does():
    grey = np.full((60, 60, 3), 128, np.uint8)
    first, second = reading("Smiling").states, reading().states
    beats = iter([first, second] * flicker.FRAMES)
    found = flicker.flicker({"steady": grey}, lambda: lambda image: first, NAMES)
    assert found["any state"]["worst label, per minute"] == 0
    found = flicker.flicker({"restless": grey}, lambda: lambda image: next(beats), NAMES)
    assert found["clips"]["restless"]["any state"]["worst label"] == "Smiling"
    assert found["between yes and no"]["worst label, per minute"] == flicker.MINUTE
    assert flicker.flicker({"gone": grey}, lambda: lambda image: None, NAMES)["clips"]["gone"]["without a face"] == 200


def test_frames_are_repeatable_and_move():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    once, again = (list(flicker.frames(image, 3)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert (once[1] != once[2]).any()


def test_a_covered_mouth_that_is_judged_is_seen():
    hidden = reading(**dict.fromkeys(degraded.MOUTH, HIDDEN))
    for face, share in ((hidden, 1), (reading("Smiling"), 0)):
        found = degraded.degraded(Fake(face), [sample({"Smiling": 1, "Male": 0})] * 2, "celeba")
        assert found["views"]["surgical mask"]["what is hidden"]["not visible"] == share
        assert found["n"] == 2
    assert degraded.degraded(Fake(None), [sample({"Male": 0})], "celeba") == {"n": 0}


def test_faces_lost_in_surroundings_are_wrong():
    samples = [sample({"Male": 1, "Age_20_29": 1})] * 4
    plain = seen(*[(reading("Male", "Age_20_29"), samples[0])] * 4)
    found = degraded.surroundings(Fake(reading("Male", "Age_70"), None), samples, plain, "fairface")
    for kind in ("reflected and blurred", "another picture, blurred", "edge replicated"):
        assert found[kind]["lost against plain"] == {"gender": 0.5, "age": 1}
        assert (found[kind]["n"], found[kind]["found"]) == (4, 0.5)
