"""Between the LLM and whoever asked: nothing switched off leaves, and nothing but what was found."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence

from ..bundle.manifest import Manifest
from ..types import Face, Label, Piece
from .claims import Grounding, complete, opened, opens, unopened

log = logging.getLogger(__name__)

#: At most so many findings of a face are stated where nothing was left of an answer.
STATED = 4


class Guard:
    """Reads an answer as it is made, word by word and sentence by sentence.

    Where a word says what was not found, the LLM goes back and says it otherwise (`objection`). A sentence that speaks
    of something switched off ends the answer. One that still contradicts the labels, claims more than they do, or says
    that something is switched off where nothing that is asked is, is left out. Where nothing is left, the findings
    themselves are stated; where the answer went astray, those that it left out.
    """

    def __init__(self, manifest: Manifest, enabled: Collection[str]) -> None:
        off = [w for c in manifest.characteristics if c.name not in enabled for w in (*c.mentions, *c.denials)]
        # Finds any of the words; nothing where there are none.
        self._off = re.compile(rf"\b(?:{'|'.join(map(re.escape, off)) or '(?!)'})\b", re.IGNORECASE)
        self._grounding = Grounding(manifest.characteristics)
        self._absent = {c.name: c.absent for c in manifest.characteristics}
        self._prompt = manifest.llm.prompt
        looked = map(re.escape, self._prompt.looked.split("{place}"))
        self._looked = re.compile("(?P<place>.+)".join(looked), re.IGNORECASE)

    def forbids(self, text: str) -> bool:
        """Does it speak of something switched off?"""
        return bool(self._off.search(text))

    def objection(self, faces: Sequence[Face]) -> Callable[[str], int | None]:
        """A growing answer -> where it begins to say what was not found on these faces; None where it does not."""
        labels = [f.labels for f in faces]
        return lambda text: self._grounding.wrong_from(text, labels)

    def __call__(
        self,
        pieces: Iterator[Piece],
        faces: Sequence[Face],
        asked: Sequence[Sequence[Label]],
        *,
        off: bool,
        turned: bool,
    ) -> Iterator[Piece]:
        """pieces: the LLM's answer; faces: whom it is about; asked: per face, the findings it was asked for; off: was
        it asked about something switched off too?; turned: the answer must not open with Yes or No."""
        labels = [f.labels for f in faces]
        places = dict.fromkeys(self._prompt.places[x.region] for own in asked for x in own)
        held: list[Piece] = []
        # Sentences that were left out, and those that left.
        dropped: list[str] = []
        kept: list[str] = []
        for piece in pieces:
            held.append(piece)
            sentence = "".join(p.text for p in held)
            if not piece.finish and not complete(sentence):
                continue
            if turned and opens(sentence):
                sentence = unopened(sentence)
                held = [dataclasses.replace(p, text="" if i else sentence) for i, p in enumerate(held)]
            if self.forbids(sentence):
                yield dataclasses.replace(piece, text="" if kept else self._prompt.withheld, finish="withheld")
                return
            looked = self._looked.search(sentence)
            elsewhere = looked and places and looked["place"].lower() not in places
            refused = sentence.strip() == self._prompt.withheld and not off
            if elsewhere or refused or self._grounding.wrong(sentence, labels):
                log.info("left out: %r", sentence)
                dropped.append(sentence)
                held = [dataclasses.replace(p, text="") for p in held]
            elif sentence.strip():
                if not kept:
                    held[0] = dataclasses.replace(held[0], text=held[0].text.lstrip())
                kept.append(sentence)
            if piece.finish:
                if kept:
                    text = self._left_out(kept, asked, astray=bool(dropped))
                else:
                    text = self._instead(dropped[0], faces, asked, places, turned=turned) if dropped else ""
                if text or dropped:
                    held[-1] = dataclasses.replace(held[-1], text=held[-1].text + text, finish="repaired")
            yield from held
            held = []

    def _left_out(self, kept: Sequence[str], asked: Sequence[Sequence[Label]], *, astray: bool) -> str:
        """The findings that an answer about one face does not mention, if it went astray or decides: "No, the person is
        not smiling" is half an answer to whether she smiles and wears a hat. Which of two things holds, is a whole one.
        """
        if len(asked) != 1 or not 0 < len(asked[0]) <= STATED:
            return ""
        # A place is spoken of in the words of what is there.
        mentioned = self._grounding.mentioned(" ".join(s for s in kept if not self._looked.search(s)))
        if not mentioned or not (astray or opens(kept[0]) or mentioned - {x.name for x in asked[0]}):
            return ""
        missing = [x for x in asked[0] if x.name not in mentioned]
        return f" {self._statements([missing])}" if missing else ""

    def _instead(
        self, dropped: str, faces: Sequence[Face], asked: Sequence[Sequence[Label]], places: Collection[str],
        *, turned: bool,
    ) -> str:  # fmt: skip
        """What is said where nothing is left of an answer that began with the sentence `dropped`."""
        if self._looked.search(dropped):
            return self._prompt.looked.format(place=" and ".join(places))
        if not any(asked):
            # The LLM understood what the question encoder did not: it spoke of these.
            spoken = {c.name for c in self._grounding.claims(dropped, faces=len(faces))}
            asked = [[x for x in f.labels if x.name in spoken] for f in faces]
        text = self._statements(asked)
        return opened(text) if opens(dropped) and not turned and [len(own) for own in asked] == [1] else text

    def _statements(self, asked: Sequence[Sequence[Label]]) -> str:
        """What was found, in the bundle's own sentences."""
        who = self._prompt.who[1:] if len(asked) > 1 else self._prompt.who[:1]
        out = []
        for name, labels in zip(who, asked, strict=True):
            telling = [x for x in labels if x.state != "no"] if len(labels) > STATED else labels
            for x in (telling or labels)[:STATED]:
                out.append(self._prompt.stated(x.state, who=name, phrase=x.phrase, absent=self._absent[x.name]))
        return " ".join(dict.fromkeys(out)) or self._prompt.withheld
