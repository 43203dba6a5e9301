"""Two results: what got slower, and may they be compared at all?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..plain import Plain
from .result import Conditions, Result
from .stats import Summary

SLOWER, FASTER, SAME, UNCLEAR = "slower", "faster", "same", "unclear"
#: Where these differ, another machine or other work was measured.
MUST_AGREE = (
    "machine",
    "cores",
    "device",
    "providers",
    "gpu",
    "llm_on_gpu",
    "threads",
    "power_mode",
    "governor",
    "photo_sha256",
    "question",
)
#: Where these differ, that may be what is to be compared; it is said.
MAY_DIFFER = ("versions", "llama_build", "bundle", "bundle_sha256", "quantisation", "rounds")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both runs; less is better in all of them.

    unit: "ms", "MB" or "J". change: b over a, less 1. verdict: SLOWER (or more) beyond the threshold, FASTER, SAME
    within it, or UNCLEAR: beyond it, but the intervals of both medians overlap; why: then, how they lie.
    """

    name: str
    unit: str
    a: float
    b: float
    change: float
    verdict: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison(Plain):
    """Of run A with a later run B.

    changes: of what both have. only: what one of them has, and which. warnings: what else is not the same.
    """

    threshold: float
    changes: tuple[Change, ...]
    only: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What got worse by more than the threshold."""
        return tuple(c for c in self.changes if c.verdict == SLOWER)

    @property
    def unclear(self) -> tuple[Change, ...]:
        """What may have got worse by more than the threshold, but lies within the noise."""
        return tuple(c for c in self.changes if c.verdict == UNCLEAR and c.change > 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, as `faceinsight schema bench-compare` describes it."""
        names = {"regressions": [c.name for c in self.regressions], "unclear": [c.name for c in self.unclear]}
        return Plain.to_dict(self) | names


def compare(a: Result, b: Result, *, threshold: float = 0.10, anyway: bool = False) -> Comparison:
    """Medians of every step, memory and J per answer of two runs.

    Args:
        a: the earlier run.
        b: the later one.
        threshold: 0.1 is 10 %.
        anyway: compare runs of different machines or settings too, with a warning.

    Raises:
        RequestError: the two were not measured alike, or have nothing in common.
    """
    if not 0 < threshold < 100:
        raise RequestError(f"threshold {threshold}; expected more than 0, e.g. 0.10 for 10 %")
    apart = tuple(_differences(a.conditions, b.conditions, MUST_AGREE))
    if apart and not anyway:
        raise RequestError(f"not measured alike: {'; '.join(apart)}. --anyway compares them all the same")
    warnings = (*apart, *_differences(a.conditions, b.conditions, MAY_DIFFER), *_disturbed(a, b))
    one, other = dict(_figures(a)), dict(_figures(b))
    both = [key for key in one if key in other and one[key].p50 > 0]
    if not both:
        raise RequestError("the two results have no step in common")
    return Comparison(
        threshold,
        tuple(_change(*key, one[key], other[key], threshold) for key in both),
        (
            *(f"{name} only in A" for name, unit in one if (name, unit) not in other),
            *(f"{name} only in B" for name, unit in other if (name, unit) not in one),
        ),
        warnings,
    )


def _figures(result: Result) -> Iterator[tuple[tuple[str, str], Summary]]:
    """By name and unit; one that was taken once is a summary of one."""
    for step in result.steps:
        yield (step.name, "ms"), step.ms
    if result.sustained:
        yield ("sustained run", "ms"), result.sustained.ms
    memory = {
        "peak memory": result.memory.peak_mb,
        "peak memory, one answer": result.memory.fresh_peak_mb,
        "the GPU's memory": result.memory.gpu_rise_mb,
    }
    for name, mb in memory.items():
        # Others may have given back more than was taken.
        if mb is not None and mb > 0:
            yield (name, "MB"), Summary(1, mb, mb)
    for e in result.energy:
        yield (f"energy: {e.work}", "J"), Summary(e.answers, e.joules_per_answer, e.joules_per_answer)


def _change(name: str, unit: str, a: Summary, b: Summary, threshold: float) -> Change:
    change = b.p50 / a.p50 - 1
    verdict = SLOWER if change > threshold else FASTER if change < -threshold else SAME
    # Without intervals the threshold alone decides.
    if verdict == SAME or None in (a.low, a.high, b.low, b.high) or not _overlap(a, b):
        return Change(name, unit, a.p50, b.p50, round(change, 4), verdict)
    lie = " and ".join(f"{x.low:.4g} to {x.high:.4g} {unit} (N = {x.n})" for x in (a, b))
    return Change(name, unit, a.p50, b.p50, round(change, 4), UNCLEAR, f"the medians' intervals overlap: {lie}")


def _overlap(a: Summary, b: Summary) -> bool:
    return (a.low or 0.0) <= (b.high or 0.0) and (b.low or 0.0) <= (a.high or 0.0)


def _differences(a: Conditions, b: Conditions, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, dict):
            for key in sorted({*x, *y}):
                if x.get(key) != y.get(key):
                    yield f"{name} of {key}: {_text(x.get(key))} and {_text(y.get(key))}"
        elif x != y:
            yield f"{name}: {_text(x)} and {_text(y)}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _disturbed(a: Result, b: Result) -> Iterator[str]:
    for name, result in (("A", a), ("B", b)):
        if result.disturbed:
            yield f"{name}: {result.disturbed}"
        held = result.throttled
        if held:
            yield f"clocks were held back during {name}: {', '.join(held)}"
