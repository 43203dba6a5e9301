"""What was asked: a question as it was understood, and about which faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..types import Face, Label


@dataclass(frozen=True, slots=True)
class ParsedQuestion:
    """How a question was understood.

    Attributes:
        label_ids: positions in a face's labels of the characteristics that it asks about, ascending.
        asks_disabled: it asks about something that is switched off, if only by the way.
        kind: one of the bundle's kinds of questions.
        declined: why it is not answered: a key of the prompt's `declines`, or "switched off"; else None.
        decline: the sentence that says so; else "".
        as_statement: the answer must not start with Yes or No: it is asked with a negation, or asks for more than a
            decision.
        asks_all: it asks about each of them ("a hat and no glasses"), not which one holds ("a hat or glasses").
        words: the question, and the one before it or None, with misspelt words corrected.
    """

    label_ids: NDArray[np.int64]
    asks_disabled: bool
    kind: str
    declined: str | None
    decline: str
    as_statement: bool
    asks_all: bool
    words: tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Query:
    """A question about one face, or two, as the LLM and the guard need it.

    Attributes:
        faces: whom it is about; of a description, as far as it is sure of them.
        question: how it was understood.
        token_ids: the question as the LLM reads it, behind the one before it if there is one.
        findings: per face, what the LLM is told of the labels asked about: knowledge tokens (M, width), or words.
        reply: what is said without asking the LLM, if anything.
        finish_reason: of that reply, as in `Answer`.
    """

    faces: tuple[Face, ...]
    question: ParsedQuestion
    token_ids: list[int]
    findings: list[NDArray[np.float32] | str]
    reply: str = ""
    finish_reason: str = ""

    @property
    def labels(self) -> list[list[Label]]:
        """Per face, the labels that are asked about."""
        return [[f.labels[i] for i in self.question.label_ids] for f in self.faces]
