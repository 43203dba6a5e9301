"""Graphs of the runtime in other engines on a CPU (speed/cpu_engines.py), and which of them are worth a dependency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def engines(result: Mapping[str, Any]) -> str:
    """A row per graph: milliseconds, times as fast as what runs it now (the first engine), largest difference."""
    graphs = result["graphs"]
    names = list(dict.fromkeys(name for row in graphs.values() for name in row))
    lines = [["", *names], ["---"] * (len(names) + 1)]
    lines += [[graph, *(_cell(row, name) for name in names)] for graph, row in graphs.items()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    amx = "with" if result["AMX"] else "without"
    where = f"{result['machine']}, {amx} AMX, {result['threads']} threads; {versions}."
    return f"{table}\n\n{where}\n\n{decision(result)}"


def _cell(row: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in row:
        return "-"
    p50 = row[name]["p50 ms"]
    text = f"{p50:,.0f} ms" if p50 >= 100 else f"{p50:.3g} ms"
    if name == next(iter(row)):
        return text
    return f"{text} ({_times(row, name):.2f}x; {row[name]['difference']:.0e})"


def _times(row: Mapping[str, Mapping[str, float]], name: str) -> float:
    """How many times as fast as the first engine."""
    return next(iter(row.values()))["p50 ms"] / row[name]["p50 ms"]


def decision(result: Mapping[str, Any]) -> str:
    """Which engines are fast and exact enough, by graph."""
    faster, same = (result["worth it from"][what] for what in ("times as fast", "difference"))
    worth = [
        f"{name} on {graph} ({_times(row, name):.2f}x)"
        for graph, row in result["graphs"].items()
        for name in list(row)[1:]
        if _times(row, name) >= faster and row[name]["difference"] <= same
    ]
    rule = (
        f"An engine is worth a dependency where it is {faster:g} times as fast or more and no output differs by more "
        f"than {same:g} of its largest value"
    )
    return f"{rule}: {'; '.join(worth) or 'none is'}."
