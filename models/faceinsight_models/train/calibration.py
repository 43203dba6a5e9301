"""Probability calibration and abstention thresholds.

Attributes: Platt scaling each (Platt 1999). Choices (one of several holds, or at most one): vector scaling with one
slope and a shift per member (Guo et al. 2017). All are pulled towards the identity where examples are few.

Claims that something is so and claims that it is not have thresholds of their own: of a rare attribute "no" is nearly
always right, which says nothing about its "yes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from faceinsight.perception.labeler import calibrated

from ..nets.closeup import COVERS, SHOWS
from ..recipe import Judgement
from ..taxonomy import AT_MOST_ONE, COVERED_BY, EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS, HAIR_COLORS, NAMES

Array = NDArray[np.floating]
#: Fewer claims than this promise nothing; of how many a group of people needs to be judged by itself, and how much
#: oftener than promised its claims may be wrong.
FEW, GROUP, GROUP_RISK = 50, 60, 1.5
MARGIN = 1.3
#: Factor on `miss` for hair colors: a wrong "no" to one's hair color must be rarer, as all four read as one answer.
HAIR_MISS = 0.4
#: What children are not, and what they are.
NOT_OF_CHILDREN = {
    **dict.fromkeys(
        ("Wearing_Lipstick", "Heavy_Makeup", "Wearing_Earrings", "Wearing_Necktie", "5_o_Clock_Shadow", "Goatee",
         "Mustache", "Sideburns", "Gray_Hair", "Receding_Hairline", "Bald"), 0.0,
    ),
    "No_Beard": 1.0,
}  # fmt: skip
#: Probabilities of a fault between which it is neither claimed nor denied.
FAULTY = (0.3, 0.7)
_OPEN = {n for names in AT_MOST_ONE for n in names}


@dataclass(frozen=True)
class Readings:
    """Outputs of the finished graphs for M views.

    Attributes:
        rows: (M,) of the faces.
        logits: (M,N).
        quality: (M,) 0..1.
        covered: (M,2) is the mouth hidden, are the eyes?
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    quality: NDArray[np.float32]
    covered: NDArray[np.bool_]

    def concatenated(self, other: Readings) -> Readings:
        """These views and others."""
        return Readings(*(np.concatenate([getattr(r, n) for r in (self, other)]) for n in self.__dataclass_fields__))


def columns(names: Sequence[str]) -> list[int]:
    """Numbers of characteristics."""
    return [NAMES.index(n) for n in names]


def fit_scaling(logits: Array, labels: Array, *, ridge: float = 4.0) -> NDArray[np.float64]:
    """(images,N) logits and labels, NaN where unknown -> (N,2) slope and shift.

    The penalty ridge/2 ((a - 1)^2 + b^2) is worth a handful of images. Of a choice several ones mean one of these.
    """
    out = np.tile([1.0, 0.0], (logits.shape[1], 1))
    for k, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, k])
        if name not in EXCLUSIVE_MEMBERS and name not in _OPEN and known.any():
            out[k] = _platt(logits[known, k].astype(np.float64), labels[known, k], ridge)
    for task, names in EXCLUSIVE_GROUPS.items():
        members = columns(names)
        known = ~np.isnan(labels[:, members[0]])
        if known.any():
            # The rarer expressions were brought up on purpose: shifts would take them down again.
            out[members] = _vector(
                logits[known][:, members], labels[known][:, members], ridge, shifts=task != "expression"
            )
    for names in AT_MOST_ONE:
        members = columns(names)
        known = ~np.isnan(labels[:, members[0]])
        if known.any():
            z, y = (np.pad(a[known][:, members], ((0, 0), (0, 1))) for a in (logits, labels))
            y[:, -1] = y.sum(1) == 0
            out[members] = _vector(z, y, ridge, fixed=True)[:-1]
    return out


def unnamed(labels: Array) -> NDArray[np.bool_]:
    """(images,): hair that can be seen and whose color nobody named. It has one: from it no "no" is learned."""
    none = labels[:, columns(HAIR_COLORS)].sum(1) == 0
    return np.asarray(none & (labels[:, NAMES.index("Bald")] != 1) & (labels[:, NAMES.index("Wearing_Hat")] != 1))


def _platt(z: NDArray[np.float64], y: Array, ridge: float, *, steps: int = 30) -> NDArray[np.float64]:
    """Newton's method on the penalized log-likelihood."""
    x, w = np.stack([z, np.ones(len(z))], 1), np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (p - y) + ridge * (w - [1, 0])
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(2)
        w = w - np.linalg.solve(hessian, gradient)
    return np.asarray(w)


def _vector(z: Array, y: Array, ridge: float, *, shifts: bool = True, fixed: bool = False) -> NDArray[np.float64]:
    """One slope, a shift per member, by L-BFGS on -log of the probability of what the labels name (shares of votes:
    cross-entropy). fixed: the last member stays as it is, and each other one has its own slope; shifts: False learns
    the slope only."""
    logits, target = (torch.from_numpy(np.asarray(a, np.float64)) for a in (z, y))
    slope = torch.ones(z.shape[1] if fixed else 1, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, shift] if shifts else [slope], max_iter=200, line_search_fn="strong_wolfe")
    several = target.sum(1) > 1.001
    mask = torch.ones(z.shape[1], dtype=torch.float64)
    mask[-1] = 0.0 if fixed else 1.0

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = (slope * mask + (1 - mask)) * logits + shift * mask
        log_p = F.log_softmax(scaled, 1)
        either = log_p.masked_fill(target <= 0, -1e4).logsumexp(1)
        loss = -torch.where(several, either, (target * log_p).sum(1)).sum()
        loss = loss + ridge / 2 * ((slope - 1).square().sum() + (shift * mask).square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.stack([slope.detach().expand(z.shape[1]).numpy(), shift.detach().numpy()], 1)


def probabilities(logits: Array, scaling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated probabilities (images,N), as the runtime's labeler has them."""
    choices, at_most = ([np.array(columns(names)) for names in of] for of in (EXCLUSIVE_GROUPS.values(), AT_MOST_ONE))
    return calibrated(logits, scaling[:, 0], scaling[:, 1], choices, at_most)[1]


def _variance(wrong: NDArray[np.bool_], faces: NDArray[np.int64] | None, share: Array) -> NDArray[np.float64]:
    """Variance of the share of wrong claims among the first one, two, ... of claims, times the square of their number.

    Claims about several views of one face are wrong together: its errors are added up before they are squared (the
    cluster-robust variance; Liang and Zeger 1986). Never less than if each were of a face of its own.
    """
    count = np.arange(1, len(wrong) + 1)
    independent = count * share * (1 - share)
    if faces is None:
        return independent
    order = np.argsort(faces, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(faces[order]) != 0])
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
    errors: NDArray[np.int64] = np.cumsum(wrong[order]) - wrong[order]
    before, wrong_before = np.empty(len(wrong), np.int64), np.empty(len(wrong), np.int64)
    # Of the same face, among the claims before this one: how many there are, and how many are wrong.
    before[order], wrong_before[order] = np.arange(len(order)) - starts[group], errors - errors[starts][group]
    squares = np.cumsum(wrong * (2 * wrong_before + 1))
    products = np.cumsum(wrong_before + wrong * (before + 1))
    sizes = np.cumsum(2 * before + 1)
    return np.asarray(np.maximum(independent, squares - 2 * share * products + share**2 * sizes))


def surest(
    confidence: Array,
    wrong: NDArray[np.bool_],
    risk: float,
    *,
    lowest: float,
    spare: int | None = None,
    faces: NDArray[np.int64] | None = None,
    calibrated: bool = False,
) -> float:
    """The smallest confidence from which on at most `risk` of the claims are wrong, by MARGIN standard errors.

    Args:
        confidence: (claims,) of each claim.
        wrong: (claims,) is it wrong?
        risk: share of wrong claims that is allowed.
        lowest: the result is at least this.
        spare: how many claims may be wrong in all.
        faces: (claims,) which face each is about, where several views of a face are judged; None: each of its own.
        calibrated: a confidence is the probability of being right. What it expects to be wrong must be within `risk`
            too: it was fitted on all examples, and those that are claimed may be few, and lucky.

    Returns:
        The confidence; infinity where there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence, errors = confidence[order], np.cumsum(wrong[order])
    count = np.arange(1, len(confidence) + 1)
    share = (errors + 0.5) / (count + 1)
    deviation = np.sqrt(_variance(wrong[order], None if faces is None else faces[order], share)) / (count + 1)
    fine = (share + MARGIN * deviation <= risk) & (count >= FEW) & (confidence >= lowest)
    if calibrated:
        fine &= np.cumsum(1 - confidence) / count <= risk
    if spare is not None:
        fine &= errors <= spare
    # A bound lies between two different confidences.
    fine &= np.append(confidence[1:] < confidence[:-1], True)
    if not fine.any():
        return np.inf
    last = int(np.flatnonzero(fine)[-1])
    return lowest if not (confidence[last + 1 :] >= lowest).any() else float(confidence[last])


def abstention_thresholds(
    p: Array,
    labels: Array,
    groups: Sequence[NDArray[np.bool_]] = (),
    *,
    risk: float,
    choice_risk: Mapping[str, float],
    miss: float,
    faces: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """(N,2) bounds between which nothing is claimed; 0 and 1 where nothing can be promised.

    Of what is claimed to be so at most `risk` is not, of what is claimed not to be so at most `risk` is, and at most
    `miss` of those who have it get a "no"; in each group of people (images,) at most GROUP_RISK
    times as many, where a bound can see to that. Of a choice's members the upper bound counts: of those of whom it is
    the likeliest at most `choice_risk` of the task are something else. faces: (images,) which face each is a view of.
    """
    faces = np.arange(len(p)) if faces is None else faces
    out = np.tile([0.0, 1.0], (p.shape[1], 1))
    for k, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, k])
        if name in EXCLUSIVE_MEMBERS or not known.any():
            continue
        sure = known & ~unnamed(labels) if name in HAIR_COLORS else known
        has = labels[:, k] > 0.5
        allowed_miss = (HAIR_MISS if name in HAIR_COLORS else 1) * miss
        spare = int(_below(allowed_miss, len(np.unique(faces[sure & has]))) * has[sure].sum())
        upper = surest(p[known, k], ~has[known], risk, lowest=0.5, faces=faces[known], calibrated=True)
        lower = surest(1 - p[sure, k], has[sure], risk, lowest=0.5, spare=spare, faces=faces[sure], calibrated=True)
        for group in groups:
            yes, no = known & group, sure & group
            # A group of which all or none have it says nothing; nor does one with hardly any claims.
            if yes.any() and not has[yes].all() and has[yes].any():
                upper = _wider(upper, p[yes, k], ~has[yes], GROUP_RISK * risk, faces[yes])
                lower = _wider(lower, 1 - p[no, k], has[no], GROUP_RISK * risk, faces[no])
        out[k] = max(0.0, 1 - lower), min(1.0, upper)
    for task, names in EXCLUSIVE_GROUPS.items():
        members = columns(names)
        known = ~np.isnan(labels[:, members[0]])
        if not known.any():
            continue
        q, y, whose = p[known][:, members], labels[known][:, members], faces[known]
        likeliest = q.argmax(1)
        # A share of votes names what most voted for; several ones name each of them.
        wrong = y[np.arange(len(y)), likeliest] < y.max(1)
        least = 1 / len(members)
        allowed = choice_risk[task]
        together = surest(q.max(1), wrong, allowed, lowest=least, faces=whose)
        for column, number in zip(members, range(len(members)), strict=True):
            mine = likeliest == number
            few = mine.sum() < FEW
            alone = (
                max(together, 0.7)
                if few
                else surest(q[mine].max(1), wrong[mine], allowed, lowest=least, faces=whose[mine])
            )
            out[column] = 0.0, min(1.0, alone)
    return out


def _below(share: float, count: int) -> float:
    """The share that may be seen among `count` for `share` to hold by MARGIN standard errors (Wilson's lower limit)."""
    square = MARGIN**2 / max(1, count)
    spread = np.sqrt(share * (1 - share) * square + square**2 / 4)
    return float(max(0.0, (share + square / 2 - spread) / (1 + square)))


def _wider(bound: float, confidence: Array, wrong: NDArray[np.bool_], risk: float, faces: NDArray[np.int64]) -> float:
    """The bound, or that which a group of people needs, if enough is claimed of it to tell."""
    if (confidence >= max(0.5, bound)).sum() < GROUP:
        return bound
    needed = surest(confidence, wrong, risk, lowest=0.5, faces=faces, calibrated=True)
    if not np.isfinite(needed):
        # So few that nothing is sure of them: what was counted is better than the bound for everyone.
        needed = surest(confidence, wrong, risk, lowest=0.5)
    # Where no bound keeps the promise for them, that for everyone stays: else nothing would be claimed of anybody.
    return max(bound, needed) if np.isfinite(needed) else bound


def fit_calibration(good: Readings, poor: Readings, labels: Array, judgement: Judgement) -> NDArray[np.float64]:
    """(N,6): slope, shift, bounds for pictures that can be read, and for those that hardly can. labels (faces,N)."""
    # Of what a covered face hides the labels say nothing, and what it shows is rarely so: bounds alone learn from it.
    whole = ~good.covered.any(1)
    scaling = fit_scaling(good.logits[whole], labels[good.rows[whole]])
    parts = []
    for view in (good, poor):
        y = hidden(of_children(labels[view.rows]), view.covered)
        parts.append(
            abstention_thresholds(
                probabilities(view.logits, scaling),
                y,
                groups(labels[view.rows]),
                risk=judgement.risk,
                choice_risk=judgement.choice_risk,
                miss=judgement.miss,
                faces=view.rows,
            )
        )
    table = np.hstack([scaling, *parts])
    # A fault was learned from pictures spoilt on purpose: their makers know better than a set's labels of it.
    table[columns(tuple(SHOWS))] = 1, 0, *FAULTY, *FAULTY
    return table


def of_children(labels: Array) -> Array:
    """Labels, and of children what goes without saying: no make-up, no tie, no beard, no gray hair.

    Posed portraits show hardly any: bounds fitted on these alone would take a child's lips for painted.
    """
    out = labels.copy()
    toddler, child = (labels[:, NAMES.index(n)] == 1 for n in ("Age_0_2", "Age_3_9"))
    for name, value in NOT_OF_CHILDREN.items():
        k = NAMES.index(name)
        # A baby may be bald.
        who = child if name == "Bald" else toddler | child
        out[who & np.isnan(out[:, k]), k] = value
    return out


def hidden(labels: Array, covered: NDArray[np.bool_]) -> Array:
    """Labels without those of characteristics that the close-up says are hidden: of them nothing is claimed."""
    out = labels.copy()
    for name, faults in COVERED_BY.items():
        out[covered[:, [COVERS.index(f) for f in faults]].any(1), NAMES.index(name)] = np.nan
    return out


def groups(labels: Array) -> list[NDArray[np.bool_]]:
    """People (images,) for whom a promise must hold by itself, where a set says: children, over 60, men and women, each
    race.
    """
    members = [*(columns(names) for names in (("Age_0_2", "Age_3_9"), ("Age_10_19",), ("Age_60_69", "Age_70")))]
    members += [[NAMES.index(n)] for n in EXCLUSIVE_GROUPS["race"]]
    masks = [np.nansum(labels[:, c], 1) == 1 for c in members]
    male = labels[:, NAMES.index("Male")]
    return [*masks, male == 1, male == 0]
