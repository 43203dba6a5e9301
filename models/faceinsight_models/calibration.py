"""Platt scaling per characteristic (Platt 1999), pulled towards the identity where positives are few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fit(
    logits: NDArray[np.float64], labels: NDArray[np.uint8], *, ridge: float = 4.0, steps: int = 30
) -> NDArray[np.float64]:
    """(images,N) logits and 0/1 labels -> (N,2) slope and shift, by Newton's method on the penalised log-likelihood.

    The penalty ridge/2 ((a - 1)^2 + b^2) is worth a handful of images.
    """
    out = np.tile([1.0, 0.0], (logits.shape[1], 1))
    for k in range(logits.shape[1]):
        x = np.stack([logits[:, k], np.ones(len(logits))], 1).astype(np.float64)
        w = out[k]
        for _ in range(steps):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            gradient = x.T @ (p - labels[:, k]) + ridge * (w - [1, 0])
            hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(2)
            w = w - np.linalg.solve(hessian, gradient)
        out[k] = w
    return out
