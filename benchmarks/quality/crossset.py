"""Does what a set does not label look there as it does where it is labelled?

A head that tells the sets apart is sure of one class wherever nobody taught it: no figure on its own set shows that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import metrics
from faceinsight.types import NO, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS
from figures import Figures
from readings import SetReadings

#: A likeliest member above this is as good as certain.
SURE = 0.95
#: Young or not, by the bins: below 50; 30 or more; of gray hair: 40 or more.
YOUNG, GROWN, GRAY = slice(0, 6), slice(4, 9), slice(5, 9)
#: A figure of fewer faces than this says nothing about a set.
FEW = 10


def cross_set(tables: Mapping[str, SetReadings]) -> Figures:
    """Choices and gender on every set, labelled or not, and whether they agree with labels that bear on them."""
    out: Figures = {}
    for task in ("gender", *EXCLUSIVE_GROUPS):
        rows = {name: _certainty(readings, task) for name, readings in tables.items() if readings.found.any()}
        labelled = [r["above 0.95"] for r in rows.values() if r["labelled"]]
        others = [r["above 0.95"] for r in rows.values() if not r["labelled"]]
        gaps = np.abs(np.array(others) - metrics.mean(labelled)) if labelled and others else np.full(1, np.nan)
        out[task] = {
            "sets": rows,
            "widest gap to the labelled sets": float(gaps.max()),
            "widest gap, same mix of answers": _standardised(list(rows.values())),
        }
    bearing = {name: found for name, readings in tables.items() if (found := _bearing(readings))}
    return out | {"agreement with labels that bear on it": bearing}


def _standardised(rows: Sequence[Figures]) -> float:
    """The widest gap to what the labelled sets' shares above 0.95, answer by answer, make of an unlabelled set's mix of
    answers: a set of famous people is whiter than one that is balanced by design."""
    count, sure = (np.array([list(r[key].values()) for r in rows], float) for key in ("likeliest", "sure"))
    labelled = np.array([r["labelled"] for r in rows])
    if labelled.all() or not labelled.any():
        return float("nan")
    rate = sure[labelled].sum(0) / np.maximum(count[labelled].sum(0), 1)
    total = count[~labelled].sum(1)
    return float(np.abs((count[~labelled] @ rate - sure[~labelled].sum(1)) / total).max())


def _certainty(readings: SetReadings, task: str) -> Figures:
    """Of the faces found: how sure, how often claimed, which classes."""
    here = readings.found
    if task == "gender":
        male = readings.p[here, readings.names.index("Male")]
        p = np.stack([male, 1 - male], 1)
        members: tuple[str, ...] = ("Male", "not Male")
        claimed = np.isin(readings.state("Male")[here], (YES, NO))
        labelled = bool((~np.isnan(readings.label("Male"))).any())
    else:
        members, columns = EXCLUSIVE_GROUPS[task], readings.columns(EXCLUSIVE_GROUPS[task])
        p, claimed = readings.p[here][:, columns], (readings.states[here][:, columns] == YES).any(1)
        labelled = bool((~np.isnan(readings.labels[:, columns])).any())
    likeliest, sure = p.argmax(1), p.max(1) > SURE
    counts, certain = (np.bincount(x, minlength=len(members)) for x in (likeliest, likeliest[sure]))
    return {
        "labelled": labelled,
        "n": int(here.sum()),
        "above 0.95": metrics.share(sure),
        "claimed": metrics.share(claimed),
        "classes in use": int((counts > 0).sum()),
        "likeliest": dict(zip(members, counts.tolist(), strict=True)),
        "sure": dict(zip(members, certain.tolist(), strict=True)),
        "most frequent": float(counts.max() / counts.sum()),
    }


def _bearing(readings: SetReadings) -> Figures:
    """Shares among the faces to which a label, or a claim where the set has no such label, applies."""
    young, gray = readings.label("Young"), readings.label("Gray_Hair")
    smiling, stated = readings.label("Smiling"), ~np.isnan(readings.label("Smiling"))
    age, expression = readings.likeliest(EXCLUSIVE_GROUPS["age"]), readings.likeliest(EXCLUSIVE_GROUPS["expression"])
    neutral, happy = (EXCLUSIVE_GROUPS["expression"].index(n) for n in ("Neutral", "Happiness"))
    who = "labelled Smiling" if stated.any() else "Smiling claimed"
    smiles = smiling > 0.5 if stated.any() else readings.state("Smiling") == YES
    relevant: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "labelled Young: age under 50": (young > 0.5, _inside(age, YOUNG)),
        "labelled not Young: age 30 or more": (young <= 0.5, _inside(age, GROWN)),
        "labelled Gray_Hair: age 40 or more": (gray > 0.5, _inside(age, GRAY)),
        f"{who}: Neutral likeliest": (smiles, expression == neutral),
        f"{who}: Happiness likeliest": (smiles, expression == happy),
    }
    rows = {what: hits[members & readings.found] for what, (members, hits) in relevant.items()}
    return {what: {"n": len(hits), "share": metrics.share(hits)} for what, hits in rows.items() if len(hits) >= FEW}


def _inside(chosen: NDArray[np.int64], bins: slice) -> NDArray[np.bool_]:
    return np.asarray((chosen >= bins.start) & (chosen < bins.stop))
