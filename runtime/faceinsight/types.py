"""What the runtime hands out: frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .plain import INTERNAL, Plain

#: What can be known of a characteristic (`Label.state`), in the order of their numbers.
STATES = ("no", "yes", "unsure", "not visible")
NO, YES, UNSURE, HIDDEN = range(4)


@dataclass(frozen=True, slots=True)
class Label(Plain):
    """What is known of one characteristic.

    Attributes:
        name: its name in the bundle's vocabulary.
        phrase: completes "The person ...".
        group: "" or the sensitive group it belongs to.
        probability: calibrated, 0..1; None where it is not visible.
        state: "yes", "no", "unsure" or "not visible".
        region: the face region that shows it.
        rule: the rule that turned the label round, if one did.
    """

    name: str
    phrase: str
    group: str
    probability: float | None
    state: str
    region: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Age(Plain):
    """How old a face looks.

    Attributes:
        years: the expected age.
        low: lower bound, years; the age lies between the bounds in four cases of five.
        high: upper bound, years.
    """

    years: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Quality(Plain):
    """How well a face can be read.

    Attributes:
        value: 0..1; below the bundle's limit less is claimed of it.
        reason: what is wrong with the picture ("blurred", "dark", "noisy", "no face", "not upright", "too small");
            None where nothing is.
        covered: parts of the face that something hides ("mouth hidden", "eyes hidden").
    """

    value: float
    reason: str | None
    covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Face(Plain):
    """One perceived face: asked many times, encoded once.

    Its `to_dict` has what is known of the face, without what only the LLM and a drawing need (label_map to key).

    Attributes:
        box: x, y, width, height in photo pixels.
        landmarks: (5,2) right eye, left eye, nose tip, right and left mouth corner of the person, photo pixels.
        score: detector confidence, 0..1.
        labels: the enabled characteristics.
        areas: region -> share of the canonical crop.
        label_map: (S,S) uint8, mask classes of the canonical crop.
        matrix: (2,3) from photo pixels to the label map's pixels.
        tokens: (T,width) float32, what the LLM sees of the face: image and region tokens. Where the bundle has a vision
            encoder of its own, that one makes the image tokens of `picture` when the LLM is first asked: then these are
            region tokens, or none.
        picture: (S,S,3) uint8 RGB, the face and its surroundings as that vision encoder is shown them; else None.
        key: fingerprint of what the LLM sees; two faces with one key are the same to its cache.
        quality: how well it can be read; None where the bundle does not say.
        age: None where age is switched off or the bundle does not say.
        people: how many faces were found in its photo; None where nobody counted.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float
    labels: tuple[Label, ...]
    areas: dict[str, float]
    label_map: NDArray[np.uint8] = field(metadata=INTERNAL)
    matrix: NDArray[np.float32] = field(metadata=INTERNAL)
    tokens: NDArray[np.float32] = field(metadata=INTERNAL)
    picture: NDArray[np.uint8] | None = field(metadata=INTERNAL)
    key: str = field(metadata=INTERNAL)
    quality: Quality | None = None
    age: Age | None = None
    people: int | None = None

    def label(self, name: str) -> Label | None:
        """The label of one characteristic; None where it is switched off or unknown."""
        return _named(self.labels, name)

    def __repr__(self) -> str:
        x, y, w, h = self.box
        return f"Face({w:.0f}x{h:.0f} at {x:.0f},{y:.0f}, score {self.score:.2f}, {len(self.labels)} labels)"


@dataclass(frozen=True, slots=True)
class AnswerChunk(Plain):
    """A part of a streamed answer.

    Attributes:
        text: what to append to the answer.
        tokens: how many tokens of the answer were generated so far.
        probability: of the chosen token, 0..1.
        elapsed_ms: from the call to this token, milliseconds.
        finish_reason: None until the last chunk, then as in `Answer`.
    """

    text: str
    tokens: int
    probability: float
    elapsed_ms: float
    finish_reason: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Timings(Plain):
    """Where the time of an answer went.

    Attributes:
        first_token_ms: from the call to the first token, milliseconds.
        total_ms: to the end of the answer, milliseconds.
        tokens: how many were generated.
    """

    first_token_ms: float
    total_ms: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer(Plain):
    """The answer to a question about one face, or two.

    Attributes:
        text: the answer.
        labels: what was found of that which the question asks about; of two faces, the second's after the first's. In
            a description what is not sure enough for one is "unsure".
        confidence: geometric mean of the chosen tokens' probabilities, 0..1.
        evidence: the face regions that show them.
        finish_reason: "stop", "length" (cut at the limit), "withheld" (it would have mentioned something switched off),
            "repaired" (the LLM began to contradict the labels, and was cut back or the sentence dropped), "declined"
            (the question is not one that is answered) or "counted" (how many faces there are).
        timings: where the time went.
        outcome: "answered", "unsure" (all that was asked about is uncertain or hidden) or "declined".
        reason: why it was declined: one of the bundle's reasons ("scope", "identity", "character", "language", ...) or
            "switched off"; None where it was not.
    """

    text: str
    labels: tuple[Label, ...]
    confidence: float
    evidence: tuple[str, ...]
    finish_reason: str
    timings: Timings
    outcome: str = "answered"
    reason: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class AnswerScores(Plain):
    """The LLM's probabilities of given answers.

    Attributes:
        question: what was asked.
        probabilities: answer -> 0..1, together 1.
        coverage: the probability that the LLM begins with one of them at all, 0..1; where it is small, they do not fit
            the question.
        labels: what was found of that which the question asks about.
    """

    question: str
    probabilities: dict[str, float]
    coverage: float
    labels: tuple[Label, ...]

    @property
    def answer(self) -> str:
        """The likeliest one."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True, slots=True)
class Report(Plain):
    """All enabled characteristics of one face; no LLM.

    Attributes:
        box: x, y, width, height in photo pixels.
        score: detector confidence, 0..1.
        labels: the enabled characteristics.
        areas: region -> share of the canonical crop, 0..1.
        quality: how well the face can be read; None where the bundle does not say.
        age: None where age is switched off or the bundle does not say.
    """

    box: tuple[float, float, float, float]
    score: float
    labels: tuple[Label, ...]
    areas: dict[str, float]
    quality: Quality | None = None
    age: Age | None = None

    def label(self, name: str) -> Label | None:
        """The label of one characteristic; None where it is switched off or unknown."""
        return _named(self.labels, name)


def _named(labels: Sequence[Label], name: str) -> Label | None:
    return next((x for x in labels if x.name == name), None)
