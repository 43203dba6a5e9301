"""Correlation Constraint Module: a co-occurrence graph of the characteristics and a GCN over their text features.

After FaceInsight (arXiv 2504.15624) and, for the re-weighting, ML-GCN (Chen et al. 2019, arXiv 1904.03582).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def complete(labels: NDArray[np.float32], guesses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Labels (images,N) with NaN where a set does not say -> the guessed probabilities there.

    Sets with different labels share no pair to count: without this, no edge would join an expression to a smile.
    """
    return np.where(np.isnan(labels), guesses, labels)


def cooccurrence(labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """p[i, j] = P(y_j = 1 | y_i = 1) from labels 0..1 (images,N): asymmetric, rows are conditions."""
    y = labels.astype(np.float64)
    counts = y.T @ y
    return np.asarray(counts / np.maximum(np.diag(counts), 1)[:, None])


def correlation_graph(
    labels: NDArray[np.floating], *, tau: float = 0.4, lift: float = 1.2, keep: float = 0.8
) -> NDArray[np.float32]:
    """C_hat (N,N), rows summing to 1: what characteristic i hears from its neighbours j.

    An edge i <- j stands where P(y_j | y_i) >= tau and P(y_j | y_i) >= lift * P(y_j): frequent attributes
    co-occur with everything, only the lift tells dependence from base rate. The diagonal is cleared first; then
    each row gives `1 - keep` to its neighbours in equal parts and `keep` to itself (a row without neighbours: 1).
    """
    p = cooccurrence(labels)
    prior = labels.mean(0)
    edges = (p >= tau) & (p >= lift * prior[None, :])
    np.fill_diagonal(edges, False)
    degree = edges.sum(1, keepdims=True)
    graph = np.where(edges, (1 - keep) / np.maximum(degree, 1), 0.0)
    np.fill_diagonal(graph, np.where(degree[:, 0] > 0, keep, 1.0))
    return graph.astype(np.float32)


class CorrelationModule(nn.Module):
    """T^l = LeakyReLU(C_hat T^(l-1) W^(l-1)), two layers, with a residual from T^0. Output (N, out)."""

    def __init__(self, features: Tensor, graph: Tensor, *, hidden: int, out: int) -> None:
        """features: T^0 (N,dt) text features of the characteristics; graph: C_hat (N,N)."""
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("graph", graph)
        self.first = nn.Linear(features.shape[1], hidden)
        self.second = nn.Linear(hidden, out)
        self.residual = nn.Linear(features.shape[1], out, bias=False)

    def forward(self) -> Tensor:
        """T^L (N,out)."""
        x = F.leaky_relu(self.first(self.graph @ self.features), 0.2)
        return self.second(self.graph @ x) + self.residual(self.features)
