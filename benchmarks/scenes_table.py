"""Tables of how well faces are found: by kind of scene, and what looking costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _versions(result: Figures) -> tuple[tuple[str, ...], list[Figures]]:
    """Heads and figures: of the version before, where there is one, and of this one."""
    before = result.get("before")
    return (("before", "now"), [before, result]) if before else (("",), [result])


def kinds(result: Figures) -> Table:
    """Faces found and scenes in which all of them are, and nothing else."""
    heads, versions = _versions(result)

    def row(what: str, *figures: Figures) -> tuple[str, ...]:
        found = [f"{f['found']} of {f['faces']}" for f in figures]
        right = [f"{f['right']} of {f['scenes']}" for f in figures]
        return (what, *found, *right, *(str(f["other boxes"]) for f in figures))

    rows = [row(name, *(v["kinds"][name] for v in versions)) for name in result["kinds"]]
    whole = row("all", *(v["all"] for v in versions))
    columns = [f"{what}: {head}".removesuffix(": ") for what in ("found", "all right", "other boxes") for head in heads]
    return ("", *columns), [*rows, tuple(f"**{cell}**" for cell in whole)]


def cost(result: Figures) -> Table:
    """Runs of the network and megapixels that it saw; and faces found where there are none."""
    heads, versions = _versions(result)
    rows = [
        (each[0]["photo"], *(f"{row['runs']:g} / {row['megapixels']:.2f}" for row in each))
        for each in zip(*(v["cost"] for v in versions), strict=True)
    ]
    without = [v["without a face"] for v in versions]
    pictures = sum(row["textures"] + row["shuffled"] for row in without[-1])
    false = [str(sum(row["faces in textures"] + row["faces in shuffled"] for row in rows)) for rows in without]
    rows.append((f"false faces in {pictures} pictures without one", *false))
    return ("runs / megapixels", *heads), rows
