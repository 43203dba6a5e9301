"""Table of what another machine says of the same pictures (quality/platform_parity.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Counts, added up in the last row; of the probability the largest difference is taken.
COUNTS = ("pictures", "faces", "labels", "states that differ", "answers", "answers that differ")


def table(result: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Head and rows, one for each kind of picture, the sum last."""
    rows = dict(result["kinds"])
    total = {what: sum(row[what] for row in rows.values()) for what in COUNTS}
    rows["all"] = total | {"probability": max(row["probability"] for row in rows.values())}
    lines = [(kind, *(f"{row[what]:,}" for what in COUNTS), f"{row['probability']:.4f}") for kind, row in rows.items()]
    return ("", *COUNTS, "p differs by up to"), lines
