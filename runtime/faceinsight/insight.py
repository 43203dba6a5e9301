"""The main path, from image to answer: start reading here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from .arguments import as_face, as_faces, megabytes, seconds, texts
from .backends.device import Device
from .backends.session import CheckedSession
from .bundle.bundle import Bundle
from .cache import CACHE_MB
from .diagnostics.explain import explained
from .expiry import ExpiryTimer
from .host.forks import OwnLock, awaited
from .host.memory import shortage_named
from .language.answers import AnswerStream, collect, score_answers
from .language.guard import Guard
from .language.query import Query
from .loading import Parts, load_parts
from .perception.image import ImageSource, load_scaled
from .perception.pipeline import scaled
from .types import Answer, AnswerChunk, AnswerScores, Face, Report


class FaceInsight:
    """Perceive faces and answer questions about them.

        with FaceInsight.load("nano") as fi:
            faces = fi.perceive("photo.jpg")
            print(fi.ask(faces[0], "Is she wearing glasses?").text)

    May be shared by threads: calls wait for each other. A `stream` that is not read to its end before the next question
    ends with a RequestError: the newest question wins. Not by processes: in a fork every call raises a RequestError.

    What the LLM was shown of the last faces stays in memory, so that they can be asked about again at once; `forget`
    wipes it, and so does time.
    """

    def __init__(self, parts: Parts, *, forget_after: float | None = None) -> None:
        """Of loaded parts; `load` makes them. forget_after: seconds, as for `load`."""
        self.manifest, self.perception, self.vision = parts.manifest, parts.perception, parts.vision
        self.questions, self.language = parts.questions, parts.language
        self.guard = Guard(parts.manifest, parts.perception.enabled)
        caches = (self.language.prefix.cache, *((self.vision.cache,) if self.vision else ()))
        self._expiry = ExpiryTimer(forget_after, self.language, caches, self.forget)
        # A TensorRT plan runs one photo at a time, and the LLM remembers the face it reads.
        # Not the language's own lock: `forget` must not wait until an answer is whole.
        self._perceiving, self._asking = OwnLock(), OwnLock()

    @classmethod
    @awaited()
    @shortage_named()
    def load(
        cls,
        bundle: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        threads: int | None = None,
        cache_mb: float = CACHE_MB,
        forget_after: float | None = 600,
    ) -> FaceInsight:
        """Open and verify a bundle.

        Args:
            bundle: name of a shipped bundle, or a folder.
            device: "auto", "cpu", "cuda" or "tensorrt". Anything but "auto" raises DeviceError if it is not there.
            allow: groups to switch on that are off by default ("gender", "age", "race").
            deny: groups to switch off that are on by default ("expression"). Off means not computed and not answered.
            threads: the budget all engines share; by default every core this process may use.
            cache_mb: memory for what the LLM was shown of earlier faces, in megabytes; 0 keeps the last face only.
            forget_after: seconds without a question about a face after which it is wiped; None: never.

        Raises:
            BundleError: the bundle is missing or damaged, or of another version.
            DeviceError: what was asked for by name does not start.
        """
        allow, deny, forget_after = texts("allow", allow), texts("deny", deny), seconds("forget_after", forget_after)
        cache_bytes = int(megabytes("cache_mb", cache_mb) * 1e6)
        opened = Bundle.open(bundle)
        with explained(device):
            where = Device.resolve(device, threads=threads)
            parts = load_parts(
                opened, where, allow=allow, deny=deny, cache_bytes=cache_bytes, forget_after=forget_after
            )
        return cls(parts, forget_after=forget_after)

    @shortage_named()
    def perceive(self, image: ImageSource, *, bgr: bool = False) -> tuple[Face, ...]:
        """The faces in a photo, the largest first; none where there is none.

        Boxes are in the photo's own pixels, also of a JPEG that is decoded at a reduced size because it has more than
        16 megapixels.

        Args:
            image: a path, the bytes of a JPEG, PNG or WebP, or RGB uint8 (H,W,3).
            bgr: the array's channels are BGR, as cv2.VideoCapture and cv2.imread give them.

        Raises:
            ImageError: it is not an image, or too large.
        """
        perceiving = self._perceiving()
        self.language.llm.require_open()
        with awaited():
            pixels, scale = load_scaled(image, bgr=bgr)
        with perceiving:
            return tuple(scaled(face, scale) for face in self.perception.perceive(pixels))

    def report(self, face: Face) -> Report:
        """Every enabled characteristic with probability, state, region and the rule that decided it. No LLM."""
        face = as_face(face, self.perception.enabled)
        return Report(face.box, face.score, face.labels, face.areas, face.quality, face.age)

    def ask(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Answer:
        """The whole answer, with the findings it rests on and the regions that show them.

        Args:
            face: whom the question is about; two faces to compare them.
            question: in everyday English.
            after: the question before, for one that follows it ("And a hat?", "Are you sure?").
            max_tokens: an answer is cut here; never longer than the bundle allows.

        Raises:
            QuestionError: the question is empty or too long.
        """
        began = time.perf_counter()
        with self._asking():
            query = self._query(face, question, after)
            chunks = list(self._answer(query, max_tokens, began))
        return collect(chunks, query, self.questions, began)

    def stream(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> AnswerStream:
        """The answer as it is generated; the arguments are those of `ask`.

        A sentence leaves when it is complete and agrees with what was found. Behind the last chunk, `answer` of what
        this returns is what `ask` would have. Raises QuestionError.
        """
        began = time.perf_counter()
        with self._asking():
            query = self._query(face, question, after)
            return AnswerStream(self._answer(query, max_tokens, began), query, self.questions, began)

    def interrupt(self) -> None:
        """From another thread: end the answer that is being generated before its next token, with a RequestError."""
        self.language.interrupt()

    def _query(self, face: Face | Sequence[Face], question: str, after: str | None = None) -> Query:
        faces = as_faces(face, self.perception.enabled)
        # The tokenizer is the LLM's: `close` must not free it meanwhile.
        with self.language.lock:
            self.language.llm.require_open()
            return self.questions.query(question, faces, after=after)

    def _answer(self, query: Query, max_tokens: int | None, began: float) -> Iterator[AnswerChunk]:
        if query.reply:
            elapsed_ms = (time.perf_counter() - began) * 1e3
            return iter([AnswerChunk(query.reply, 0, 1.0, elapsed_ms, query.finish_reason)])
        self._expiry.start()
        constraint = self.guard.constraint(query.faces)
        chunks = self.language.generate(query, max_tokens=max_tokens, constraint=constraint, began=began)
        return self.guard.filter(chunks, query)

    def unchecked(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Iterator[AnswerChunk]:
        """The LLM's own words, without constraint and guard: for measuring what these are worth."""
        with self._asking():
            return self.language.generate(self._query(face, question, after), max_tokens=max_tokens)

    def choose(
        self, face: Face | Sequence[Face], questions: Sequence[str], answers: Sequence[str] = ("Yes", "No")
    ) -> tuple[AnswerScores, ...]:
        """How the LLM chooses between given answers, for several questions at once.

            fi.choose(face, ["Is she smiling?", "Does she have a beard?"])[0].probabilities   # {"Yes": ..., "No": ...}

        These are the LLM's own probabilities, given what was found; the calibrated ones of the characteristics are in
        `report`.

        Raises:
            QuestionError: a question is empty or too long.
            PolicyError: a question or an answer is about something switched off, or declined.
            RequestError: the first words of the answers do not differ.
        """
        questions, answers = texts("questions", questions), texts("answers", answers)
        with self._asking():
            queries = [self._query(face, question) for question in questions]
            self._expiry.start()
            return score_answers(questions, queries, answers, self.language, self.guard)

    def prepare(self, face: Face | Sequence[Face]) -> None:
        """Have the LLM read a face (or two to compare) before it is asked about: the first answer then comes sooner."""
        with self._asking():
            self._expiry.start()
            self.language.prefill(as_faces(face, self.perception.enabled))

    def forget(self) -> None:
        """Wipe what the caches hold of faces. A Face that the caller keeps is the caller's."""
        with self.language.lock:
            self.language.forget()
            if self.vision:
                self.vision.cache.wipe()

    @property
    def graphs(self) -> tuple[CheckedSession, ...]:
        """All that runs on the device beside the LLM, each with the providers that are active."""
        return (*self.perception.encoders.graphs, self.questions.graph, *((self.vision.graph,) if self.vision else ()))

    def close(self) -> None:
        """Wipe the caches and free the models. In a fork there is nothing to free: all of it is the parent's."""
        if self._asking.inherited:
            return
        with self.language.lock:
            self._expiry.cancel()
            self.forget()
            self.language.close()

    def __enter__(self) -> FaceInsight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
