"""The main path, from image to answer: start reading here."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from .bundle import Bundle
from .device import Device
from .errors import RequestError
from .imaging import ImageSource, load_image
from .labels import Label
from .language import Language
from .manifest import Manifest
from .perception import Perception
from .relevance import Relevance
from .types import Answer, Face, Piece, Report, Timings


class FaceInsight:
    """Perceive faces and answer questions about them.

        with FaceInsight.load("nano") as fi:
            faces = fi.perceive("photo.jpg")
            print(fi.ask(faces[0], "Is she wearing glasses?").text)

    Not thread-safe: one call at a time per instance.
    """

    def __init__(self, manifest: Manifest, perception: Perception, relevance: Relevance, language: Language) -> None:
        self.perception = perception
        self.relevance = relevance
        self.language = language
        self._off = _words(
            [m for c in manifest.characteristics if c.name not in perception.enabled for m in c.mentions]
        )
        self._withheld = manifest.llm.prompt.withheld

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        allow: Sequence[str] = (),
        threads: int | None = None,
    ) -> FaceInsight:
        """Open and verify a bundle.

        Args:
            bundle: name of a shipped bundle, or a folder.
            device: "auto", "cpu", "cuda" or "tensorrt". Anything but "auto" raises DeviceError if it is not there.
            allow: sensitive groups to switch on ("gender", "age", "race"). Off means not computed and not answered.
            threads: the budget all engines share; by default every core this process may use.
        """
        opened = Bundle.open(bundle)
        where = Device.resolve(device, threads=threads)
        manifest = opened.manifest
        perception = Perception.load(opened, where, allow=allow)
        relevance = Relevance(manifest, where.session(opened.file(manifest.question.file)), perception.numbers)
        return cls(manifest, perception, relevance, Language(opened.file(manifest.llm.file), manifest.llm, where))

    def perceive(self, image: ImageSource) -> tuple[Face, ...]:
        """The faces in a photo (a path, the bytes of a JPEG, PNG or WebP, or RGB uint8 (H,W,3)), the largest first.

        Empty where there is none. Raises ImageError.
        """
        return self.perception(load_image(image))

    def report(self, face: Face) -> Report:
        """Every enabled characteristic with probability, state, region and the rule that decided it. No LLM."""
        return Report(face.box, face.score, face.labels, face.areas)

    def stream(self, face: Face, question: str, *, max_tokens: int | None = None) -> Iterator[Piece]:
        """The answer, piece by piece.

        Text leaves word by word, so that an answer is stopped before a word that speaks of something switched off.
        Raises QuestionError.
        """
        return self._answer(face, question, max_tokens)[1]

    def ask(self, face: Face, question: str, *, max_tokens: int | None = None) -> Answer:
        """The whole answer, with the findings it rests on and the regions that show them. Raises QuestionError."""
        began = time.perf_counter()
        labels, stream = self._answer(face, question, max_tokens)
        pieces = list(stream)
        last = pieces[-1]
        logs = [math.log(max(p.probability, 1e-9)) for p in pieces]
        return Answer(
            text=self._withheld if last.finish == "withheld" else "".join(p.text for p in pieces).strip(),
            labels=labels,
            confidence=round(math.exp(sum(logs) / len(logs)), 4),
            evidence=tuple(dict.fromkeys(x.region for x in labels)),
            finish=last.finish or "stop",
            timings=Timings(pieces[0].elapsed_ms, (time.perf_counter() - began) * 1e3, last.tokens),
        )

    def _answer(self, face: Face, question: str, max_tokens: int | None) -> tuple[tuple[Label, ...], Iterator[Piece]]:
        """What the question asks about, and the stream of its answer."""
        if not isinstance(face, Face):
            raise RequestError(f"expected a Face from perceive(), found {type(face).__name__}")
        tokens = self.language.read(question)
        about = self.relevance(tokens)
        findings = self.relevance.findings(face, about)
        pieces = self.language.stream(face, tokens, findings, max_tokens=max_tokens)
        return tuple(face.labels[i] for i in about), self._guard(pieces)

    def forget(self) -> None:
        """Wipe what the LLM's cache holds of faces. A Face that the caller keeps is the caller's."""
        self.language.forget()

    def _guard(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pass pieces on; hold back the word that is not finished, stop before one that is switched off."""
        said, held = "", ""
        for piece in pieces:
            held += piece.text
            # A word is complete once something that cannot belong to it follows.
            end = len(held) if piece.finish else max(held.rfind(" "), held.rfind("\n"))
            if self._off.search(said + held[: max(end, 0)]):
                yield Piece("", piece.tokens, piece.probability, piece.elapsed_ms, "withheld")
                return
            ready, held = (held[:end], held[end:]) if end > 0 else ("", held)
            said += ready
            yield Piece(ready, piece.tokens, piece.probability, piece.elapsed_ms, piece.finish)

    def close(self) -> None:
        """Wipe the caches and free the models."""
        self.language.close()

    def __enter__(self) -> FaceInsight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _words(mentions: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the words; nothing where there are none."""
    return re.compile(r"\b(?:" + ("|".join(map(re.escape, mentions)) or r"(?!)") + r")\b", re.IGNORECASE)
