"""What a manifest says of each part of a bundle: the fields of manifest.json, as the runtime reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .json_decoder import FieldError

#: Groups that no switch turns on.
NEVER = "never"
#: Kinds of logical rules.
KINDS = ("at_most_one", "at_least_one", "exactly_one", "excludes", "implies")
#: Kinds of questions that have an answer: about characteristics, about a detail of one, and how many faces there are.
ABOUT, DETAIL, COUNT = ANSWERED = ("about", "detail", "count")
#: Reasons to decline a question that the runtime knows by name: nothing in the report answers it, it cannot be
#: understood, it is in a language that the LLM was not trained in.
SCOPE, UNCLEAR, LANGUAGE = "scope", "unclear", "language"
#: An image that is not square: padded with the mean colour, or cut to its centre.
PADS = ("mean", "none")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: its sha256 and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """YuNet.

    Attributes:
        file: its ONNX model.
        score_threshold: least confidence of a face, 0..1.
        nms_threshold: overlap (IoU) above which two boxes are one face.
        sides: longer sides, in pixels, at which a photo is tried until a face is found.
    """

    file: str
    score_threshold: float
    nms_threshold: float
    sides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CropSpec:
    """The canonical crop.

    Attributes:
        template: where the five landmarks lie in it, as fractions of its side.
    """

    template: tuple[Point, Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class ParserSpec:
    """Pixels (B,3,size,size) -> label map (B,size,size) uint8.

    Attributes:
        file: its ONNX model.
        size: side of its crop, pixels.
        mean: of pixels 0..255, subtracted first.
        std: of pixels 0..255, divided by then.
        classes: what the values of the label map mean.
    """

    file: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Pixels (B,3,size,size), label map, characteristics (K,) -> logits, region area, image and region tokens.

    Attributes:
        file: its ONNX model.
        size: side of its crop, pixels.
        mean: of pixels 0..255, subtracted first.
        std: of pixels 0..255, divided by then.
        image_tokens: how many; 0 where a vision encoder makes them.
        width: of the tokens; 0 where the graph makes none.
    """

    file: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_tokens: int
    width: int


@dataclass(frozen=True, slots=True)
class CloseupSpec:
    """A window of the parser's crop: pixels (B,3,size,size) and outputs (M,) -> the logits (B,M) of these outputs.

    The outputs are, in this order: the years, the characteristics in `tells`, the faults, and four that tell by how
    many quarter turns, counter-clockwise, the picture must be turned to stand upright.

    Attributes:
        file: its ONNX model.
        left: the window's corner in the parser's crop, pixels.
        top: the same.
        size: the window's side, pixels.
        mean: of pixels 0..255, subtracted first.
        std: of pixels 0..255, divided by then.
        years: how many outputs are a distribution over the age in years, from 0 on.
        ages: characteristic -> the first and the last year that it stands for.
        tells: characteristics of the outputs after the years.
        faults: why a picture cannot be read, one output each.
        covers: those of the faults that hide only a part of the face.
        shows: characteristic -> the fault that it names.
        shared: characteristics that the encoder tells too: the logit is the mean of both.
        poor_below: quality below which a characteristic's `poor` bounds hold.
    """

    file: str
    left: int
    top: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    years: int
    ages: dict[str, tuple[int, int]]
    tells: tuple[str, ...]
    faults: tuple[str, ...]
    covers: tuple[str, ...]
    shows: dict[str, str]
    shared: tuple[str, ...]
    poor_below: float

    def __post_init__(self) -> None:
        for name, (first, last) in self.ages.items():
            if not 0 <= first <= last < self.years:
                raise FieldError(f"ages.{name}: expected years from 0 to {self.years - 1}, found {first} to {last}")
        require_known("covers", (*self.covers, *self.shows.values()), self.faults)
        require_known("shared", self.shared, (*self.ages, *self.tells, *self.shows))

    @property
    def characteristics(self) -> tuple[str, ...]:
        """All that it tells: in the order of a reading's logits, where all are switched on."""
        return (*self.ages, *self.tells, *self.shows)


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """A CLIP tower with its projector: pixels (B,3,size,size) -> image tokens (B,image_tokens,width).

    Attributes:
        file: its ONNX model.
        size: side of its picture, pixels.
        mean: of pixels 0..1, subtracted first.
        std: of pixels 0..1, divided by then.
        pad: what becomes of an image that is not square, one of PADS.
        image_tokens: how many it makes.
        width: of the tokens.
        margin: it is shown a square around the face box with `margin` times the box's longer side.
    """

    file: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: str
    image_tokens: int
    width: int
    margin: float = 2.0

    def __post_init__(self) -> None:
        if self.pad not in PADS:
            raise FieldError(f"pad: expected {' or '.join(PADS)}, found {self.pad!r}")
        if not 1 <= self.margin <= 100:
            raise FieldError(f"margin: expected 1 to 100, found {self.margin}")


@dataclass(frozen=True, slots=True)
class KnowledgeSpec:
    """Characteristics (K,) and states (K,) -> knowledge tokens (K,width).

    Attributes:
        file: its ONNX model.
        states: what the numbers of the states mean.
    """

    file: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuestionSpec:
    """Token ids (B,L) of a question -> relevance (B,N) and, where there are kinds, kinds (B,M).

    Above zero relevance the LLM is told of that characteristic. The likeliest kind says what becomes of the question.

    Attributes:
        file: its ONNX model.
        list_from: of at least this many characteristics, the LLM is given only what was not found absent.
        described_from: of at least this many characteristics, what is claimed with less confidence than
            `described_sure` is given as unsure; 0: never.
        described_sure: 0..1.
        vocabulary: GGUF with the tokenizer that it reads by; None: the LLM's.
        share: what is below this share of the highest relevance is not asked about, 0..1; 0: all above zero is.
        kinds: names of the kinds of questions; "about" and "detail" are about characteristics, "count" about how many
            faces there are; another one is declined where the prompt has a sentence for it.
        opposites: words that ask for the opposite of a characteristic; the answer then does not start with Yes or No.
        words: file with the words of questions, by which misspelt ones are corrected; None: they are read as they are.
        uncased: it reads questions in lower case behind a space, as it was taught.
    """

    file: str
    list_from: int
    vocabulary: str | None = None
    share: float = 0.0
    kinds: tuple[str, ...] = ()
    opposites: tuple[str, ...] = ()
    words: str | None = None
    uncased: bool = False
    described_from: int = 0
    described_sure: float = 0.0


@dataclass(frozen=True, slots=True)
class RegionLimit:
    """A bound on a region's share of the crop, 0..1."""

    region: str
    area: float


@dataclass(frozen=True, slots=True)
class CharacteristicSpec:
    """One characteristic.

    Attributes:
        name: as in reports.
        phrase: completes "The person ..." where it holds.
        absent: completes "The person ..." where it does not.
        region: the face region that shows it.
        group: "" or the group whose switch turns it on.
        calibration: (a, b) with probability = sigmoid(a * logit + b); among an exactly_one rule's members, their
            softmax; among a hard at_most_one rule's members, their softmax beside "none" with the logit 0.
        unsure: with a probability between these bounds nothing is claimed; of a choice's members, the upper one counts.
        mentions: words of an answer that speak of it; while it is switched off, an answer stops before them.
        denials: words that say by themselves that it does not hold ("mouth closed").
        inverted: its words speak of the opposite ("beard" for No_Beard).
        needs: not visible unless the region covers at least this share of the crop.
        hidden_by: not visible when the region covers more than this share.
        poor: `unsure` for pictures of poor quality; None: of these nothing is claimed.
        covered_by: not visible while one of these faults of the close-up is found.
    """

    name: str
    phrase: str
    absent: str
    region: str
    group: str
    calibration: tuple[float, float]
    unsure: tuple[float, float]
    mentions: tuple[str, ...]
    denials: tuple[str, ...] = ()
    inverted: bool = False
    needs: RegionLimit | None = None
    hidden_by: RegionLimit | None = None
    poor: tuple[float, float] | None = None
    covered_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A logical rule.

    Attributes:
        kind: "at_most_one", "at_least_one", "exactly_one" over `of`; "excludes" (the first forbids each of the others),
            "implies" (the first demands each of the others).
        of: names of characteristics.
        hard: it holds in every report; breaking a soft one costs the manifest's `soft_weight`.
    """

    kind: str
    of: tuple[str, ...]
    hard: bool

    def __str__(self) -> str:
        if self.kind in ("excludes", "implies"):
            return f"{self.of[0]} {self.kind} {', '.join(self.of[1:])}"
        return f"{self.kind.replace('_', ' ')} of {', '.join(self.of)}"


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """The fixed parts of a prompt: before_face [face] after_face [question] [findings] before_answer [answer] stop.

    Attributes:
        before_face: what stands before the face tokens.
        after_face: between them and the question.
        before_answer: between the findings and the answer.
        stop: the token that ends an answer.
        between: between the face tokens of two faces, and between their findings.
        follow: between an earlier question and the one that follows it.
        withheld: what is said instead of an answer that would mention something switched off.
        who: what a person is called: alone, and each of two.
        statements: state -> sentence that says it, with {who}, {phrase}, {absent}; for an answer that is repaired.
        looked: sentence that says where something can be seen, with {place}.
        places: region -> what it is called there.
        findings: how an LLM without knowledge tokens is told what was found, with {findings}.
        declines: reason -> what is said instead of an answer. "scope": nothing in the report answers the question;
            "language": it is in a language that the LLM was not trained in.
        counted: how many faces there are: one, or many with {count}.
    """

    before_face: str
    after_face: str
    before_answer: str
    stop: str
    between: str
    follow: str
    withheld: str
    who: tuple[str, str, str]
    statements: dict[str, str]
    looked: str
    places: dict[str, str]
    findings: str = ""
    declines: dict[str, str] = field(default_factory=dict)
    counted: tuple[str, str] = ("", "")

    def stated(self, state: str, *, who: str, phrase: str, absent: str) -> str:
        """The sentence that says a state."""
        text = self.statements[state].format(who=who, phrase=phrase, absent=absent)
        return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class LlmSpec:
    """The LLM.

    Attributes:
        file: its GGUF.
        width: its embedding width.
        context: tokens that its KV cache holds.
        prompt: how it is asked.
        max_question: tokens that a question may have.
        max_answer: tokens that an answer may have.
    """

    file: str
    width: int
    context: int
    prompt: PromptSpec
    max_question: int
    max_answer: int


@dataclass(frozen=True, slots=True)
class Licence:
    """One line of the licence ledger."""

    component: str
    licence: str
    source: str
    note: str = ""


def require_known(path: str, names: tuple[str, ...], known: Any) -> None:
    """Raises FieldError for a name that is not one of those known; path: the field that has it."""
    for name in names:
        if name not in known:
            raise FieldError(f"{path}: {name!r} is not one of {', '.join(map(repr, known))}")
