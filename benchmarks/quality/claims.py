"""Errors of yes-claims and of no-claims apart: a bound on both together is met by saying "no" to all that is rare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import metrics
from faceinsight.types import NO, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS
from figures import Figures
from readings import SetReadings

#: Promised: at most this share of claims is wrong, of an attribute and of a choice.
RISK, CHOICE_RISK = 0.10, 0.25
#: Never answered, so never claimed.
SKIPPED = ("Attractive",)
#: Claims from which on a characteristic's errors are counted, and its promise judged.
SHARES, JUDGED = 30, 50

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Per characteristic, a choice being one: faces whose label is known, yes-claims and no-claims, wrong ones."""

    names: tuple[str, ...]
    labelled: Counts
    yes: Counts
    yes_wrong: Counts
    no: Counts
    no_wrong: Counts

    def __add__(self, other: Tally) -> Tally:
        """The claims of both, over the same characteristics."""
        return Tally(
            self.names,
            self.labelled + other.labelled,
            self.yes + other.yes,
            self.yes_wrong + other.yes_wrong,
            self.no + other.no,
            self.no_wrong + other.no_wrong,
        )

    def of(self, kind: str) -> tuple[Counts, Counts]:
        """Claims and wrong ones, of kind "yes" or "no"."""
        return (self.yes, self.yes_wrong) if kind == "yes" else (self.no, self.no_wrong)

    @property
    def promise(self) -> NDArray[np.float64]:
        return np.where([n in EXCLUSIVE_GROUPS for n in self.names], CHOICE_RISK, RISK)


def tally(readings: SetReadings, choices: Sequence[str] = tuple(EXCLUSIVE_GROUPS)) -> Tally:
    """Count claims against labels. Of a choice only the member that is claimed is a claim."""
    rows: dict[str, tuple[int, ...]] = {}
    for name in (n for n in readings.names if n not in EXCLUSIVE_MEMBERS and n not in SKIPPED):
        label, state = readings.label(name), readings.state(name)
        known = ~np.isnan(label)
        yes, no = (known & readings.found & (state == s) for s in (YES, NO))
        hits = known, yes, yes & (label <= 0.5), no, no & (label > 0.5)
        rows[name] = tuple(int(h.sum()) for h in hits)
    for task in choices:
        columns = readings.columns(EXCLUSIVE_GROUPS[task])
        labels, states = readings.labels[:, columns], readings.states[:, columns]
        known = ~np.isnan(labels[:, 0])
        yes = known & readings.found & (states == YES).any(1)
        wrong = yes & ~metrics.among((states == YES).argmax(1), labels)
        rows[task] = int(known.sum()), int(yes.sum()), int(wrong.sum()), 0, 0
    return Tally(tuple(rows), *np.array(list(rows.values()), np.int64).T)


def shares(t: Tally) -> Figures:
    """All characteristics together: claimed among what is labelled, and wrong of claimed."""
    labelled, out = int(t.labelled.sum()), {}
    for kind in ("yes", "no"):
        made, wrong = (int(x.sum()) for x in t.of(kind))
        out[f"claimed {kind}"] = made / labelled if labelled else None
        out[f"{kind}-claims wrong"] = wrong / made if made else None
    return {"labels": labelled} | out


def errors(t: Tally) -> Figures:
    """Per characteristic with at least SHOWN claims, worst first; mean and worst over attributes, choices apart."""
    out: Figures = {}
    for kind in ("yes", "no"):
        made, wrong = t.of(kind)
        order = sorted(np.flatnonzero(made >= SHARES), key=lambda k: -wrong[k] / made[k])
        per: dict[str, Any] = {t.names[k]: {"claims": int(made[k]), "wrong": wrong[k] / made[k]} for k in order}
        plain = [v["wrong"] for n, v in per.items() if n not in EXCLUSIVE_GROUPS]
        summary = {"mean": metrics.mean(plain), "worst": max(plain, default=None), "characteristics": len(plain)}
        out[f"{kind}-claims"] = summary | {"per characteristic": per}
    return out


def kept(t: Tally) -> Figures:
    """Share of characteristics whose claims are wrong no more often than promised, those with JUDGED claims at least.

    surely broken: the 95 % interval of the error lies above the promise, too."""
    out: Figures = {}
    for kind in ("yes", "no"):
        made, wrong = t.of(kind)
        rows = np.flatnonzero(made >= JUDGED)
        held = [k for k in rows if wrong[k] <= t.promise[k] * made[k]]
        sure = [k for k in rows if metrics.wilson(int(wrong[k]), int(made[k]))[0] > t.promise[k]]
        out[f"{kind}-claims"] = {
            "characteristics": len(rows),
            "kept": len(held),
            "share": len(held) / len(rows) if len(rows) else None,
            "interval": metrics.wilson(len(held), len(rows)),
            "broken": [t.names[k] for k in rows if k not in held],
            "surely broken": [t.names[k] for k in sure],
        }
    return out


def claims(readings: SetReadings) -> Figures:
    """A set's claims: together, per characteristic, and against the promise."""
    counted = tally(readings)
    return {"together": shares(counted)} | errors(counted) | {"promised risk kept": kept(counted)}
