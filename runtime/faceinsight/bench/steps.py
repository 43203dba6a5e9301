"""One round: every stage by itself, then everything a user waits for. Each name is written once, here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..insight import FaceInsight
from ..perception.image import load_image
from ..types import Face
from .result import ANSWER, STAGE, START, Rate, Step
from .stats import summarise

QUESTION, DESCRIBE = "Is she wearing glasses?", "Describe this face."

COLD = "process start to first answer"
LOAD, FIRST_REPORT, FIRST_ANSWER = "load the bundle", "first report after loading", "first answer after loading"
PREFIX, PREFILL, DECODE = "LLM: prefix of a new face", "LLM: question, to the first token", "LLM: each further token"
REPORT, WHOLE_NEW, WHOLE_KNOWN = "photo file to full report", "whole answer, new photo", "whole answer, known face"


class Stopwatch:
    """Milliseconds by step, in the order of their first use."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._ms: dict[tuple[str, str], list[float]] = {}

    @contextmanager
    def __call__(self, group: str, name: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.add(group, name, (time.perf_counter() - began) * 1e3)

    def add(self, group: str, name: str, ms: float) -> None:
        """One that was timed otherwise."""
        self._ms.setdefault((group, name), []).append(ms)

    def steps(self) -> tuple[Step, ...]:
        """What was measured."""
        return tuple(Step(name, group, summarise(ms)) for (group, name), ms in self._ms.items())


@dataclass(frozen=True, slots=True)
class Tokens:
    """What went through the LLM in one round: rows of a face's prefix, rows of question and findings, and tokens of
    the description behind its first."""

    prefix: int
    question: int
    decoded: int


def one_round(watch: Stopwatch, insight: FaceInsight, photo: Path) -> Tokens:
    """Everything once, so that what slows the machine for a while slows all steps alike."""
    face = _perception(watch, insight, photo)
    tokens = _language(watch, insight, face)
    _answers(watch, insight, photo, face)
    return tokens


def start(watch: Stopwatch, insight: FaceInsight, photo: Path) -> tuple[Face, ...]:
    """The first of everything, of a FaceInsight that was just loaded. Raises RequestError where there is no face."""
    with watch(START, FIRST_REPORT):
        faces = insight.perceive(photo)
        if not faces:
            raise RequestError(f"{photo}: no face found; expected a photo with a face to ask about")
        insight.report(faces[0])
    with watch(START, FIRST_ANSWER):
        insight.ask(faces[0], QUESTION)
    return faces


def _perception(watch: Stopwatch, insight: FaceInsight, photo: Path) -> Face:
    """The way of `perceive`, stage by stage; returns the largest face."""
    p, encoders = insight.perception, insight.perception.encoders
    with watch(STAGE, "decode the photo"):
        image = load_image(photo)
    with watch(STAGE, "detect"):
        detections = p.detector.detect(image)[: p.batch]
    with watch(STAGE, "align"):
        _, parser_crops, encoder_crops = p.crops(image, detections)
    with watch(STAGE, "parse"):
        label_map = encoders.parse(parser_crops)
    with watch(STAGE, "encode"):
        encoded = encoders.encode_crops(encoder_crops, label_map, p.characteristic_ids)
    with watch(STAGE, "close-up"):
        closeup = encoders.read_closeup(parser_crops)
    with watch(STAGE, "labels: calibration and rules"):
        encoded = encoders.merge_closeup(encoded, closeup, p.characteristic_ids)
        for i in range(len(detections)):
            encoders.read(encoded, i)
    return insight.perceive(image)[0]


def _language(watch: Stopwatch, insight: FaceInsight, face: Face) -> Tokens:
    """The way of `ask`, stage by stage."""
    language, llm = insight.language, insight.language.llm
    insight.forget()
    if insight.vision:
        # What it makes is kept, so that the prefix behind it is the LLM's work alone.
        with watch(STAGE, "vision encoder"):
            insight.vision.encode_face(face)
    with watch(STAGE, PREFIX):
        insight.prepare(face)
    prefix = llm.n_past
    with watch(STAGE, "question encoder"):
        query = insight.questions.query(QUESTION, (face,))
    pieces = language.generate(query)
    with watch(STAGE, PREFILL):
        next(pieces)
    question = llm.n_past - prefix
    pieces = insight.unchecked(face, DESCRIBE)
    next(pieces)
    began = time.perf_counter()
    decoded = sum(1 for _ in pieces)
    if decoded:
        # Their mean: tokens of one answer are not independent measurements.
        watch.add(STAGE, DECODE, (time.perf_counter() - began) * 1e3 / decoded)
    return Tokens(prefix - language.prefix.system_len, question, decoded)


def _answers(watch: Stopwatch, insight: FaceInsight, photo: Path, face: Face) -> None:
    """What a user waits for. A new face is one that was forgotten just before."""
    with watch(ANSWER, REPORT):
        insight.report(insight.perceive(photo)[0])
    insight.forget()
    with watch(ANSWER, "LLM's first token, new photo"):
        next(insight.unchecked(insight.perceive(photo)[0], QUESTION))
    insight.forget()
    with watch(ANSWER, "LLM's first token, new face (perceived)"):
        next(insight.unchecked(face, QUESTION))
    with watch(ANSWER, "LLM's first token, known face"):
        next(insight.unchecked(face, QUESTION))
    insight.forget()
    with watch(ANSWER, "first checked words, new face (perceived)"):
        _first_words(insight, face)
    with watch(ANSWER, "first checked words, known face"):
        _first_words(insight, face)
    insight.forget()
    with watch(ANSWER, WHOLE_NEW):
        insight.ask(insight.perceive(photo)[0], QUESTION)
    with watch(ANSWER, WHOLE_KNOWN):
        insight.ask(face, QUESTION)
    with watch(ANSWER, "whole description, known face"):
        insight.ask(face, DESCRIBE)


def _first_words(insight: FaceInsight, face: Face) -> None:
    """Until a user reads something: a sentence leaves when it is complete and agrees with what was found."""
    next((p for p in insight.stream(face, QUESTION) if p.text.strip()), None)


def rates(steps: tuple[Step, ...], tokens: Tokens) -> tuple[Rate, ...]:
    """Tokens per second of prefill and decode."""
    of = {
        PREFIX: ("prefill, prefix of a new face", tokens.prefix),
        PREFILL: ("prefill, question and findings", tokens.question),
        DECODE: ("decode", 1),
    }
    return tuple(
        Rate(
            of[s.name][0],
            tokens.decoded if s.name == DECODE else count,
            _per_second(count, s.ms.p50),
            _per_second(count, s.ms.high) if s.ms.high else None,
            _per_second(count, s.ms.low) if s.ms.low else None,
        )
        for s in steps
        if s.name in of and (count := of[s.name][1])
    )


def _per_second(tokens: int, ms: float) -> float:
    return round(tokens / ms * 1e3, 2)
