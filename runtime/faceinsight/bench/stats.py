"""What N measurements say, and what they are too few to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: A quantile is given only where at least one measurement in N is expected beyond it: p90 from 10 on, p99 from 100.
QUANTILES = {90: 10, 95: 20, 99: 100}
#: Of the median's interval.
COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """N measurements; None where N is too small for it.

    p90, p95, p99: from N = 10, 20, 100 on.
    low, high: where the true median lies, with a confidence of at least 95 %; from N = 6 on.
    """

    n: int
    mean: float
    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    low: float | None = None
    high: float | None = None


def summarise(values: Sequence[float], *, digits: int = 4) -> Summary:
    """Of at least one measurement."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    p90, p95, p99 = (
        round(float(np.percentile(ordered, q)), digits) if n >= least else None for q, least in QUANTILES.items()
    )
    low, high = (None if r is None else round(float(ordered[r]), digits) for r in median_ranks(n) or (None, None))
    return Summary(
        n, round(float(ordered.mean()), digits), round(float(np.median(ordered)), digits), p90, p95, p99, low, high
    )


def median_ranks(n: int) -> tuple[int, int] | None:
    """Positions, from 0, of the two of n sorted measurements that enclose the median; None if n is too small.

    Distribution-free: each measurement falls below the median with probability 1/2, so the interval from the k-th
    smallest to the k-th largest misses it with probability 2 P(Binomial(n, 1/2) < k). k is the largest for which that
    is at most 5 % (David and Nagaraja, Order Statistics, 7.1).
    """
    if n > 1000:  # the normal approximation is then exact to a rank or so
        k = math.floor((n - 1.96 * math.sqrt(n)) / 2)
        return k - 1, n - k
    k, below = 0, 0
    # Exact in whole numbers: sums of binomial coefficients against (1 - coverage) / 2 of 2^n.
    while (below := below + math.comb(n, k)) <= (1 - COVERAGE) / 2 * 2**n:
        k += 1
    return (k - 1, n - k) if k else None
