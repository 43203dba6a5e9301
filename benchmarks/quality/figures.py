"""What the sets label, against what is read: attributes, choices, fairness, rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import datasets
import metrics
from datasets import Sample
from faceinsight.bundle.specs import RuleSpec
from faceinsight.perception.rules import RuleSet
from faceinsight.types import NO, STATES, YES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS
from readings import Picture, Reader, Reading, SetReadings

Figures = dict[str, Any]


def attributes(readings: SetReadings) -> Figures:
    """Yes/no characteristics that the set labels: accuracy, balanced accuracy, F1, AUC, mAP, ECE, abstention."""
    per: Figures = {}
    curves: list[dict[str, float]] = []
    for k, name in enumerate(readings.names):
        y = readings.labels[:, k]
        if name in EXCLUSIVE_MEMBERS or np.isnan(y).all():
            continue
        known = ~np.isnan(y)
        truth, p = y[known] > 0.5, readings.p[known, k]
        right = ((p > 0.5) == truth) & readings.found[known]
        claimed = np.isin(readings.states[known, k], (YES, NO)) & readings.found[known]
        wrong = claimed & ((readings.states[known, k] == YES) != truth)
        curves.append(metrics.abstention(np.maximum(p, 1 - p), right))
        per[name] = {
            "n": int(known.sum()),
            "prevalence": truth.mean(),
            "accuracy": right.mean(),
            "balanced": metrics.balanced(p > 0.5, truth),
            "F1": metrics.f1(p > 0.5, truth),
            "AUC": metrics.auc(p, truth),
            "AP": metrics.average_precision(p, truth),
            "ECE": metrics.ece(p, truth.astype(float)),
            "claimed": claimed.mean(),
            "wrong of claimed": wrong.sum() / max(1, claimed.sum()),
        }
    return {
        **{
            f"mean {key}": metrics.mean([v[key] for v in per.values()])
            for key in ("accuracy", "balanced", "F1", "AUC", "AP", "ECE", "claimed")
        },
        "wrong of claimed": metrics.mean([v["wrong of claimed"] for v in per.values()]),
        "mean accuracy when only the surest answer": {
            share: float(np.mean([c[share] for c in curves])) for share in curves[0]
        },
        "per characteristic": per,
    }


def choice(readings: SetReadings, task: str) -> Figures | None:
    """Age, race or expression: accuracy, macro-F1, ECE of the likeliest, per class; age also in years.

    Where a set says only "one of these" (UTKFace's Asian), these together are one class."""
    columns = readings.columns(EXCLUSIVE_GROUPS[task])
    y = readings.labels[:, columns]
    known = ~np.isnan(y[:, 0])
    if not known.any():
        return None
    p, found = readings.p[known][:, columns], readings.found[known]
    classes, truth, class_of = metrics.classes(y[known])
    predicted = class_of[p.argmax(1)]
    right, top = (predicted == truth) & found, p.max(1)
    claimed = (readings.states[known][:, columns] == YES).any(1) & found
    words = [
        " or ".join(n for n, inside in zip(EXCLUSIVE_GROUPS[task], members, strict=True) if inside)
        for members in classes
    ]
    out: Figures = {
        "n": len(truth),
        "accuracy": right.mean(),
        "macro F1": metrics.macro_f1(np.where(found, predicted, -1), truth, len(classes)),
        "ECE": metrics.ece(top[found], right[found].astype(float)),
        "claimed": claimed.mean(),
        "wrong of claimed": (claimed & ~right).sum() / max(1, claimed.sum()),
        "accuracy when only the surest answer": metrics.abstention(top, right),
        "per class": {
            n: {"n": int((truth == k).sum()), "recall": float(right[truth == k].mean()) if (truth == k).any() else None}
            for k, n in enumerate(words)
        },
    }
    if task == "age":
        out["accuracy within one bin"] = (np.abs(predicted - truth) <= 1)[found].sum() / len(truth)
        goal, exact = target_years(readings)
        out["mean absolute error in years"] = metrics.mean(np.abs(readings.guess - goal)[known & readings.found])
        out["years are"] = "exact" if exact[known].all() else "middles of bins"
    return out


def target_years(readings: SetReadings) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(M,) age in years, the bin's middle where the set gives bins only, NaN where it says nothing; which are exact."""
    middles = np.array([(low + high) / 2 for low, high in datasets.YEARS])
    y = readings.labels[:, readings.columns(EXCLUSIVE_GROUPS["age"])]
    bins = np.where(np.isnan(y[:, 0]), np.nan, middles[np.nan_to_num(y).argmax(1)])
    exact = ~np.isnan(readings.years)
    return np.where(exact, readings.years, bins), exact


def fairness(readings: SetReadings) -> Figures:
    """Accuracy by gender, age and race of those pictured, each with a 95 % interval; groups of at least 20."""
    groups: dict[str, NDArray[np.bool_]] = {}
    male, young = readings.label("Male"), readings.label("Young")
    groups |= {"gender: male": male > 0.5, "gender: female": male <= 0.5}
    for task in ("age", "race"):
        y = readings.labels[:, readings.columns(EXCLUSIVE_GROUPS[task])]
        # Whoever is "one of these" belongs to no group for certain.
        certain = (y > 0.5) & ((y > 0.5).sum(1, keepdims=True) == 1)
        groups |= {f"{task}: {name}": certain[:, k] for k, name in enumerate(EXCLUSIVE_GROUPS[task])}
    groups |= {"young": young > 0.5, "not young": young <= 0.5}
    tasks: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    binary = [k for k, n in enumerate(readings.names) if n not in EXCLUSIVE_MEMBERS]
    y = readings.labels[:, binary]
    attributes_known = ~np.isnan(y)
    if attributes_known.any():
        right = ((readings.p[:, binary] > 0.5) == (y > 0.5)) & readings.found[:, None]
        tasks["attributes" if attributes_known.sum(1).max() > 1 else "gender"] = right, attributes_known
    for task, names in EXCLUSIVE_GROUPS.items():
        member_labels = readings.labels[:, readings.columns(names)]
        known = ~np.isnan(member_labels[:, 0])
        if known.any():
            same = metrics.among(readings.likeliest(names), member_labels) & readings.found
            tasks[task] = same[:, None], known[:, None]
    out: Figures = {}
    for task, (right, known) in tasks.items():
        rows: Figures = {}
        for group, members in groups.items():
            known_members = known[members]
            if members.sum() < 20 or not known_members.any():
                continue
            n = int(known_members.sum())
            share = int(right[members][known_members].sum())
            rows[group] = {"people": int(members.sum()), "accuracy": share / n, "interval": metrics.wilson(share, n)}
        if rows:
            values = [v["accuracy"] for v in rows.values()]
            out[task] = {"widest gap": max(values) - min(values), "groups": rows}
    return out


def consistency(readings: SetReadings, rules: Sequence[RuleSpec]) -> Figures:
    """Hard rules broken by the outputs taken one by one, and by the reports."""
    ruled = RuleSet(readings.names, rules)
    rows = np.flatnonzero(readings.found)
    raw = [ruled.violations(_named(readings.names, readings.raw[i])) for i in rows]
    # A choice in doubt is still one choice.
    doubt = np.isin(np.arange(len(readings.names)), readings.columns(EXCLUSIVE_MEMBERS))
    claimed_or_doubted = (readings.states == YES) | ((readings.states == STATES.index("unsure")) & doubt)
    repaired = [ruled.violations(_named(readings.names, claimed_or_doubted[i])) for i in rows]
    return {
        "faces": len(rows),
        "faces whose raw outputs break a rule": sum(bool(v) for v in raw),
        "raw violations": sum(map(len, raw)),
        "violations in reports": sum(map(len, repaired)),
        "states": {s: int((readings.states[rows] == i).sum()) for i, s in enumerate(STATES)},
    }


def _named(names: Sequence[str], row: NDArray[np.bool_]) -> set[str]:
    return {names[int(k)] for k in np.flatnonzero(row)}


class WholeOrCrop(Reader, Protocol):
    """A reader that can also be given the canonical crop."""

    def cropped(self, image: Picture) -> Reading:
        """The picture taken as the canonical crop itself."""


def whole_photo(h: WholeOrCrop, samples: Sequence[Sample]) -> Figures:
    """Labelled attributes right through the detector, and with the picture taken as the crop."""
    right: dict[str, list[NDArray[Any]]] = {"through the detector": [], "as the crop": []}
    for sample in tqdm(samples, desc="whole photo", mininterval=5):
        image, known = sample.read(), ~np.isnan(sample.labels)
        y = sample.labels[known] > 0.5
        full = h.photo(image)
        # A face that is not found answers nothing: every attribute counts as wrong.
        right["through the detector"].append(np.zeros(len(y), bool) if full is None else full.raw[known] == y)
        right["as the crop"].append(h.cropped(image).raw[known] == y)
    return {"images": len(samples)} | {k: float(np.mean(v)) for k, v in right.items()}


def summary(result: Figures) -> str:
    """The main figures of the sets as Markdown."""
    lines = ["| | n | figure |", "| --- | --- | --- |"]

    def line(what: str, count: int, *values: float | None) -> None:
        lines.append(f"| {what} | {count} | {' / '.join('-' if x is None else f'{x:.3f}' for x in values)} |")

    for name, set_figures in result.get("sets", {}).items():
        if a := set_figures.get("attributes"):
            per = a["per characteristic"]
            what = "attributes" if len(per) > 1 else "gender"
            count = next(iter(per.values()))["n"]
            line(f"{name}: {what}, accuracy / AUC / ECE", count, a["mean accuracy"], a["mean AUC"], a["mean ECE"])
        for task in EXCLUSIVE_GROUPS:
            if c := set_figures.get(task):
                line(f"{name}: {task}, accuracy / macro F1 / ECE", c["n"], c["accuracy"], c["macro F1"], c["ECE"])
                if task == "age":
                    what = f"{name}: age, mean absolute error in years ({c['years are']})"
                    line(what, c["n"], c["mean absolute error in years"])
    if p := result.get("parsing (CelebAMask-HQ)"):
        values = p["mean F1, 18 foreground classes"], p["mean F1, 10 frequent classes"]
        line("parsing, mean F1, 18 / 10 frequent classes", p["pairs"], *values)
    if q := result.get("closed questions"):
        line("closed questions, agreement with the head", q["questions"], q["agreement with the head"])
    return "\n".join(lines)
