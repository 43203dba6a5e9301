"""Logical rules at inference: the most probable labels that obey every hard rule, soft rules weighed in.

Exact MAP by enumeration over the groups of characteristics that rules connect (a HEX graph's inference,
Deng et al. 2014, for groups of this size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.specs import RuleSpec
from ..errors import BundleError

#: Assignments that obey the hard rules, per group; more would cost milliseconds and are a sign of a wrong rule.
MAX_ASSIGNMENTS = 1 << 16

Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A label that a rule turned round: which characteristic, what it became, and the rule."""

    name: str
    value: bool
    rule: str


@dataclass(frozen=True, slots=True)
class _Group:
    """Connected characteristics: their numbers, the assignments (M,n) the hard rules leave, what each costs (M,)."""

    index: NDArray[np.int64]
    feasible: NDArray[np.float32]
    cost: NDArray[np.float32]


class RuleSet:
    """Rules over the enabled characteristics. A rule with a member that is switched off does not apply to it."""

    def __init__(self, names: Sequence[str], rules: Sequence[RuleSpec], *, soft_weight: float = 0.0) -> None:
        """soft_weight: what each broken clause of a soft rule costs, in logits."""
        self._names = tuple(names)
        live = [r for r in rules if self._live(r)]
        self._hard = [r for r in live if r.hard]
        self._rules = live if soft_weight > 0 else self._hard
        self.choices = tuple(r.of for r in self._hard if r.kind == "exactly_one")
        at_most = (tuple(n for n in r.of if n in names) for r in self._hard if r.kind == "at_most_one")
        #: Of these at most one holds.
        self.open_choices = tuple(of for of in at_most if len(of) > 1)
        #: Of these one at least holds, as a rule.
        self.at_least_one = tuple(r.of for r in live if r.kind == "at_least_one")
        self._groups = [self._group(members, soft_weight) for members in self._connected()]

    def _live(self, rule: RuleSpec) -> bool:
        present = [n in self._names for n in rule.of]
        if rule.kind in ("at_least_one", "exactly_one"):
            return all(present)
        return sum(present) > 1 and (rule.kind == "at_most_one" or present[0])

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

    def _group(self, members: list[str], soft_weight: float) -> _Group:
        rules = [(r, [members.index(n) for n in r.of if n in members]) for r in self._rules if set(r.of) & set(members)]
        bits: Bits = np.zeros((1, 0), bool)
        for n in range(1, len(members) + 1):
            bits = np.concatenate([np.hstack([bits, np.full((len(bits), 1), v)]) for v in (False, True)])
            for rule, of in rules:
                # What more members cannot mend is dropped at once, the rest when the rule is complete.
                if rule.hard and (max(of) < n or rule.kind in ("at_most_one", "exactly_one")):
                    bits = bits[_broken(rule, bits, of) == 0]
            if len(bits) > MAX_ASSIGNMENTS:
                raise BundleError(
                    f"rules leave more than {MAX_ASSIGNMENTS} combinations of {', '.join(members)}: split or drop some"
                )
        if not len(bits):
            raise BundleError(f"the hard rules over {', '.join(members)} contradict each other")
        cost = np.zeros(len(bits), np.float32)
        for rule, of in rules:
            if not rule.hard:
                cost += soft_weight * _broken(rule, bits, of)
        return _Group(np.array([self._names.index(m) for m in members]), bits.astype(np.float32), cost)

    def apply(self, logits: NDArray[np.float64]) -> tuple[Bits, tuple[RuleChange, ...]]:
        """Calibrated logits (N,) -> labels (N,) obeying the hard rules, and what the rules changed."""
        raw = self._raw(logits)
        labels = raw.copy()
        for g in self._groups:
            labels[g.index] = g.feasible[np.argmax(g.feasible @ logits[g.index].astype(np.float32) - g.cost)] > 0.5
        before = {n for n, v in zip(self._names, raw, strict=True) if v}
        changes = []
        for i in np.flatnonzero(labels != raw):
            name = self._names[i]
            # First the rule that the raw labels break; else one that would break if only this label went back.
            back = before ^ {name} if name in before else before | {name}
            broken = next((r for r in self._rules if name in r.of and self.violates(r, before)), None)
            broken = broken or next((r for r in self._rules if name in r.of and self.violates(r, back)), None)
            changes.append(RuleChange(name, bool(labels[i]), str(broken) if broken else "the rules together"))
        return labels, tuple(changes)

    def _raw(self, logits: NDArray[np.float64]) -> Bits:
        """What each characteristic would be on its own; of a choice, the most probable one."""
        raw: Bits = logits > 0
        for names in self.choices:
            index = np.array([self._names.index(n) for n in names])
            raw[index] = False
            raw[index[np.argmax(logits[index])]] = True
        return raw

    def violates(self, rule: RuleSpec, chosen: set[str]) -> bool:
        """Does a set of true characteristics break the rule?"""
        of = [n for n in rule.of if n in self._names]
        bits = np.array([[n in chosen for n in of]])
        return bool(_broken(rule, bits, list(range(len(of))))[0])

    def forced(self, name: str, claimed: set[str]) -> bool:
        """Would the other value of a characteristic break a hard rule together with what is claimed to be so?

        claimed: with or without `name`, as the value in question has it.
        """
        other = claimed ^ {name}
        kinds = ("at_most_one", "excludes", "implies")
        return any(name in r.of and r.kind in kinds and self.violates(r, other) for r in self._hard)

    def violations(self, chosen: set[str]) -> tuple[str, ...]:
        """Hard rules that a set of true characteristics breaks."""
        return tuple(str(r) for r in self._hard if self.violates(r, chosen))


def _broken(rule: RuleSpec, bits: Bits, of: list[int]) -> NDArray[np.int64]:
    """How many clauses of the rule each assignment (M,n) breaks. Members beyond n are not decided yet."""
    decided = [i for i in of if i < bits.shape[1]]
    values = bits[:, decided]
    true = values.sum(1)
    if rule.kind == "at_most_one":
        return np.asarray(true * (true - 1) // 2)
    if rule.kind == "at_least_one":
        return np.asarray(true == 0, np.int64)
    if rule.kind == "exactly_one":
        return np.asarray((true > 1) | ((true == 0) & (len(decided) == len(of))), np.int64)
    first, others = values[:, :1], values[:, 1:]
    return np.asarray((first & (others if rule.kind == "excludes" else ~others)).sum(1))
