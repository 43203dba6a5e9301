"""Who is meant by "the person on the left", and by "the two": words for a place become people in front of a camera."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WHO = r"(?:person|people|man|woman|boy|girl|guy|lady|child|kid|face|one)"
_PLACES = {
    "left": re.compile(rf"\b(?:left(?:most|-hand)? {_WHO}|{_WHO} (?:at|on|to) the (?:far )?left)\b", re.I),
    "right": re.compile(rf"\b(?:right(?:most|-hand)? {_WHO}|{_WHO} (?:at|on|to) the (?:far )?right)\b", re.I),
    "middle": re.compile(rf"\b(?:(?:middle|center|centre) {_WHO}|{_WHO} in the (?:middle|center|centre))\b", re.I),
}
#: "Who is smiling?" of one person is a question about that one; of several, about two.
_SEVERAL = re.compile(
    r"\b(?:both|either|neither|each other|the two|two of (?:them|us)|which (?:one|of (?:them|us|the))|who(?:se)? of|"
    r"do (?:they|we)|are (?:they|we)|than the other)\b|^\s*who\b",
    re.I,
)


def places(question: str) -> tuple[list[str], str]:
    """The places that are named, in their order ("left", "middle", "right"), and the question without them."""
    named = sorted((m.start(), place) for place, pattern in _PLACES.items() for m in pattern.finditer(question))
    for pattern in _PLACES.values():
        question = pattern.sub("person", question)
    return [place for _, place in named], question


def means_several(question: str) -> bool:
    """Does it compare people?"""
    return bool(_SEVERAL.search(question))


def at(place: str, people: Sequence[T]) -> T:
    """Whoever stands there. people: at least one, from left to right."""
    return people[{"left": 0, "right": len(people) - 1, "middle": len(people) // 2}[place]]
