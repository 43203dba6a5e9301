"""Do the server's audience figures hold? Crowds of labelled faces, and the intervals that are given for them.

    python benchmarks/quality/audience.py --data DIR --out OUT           (six minutes)
    python benchmarks/quality/audience.py --data DIR --out OUT --write   after a bundle has changed

The validation faces are cut in random halves, again and again: of one half the correction is measured, of the other a
crowd is drawn, each face once. Of a characteristic that holds or does not, 5 to 95 % have it; of a choice, the mix is
drawn evenly over all mixes (Dirichlet). An interval is right if it holds the number of people who are labelled so.
Plain counting has the interval of a share (Wilson). Where several sets label a characteristic, crowds of one set alone
are drawn as well: with a correction of all sets, and with one of the others alone, as a camera's people are of none.

`--write` measures the correction on all validation faces and writes it: faceinsight/server/audience/corrections.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import datasets
import metrics
from accuracy import Harness
from faceinsight import __version__
from faceinsight.backends.device import Device
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.specs import NEVER
from faceinsight.server.audience.quantification import RECORD, Correction, decode
from faceinsight.types import HIDDEN, YES
from readings import SetReadings, read_set

Array = NDArray[Any]
Figures = dict[str, Any]

#: Labelled faces that a class must have: others are not corrected.
LEAST = 40
#: Crowds, each of other halves; people of a crowd.
CROWDS, PEOPLE = 200, (30, 300)
#: Members of choices that are one class: single decades from 20 on have intervals 0.6 to 1 of the people wide.
TOGETHER = (
    ("Age_0_2", "Age_3_9"), ("Age_20_29", "Age_30_39"), ("Age_40_49", "Age_50_59"), ("Age_60_69", "Age_70"),
)  # fmt: skip
#: Digits of the recorded numbers.
DIGITS = 8


@dataclass(frozen=True)
class Faces:
    """Labelled faces of one question with C classes, of several sets.

    Attributes:
        names: characteristics of each class, C or C - 1 of them; what is left is the last class.
        p: (M,C) what is summed: probabilities as events have them, and what is left to one.
        classes: (M,) labelled class.
        claimed: (M,C) is this class claimed (state "yes"; "no" of a single one)?
        sets: (M,) number of the set.
    """

    names: tuple[tuple[str, ...], ...]
    p: Array
    classes: Array
    claimed: Array
    sets: Array

    def of(self, chosen: Array) -> Faces:
        """These of them: a mask or numbers."""
        return Faces(self.names, self.p[chosen], self.classes[chosen], self.claimed[chosen], self.sets[chosen])

    @property
    def counts(self) -> Array:
        """(C,) faces of each class."""
        return np.bincount(self.classes, minlength=self.p.shape[1])


def faces(tables: Sequence[SetReadings], members: tuple[str, ...]) -> Faces | None:
    """Of a characteristic or a choice: the faces that are labelled, found and visible. None where a class is too rare.

    Of a choice, members that are too rare are one class together."""
    parts = [_of_set(i, readings, members) for i, readings in enumerate(tables)]
    p, labels, claimed, sets = (np.concatenate(x) for x in zip(*parts, strict=True))
    known = dict.fromkeys(next((t for t in TOGETHER if name in t), (name,)) for name in members)
    wanted = [[members.index(name) for name in names] for names in known]
    frequent = [columns for columns in wanted if np.isin(labels, columns).sum() >= LEAST]
    others = [i for i in range(claimed.shape[1]) if not any(i in columns for columns in frequent)]
    if not frequent or (others and np.isin(labels, others).sum() < LEAST):
        return None
    # Columns of p are members; of a single one there is no column of its "no".
    summed = [p[:, columns].sum(1) for columns in frequent]
    columns = [*frequent, others] if others else frequent
    return Faces(
        tuple(tuple(members[i] for i in of) for of in frequent),
        np.stack([*summed, 1 - np.sum(summed, 0)] if others else summed, 1),
        np.argmax([np.isin(labels, of) for of in columns], 0),
        np.stack([claimed[:, of].any(1) for of in columns], 1),
        sets,
    )


def _of_set(number: int, readings: SetReadings, names: tuple[str, ...]) -> tuple[Array, ...]:
    """Probabilities (M,K), labels (M,), claimed (M,K or 2), number of the set (M,)."""
    columns = readings.columns(names)
    labels, states = readings.labels[:, columns], readings.states[:, columns]
    known = ~np.isnan(labels).any(1) & readings.found & (states != HIDDEN).all(1)
    # Several ones: the set does not say which.
    known &= (labels == 1).sum(1) <= 1
    labels, states = labels[known], states[known]
    single = len(names) == 1
    which = np.where(labels[:, 0] > 0.5, 0, 1) if single else labels.argmax(1)
    claimed = np.hstack([states == YES, states == 0]) if single else states == YES
    return readings.p[known][:, columns].round(4), which, claimed, np.full(known.sum(), number)


def measured(found: Faces) -> Figures:
    """The correction that these faces give, as it is recorded."""
    classes = range(found.p.shape[1])
    means = np.array([found.p[found.classes == k].mean(0) for k in classes]).T
    weights = np.linalg.inv(means)
    parts = [found.p[found.classes == k] @ weights.T for k in classes]
    variance = np.array([part.var(0, ddof=1) for part in parts]).T
    error = np.array([_error(part, found.sets[found.classes == k]) for k, part in enumerate(parts)]).T
    matrices = {"weights": weights, "variance": variance, "error": error}
    recorded = {name: matrix.round(DIGITS).tolist() for name, matrix in matrices.items()}
    return {"classes": found.names, "faces": found.counts.tolist(), **recorded}


def _error(part: Array, sets: Array) -> Array:
    """(C,) variance of a mean: by the number of faces, and by how the sets' means differ beyond that (method of
    moments), for a set that is another one still."""
    out = part.var(0, ddof=1) / len(part)
    several = [part[sets == s] for s in np.unique(sets) if (sets == s).sum() >= LEAST]
    if len(several) > 1:
        within = np.mean([x.var(0, ddof=1) / len(x) for x in several], 0)
        between = np.var([x.mean(0) for x in several], 0, ddof=1) - within
        out = out + np.maximum(between, 0) * (1 + 1 / len(several))
    return np.asarray(out)


def crowd(found: Faces, rng: np.random.Generator) -> Faces | None:
    """Some of them, each once, in a random mix; None where the mix does not leave enough people."""
    counts = found.counts
    if len(counts) == 2:
        share = rng.uniform(0.05, 0.95)
        mix = np.array([share, 1 - share])
        most = min(PEOPLE[1], *(counts / mix))
        sizes = np.floor(rng.uniform(PEOPLE[0], max(most, PEOPLE[0])) * mix + rng.random())
    else:
        sizes = rng.integers(PEOPLE[0], PEOPLE[1] + 1) * rng.dirichlet(np.ones(len(counts)))
    sizes = np.minimum(np.round(sizes).astype(int), counts)
    if sizes.sum() < 0.9 * PEOPLE[0]:
        return None
    picks = [rng.choice(np.flatnonzero(found.classes == k), n, replace=False) for k, n in enumerate(sizes)]
    return found.of(np.concatenate(picks))


class Score:
    """Of one class: how often the intervals hold the truth, and how wide they are, as a share of the people."""

    def __init__(self) -> None:
        self.hits: dict[str, list[bool]] = {"corrected": [], "states": [], "likeliest": []}
        self.widths: list[float] = []

    def add(self, correction: Correction, people: Faces, number: int) -> None:
        """One crowd. number: of the class."""
        n, truth = len(people.classes), int((people.classes == number).sum())
        # Only the sum over a class's characteristics counts.
        sums = {name: 0.0 for names in correction.classes for name in names}
        sums |= {names[0]: float(p) for names, p in zip(people.names, people.p.sum(0), strict=False)}
        counts = correction.counts(sums, n)
        low, high = correction.interval(number, counts, n)
        self.hits["corrected"].append(low <= truth <= high)
        self.widths.append((high - low) / n)
        plain = {"states": people.claimed[:, number], "likeliest": people.p.argmax(1) == number}
        for name, said in plain.items():
            first, last = metrics.wilson(int(said.sum()), n)
            self.hits[name].append(first * n <= truth <= last * n)

    def plain(self) -> Figures:
        shares = {name: round(float(np.mean(hits)), 4) for name, hits in self.hits.items()}
        return {"crowds": len(self.widths), **shares, "width": round(float(np.median(self.widths)), 3)}


def scores(
    found: Faces, rng: np.random.Generator, *, measure: Array | None = None, draw: Array | None = None
) -> list[Score]:
    """One for each class that has a name, over crowds of one half of the faces, corrected by the other.

    measure, draw: masks (M,) of the faces that each may take; None: all."""
    out = [Score() for _ in found.names]
    every = np.ones(len(found.classes), bool)
    for _ in range(CROWDS):
        half = rng.permutation(len(every)) < len(every) // 2
        base = found.of(half & (every if measure is None else measure))
        if base.counts.min() < LEAST // 4:
            continue
        if people := crowd(found.of(~half & (every if draw is None else draw)), rng):
            correction = decode(measured(base))
            for number, score in enumerate(out):
                score.add(correction, people, number)
    return out


def other_sets(found: Faces, names: Sequence[str], rng: np.random.Generator) -> Figures:
    """Crowds of one set: share of intervals that hold the truth, over all classes."""
    out: Figures = {}
    for number in np.unique(found.sets):
        here = found.sets == number
        ways = {"all sets": None, "the other sets": ~here}
        row = {way: _share(scores(found, rng, measure=measure, draw=here)) for way, measure in ways.items()}
        if here.all() or None in row.values():
            continue
        out[names[number]] = row
    return out


def _share(found: Sequence[Score]) -> float | None:
    hits = [hit for score in found for hit in score.hits["corrected"]]
    return round(float(np.mean(hits)), 4) if hits else None


def questions(bundle: Bundle) -> list[tuple[str, tuple[str, ...]]]:
    """Name and members of what the server counts: choices, and every other characteristic that can be switched on."""
    m = bundle.manifest
    groups = {c.name: c.group for c in m.characteristics if c.group != NEVER}
    choices = {name: tuple(rule.of) for rule in m.rules if rule.kind == "exactly_one" for name in rule.of}
    members = dict.fromkeys(choices.get(name, (name,)) for name in groups)
    return [(groups[names[0]] if len(names) > 1 else names[0], names) for names in members]


def figures(tables: Mapping[str, SetReadings], asked: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[Figures, Figures]:
    """Of each class, the worst first; and of other sets by question."""
    rng = np.random.default_rng(17)
    classes: dict[str, Score] = {}
    others: Figures = {}
    for name, members in asked:
        if (found := faces(list(tables.values()), members)) is None:
            continue
        classes |= dict(zip(map("+".join, found.names), scores(found, rng), strict=True))
        if row := other_sets(found, list(tables), rng):
            others[name] = row
    rows = {name: score.plain() for name, score in classes.items()}
    ordered = dict(sorted(rows.items(), key=lambda item: item[1]["corrected"]))
    ways = ("corrected", "states", "likeliest")
    overall = {way: round(float(np.mean([hit for s in classes.values() for hit in s.hits[way]])), 4) for way in ways}
    return {"overall": overall, "classes": ordered}, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="write the server's record as well")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    harness = Harness(bundle, Device.resolve("cpu"))
    sets = datasets.find(args.data, "val")
    tables = {name: read_set(harness, samples, name) for name, samples in sets.items()}
    asked = questions(bundle)
    found, others = figures(tables, asked)
    result = {
        "faceinsight": __version__,
        "machine": machine(),
        "bundle": args.bundle,
        "bundle sha256": bundle.sha256,
        "split": "val",
        "faces": {name: int(table.found.sum()) for name, table in tables.items()},
        "crowds of each": CROWDS,
        "not corrected": [name for name, names in asked if faces(list(tables.values()), names) is None],
        **found,
        "crowds of one set, corrected by": others,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if args.write:
        recorded = [measured(f) for _, names in asked if (f := faces(list(tables.values()), names))]
        RECORD.write_text(json.dumps({bundle.sha256: recorded}) + "\n")


if __name__ == "__main__":
    main()
