"""Figures on surroundings and degraded views: what cannot be seen is "not visible" or "unsure", not claimed."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from tqdm import tqdm

import claims
import metrics
from datasets import Sample
from faceinsight.types import NO, STATES, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS
from figures import Figures
from readings import Picture, Reader, SetReadings, View, read_set, table
from views import SURROUNDINGS, VIEWS, Subject, subject

#: What a covered mouth and covered eyes hide.
MOUTH = (
    "Smiling", "Mouth_Slightly_Open", "Wearing_Lipstick", "Big_Lips", "Mustache", "Goatee", "No_Beard",
    *EXCLUSIVE_GROUPS["expression"],
)  # fmt: skip
EYES = ("Eyeglasses", "Narrow_Eyes", "Bags_Under_Eyes")
HIDES = {"surgical mask": MOUTH, "mouth hidden": MOUTH, "eyes hidden": EYES}


def surroundings(reader: Reader, samples: Sequence[Sample], plain: SetReadings, name: str) -> Figures:
    """Accuracy of what the set labels, plain and inside larger photos; differences to plain, a face lost is wrong."""
    out: Figures = {"plain": _accuracy(plain)}
    for kind, make in SURROUNDINGS.items():
        # The picture before it stands in for a user's background; one set has one look, which is what is asked.
        readings = read_set(reader, samples, f"{name}: {kind}", _inside(make, samples))
        accuracy = _accuracy(readings)
        lost = {k: out["plain"][k] - v for k, v in accuracy.items() if k not in ("n", "found")}
        out[kind] = accuracy | {"lost against plain": lost}
    return out


def _inside(make: Callable[[Picture, Picture], Picture], samples: Sequence[Sample]) -> View:
    return lambda i, image: make(image, samples[i - 1].read())


def _accuracy(readings: SetReadings) -> Figures:
    """Accuracy of gender, choices and the mean of the attributes, as far as they are labelled."""
    out: Figures = {"n": len(readings.found), "found": metrics.share(readings.found)}
    plain = [k for k, n in enumerate(readings.names) if n not in EXCLUSIVE_MEMBERS and n not in claims.SKIPPED]
    y = readings.labels[:, plain]
    right = ((readings.p[:, plain] > 0.5) == (y > 0.5)) & readings.found[:, None]
    known = ~np.isnan(y)
    if known.sum(1).max(initial=0) > 1:
        out["attributes"] = metrics.mean([right[known[:, j], j].mean() for j in range(len(plain)) if known[:, j].any()])
    male = plain.index(readings.names.index("Male"))
    if known[:, male].any():
        out["gender"] = float(right[known[:, male], male].mean())
    for task, members in EXCLUSIVE_GROUPS.items():
        labels = readings.labels[:, readings.columns(members)]
        stated = ~np.isnan(labels[:, 0])
        if stated.any():
            same = metrics.among(readings.likeliest(members), labels) & readings.found
            out[task] = float(same[stated].mean())
    return out


def degraded(reader: Reader, samples: Sequence[Sample], name: str) -> Figures:
    """Every view of the pictures in which a face is found as they are: found, claimed, wrong of claimed.

    Attributes and gender; of FairFace gender alone. "promised risk kept" is over all views but the plain one."""
    subjects, used = _subjects(reader, samples, name)
    if not subjects:
        return {"n": 0}
    out: Figures = {"n": len(subjects), "views": {}}
    tallies: list[claims.Tally] = []
    for view, make in VIEWS.items():
        readings = _viewed(reader, subjects, used, f"{name}: {view}", make)
        counted = claims.tally(_of_the_face(readings), ())
        row: Figures = {"found": metrics.share(readings.found)} | claims.shares(counted)
        row["Blurry claimed"] = _share(readings, ("Blurry",), YES)
        if np.isfinite(readings.quality).any():
            row["quality, mean"] = metrics.mean(readings.quality)
        if hidden := HIDES.get(view):
            row["what is hidden"] = _hidden(readings, hidden)
        out["views"][view] = row
        if view != "plain":
            tallies.append(counted)
    total = reduce(operator.add, tallies)
    pooled = claims.errors(total)
    worst = {k: {n: v[n] for n in ("mean", "worst", "characteristics")} for k, v in pooled.items()}
    return out | {"all views": claims.shares(total) | worst | {"promised risk kept": claims.kept(total)}}


def _of_the_face(readings: SetReadings) -> SetReadings:
    """Labels of the face alone: the view decides whether it is blurry, not the set."""
    labels = readings.labels.copy()
    labels[:, readings.columns(("Blurry",))] = np.nan
    return dataclasses.replace(readings, labels=labels)


def _subjects(reader: Reader, samples: Sequence[Sample], name: str) -> tuple[list[Subject], list[Sample]]:
    subjects, used = [], []
    for sample in tqdm(samples, desc=f"{name}: faces", mininterval=5):
        image = sample.read()
        face = reader.photo(image)
        if face is not None:
            subjects.append(subject(image, face))
            used.append(sample)
    return subjects, used


def _viewed(
    reader: Reader,
    subjects: Sequence[Subject],
    samples: Sequence[Sample],
    what: str,
    make: Callable[[Subject, Picture], Picture],
) -> SetReadings:
    def picture(i: int) -> Picture:
        return np.asarray(make(subjects[i], subjects[i - 1].image), np.uint8)

    progress = tqdm(range(len(subjects)), desc=what, mininterval=5)
    return table(reader, [reader.photo(picture(i)) for i in progress], samples)


def _share(readings: SetReadings, names: Sequence[str], *states: int) -> float:
    """Among the faces found."""
    return metrics.share(np.isin(readings.states[readings.found][:, readings.columns(names)], states))


def _hidden(readings: SetReadings, names: Sequence[str]) -> Figures:
    """States of what cannot be seen; each characteristic's share of "not visible"."""
    hidden, unsure = STATES.index("not visible"), STATES.index("unsure")
    return {
        "not visible": _share(readings, names, hidden),
        "unsure": _share(readings, names, unsure),
        "claimed": _share(readings, names, YES, NO),
        "not visible, each": {n: _share(readings, (n,), hidden) for n in names},
    }
