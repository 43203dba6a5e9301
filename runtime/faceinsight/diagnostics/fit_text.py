"""What `fit` found, in columns."""

from __future__ import annotations

from collections.abc import Iterator

from .fit import Fit
from .sizes import Part


def table(fit: Fit) -> str:
    """For a terminal: parts, sums, what may come on top, advice."""
    return "\n".join(_lines(fit))


def _lines(fit: Fit) -> Iterator[str]:
    yield from map(_part, fit.parts)
    yield _sum("total", fit.total, fit.memory)
    if fit.gpu:
        yield from map(_part, fit.gpu.parts)
        yield _sum("total on the GPU", fit.gpu.total, fit.gpu.memory)
    yield from (_part(Part(f"+ {p.name}", p.bytes, p.how)) for p in fit.beyond)
    yield from (f"try: {line}" for line in fit.advice)


def _part(part: Part) -> str:
    return f"{part.name:<24}{part.bytes / 1e6:>10,.1f} MB  {part.how}"


def _sum(name: str, total: int, memory: int) -> str:
    verdict = "it fits" if total <= memory else "it does not fit"
    return f"{name:<24}{total / 1e6:>10,.1f} MB  of {memory / 1e6:,.1f} MB: {verdict}"
