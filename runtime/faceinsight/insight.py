"""The main path, from image to answer: start reading here."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .arguments import megabytes, one, seconds, texts, whole, whom
from .backends.device import Device
from .backends.llama_cpp.loader import load_llm
from .backends.llama_cpp.tokenizer import VocabularyFile
from .backends.session import Graph
from .bundle.bundle import Bundle
from .bundle.manifest import COUNT, Manifest
from .cache import CACHE_MB, FaceCache
from .diagnostics.explain import explained
from .errors import PolicyError
from .host.forks import OwnLock, awaited
from .host.memory import shortage_named
from .language.generation import Language
from .language.guard import Guard
from .language.question_encoder import OFF, Asked, Relevance
from .language.spelling import Spelling
from .perception.image import ImageSource, load_scaled
from .perception.pipeline import Perception, enlarged
from .perception.vision_encoder import Vision
from .types import Answer, Choice, Face, Label, Piece, Report, Timings


class FaceInsight:
    """Perceive faces and answer questions about them.

        with FaceInsight.load("nano") as fi:
            faces = fi.perceive("photo.jpg")
            print(fi.ask(faces[0], "Is she wearing glasses?").text)

    May be shared by threads: calls wait for each other. A `stream` that is not read to its end before the next question
    ends with a RequestError: the newest question wins. Not by processes: in a fork every call raises a RequestError.

    What the LLM has seen of the last faces stays in memory, so that they can be asked again at once; `forget` wipes it,
    and so does time.
    """

    def __init__(
        self,
        manifest: Manifest,
        perception: Perception,
        relevance: Relevance,
        language: Language,
        vision: Vision | None = None,
        *,
        forget_after: float | None = None,
    ) -> None:
        """forget_after: seconds after which what is kept of a face is wiped; None: never."""
        self.manifest = manifest
        self.perception = perception
        self.relevance = relevance
        self.language = language
        self.vision = vision
        self._forget_after = forget_after
        self._timer: threading.Timer | None = None
        # The detector's network remembers the size of the picture between two calls; the LLM, the face it reads.
        # Not the language's own lock: `forget` must not wait until an answer is whole.
        self._looking, self._asking = OwnLock(), OwnLock()
        self._guard = Guard(manifest, perception.enabled)

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
            cache_mb: memory for what the LLM has seen of earlier faces, in megabytes; 0 keeps the last face only.
            forget_after: seconds without a question about a face after which it is wiped; None: never.
        """
        allow, deny, forget_after = texts("allow", allow), texts("deny", deny), seconds("forget_after", forget_after)
        cache_mb = megabytes("cache_mb", cache_mb)
        opened = Bundle.open(bundle)
        with explained(device):
            where = Device.resolve(device, threads=threads)
            return cls._on(where, opened, allow, deny, cache_mb, forget_after)

    @classmethod
    def _on(
        cls,
        where: Device,
        opened: Bundle,
        allow: Sequence[str],
        deny: Sequence[str],
        cache_mb: float,
        forget_after: float | None,
    ) -> FaceInsight:
        manifest = opened.manifest
        llm, asked, spec = manifest.llm, manifest.question, manifest.vision
        # Image tokens are small beside the KV cache made of them.
        half = int(cache_mb * 1e6 / 2)
        kept = FaceCache(half * (1 if spec else 2), forget_after)
        # The largest graph by itself: for a moment it takes twice its size.
        vision = Vision(spec, where.session(opened.file(spec.file)), FaceCache(half, forget_after)) if spec else None
        with ThreadPoolExecutor(1) as beside:
            # llama.cpp reads its file while ONNX Runtime optimises the small graphs.
            loading = beside.submit(load_llm, opened.file(llm.file), where, width=llm.width, context=llm.context)
            perception = Perception.load(opened, where, allow=allow, deny=deny)
            language = Language(loading.result(), llm, see=vision or attrgetter("tokens"), kept=kept)
        vocabulary = language.vocabulary
        if asked.vocabulary:
            follow = llm.prompt.follow
            vocabulary = VocabularyFile(opened.file(asked.vocabulary), follow=follow, max_question=llm.max_question)
        spelling = Spelling.read(opened.file(asked.words)) if asked.words else str
        questions = where.session(opened.file(asked.file))
        relevance = Relevance(manifest, questions, vocabulary, perception.numbers, spelling)
        return cls(manifest, perception, relevance, language, vision, forget_after=forget_after)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All that runs on the device beside the LLM, each with the providers that are active."""
        return (*self.perception.graphs, self.relevance.graph, *((self.vision.graph,) if self.vision else ()))

    @shortage_named()
    def perceive(self, image: ImageSource, *, bgr: bool = False) -> tuple[Face, ...]:
        """The faces in a photo (a path, the bytes of a JPEG, PNG or WebP, or RGB uint8 (H,W,3)), the largest first.

        bgr: the array's channels are BGR, as cv2.VideoCapture and cv2.imread give them.
        Empty where there is none. Boxes are in the photo's own pixels, also of a JPEG that is decoded at a reduced size
        because it has more than 16 megapixels. Raises ImageError.
        """
        looking = self._looking()
        self.language.llm.require_open()
        with awaited():
            pixels, scale = load_scaled(image, bgr=bgr)
        with looking:
            return tuple(enlarged(face, scale) for face in self.perception(pixels))

    def report(self, face: Face) -> Report:
        """Every enabled characteristic with probability, state, region and the rule that decided it. No LLM."""
        face = one(face, self.perception.enabled)
        return Report(face.box, face.score, face.labels, face.areas, face.quality, face.age)

    def prepare(self, face: Face | Sequence[Face]) -> None:
        """Let the LLM look at a face (or two to compare) before it is asked: the first answer then comes sooner."""
        with self._asking():
            self.language.prepare(whom(face, self.perception.enabled))
            self._touch()

    def choose(
        self, face: Face | Sequence[Face], questions: Sequence[str], answers: Sequence[str] = ("Yes", "No")
    ) -> tuple[Choice, ...]:
        """How the LLM chooses between given answers, for several questions in one go.

            fi.choose(face, ["Is she smiling?", "Does she have a beard?"])[0].probabilities   # {"Yes": ..., "No": ...}

        These are the LLM's own probabilities, given what was found; the calibrated ones of the characteristics are in
        `report`. Raises QuestionError, PolicyError for a question or an answer about something switched off, and
        RequestError for answers whose first words do not differ.
        """
        questions, answers = texts("questions", questions), texts("answers", answers)
        read = []
        with self._asking():
            faces = whom(face, self.perception.enabled)
            for question in questions:
                tokens, asked = self._read(question, None)
                if asked.declined and asked.declined != OFF:
                    raise PolicyError(f"{question!r} is declined ({asked.declined}): {asked.decline}")
                if asked.off or any(map(self._guard.forbids, (question, *answers))):
                    raise PolicyError(f"{question!r} asks about something that is switched off here")
                read.append((tokens, asked.about, self._findings(faces, asked)))
            table = self.language.choose(faces, [(tokens, findings) for tokens, _, findings in read], answers)
            self._touch()
        return tuple(
            Choice(
                question,
                dict(zip(answers, (row / max(row.sum(), 1e-12)).tolist(), strict=True)),
                float(row.sum()),
                tuple(f.labels[i] for f in faces for i in about),
            )
            for question, row, (_, about, _) in zip(questions, table, read, strict=True)
        )

    def stream(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Iterator[Piece]:
        """The answer, piece by piece; the arguments are those of `ask`.

        A sentence leaves when it is complete and agrees with what was found. Raises QuestionError.
        """
        with self._asking():
            return self._answer(whom(face, self.perception.enabled), *self._read(question, after), max_tokens)

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
        with self._asking():
            faces = whom(face, self.perception.enabled)
            tokens, asked = self._read(question, after)
            pieces = list(self._answer(faces, tokens, asked, max_tokens))
        last, text = pieces[-1], "".join(p.text for p in pieces).strip()
        reason = asked.declined or self.relevance.reason(text)
        labels = () if reason else tuple(f.labels[i] for f in faces for i in asked.about)
        logs = [math.log(max(p.probability, 1e-9)) for p in pieces]
        return Answer(
            text=text,
            labels=labels,
            confidence=round(math.exp(sum(logs) / len(logs)), 4),
            evidence=tuple(dict.fromkeys(x.region for x in labels)),
            finish=last.finish or "stop",
            timings=Timings(pieces[0].elapsed_ms, (time.perf_counter() - began) * 1e3, last.tokens),
            outcome="declined" if reason else "unsure" if labels and not any(map(_sure, labels)) else "answered",
            reason=reason,
        )

    def _answer(
        self, faces: tuple[Face, ...], tokens: list[int], asked: Asked, max_tokens: int | None
    ) -> Iterator[Piece]:
        """The stream of an answer: by the LLM and the guard, unless the question is declined or only counts."""
        began = time.perf_counter()
        people = [f.people for f in faces if f.people]
        said, finish = asked.decline, "declined"
        if asked.kind == COUNT and not asked.declined and people:
            one, many = self.manifest.llm.prompt.counted
            said, finish = one if max(people) == 1 else many.format(count=max(people)), "counted"
        if said:
            return iter([Piece(said, 0, 1.0, (time.perf_counter() - began) * 1e3, finish)])
        self._touch()
        objection = self._guard.objection(faces)
        findings, limit = self._findings(faces, asked), whole("max_tokens", max_tokens)
        pieces = self.language.stream(faces, tokens, findings, max_tokens=limit, objection=objection)
        labels = [[f.labels[i] for i in asked.about] for f in faces]
        return self._guard(pieces, faces, labels, off=asked.off, turned=asked.turned)

    def unchecked(
        self, face: Face | Sequence[Face], question: str, *, after: str | None = None, max_tokens: int | None = None
    ) -> Iterator[Piece]:
        """The LLM's own words, held against nothing: for measuring what the checks of `stream` are worth."""
        with self._asking():
            faces = whom(face, self.perception.enabled)
            tokens, asked = self._read(question, after)
            return self.language.stream(faces, tokens, self._findings(faces, asked), max_tokens=max_tokens)

    def _read(self, question: str, after: str | None) -> tuple[list[int], Asked]:
        """A question's tokens, and how it is understood."""
        # A vocabulary is the LLM's: `close` must not free it meanwhile.
        with self.language.lock:
            tokens = self.language.read(question, after)
            asked = self.relevance.read(question, after)
            return tokens if asked.meant == (question, after) else self.language.read(*asked.meant), asked

    def _findings(self, faces: Sequence[Face], asked: Asked) -> list[NDArray[np.float32] | str]:
        """What was found of that which a question asks about, per face."""
        return [self.relevance.findings(f, asked.about) for f in faces]

    def forget(self) -> None:
        """Wipe what the caches hold of faces. A Face that the caller keeps is the caller's."""
        with self.language.lock:
            self.language.forget()
            if self.vision:
                self.vision.kept.wipe()

    def _touch(self) -> None:
        """A face was used: have it forgotten in time."""
        with self.language.lock:
            if self._forget_after is not None and self._timer is None:
                self._wait(self._forget_after)

    def _wait(self, seconds: float) -> None:
        # A timer that held this object would keep it alive.
        me = weakref.WeakMethod(self._expire)
        wait = min(seconds, threading.TIMEOUT_MAX)
        self._timer = threading.Timer(wait, lambda: (expire := me()) and expire())
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        """Wipe what was not used for long, and come again as long as anything is kept."""
        assert self._forget_after is not None
        with self.language.lock:
            self._timer = None
            left = self.language.used + self._forget_after - time.monotonic()
            if left <= 0:
                self.forget()
                return
            self.language.kept.expire()
            if self.vision:
                self.vision.kept.expire()
            self._wait(min(left, self._forget_after / 4))

    def close(self) -> None:
        """Wipe the caches and free the models. In a fork there is nothing to free: all of it is the parent's."""
        if self._asking.inherited:
            return
        with self.language.lock:
            if self._timer:
                self._timer.cancel()
            self.forget()
            self.language.close()

    def __enter__(self) -> FaceInsight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sure(label: Label) -> bool:
    return label.state in ("yes", "no")
