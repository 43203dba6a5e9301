"""What does a question ask about, and is it one that is answered? The bundle's question encoder decides; the LLM is
told just the findings that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.llama_cpp.tokenizer import Vocabulary
from ..backends.session import Graph
from ..bundle.manifest import ABOUT, COUNT, DETAIL, LANGUAGE, SCOPE, UNCLEAR, Manifest
from ..types import Face, Label
from .claims import sentences, turned
from .languages import DECLINES, language_of

#: Reason for which a question is declined beside those of the prompt.
OFF = "switched off"
#: Reasons that other words, or the question before, may put right.
_OPEN = (SCOPE, UNCLEAR)
_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Asked:
    """How a question was understood.

    Attributes:
        about: positions in the face's labels of what it asks about, ascending.
        off: whether it asks about something switched off, if only by the way.
        kind: one of the bundle's kinds of questions.
        declined: the reason for which it is not answered: a key of the prompt's `declines`, or `OFF`; else None.
        decline: what is said then.
        turned: it is asked with a denial in it, so that the answer is a statement without Yes or No.
        meant: the question, and the one before it, with their words put right.
    """

    about: NDArray[np.int64]
    off: bool
    kind: str
    declined: str | None
    decline: str
    turned: bool
    meant: tuple[str, str | None]


class Relevance:
    """A question -> which of the enabled characteristics it asks about, and what was found of them."""

    def __init__(
        self,
        manifest: Manifest,
        session: Any,
        vocabulary: Vocabulary,
        numbers: NDArray[np.int64],
        spelling: Callable[[str], str] = str,
    ) -> None:
        """vocabulary: the question encoder's; numbers: the enabled characteristics, in the order of a face's labels;
        spelling: puts a question's words right."""
        self._spelling = spelling
        spec, count = manifest.question, len(manifest.characteristics)
        outputs = {"relevance": (None, count)} | ({"kinds": (None, len(spec.kinds))} if spec.kinds else {})
        self.graph = Graph(session, spec.file, {"tokens": (None, None)}, outputs)
        self._kinds, self._opposites = spec.kinds, spec.opposites
        self._numbers, self._vocabulary = numbers, vocabulary
        self._list_from, self._share = spec.list_from, spec.share
        self._prompt, self._worded = manifest.llm.prompt, manifest.knowledge is None
        self._absent = {c.name: c.absent for c in manifest.characteristics}
        self._inverted = {c.name for c in manifest.characteristics if c.inverted}

    def __call__(self, question: str, after: str | None = None) -> NDArray[np.int64]:
        """Positions in the face's labels, ascending. Raises QuestionError for a question that is empty or too long."""
        return self.read(question, after).about

    def read(self, question: str, after: str | None = None) -> Asked:
        """How a question is understood: by itself, else by one of its sentences ("Is he bald? Please."), else behind
        the one before it ("Are you sure?"). Raises QuestionError."""
        language = language_of(question)
        # Another language's words are no slips.
        meant, before = question if language else self._spelling(question), after and self._spelling(after)
        if language and LANGUAGE in self._prompt.declines:
            decline = DECLINES.get(language, self._prompt.declines[LANGUAGE])
            return Asked(_NOTHING, False, LANGUAGE, LANGUAGE, decline, False, (meant, before))
        if not self._kinds:
            return self._understood(meant, before)
        asked = self._understood(meant, None)
        parts = sentences(meant)
        if asked.declined in _OPEN and len(parts) > 1:
            asked = next((a for p in parts if p.strip() and not (a := self._understood(p, None)).declined), asked)
        if asked.declined in _OPEN and before:
            asked = self._understood(meant, before)
        return replace(asked, meant=(meant, before))

    def _understood(self, question: str, after: str | None) -> Asked:
        read = self.graph(tokens=np.array([self._vocabulary.read(question, after)], np.int64))
        relevance = read[0][0]
        kind = self._kinds[int(read[1][0].argmax())] if self._kinds else ABOUT
        if self._kinds and kind in (ABOUT, DETAIL) and relevance.max() <= 0:
            # It asks about something, in words that hardly say what: the likeliest.
            relevance = np.where(relevance == relevance.max(), 1.0, relevance)
        about = np.flatnonzero(relevance[self._numbers] > max(0.0, self._share * relevance.max()))
        off = bool((np.delete(relevance, self._numbers) > 0).any())
        counts = kind == COUNT
        if counts and len(about):
            kind = ABOUT  # "How many people wear glasses?": of this one it is known
        declined, decline = self._declined(kind, asks=bool(len(about)), off=off)
        stated = counts or kind == DETAIL or turned(question, self._opposites)
        return Asked(_NOTHING if declined else about, off, kind, declined, decline, stated, (question, after))

    def _declined(self, kind: str, *, asks: bool, off: bool) -> tuple[str | None, str]:
        """Why a question of this kind is not answered, if it is not, and what is said."""
        says = self._prompt.declines
        if kind in says:
            return kind, says[kind]
        if asks or not self._kinds or (kind == COUNT and self._prompt.counted[0]):
            return None, ""
        return (OFF, self._prompt.withheld) if off else (SCOPE, says[SCOPE]) if SCOPE in says else (None, "")

    def reason(self, answer: str) -> str | None:
        """Why it was declined, if an answer is one of the sentences that say so."""
        if answer == self._prompt.withheld:
            return OFF
        return next((why for why, decline in self._prompt.declines.items() if answer == decline), None)

    def findings(self, face: Face, about: NDArray[np.int64]) -> NDArray[np.float32] | str:
        """What the LLM is told: knowledge tokens (M,width), or words where the bundle has none. A long list leaves out
        what was found absent, and of a beard also that there is none."""
        if len(about) >= self._list_from:
            told = (i for i in about if face.labels[i].state != "no" and not self._lacking(face.labels[i]))
            about = np.fromiter(told, np.int64)
        return self._words([face.labels[i] for i in about]) if self._worded else face.knowledge[about]

    def _lacking(self, label: Label) -> bool:
        """Does it say "yes" to the absence of something ("has no beard")?"""
        return label.name in self._inverted and label.state == "yes"

    def _words(self, labels: Sequence[Label]) -> str:
        if not labels:
            return ""
        who = self._prompt.who[0]
        told = (self._prompt.stated(x.state, who=who, phrase=x.phrase, absent=self._absent[x.name]) for x in labels)
        return self._prompt.findings.format(findings=" ".join(dict.fromkeys(told)))
