"""Probabilities that mean what they say, and when to say nothing.

Attributes: Platt scaling each (Platt 1999). Choices (one of several holds): vector scaling with one slope and a shift
per member (Guo et al. 2017). Both are pulled towards the identity where examples are few.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from faceinsight.labels import calibrated

from .vocabulary import CHOICES, CHOSEN, NAMES

Array = NDArray[np.floating]


def fit(logits: Array, labels: Array, *, ridge: float = 4.0) -> NDArray[np.float64]:
    """(images,N) logits and labels, NaN where unknown -> (N,2) slope and shift.

    The penalty ridge/2 ((a - 1)^2 + b^2) is worth a handful of images.
    """
    out = np.tile([1.0, 0.0], (logits.shape[1], 1))
    for k, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, k])
        if name not in CHOSEN and known.any():
            out[k] = _platt(logits[known, k].astype(np.float64), labels[known, k], ridge)
    for names in CHOICES.values():
        columns = [NAMES.index(n) for n in names]
        known = ~np.isnan(labels[:, columns[0]])
        if known.any():
            out[columns] = _vector(logits[known][:, columns], labels[known][:, columns], ridge)
    return out


def _platt(z: NDArray[np.float64], y: Array, ridge: float, *, steps: int = 30) -> NDArray[np.float64]:
    """Newton's method on the penalised log-likelihood."""
    x, w = np.stack([z, np.ones(len(z))], 1), np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (p - y) + ridge * (w - [1, 0])
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(2)
        w = w - np.linalg.solve(hessian, gradient)
    return np.asarray(w)


def _vector(z: Array, y: Array, ridge: float) -> NDArray[np.float64]:
    """One slope, a shift per member, by L-BFGS on the cross-entropy of the softmax."""
    logits, target = (torch.from_numpy(np.asarray(a, np.float64)) for a in (z, y))
    slope = torch.ones(1, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([slope, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(slope * logits + shift, target, reduction="sum")
        loss = loss + ridge / 2 * ((slope - 1).square().sum() + shift.square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)
    return np.stack([slope.detach().expand(z.shape[1]).numpy(), shift.detach().numpy()], 1)


def probabilities(logits: Array, scaling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated probabilities (images,N), as the runtime's labeler has them."""
    choices = [np.array([NAMES.index(n) for n in names]) for names in CHOICES.values()]
    return calibrated(logits, scaling[:, 0], scaling[:, 1], choices)[1]


def threshold(confidence: Array, right: NDArray[np.bool_], risk: float, *, lowest: float, highest: float) -> float:
    """The smallest confidence from which on at most `risk` of the answers are wrong; `highest` where there is none."""
    for t in np.arange(lowest, highest, 0.01):
        kept = confidence >= t
        if kept.sum() >= 20 and (~right[kept]).mean() <= risk:
            return round(float(t), 2)
    return highest


def bands(p: Array, labels: Array, *, risk: float, choice_risk: float) -> NDArray[np.float64]:
    """(N,2) bounds between which nothing is claimed, so that at most `risk` of what is claimed is wrong.

    Of a choice's members the upper bound is what the likeliest one needs; wrong at most `choice_risk`.
    """
    out = np.full((p.shape[1], 2), 0.5)
    for k, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, k])
        if name not in CHOSEN and known.any():
            q, y = p[known, k], labels[known, k] > 0.5
            t = threshold(np.maximum(q, 1 - q), (q > 0.5) == y, risk, lowest=0.5, highest=0.95)
            out[k] = 1 - t, t
    for names in CHOICES.values():
        columns = [NAMES.index(n) for n in names]
        known = ~np.isnan(labels[:, columns[0]])
        if known.any():
            q, y = p[known][:, columns], labels[known][:, columns]
            right = q.argmax(1) == y.argmax(1)
            t = threshold(q.max(1), right, choice_risk, lowest=round(1 / len(names), 2), highest=0.9)
            out[columns] = 0.0, t
    return out
