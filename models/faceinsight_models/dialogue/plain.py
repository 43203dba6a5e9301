"""Plain questions ("Does she have glasses", "What is her name?"): a question encoder that misreads them must not ship,
whatever it does on average. The questions are in plain.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..toml_file import read_table


class PlainQuestion(NamedTuple):
    """A question as people first ask it.

    Attributes:
        question: text.
        about: characteristics that it asks about.
        declined: the reason for which it is declined; "" where a report answers it.
    """

    question: str
    about: frozenset[str]
    declined: str = ""


@cache
def plain_questions() -> tuple[PlainQuestion, ...]:
    """All of them."""
    table = read_table(Path(__file__).with_suffix(".toml"))
    declined: dict[str, list[str]] = table.pop("declined")
    return (
        *(PlainQuestion(q, frozenset(names.split())) for names, entry in table.items() for q in entry["questions"]),
        *(PlainQuestion(q, frozenset(), reason) for reason, questions in declined.items() for q in questions),
    )


def misread(read: Callable[[str], Iterable[str] | str], enabled: Iterable[str]) -> list[str]:
    """Plain questions that are not read as what they ask.

    Args:
        read: question -> the characteristics that it asks about, or the reason for which it is declined.
        enabled: characteristics that are switched on; a question about others alone names none, or is declined as
            "switched off".

    Returns:
        The questions, in the order of the table.
    """
    on = frozenset(enabled)

    def right(plain: PlainQuestion) -> bool:
        found, wanted = read(plain.question), plain.about & on
        if isinstance(found, str):
            return found == (plain.declined or "switched off") and not wanted
        return not plain.declined and frozenset(found) == wanted

    return [q.question for q in plain_questions() if not right(q)]
