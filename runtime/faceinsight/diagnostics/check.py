"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was checked.
        status: "ok", "warn" or "fail".
        found: what is there.
        expected: what should be.
        do: what mends it; "" where nothing is to be done.
    """

    name: str
    status: str
    found: str
    expected: str = ""
    do: str = ""
