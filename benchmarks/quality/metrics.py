"""Figures of classification, calibration and fairness, in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def auc(score: Array, label: Array) -> float:
    """Area under the ROC curve by ranks; ties share theirs. NaN where only one class occurs."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = int(label.sum())
    if not 0 < positive < len(label):
        return float("nan")
    return float((rank[label > 0].sum() - positive * (positive + 1) / 2) / (positive * (len(label) - positive)))


def average_precision(score: Array, label: Array) -> float:
    """Area under the precision-recall curve, by steps."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(label[order] > 0)
    if not len(label) or not hits[-1]:
        return float("nan")
    precision = hits / np.arange(1, len(label) + 1)
    return float(precision[label[order] > 0].mean())


def f1(predicted: Array, label: Array) -> float:
    """F1 of the positive class."""
    both = float((predicted & label).sum())
    return 2 * both / max(1.0, float(predicted.sum() + label.sum()))


def balanced(predicted: Array, label: Array) -> float:
    """Mean of the two recalls."""
    return float(np.mean([(predicted == label)[label == v].mean() for v in (False, True) if (label == v).any()]))


def ece(p: Array, y: Array, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins: of the positive class, or of a choice's likeliest member."""
    which = np.minimum((p * bins).astype(int), bins - 1)
    inside = [which == b for b in range(bins)]
    return float(sum(i.mean() * abs(p[i].mean() - y[i].mean()) for i in inside if i.any()))


def abstention(confidence: Array, right: Array) -> dict[str, float]:
    """Accuracy when only the most confident share answers."""
    order = np.argsort(-confidence, kind="stable")
    shares = (1.0, 0.9, 0.8, 0.7, 0.5)
    return {f"{s:.0%}": round(float(right[order[: max(1, int(s * len(order)))]].mean()), 4) for s in shares}


def macro_f1(predicted: Array, label: Array, classes: int) -> float:
    """Mean F1 over the classes that occur."""
    return float(np.mean([f1(predicted == k, label == k) for k in range(classes) if (label == k).any()]))


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    p, n = right / count, count
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return round(float(center - half), 4), round(float(center + half), 4)


def mean(values: Any) -> float:
    """Mean of the numbers that there are; NaN where there is none."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")


def share(hits: Any) -> float:
    """Share of true ones; NaN of none at all."""
    return mean(np.asarray(hits, float))


def allowed(labels: Array) -> Array:
    """(M,C) labels of a choice -> (M,C): the members that the label names. Several ones: it is one of these; shares of
    votes: the one with most of them."""
    ones = labels == 1
    most = np.eye(labels.shape[1], dtype=bool)[np.nan_to_num(labels).argmax(1)]
    return np.asarray(np.where(ones.sum(1, keepdims=True) > 1, ones, most))


def among(chosen: Array, labels: Array) -> Array:
    """(M,) is the chosen member one that the label names?"""
    return np.asarray(allowed(labels)[np.arange(len(chosen)), chosen])


def classes(labels: Array) -> tuple[Array, Array, Array]:
    """Classes that a set's labels (M,C) of a choice tell apart; members that are only ever named together are one.

    Returns members (K,C) of each class, class (M,) of each label, class (C,) of each member."""
    names = allowed(labels)
    together = [
        [k for k in range(labels.shape[1]) if k == j or (names[:, j].any() and (names[:, k] == names[:, j]).all())]
        for j in range(labels.shape[1])
    ]
    firsts, class_of = np.unique([t[0] for t in together], return_inverse=True)
    return class_of == np.arange(len(firsts))[:, None], class_of[names.argmax(1)], class_of
