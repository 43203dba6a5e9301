"""Filters the LLM's stream: stops before what is switched off, and repairs sentences that contradict the labels."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from ..bundle.manifest import Manifest
from ..types import AnswerChunk, Face, Label
from .claims import ClaimChecker, complete, starts_with_yes_no, with_yes_no, without_yes_no
from .query import Query

log = logging.getLogger(__name__)

#: At most so many labels of a face are stated where nothing was left of an answer.
MAX_STATED = 4


class Guard:
    """Reads an answer while it is generated.

    Where a word contradicts the labels, the LLM is cut back to it and takes another one (`constraint`). A sentence that
    mentions something switched off ends the answer. One that still contradicts the labels, claims more than they do, or
    says that something is switched off where nothing that is asked is, doubts what is known, or speaks of nothing that
    was asked, is dropped.
    Where nothing is left, the labels asked about are stated; where sentences were dropped, or each of several things
    was asked about, those that the answer does not mention.
    """

    def __init__(self, manifest: Manifest, enabled: Collection[str]) -> None:
        """Of a bundle, with these characteristics switched on."""
        disabled = [w for c in manifest.characteristics if c.name not in enabled for w in (*c.mentions, *c.denials)]
        # Finds any of the words; nothing where there are none.
        self._disabled = re.compile(rf"\b(?:{'|'.join(map(re.escape, disabled)) or '(?!)'})\b", re.IGNORECASE)
        self._checker = ClaimChecker(manifest.characteristics)
        self._absent = {c.name: c.absent for c in manifest.characteristics}
        self._prompt = manifest.llm.prompt
        where = map(re.escape, self._prompt.looked.split("{place}"))
        self._where = re.compile("(?P<place>.+)".join(where), re.IGNORECASE)

    def forbids(self, text: str) -> bool:
        """Does it mention something switched off?"""
        return bool(self._disabled.search(text))

    def constraint(self, faces: Sequence[Face]) -> Callable[[str], int | None]:
        """A growing answer -> where it begins to contradict the labels of these faces; None where it does not."""
        labels = [f.labels for f in faces]
        return lambda text: self._checker.first_violation(text, labels)

    def filter(self, chunks: Iterator[AnswerChunk], query: Query) -> Iterator[AnswerChunk]:
        """The LLM's answer to a query, sentence by sentence, without what must not be said."""
        question, places = query.question, self._places(query)
        # Chunks of the sentence that is growing; sentences that were dropped, and that were passed on.
        pending: list[AnswerChunk] = []
        dropped: list[str] = []
        passed: list[str] = []
        for chunk in chunks:
            pending.append(chunk)
            sentence = "".join(c.text for c in pending)
            if not chunk.finish_reason and not complete(sentence):
                continue
            if question.as_statement and starts_with_yes_no(sentence):
                sentence = without_yes_no(sentence)
                pending = [dataclasses.replace(c, text="" if i else sentence) for i, c in enumerate(pending)]
            if self.forbids(sentence):
                text = "" if passed else self._prompt.withheld
                yield dataclasses.replace(chunk, text=text, finish_reason="withheld")
                return
            if self._is_wrong(sentence, query, places) or self._says_again(sentence, passed, query):
                log.info("dropped: %r", sentence)
                dropped.append(sentence)
                pending = [dataclasses.replace(c, text="") for c in pending]
            elif sentence.strip():
                if not passed:
                    pending[0] = dataclasses.replace(pending[0], text=pending[0].text.lstrip())
                passed.append(sentence)
            if chunk.finish_reason:
                text = self._missing(passed, query, repaired=bool(dropped))
                if dropped and not passed:
                    text = self._fallback(dropped[0], query, places)
                if text or dropped:
                    last = pending[-1]
                    pending[-1] = dataclasses.replace(last, text=last.text + text, finish_reason="repaired")
            yield from pending
            pending = []

    def _places(self, query: Query) -> list[str]:
        """What the regions are called that show what is asked about."""
        return list(dict.fromkeys(self._prompt.places[x.region] for labels in query.labels for x in labels))

    def _is_wrong(self, sentence: str, query: Query, places: Collection[str]) -> bool:
        where = self._where.search(sentence)
        elsewhere = where and places and where["place"].lower() not in places
        withheld = sentence.strip() == self._prompt.withheld and not query.question.asks_disabled
        # Whether a question is one that is answered, the question encoder knows better.
        refused = withheld or (any(query.labels) and self._declines(sentence))
        astray = not where and (self._strays(sentence, query) or self._doubts_what_is_known(sentence, query))
        return bool(elsewhere or refused or astray or self._checker.violates(sentence, [f.labels for f in query.faces]))

    def _declines(self, sentence: str) -> bool:
        return sentence.strip() in self._prompt.declines.values()

    def _strays(self, sentence: str, query: Query) -> bool:
        """Does it speak of one face, and of nothing that was asked about it: of her smile, where it was her hair?"""
        asked, mentioned = {x.name for labels in query.labels for x in labels}, self._checker.mentioned(sentence)
        return len(query.faces) == 1 and bool(asked and mentioned) and asked.isdisjoint(mentioned)

    def _doubts_what_is_known(self, sentence: str, query: Query) -> bool:
        """Does it say "I am not sure" of what was asked about one face, and is known?"""
        if len(query.faces) > 1:
            return False
        known = {x.name for x in query.labels[0] if x.state in ("yes", "no")}
        return not known.isdisjoint(self._checker.doubted(sentence))

    def _says_again(self, sentence: str, passed: Sequence[str], query: Query) -> bool:
        """Is all that it mentions of one face said already, or doubted ("I am not sure whether ...")?"""
        if len(query.faces) > 1 or self._where.search(sentence):
            return False
        mentioned = self._checker.mentioned(sentence)
        return bool(mentioned) and mentioned <= self._checker.mentioned(" ".join(passed))

    def _missing(self, passed: Sequence[str], query: Query, *, repaired: bool) -> str:
        """The labels asked about that an answer about one face does not mention, if each of them was asked about,
        sentences were dropped, or it decides: "No, the person is not smiling" is half an answer to whether she smiles
        and wears a hat. Which of two things holds, is a whole one."""
        if len(query.faces) != 1 or not 0 < len(query.labels[0]) <= MAX_STATED:
            return ""
        labels = query.labels[0]
        # A place is spoken of in the words of what is there.
        mentioned = self._checker.mentioned(" ".join(s for s in passed if not self._where.search(s)))
        decides = bool(passed) and starts_with_yes_no(passed[0])
        strays = bool(mentioned - {x.name for x in labels})
        if not mentioned or not (repaired or decides or strays or query.question.asks_all):
            return ""
        missing = [x for x in labels if x.name not in mentioned]
        return f" {self._statements([missing])}" if missing else ""

    def _fallback(self, dropped: str, query: Query, places: Sequence[str]) -> str:
        """What is said where nothing is left of an answer that began with the sentence `dropped`."""
        if self._where.search(dropped):
            return self._prompt.looked.format(place=" and ".join(places))
        labels = query.labels
        if not any(labels):
            # The LLM understood what the question encoder did not: it spoke of these.
            names = {c.name for c in self._checker.claims(dropped, faces=len(query.faces))}
            labels = [[x for x in f.labels if x.name in names] for f in query.faces]
        text = self._statements(labels)
        decided = starts_with_yes_no(dropped) or self._declines(dropped)
        decides = decided and not query.question.as_statement and [len(x) for x in labels] == [1]
        return with_yes_no(text) if decides else text

    def _statements(self, labels: Sequence[Sequence[Label]]) -> str:
        """Labels, per face, in the bundle's own sentences."""
        who = self._prompt.who[1:] if len(labels) > 1 else self._prompt.who[:1]
        out = []
        for name, of_face in zip(who, labels, strict=True):
            present = [x for x in of_face if x.state != "no"] if len(of_face) > MAX_STATED else of_face
            for x in (present or of_face)[:MAX_STATED]:
                out.append(self._prompt.stated(x.state, who=name, phrase=x.phrase, absent=self._absent[x.name]))
        return " ".join(dict.fromkeys(out)) or self._prompt.withheld
