"""Logical rules at inference: the most probable labels that obey every hard rule.

Exact MAP by enumeration over the small groups of characteristics that hard rules connect
(a HEX graph's inference, Deng et al. 2014, for groups of this size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .manifest import RuleSpec

#: 2^12 assignments; a larger group would be slow and is a sign of a wrong rule.
MAX_GROUP = 12


def violates(rule: RuleSpec, chosen: set[str]) -> bool:
    """Does a set of true characteristics break the rule?"""
    if rule.kind == "at_most_one":
        return sum(n in chosen for n in rule.of) > 1
    if rule.kind == "excludes":
        return rule.of[0] in chosen and any(n in chosen for n in rule.of[1:])
    return not any(n in chosen for n in rule.of)


@dataclass(frozen=True, slots=True)
class Change:
    """A label that a rule turned round: which characteristic, what it became, and the rule."""

    name: str
    value: bool
    rule: str


class RuleSet:
    """Hard rules over the enabled characteristics. A rule with a member that is switched off does not apply to it."""

    def __init__(self, names: Sequence[str], rules: Sequence[RuleSpec]) -> None:
        self._names = tuple(names)
        self._rules = [r for r in rules if r.hard and self._live(r)]
        self._groups: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        for members in self._connected():
            if len(members) > MAX_GROUP:
                raise BundleError(
                    f"rules connect {len(members)} characteristics ({', '.join(members)}); at most {MAX_GROUP}"
                )
            own = [r for r in self._rules if set(r.of) & set(members)]
            feasible = [
                bits
                for bits in product((0, 1), repeat=len(members))
                if not any(violates(r, {n for n, b in zip(members, bits, strict=True) if b}) for r in own)
            ]
            if not feasible:
                raise BundleError(f"the hard rules over {', '.join(members)} contradict each other")
            index = np.array([self._names.index(n) for n in members])
            self._groups.append((index, np.array(feasible, np.float64)))

    def _live(self, rule: RuleSpec) -> bool:
        present = [n in self._names for n in rule.of]
        return (
            all(present)
            if rule.kind == "at_least_one"
            else sum(present) > 1 and (rule.kind != "excludes" or present[0])
        )

    def _connected(self) -> list[list[str]]:
        groups: list[set[str]] = []
        for rule in self._rules:
            merged = set(rule.of) & set(self._names)
            rest = []
            for group in groups:
                if group & merged:
                    merged |= group
                else:
                    rest.append(group)
            groups = [*rest, merged]
        return [sorted(g, key=self._names.index) for g in groups]

    def apply(self, logits: NDArray[np.float64]) -> tuple[NDArray[np.bool_], tuple[Change, ...]]:
        """Calibrated logits (N,) -> labels (N,) obeying the hard rules, and what the rules changed."""
        raw = logits > 0
        labels = raw.copy()
        for index, feasible in self._groups:
            labels[index] = feasible[np.argmax(feasible @ logits[index])] > 0.5
        if (labels == raw).all():
            return labels, ()
        before = {n for n, v in zip(self._names, raw, strict=True) if v}
        changes = []
        for i in np.flatnonzero(labels != raw):
            name = self._names[i]
            broken = next((r for r in self._rules if name in r.of and violates(r, before)), None)
            changes.append(Change(name, bool(labels[i]), str(broken) if broken else "hard rules together"))
        return labels, tuple(changes)

    def violations(self, chosen: set[str]) -> tuple[str, ...]:
        """Hard rules that a set of true characteristics breaks."""
        return tuple(str(r) for r in self._rules if violates(r, chosen))
