"""Logical Constraint Module: rules as differentiable losses on probabilities.

With p the sigmoid outputs, each loss is the negative log-probability that the rule holds were the outputs independent:
exclusion -log(1 - p_i p_j), at least one -log(1 - prod(1 - p_k)), at most one the sum of its pairwise exclusions.
The semantic loss of "exactly one" is Xu et al. 2018 (arXiv 1711.11157).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from faceinsight.bundle.specs import KINDS, RuleSpec

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

    def __init__(self, names: Sequence[str], rules: Sequence[RuleSpec], *, soft: float = 0.2) -> None:
        super().__init__()
        index = {n: i for i, n in enumerate(names)}
        # An implication i => j is the exclusion of i and not j: one table of pairs holds both.
        pairs: list[tuple[int, int, float, float]] = []
        self.groups: list[tuple[Callable[[Tensor], Tensor], list[int], float]] = []
        for rule in rules:
            weight, of = 1.0 if rule.hard else soft, [index[n] for n in rule.of]
            if rule.kind == "at_most_one":
                pairs += [(a, b, 0.0, weight) for a, b in combinations(of, 2)]
            elif rule.kind in ("excludes", "implies"):
                pairs += [(of[0], b, float(rule.kind == "implies"), weight) for b in of[1:]]
            elif rule.kind in ("at_least_one", "exactly_one"):
                self.groups.append((at_least_one if rule.kind == "at_least_one" else exactly_one, of, weight))
            else:
                raise ValueError(f"rule kind {rule.kind!r}: expected {', '.join(KINDS)}")
        left, right, negated, weights = zip(*pairs, strict=True) if pairs else ((), (), (), ())
        self.register_buffer("left", torch.tensor(left, dtype=torch.int64), persistent=False)
        self.register_buffer("right", torch.tensor(right, dtype=torch.int64), persistent=False)
        self.register_buffer("negated", torch.tensor(negated), persistent=False)
        self.register_buffer("weight", torch.tensor(weights), persistent=False)

    def forward(self, p: Tensor, known: Tensor) -> Tensor:
        """Probabilities (B,N), and which of them are labelled (B,N) -> scalar.

        What is not labelled gets no gradient. A rule that acts there alone has its optimum where one member of a
        choice is certain, whatever the picture: without evidence it teaches the most common answer at probability 1.
        """
        p = torch.where(known, p, p.detach())
        q = (self.negated - p[:, self.right]).abs()
        total = (exclusion(p[:, self.left], q) * self.weight).sum(1)
        for loss, members, weight in self.groups:
            total = total + weight * loss(p[:, members])
        return total.mean()
