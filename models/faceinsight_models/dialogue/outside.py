"""Questions that no report answers: what they look like, and the reason for which each kind is declined.

The words are in outside.toml. A fifth of them is held out: it calibrates and measures, and never teaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from faceinsight.bundle.specs import ANSWERED, LANGUAGE, SCOPE, UNCLEAR

from ..toml_file import read_table
from . import open_questions as oq
from . import wordings as w
from .concepts import CONCEPTS, OPPOSED, SAID_OF_THE_PERSON

#: How often each kind is drawn, relative to the others.
_OFTEN = {SCOPE: 8.0, UNCLEAR: 1.0, LANGUAGE: 1.5}
#: Every so many words, and templates of a part without words, are held out.
_HELD_OUT = 5


@dataclass(frozen=True)
class _Part:
    """Templates and words for {x} that go together."""

    templates: tuple[str, ...]
    words: tuple[str, ...]

    def cut(self, *, heldout: bool) -> _Part:
        """What training asks, or the rest."""

        def entry(items: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(x for i, x in enumerate(items) if (i % _HELD_OUT == _HELD_OUT - 1) == heldout)

        return _Part(self.templates, entry(self.words)) if self.words else _Part(entry(self.templates), ("",))


@cache
def _kinds() -> dict[str, tuple[str, tuple[_Part, ...]]]:
    """Kind -> how it is declined, and its parts."""
    table = read_table(Path(__file__).with_suffix(".toml"))
    return {
        kind: (entry["decline"], tuple(_Part(tuple(x["templates"]), tuple(x.get("words", ()))) for x in entry["ask"]))
        for kind, entry in table.items()
    }


#: Reason -> the sentence that declines.
DECLINES = {kind: decline for kind, (decline, _) in _kinds().items()}
#: All kinds of questions, in the order of the question encoder's outputs.
KINDS = (*ANSWERED, *DECLINES)


def words_of_questions(tokens: Iterable[str]) -> str:
    """The words that questions are made of, for `faceinsight.language.spelling`: those that ask for what is known, one
    per line, and behind an empty line all that are words too, and no slips: of other questions, and among the tokens
    (as byte-level BPE writes them) of the LLM. Nothing is put right to held-out words."""
    inside: dict[str, None] = {}
    for concept in (*CONCEPTS, *OPPOSED, *SAID_OF_THE_PERSON):
        inside |= dict.fromkeys(_words(concept.words))
    tables = {**vars(oq), **vars(w)}
    for name in sorted(tables):
        inside |= dict.fromkeys(_words(tables[name])) if name.isupper() and not name.startswith("_") else {}
    inside |= dict.fromkeys(_words([*w._TEMPLATES.values(), w._SUBJECTS]))
    others = _words([c.heldout for c in CONCEPTS])
    others += _words([(p.templates, p.words) for _, entry in _kinds().values() for p in entry])
    others += [t[1:] for t in tokens if re.fullmatch("\u0120[a-z]{4,}", t)]
    return "\n".join(inside) + "\n\n" + "\n".join(x for x in dict.fromkeys(others) if x not in inside) + "\n"


def _words(text: object) -> list[str]:
    """Words of three letters or more of a text, or of all texts in tables of them."""
    if isinstance(text, str):
        return re.findall(r"[a-z]{3,}", text.lower())
    items = text.values() if isinstance(text, Mapping) else text if isinstance(text, (tuple, list)) else ()
    return [word for item in items for word in _words(item)]


def outside_question(rng: np.random.Generator, *, heldout: bool = False) -> tuple[str, str]:
    """A random question that is declined, and its kind. Held out: of words that training never uses."""
    names = list(DECLINES)
    often = np.array([_OFTEN.get(n, 2.0) for n in names])
    kind = names[rng.choice(len(names), p=often / often.sum())]
    parts = [p.cut(heldout=heldout) for p in _kinds()[kind][1]]
    # A part is drawn as often as it has things to say.
    sizes = np.array([len(p.templates) * len(p.words) for p in parts], float) ** 0.5
    part = parts[rng.choice(len(parts), p=sizes / sizes.sum())]
    return kind, w.say(rng, part.templates, part.words)
