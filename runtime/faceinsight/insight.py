"""The main path, from image to answer: start reading here."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from operator import attrgetter
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .device import Device
from .errors import RequestError
from .guard import Guard
from .imaging import ImageSource, load_image
from .labels import Label
from .language import Language
from .manifest import Manifest
from .perception import Perception
from .relevance import Relevance
from .types import Answer, Face, Piece, Report, Timings
from .vision import Vision
from .vocabulary import VocabularyFile


class FaceInsight:
    """Perceive faces and answer questions about them.

        with FaceInsight.load("nano") as fi:
            faces = fi.perceive("photo.jpg")
            print(fi.ask(faces[0], "Is she wearing glasses?").text)

    Not thread-safe: one call at a time per instance.
    """

    def __init__(
        self,
        manifest: Manifest,
        perception: Perception,
        relevance: Relevance,
        language: Language,
        vision: Vision | None = None,
    ) -> None:
        self.perception = perception
        self.relevance = relevance
        self.language = language
        self.vision = vision
        self._guard = Guard(manifest, perception.enabled)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        threads: int | None = None,
    ) -> FaceInsight:
        """Open and verify a bundle.

        Args:
            bundle: name of a shipped bundle, or a folder.
            device: "auto", "cpu", "cuda" or "tensorrt". Anything but "auto" raises DeviceError if it is not there.
            allow: groups to switch on that are off by default ("gender", "age", "race").
            deny: groups to switch off that are on by default ("expression"). Off means not computed and not answered.
            threads: the budget all engines share; by default every core this process may use.
        """
        opened = Bundle.open(bundle)
        where = Device.resolve(device, threads=threads)
        manifest = opened.manifest
        perception = Perception.load(opened, where, allow=allow, deny=deny)
        llm, asked = manifest.llm, manifest.question
        spec = manifest.vision
        vision = Vision(spec, where.session(opened.file(spec.file))) if spec else None
        language = Language(opened.file(llm.file), llm, where, see=vision or attrgetter("tokens"))
        vocabulary = language.vocabulary
        if asked.vocabulary:
            follow = llm.prompt.follow
            vocabulary = VocabularyFile(opened.file(asked.vocabulary), follow=follow, max_question=llm.max_question)
        relevance = Relevance(manifest, where.session(opened.file(asked.file)), vocabulary, perception.numbers)
        return cls(manifest, perception, relevance, language, vision)

    def perceive(self, image: ImageSource) -> tuple[Face, ...]:
        """The faces in a photo (a path, the bytes of a JPEG, PNG or WebP, or RGB uint8 (H,W,3)), the largest first.

        Empty where there is none. Raises ImageError.
        """
        return self.perception(load_image(image))

    def report(self, face: Face) -> Report:
        """Every enabled characteristic with probability, state, region and the rule that decided it. No LLM."""
        return Report(face.box, face.score, face.labels, face.areas)

    def stream(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Iterator[Piece]:
        """The answer, piece by piece; the arguments are those of `ask`.

        A sentence leaves when it is complete and agrees with what was found. Raises QuestionError.
        """
        return self._answer(face, question, after, max_tokens)[1]

    def ask(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Answer:
        """The whole answer, with the findings it rests on and the regions that show them.

        Args:
            face: whom the question is about; two faces to compare them.
            question: in everyday English.
            after: the question before, for one that follows it ("And a hat?", "Are you sure?").
            max_tokens: an answer is cut here; never longer than the bundle allows.
        Raises QuestionError for a question that is empty or too long.
        """
        began = time.perf_counter()
        labels, stream = self._answer(face, question, after, max_tokens)
        pieces = list(stream)
        last = pieces[-1]
        logs = [math.log(max(p.probability, 1e-9)) for p in pieces]
        return Answer(
            text="".join(p.text for p in pieces).strip(),
            labels=labels,
            confidence=round(math.exp(sum(logs) / len(logs)), 4),
            evidence=tuple(dict.fromkeys(x.region for x in labels)),
            finish=last.finish or "stop",
            timings=Timings(pieces[0].elapsed_ms, (time.perf_counter() - began) * 1e3, last.tokens),
        )

    def _answer(
        self, face: Face | Sequence[Face], question: str, after: str | None, max_tokens: int | None
    ) -> tuple[tuple[Label, ...], Iterator[Piece]]:
        """What the question asks about, and the stream of its answer."""
        faces, tokens, about, findings = self._read(face, question, after)
        objection = self._guard.objection(faces)
        pieces = self.language.stream(faces, tokens, findings, max_tokens=max_tokens, objection=objection)
        asked = [tuple(f.labels[i] for i in about) for f in faces]
        return tuple(x for labels in asked for x in labels), self._guard(pieces, faces, asked)

    def unchecked(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Iterator[Piece]:
        """The LLM's own words, held against nothing: for measuring what the checks of `stream` are worth."""
        faces, tokens, _, findings = self._read(face, question, after)
        return self.language.stream(faces, tokens, findings, max_tokens=max_tokens)

    def _read(
        self, face: Face | Sequence[Face], question: str, after: str | None
    ) -> tuple[tuple[Face, ...], list[int], NDArray[np.int64], list[NDArray[np.float32] | str]]:
        """Whom a question is about, its tokens, the positions of the labels it asks about, and what was found there."""
        faces = tuple(face) if isinstance(face, (tuple, list)) else (face,)
        if not 1 <= len(faces) <= 2 or not all(isinstance(f, Face) for f in faces):
            found = ", ".join(type(f).__name__ for f in faces) or "nothing"
            raise RequestError(f"expected a Face from perceive(), or two, found {found}")
        tokens = self.language.read(question, after)
        about = self.relevance(question, after)
        return faces, tokens, about, [self.relevance.findings(f, about) for f in faces]

    def forget(self) -> None:
        """Wipe what the caches hold of faces. A Face that the caller keeps is the caller's."""
        self.language.forget()
        if self.vision:
            self.vision.forget()

    def close(self) -> None:
        """Wipe the caches and free the models."""
        self.forget()
        self.language.close()

    def __enter__(self) -> FaceInsight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
