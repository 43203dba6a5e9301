"""Which characteristics a question asks about, and whether it is one that is answered: the bundle's question encoder
decides, and the LLM is told just the findings that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.llama_cpp.tokenizer import Tokenizer
from ..backends.session import CheckedSession
from ..bundle.manifest import Manifest
from ..bundle.specs import ABOUT, COUNT, DETAIL, LANGUAGE, SCOPE, UNCLEAR
from ..types import STATES, Face, Label
from .claims import is_conjunction, is_negated, sentences
from .languages import DECLINES, language_of
from .query import ParsedQuestion, Query

#: Reason for which a question is declined beside those of the prompt.
SWITCHED_OFF = "switched off"
#: Reasons that other words, or the question before, may put right.
_OPEN = (SCOPE, UNCLEAR)
#: Of a question that names several things, so much of that share is asked about as well: of 3,000 such questions 0.862
#: are then read exactly, else 0.845.
_EACH = 0.25
_NO_LABELS = np.empty(0, np.int64)


def asked_about(
    relevance: NDArray[np.float32], share: float, *, something: bool, each: bool = False
) -> NDArray[np.bool_]:
    """(N,) relevance -> is it asked about? What is above zero, and not far below the highest.

    Args:
        relevance: of each characteristic.
        share: `QuestionSpec.share`.
        something: the question is known to ask about something; in words that hardly say what, it is the likeliest.
        each: it names several things, each of which is asked about.
    """
    most, share = relevance.max(), share * _EACH if each else share
    return np.asarray(relevance == most if something and most <= 0 else relevance > max(0.0, share * most))


def _described(face: Face, confidence: float) -> Face:
    """A face as a description speaks of it. One wrong claim of several makes it wrong: what is claimed with less
    confidence than that is unsure."""

    def is_sure(label: Label) -> bool:
        p = label.probability
        return p is None or label.state not in ("yes", "no") or (p if label.state == "yes" else 1 - p) >= confidence

    return replace(face, labels=tuple(x if is_sure(x) else replace(x, state="unsure") for x in face.labels))


class QuestionEncoder:
    """A question -> the enabled characteristics that it asks about, and what was found of them."""

    def __init__(
        self,
        manifest: Manifest,
        session: Any,
        tokenizer: Tokenizer,
        llm_tokenizer: Tokenizer,
        characteristic_ids: NDArray[np.int64],
        knowledge: NDArray[np.float32] | None,
        correct: Callable[[str], str] = str,
    ) -> None:
        """Of a bundle, for a fixed choice of characteristics.

        Args:
            manifest: the bundle's.
            session: of its question encoder.
            tokenizer: the question encoder's own.
            llm_tokenizer: the LLM's; the same object where they share one.
            characteristic_ids: (K,) the enabled characteristics, in the order of a face's labels.
            knowledge: (states, K, width) the knowledge tokens; None where the LLM is told in words.
            correct: corrects the misspelt words of a question.
        """
        spec, n = manifest.question, len(manifest.characteristics)
        outputs = {"relevance": (None, n)} | ({"kinds": (None, len(spec.kinds))} if spec.kinds else {})
        self.graph = CheckedSession(session, spec.file, {"tokens": (None, None)}, outputs)
        self._correct = correct
        self._kinds, self._opposites = spec.kinds, spec.opposites
        self._ids, self.tokenizer, self._llm_tokenizer = characteristic_ids, tokenizer, llm_tokenizer
        self._list_from, self._share, self._uncased = spec.list_from, spec.share, spec.uncased
        self._described_from, self._described_sure = spec.described_from, spec.described_sure
        self._prompt, self._knowledge = manifest.llm.prompt, knowledge
        self._absent = {c.name: c.absent for c in manifest.characteristics}
        self._inverted = {c.name for c in manifest.characteristics if c.inverted}

    def query(self, question: str, faces: tuple[Face, ...], *, after: str | None = None) -> Query:
        """A question about these faces, ready for the LLM.

        Args:
            question: in everyday English.
            faces: one, or two to compare.
            after: the question before, for one that follows it.

        Raises:
            QuestionError: it is empty or too long.
        """
        token_ids = self._llm_tokenizer.encode_question(question, after)
        parsed = self.parse(question, after)
        if parsed.words != (question, after):
            token_ids = self._llm_tokenizer.encode_question(*parsed.words)
        if self._described_from and len(parsed.label_ids) >= self._described_from:
            faces = tuple(_described(f, self._described_sure) for f in faces)
        findings = [self.findings(f, parsed.label_ids) for f in faces]
        reply, finish_reason = parsed.decline, "declined" if parsed.declined else ""
        people = [f.people for f in faces if f.people]
        if parsed.kind == COUNT and not parsed.declined and people:
            one, many = self._prompt.counted
            reply, finish_reason = one if max(people) == 1 else many.format(count=max(people)), "counted"
        return Query(faces, parsed, token_ids, findings, reply, finish_reason)

    def parse(self, question: str, after: str | None = None) -> ParsedQuestion:
        """How a question is understood: by itself, or several by all that they ask; else by one of its sentences ("Is
        he bald? Please."), else behind the one before it ("Are you sure?"). The LLM reads what was understood, alone:
        an answer would follow other words.

        Raises:
            QuestionError: it is empty or too long.
        """
        language = language_of(question)
        # Another language's words are not misspelt.
        corrected, before = question if language else self._correct(question), after and self._correct(after)
        words = (corrected, before)
        if language and LANGUAGE in self._prompt.declines:
            decline = DECLINES.get(language, self._prompt.declines[LANGUAGE])
            return ParsedQuestion(_NO_LABELS, False, LANGUAGE, LANGUAGE, decline, False, False, words)
        if not self._kinds:
            return self._classify(corrected, before)
        parsed = self._by_sentences(corrected, self._classify(corrected, None))
        if parsed.declined in _OPEN and before:
            return self._classify(corrected, before)
        return parsed

    def label_ids(self, question: str, after: str | None = None) -> NDArray[np.int64]:
        """Positions in a face's labels of what a question asks about, ascending. Raises QuestionError."""
        return self.parse(question, after).label_ids

    def findings(self, face: Face, label_ids: NDArray[np.int64]) -> NDArray[np.float32] | str:
        """What the LLM is told: knowledge tokens (M, width), or words where the bundle has none. A list leaves out what
        was found absent, and of a beard also that there is none."""
        if len(label_ids) >= self._list_from:
            labels = face.labels
            present = (i for i in label_ids if labels[i].state != "no" and not self._says_absent(labels[i]))
            label_ids = np.fromiter(present, np.int64)
        given = [face.labels[i] for i in label_ids]
        if self._knowledge is None:
            return self._in_words(given)
        return self._knowledge[np.array([STATES.index(x.state) for x in given], np.int64), label_ids]

    def decline_reason(self, answer: str) -> str | None:
        """Why it was declined, if an answer is one of the sentences that say so."""
        if answer == self._prompt.withheld:
            return SWITCHED_OFF
        return next((why for why, decline in self._prompt.declines.items() if answer == decline), None)

    def _classify(self, question: str, after: str | None) -> ParsedQuestion:
        token_ids = self.tokenizer.encode_question(question, after, uncased=self._uncased)
        outputs = self.graph(tokens=np.array([token_ids], np.int64))
        relevance = outputs[0][0]
        kind = self._kinds[int(outputs[1][0].argmax())] if self._kinds else ABOUT
        asks_all, something = is_conjunction(question), bool(self._kinds) and kind in (ABOUT, DETAIL)
        asked = asked_about(relevance, self._share, something=something, each=asks_all)
        label_ids = np.flatnonzero(asked[self._ids])
        asks_disabled = bool(np.delete(asked | (relevance > 0), self._ids).any())
        counts = kind == COUNT
        if counts and len(label_ids):
            kind = ABOUT  # "How many people wear glasses?": of this one it is known
        declined, decline = self._decline(kind, asks=bool(len(label_ids)), asks_disabled=asks_disabled)
        as_statement = counts or kind == DETAIL or is_negated(question, self._opposites)
        ids = _NO_LABELS if declined else label_ids
        words = question, after
        return ParsedQuestion(ids, asks_disabled, kind, declined, decline, as_statement, asks_all, words)

    def _by_sentences(self, question: str, whole: ParsedQuestion) -> ParsedQuestion:
        """A question of several sentences; whole: how it is understood as one."""
        parts = [p for p in sentences(question) if p.strip()]
        if len(parts) < 2:
            return whole
        alone = [self._classify(p, None) for p in parts]
        if all(p.rstrip().endswith("?") for p in parts) and all(len(p.label_ids) for p in alone):
            # "Smile? Hat? Glasses?" asks for all of them.
            ids = np.unique(np.concatenate([p.label_ids for p in (whole, *alone)]))
            off = any(p.asks_disabled for p in (whole, *alone))
            return replace(
                alone[0], label_ids=ids, asks_disabled=off, as_statement=True, asks_all=True, words=whole.words
            )
        # A reason for declining that none of the sentences has by itself is none.
        if whole.declined in (None, *_OPEN) or all(p.declined in (None, *_OPEN) for p in alone):
            answerable = [p for p in alone if not p.declined]
            return answerable[0] if 0 < len(answerable) < len(alone) else whole
        return whole

    def _decline(self, kind: str, *, asks: bool, asks_disabled: bool) -> tuple[str | None, str]:
        """Why a question of this kind is not answered, if it is not, and the sentence that says so."""
        declines = self._prompt.declines
        if kind in declines:
            return kind, declines[kind]
        if asks or not self._kinds or (kind == COUNT and self._prompt.counted[0]):
            return None, ""
        if asks_disabled:
            return SWITCHED_OFF, self._prompt.withheld
        return (SCOPE, declines[SCOPE]) if SCOPE in declines else (None, "")

    def _says_absent(self, label: Label) -> bool:
        """Does it say "yes" to the absence of something ("has no beard")?"""
        return label.name in self._inverted and label.state == "yes"

    def _in_words(self, labels: Sequence[Label]) -> str:
        if not labels:
            return ""
        who, prompt = self._prompt.who[0], self._prompt
        statements = (prompt.stated(x.state, who=who, phrase=x.phrase, absent=self._absent[x.name]) for x in labels)
        return prompt.findings.format(findings=" ".join(dict.fromkeys(statements)))
