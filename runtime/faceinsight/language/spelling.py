"""Corrects misspelt words: an unknown word that is one slip of the finger from one that questions are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

#: A shorter word is one slip from too many others. One so short was meant to be longer, or its letters changed places.
SHORTEST, SHORT = 3, 3
_WORD = re.compile(r"[a-z]+")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Spelling:
    """The words that are known; those that are put right come first."""

    def __init__(self, words: str) -> None:
        """words: one per line, an empty line between those that others may be put right to and the rest."""
        meant, _, rest = words.partition("\n\n")
        self._order = {word: i for i, word in enumerate(meant.split())}
        self._known = {*self._order, *rest.split()}

    @classmethod
    def read(cls, path: Path) -> Spelling:
        """From a bundle's file."""
        return cls(path.read_text(encoding="utf-8"))

    def correct(self, question: str) -> str:
        """The question with its misspelt words corrected; in lower case where one was."""
        lower = question.lower()
        right = _WORD.sub(lambda found: self._right(found[0]), lower)
        return question if right == lower else right

    def _right(self, word: str) -> str:
        if len(word) < SHORTEST or word in self._known:
            return word
        slips = _slips(word)
        for meant in islice(slips, 2) if len(word) <= SHORT else slips:
            if found := meant & self._order.keys():
                return min(found, key=self._order.__getitem__)
        return word


def _slips(word: str) -> Iterator[set[str]]:
    """What was meant, if two letters changed places, one is missing, too many, or another: the likeliest first."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    yield {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    yield {a + c + b for a, b in cuts for c in _LETTERS}
    yield {a + b[1:] for a, b in cuts if b}
    yield {a + c + b[1:] for a, b in cuts if b for c in _LETTERS}
