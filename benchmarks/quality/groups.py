"""Children and people over 60 as rows of their own; age in years by decade."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import metrics
from faceinsight.types import NO, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS
from figures import Figures, target_years
from readings import SetReadings

Bits = NDArray[np.bool_]

#: Group -> first and last age bin.
GROUPS = {"0-9": (0, 1), "10-19": (2, 2), "20-59": (3, 6), "60 and over": (7, 8)}
CHILDREN = ("0-9", "10-19")
#: What a child hardly ever has: how often is it claimed?
UNLIKELY = {
    "lipstick": "Wearing_Lipstick", "earrings": "Wearing_Earrings", "bald": "Bald", "necktie": "Wearing_Necktie",
}  # fmt: skip


def age_groups(tables: Mapping[str, SetReadings]) -> Figures:
    """Gender and age per group of age, on the sets that label it; of children also what is claimed and unlikely."""
    out: Figures = {}
    for name, readings in tables.items():
        known = ~np.isnan(readings.labels[:, readings.columns(EXCLUSIVE_GROUPS["age"])[0]])
        if not known.any():
            continue
        bins = np.nan_to_num(readings.labels[:, readings.columns(EXCLUSIVE_GROUPS["age"])]).argmax(1)
        rows: Figures = {}
        for group, (first, last) in GROUPS.items():
            inside = known & (bins >= first) & (bins <= last)
            if inside.any():
                rows[group] = {"n": int(inside.sum())} | _gender(readings, inside) | _age(readings, inside, bins)
                rows[group] |= _claimed(readings, inside) if group in CHILDREN else {}
        out[name] = rows
    return out


def _gender(readings: SetReadings, inside: Bits) -> Figures:
    label = readings.label("Male")
    inside = inside & ~np.isnan(label)
    if not inside.any():
        return {}
    right = (readings.p[:, readings.names.index("Male")] > 0.5) == (label > 0.5)
    state = readings.state("Male")
    claimed = np.isin(state, (YES, NO)) & readings.found
    wrong = claimed & ((state == YES) != (label > 0.5))
    return {
        "gender accuracy": metrics.share((right & readings.found)[inside]),
        "gender claimed": metrics.share(claimed[inside]),
        "gender claimed and wrong": metrics.share(wrong[inside]),
        "interval": metrics.wilson(int(wrong[inside].sum()), int(inside.sum())),
    }


def _age(readings: SetReadings, inside: Bits, bins: NDArray[np.int64]) -> Figures:
    goal, exact = target_years(readings)
    right = (readings.likeliest(EXCLUSIVE_GROUPS["age"]) == bins) & readings.found
    claimed = (readings.states[:, readings.columns(EXCLUSIVE_GROUPS["age"])] == YES).any(1) & readings.found
    out: Figures = {
        "age bin accuracy": metrics.share(right[inside]),
        "age claimed": metrics.share(claimed[inside]),
        "age claimed and wrong": metrics.share((claimed & ~right)[inside]),
    }
    if exact[inside].all():
        out["mean absolute error in years"] = metrics.mean(np.abs(readings.guess - goal)[inside & readings.found])
    return out


def _claimed(readings: SetReadings, inside: Bits) -> Figures:
    beard = (readings.state("No_Beard") == NO) | (readings.state("Goatee") == YES) | (readings.state("Mustache") == YES)
    hits = {what: readings.state(name) == YES for what, name in UNLIKELY.items()} | {"beard": beard}
    return {
        "claimed": {what: metrics.share((hit & readings.found)[inside & readings.found]) for what, hit in hits.items()}
    }


def years(tables: Mapping[str, SetReadings]) -> Figures:
    """Expected age against the age in years, by decade, under 10 and from 60 on (exact ages only); gender per bin."""
    out: Figures = {}
    for name, readings in tables.items():
        goal, exact = target_years(readings)
        here = readings.found & exact & ~np.isnan(readings.guess)
        if not here.any():
            continue
        rows = {"all": here, "under 10": here & (goal < 10), "60 and over": here & (goal >= 60)}
        rows |= {f"{d}-{d + 9}": here & (goal >= d) & (goal < d + 10) for d in range(0, 90, 10)}
        rows["90 and over"] = here & (goal >= 90)
        off = readings.guess - goal
        out[name] = {
            row: {"n": int(m.sum()), "mean absolute error": metrics.mean(np.abs(off)[m]), "bias": metrics.mean(off[m])}
            for row, m in rows.items()
            if m.any()
        }
    return out | {"gender accuracy per age group": _gender_by_bin(tables)}


def _gender_by_bin(tables: Mapping[str, SetReadings]) -> Figures:
    out: Figures = {}
    for name, readings in tables.items():
        ages = readings.labels[:, readings.columns(EXCLUSIVE_GROUPS["age"])]
        known = ~np.isnan(ages[:, 0]) & ~np.isnan(readings.label("Male"))
        if not known.any():
            continue
        right = ((readings.p[:, readings.names.index("Male")] > 0.5) == (readings.label("Male") > 0.5)) & readings.found
        bins = np.nan_to_num(ages).argmax(1)
        rows = {n: right[known & (bins == k)] for k, n in enumerate(EXCLUSIVE_GROUPS["age"])}
        out[name] = {
            n: {"n": len(r), "accuracy": metrics.share(r), "interval": metrics.wilson(int(r.sum()), len(r))}
            for n, r in rows.items()
            if len(r)
        }
    return out
