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
from .language import Language
from .manifest import Manifest
from .perception import Perception
from .types import Answer, Face, Piece, Report, Timings


class FaceInsight:
    """Perceive faces and answer questions about them.

        with FaceInsight.load("nano") as fi:
            faces = fi.perceive("photo.jpg")
            print(fi.ask(faces[0], "Is she wearing glasses?").text)

    Not thread-safe: one call at a time per instance.
    """

    def __init__(self, manifest: Manifest, perception: Perception, language: Language) -> None:
        self._perception = perception
        self._language = language
        self._mentions = {c.name: _words(c.mentions) for c in manifest.characteristics if c.mentions}
        self._off = {n: p for n, p in self._mentions.items() if n not in perception.enabled}
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
        perception = Perception.load(opened, where, allow=allow)
        spec = opened.manifest.llm
        return cls(opened.manifest, perception, Language(opened.file(spec.file), spec, where))

    def perceive(self, image: ImageSource) -> tuple[Face, ...]:
        """The faces in a photo (a path, the bytes of a JPEG, PNG or WebP, or RGB uint8 (H,W,3)), the largest first.

        Empty where there is none. Raises ImageError.
        """
        return self._perception(load_image(image))

    def report(self, face: Face) -> Report:
        """Every enabled characteristic with probability, state, region and the rule that decided it. No LLM."""
        return Report(face.box, face.score, face.labels, face.areas)

    def stream(self, face: Face, question: str, *, max_tokens: int | None = None) -> Iterator[Piece]:
        """The answer, piece by piece.

        Text leaves word by word, so that an answer is stopped before a word that speaks of something switched off.
        Raises QuestionError.
        """
        if not isinstance(face, Face):
            raise RequestError(f"expected a Face from perceive(), found {type(face).__name__}")
        return self._guard(self._language.stream(face, question, max_tokens=max_tokens))

    def ask(self, face: Face, question: str, *, max_tokens: int | None = None) -> Answer:
        """The whole answer, with the labels it speaks of and the regions that show them. Raises QuestionError."""
        began = time.perf_counter()
        pieces = list(self.stream(face, question, max_tokens=max_tokens))
        last = pieces[-1]
        text = "".join(p.text for p in pieces).strip()
        if last.finish == "withheld":
            text = self._withheld
        labels = tuple(x for x in face.labels if x.name in self._mentions and self._mentions[x.name].search(text))
        logs = [math.log(max(p.probability, 1e-9)) for p in pieces if p.tokens]
        return Answer(
            text=text,
            labels=labels,
            confidence=round(math.exp(sum(logs) / max(1, len(logs))), 4),
            evidence=tuple(dict.fromkeys(x.region for x in labels)),
            finish=last.finish or "stop",
            timings=Timings(pieces[0].elapsed_ms, (time.perf_counter() - began) * 1e3, last.tokens),
        )

    def forget(self) -> None:
        """Wipe what the LLM's cache holds of faces. A Face that the caller keeps is the caller's."""
        self._language.forget()

    def _guard(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Pass pieces on; hold back the word that is not finished, stop before one that is switched off."""
        said, held = "", ""
        for piece in pieces:
            held += piece.text
            # A word is complete once something that cannot belong to it follows.
            end = len(held) if piece.finish else max(held.rfind(" "), held.rfind("\n"))
            if any(p.search(said + held[: max(end, 0)]) for p in self._off.values()):
                yield Piece("", piece.tokens, piece.probability, piece.elapsed_ms, "withheld")
                return
            ready, held = (held[:end], held[end:]) if end > 0 else ("", held)
            said += ready
            yield Piece(ready, piece.tokens, piece.probability, piece.elapsed_ms, piece.finish)

    def close(self) -> None:
        """Wipe the caches and free the models."""
        self._language.close()

    def __enter__(self) -> FaceInsight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _words(mentions: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(re.escape(m) for m in mentions) + r")\b", re.IGNORECASE)
