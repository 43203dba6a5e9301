"""Logical Constraint Module: rules as differentiable losses on probabilities.

With p the sigmoid outputs, each loss is the negative log-probability that the rule holds were the outputs independent:
exclusion -log(1 - p_i p_j), at least one -log(1 - prod(1 - p_k)), at most one the sum of its pairwise exclusions.
The semantic loss of "exactly one" is Xu et al. 2018 (arXiv 1711.11157).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from .vocabulary import Rule

_EPS = 1e-6


def exclusion(p: Tensor, q: Tensor) -> Tensor:
    """Not both."""
    return -torch.log((1 - p * q).clamp(min=_EPS))


def implication(p: Tensor, q: Tensor) -> Tensor:
    """If the first then the second."""
    return -torch.log((1 - p * (1 - q)).clamp(min=_EPS))


def at_least_one(p: Tensor) -> Tensor:
    """(B,K) -> (B,)."""
    return -torch.log((1 - (1 - p).prod(1)).clamp(min=_EPS))


def exactly_one(p: Tensor) -> Tensor:
    """(B,K) -> (B,): semantic loss, -log sum_k p_k prod_{l != k} (1 - p_l)."""
    k = p.shape[1]
    others = torch.where(torch.eye(k, dtype=torch.bool, device=p.device), torch.ones_like(p)[:, None], 1 - p[:, None])
    return -torch.log((p * others.prod(2)).sum(1).clamp(min=_EPS))


class LogicalConstraint(nn.Module):
    """Mean rule loss of a batch; hard rules weigh 1, soft rules `soft`."""

    def __init__(self, names: Sequence[str], rules: Sequence[Rule], *, soft: float = 0.2) -> None:
        super().__init__()
        index = {n: i for i, n in enumerate(names)}
        pairs: list[tuple[int, int, float]] = []
        self.groups: list[tuple[list[int], list[bool], float]] = []
        for rule in rules:
            weight = 1.0 if rule.hard else soft
            if rule.kind == "at_most_one":
                pairs += [(index[a], index[b], weight) for a, b in combinations(rule.of, 2)]
            elif rule.kind == "excludes":
                pairs += [(index[rule.of[0]], index[b], weight) for b in rule.of[1:]]
            elif rule.kind == "at_least_one":
                bare = [n.removeprefix("!") for n in rule.of]
                self.groups.append(([index[n] for n in bare], [n.startswith("!") for n in rule.of], weight))
            else:
                raise ValueError(f"rule kind {rule.kind!r}: expected at_most_one, excludes or at_least_one")
        self.register_buffer("left", torch.tensor([a for a, _, _ in pairs]), persistent=False)
        self.register_buffer("right", torch.tensor([b for _, b, _ in pairs]), persistent=False)
        self.register_buffer("weight", torch.tensor([w for _, _, w in pairs]), persistent=False)

    def forward(self, p: Tensor) -> Tensor:
        """Probabilities (B,N) -> scalar."""
        total = (exclusion(p[:, self.left], p[:, self.right]) * self.weight).sum(1)
        for members, negated, weight in self.groups:
            q = p[:, members]
            total = total + weight * at_least_one(torch.where(torch.tensor(negated), 1 - q, q))
        return total.mean()
