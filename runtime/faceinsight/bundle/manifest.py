"""manifest.json: everything the exporter decided and the runtime obeys."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..errors import BundleError
from ..types import STATES
from .json_decoder import FieldError, decode

FORMAT = "faceinsight-bundle"
#: Version of the manifest this runtime reads. A newer one is refused, never guessed at.
VERSION = 2
#: Groups that no switch turns on.
NEVER = "never"
#: Kinds of logical rules.
KINDS = ("at_most_one", "at_least_one", "exactly_one", "excludes", "implies")
#: Kinds of questions that have an answer: about characteristics, about a detail of one, and how many faces there are.
ABOUT, DETAIL, COUNT = ANSWERED = ("about", "detail", "count")
#: Reasons to decline a question that the runtime knows by name: nothing in the report answers it, nobody understands
#: it, it is in a language that nobody taught the LLM.
SCOPE, UNCLEAR, LANGUAGE = "scope", "unclear", "language"
#: An image that is not square: padded with the mean colour, or cut to its centre.
PADS = ("mean", "none")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle and its fingerprint."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """YuNet: thresholds, and the longer side (px) of each look, tried in this order until a face is found."""

    file: str
    score_threshold: float
    nms_threshold: float
    sides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Where the five landmarks lie in the canonical crop, as fractions of its side."""

    template: tuple[Point, Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class ParserSpec:
    """Pixels (B,3,size,size) -> label map (B,size,size) uint8, an index into `classes`."""

    file: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Pixels (B,3,size,size), label map, characteristics (K,) -> logits, region area, image and region tokens.

    image_tokens: how many; 0 where a vision encoder of its own makes them.
    width: of the tokens; 0 where the graph has none at all.
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

    left, top: the window's corner in the parser's crop, pixels.
    years: the first so many outputs make a distribution over the age in years, from 0 on.
    ages: characteristic -> the first and the last year that it stands for.
    tells: characteristics of the outputs behind the years.
    faults: then, one output each, why a picture cannot be read; covers: those of them that hide a part of the face
        only; shows: characteristic -> the fault that it names.
    shared: of these characteristics the encoder says something too: the logit is the mean of both.
    The last four outputs tell by how many quarter turns, counter-clockwise, the picture must be turned to stand
    upright.
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
        _known("covers", (*self.covers, *self.shows.values()), self.faults)
        _known("shared", self.shared, (*self.ages, *self.tells, *self.shows))

    @property
    def characteristics(self) -> tuple[str, ...]:
        """All that it tells: in the order of a reading's logits, where all are switched on."""
        return (*self.ages, *self.tells, *self.shows)


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """A CLIP tower with its projector: pixels (B,3,size,size) -> image tokens (B,image_tokens,width).

    mean, std: of pixels 0..1. pad: what becomes of an image that is not square, one of PADS.
    margin: it is shown a square around the face box with `margin` times its longer side.
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
    """Characteristics (K,) and states (K,) -> knowledge tokens (K,width). `states` in the order of their numbers."""

    file: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuestionSpec:
    """Token ids (B,L) of a question -> relevance (B,N) and, with kinds, kinds (B,M).

    Above zero relevance the LLM is told of that characteristic. The likeliest kind says what becomes of the question.

    list_from: a question about at least this many is given a list of findings: those that are not "no".
    vocabulary: GGUF with the vocabulary that it reads in; None: the LLM's.
    share: what is below this share of the highest relevance is not asked about, 0..1; 0: all that is above zero is.
    kinds: names of the kinds of questions; "about" and "detail" are about characteristics, "count" about how many
        faces there are; another one is declined where the prompt has a sentence for it.
    opposites: words that ask for the opposite of a characteristic; the answer then does not open with Yes or No.
    words: file with the words of questions, by which misspelt ones are put right; None: they are read as they are.
    """

    file: str
    list_from: int
    vocabulary: str | None = None
    share: float = 0.0
    kinds: tuple[str, ...] = ()
    opposites: tuple[str, ...] = ()
    words: str | None = None


@dataclass(frozen=True, slots=True)
class RegionLimit:
    """A bound on a region's share of the crop."""

    region: str
    area: float


@dataclass(frozen=True, slots=True)
class CharacteristicSpec:
    """One characteristic.

    calibration: (a, b) with probability = sigmoid(a * logit + b); among an exactly_one rule's members, their softmax;
        among a hard at_most_one rule's members, their softmax beside "none" with the logit 0.
    unsure: with a probability between these bounds nothing is claimed; of a choice's members, the upper one counts.
    poor: the same for pictures of poor quality; None: of these nothing is claimed.
    absent: completes "The person ..." where it is not so.
    mentions: words of an answer that speak of it; while it is switched off, an answer stops before them.
    denials: words that say by themselves that it is not so ("mouth closed").
    inverted: its words speak of the opposite ("beard" for No_Beard).
    needs: not visible unless the region covers at least this share of the crop.
    hidden_by: not visible when the region covers more than this share.
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

    kind: "at_most_one", "at_least_one", "exactly_one" over `of`; "excludes" (the first forbids each of the others),
    "implies" (the first demands each of the others). A hard rule holds in every report; breaking a soft one costs
    the manifest's `soft_weight`.
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
    """Fixed parts around what varies:
    before_face [face tokens] after_face [question] [findings] before_answer [answer] stop.

    between: between the face tokens of two faces, and between what was found on them.
    follow: between an earlier question and the one behind it.
    withheld: what is said instead of an answer that would mention something switched off.
    who: what a person is called: alone, and each of two.
    statements: state -> sentence that says it, with {who}, {phrase}, {absent}; for an answer that must be put right.
    looked: sentence that says where something was seen, with {place}.
    places: region -> what it is called there.
    findings: how an LLM without knowledge tokens is told what was found, with {findings}.
    declines: reason -> what is said instead of an answer. "scope": nothing in the report answers the question;
        "language": it is in a language that nobody taught the LLM.
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
        """The sentence that says it."""
        text = self.statements[state].format(who=who, phrase=phrase, absent=absent)
        return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class LlmSpec:
    """A GGUF file, its embedding width, context length and prompt; limits in tokens."""

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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's contract.

    knowledge: None where the LLM is told in words what was found.
    closeup: None where the encoder makes all logits.
    vision: None where the encoder itself makes the LLM's image tokens. With it, there are region tokens and knowledge
        tokens where both were trained for its LLM, or neither.
    soft_weight: what breaking a soft rule costs, in calibrated logits.
    switches: groups of characteristics that a user can turn on and off, and whether they are on by default.
    """

    format: str
    version: int
    min_runtime: str
    name: str
    created: str
    files: dict[str, FileEntry]
    detector: DetectorSpec
    crop: CropSpec
    parser: ParserSpec
    encoder: EncoderSpec
    knowledge: KnowledgeSpec | None
    question: QuestionSpec
    regions: dict[str, tuple[str, ...]]
    characteristics: tuple[CharacteristicSpec, ...]
    rules: tuple[RuleSpec, ...]
    soft_weight: float
    switches: dict[str, bool]
    llm: LlmSpec
    licences: tuple[Licence, ...]
    provenance: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    vision: VisionSpec | None = None
    closeup: CloseupSpec | None = None

    def __post_init__(self) -> None:
        names = [c.name for c in self.characteristics]
        _unique("characteristics", names)
        _unique("parser.classes", list(self.parser.classes))
        for region, classes in self.regions.items():
            _known(f"regions.{region}", classes, self.parser.classes)
        for c in self.characteristics:
            limits = [x.region for x in (c.needs, c.hidden_by) if x]
            _known(f"characteristics.{c.name}", (c.region, *limits), self.regions)
            for field_name, bounds in (("unsure", c.unsure), ("poor", c.poor)):
                if bounds and not 0 <= bounds[0] <= bounds[1] <= 1:
                    where = f"characteristics.{c.name}.{field_name}"
                    raise FieldError(f"{where}: expected bounds in 0..1, found {list(bounds)}")
            _known(f"characteristics.{c.name}.covered_by", c.covered_by, self.closeup.faults if self.closeup else ())
            _known(f"characteristics.{c.name}.group", (c.group,), ("", NEVER, *self.switches))
        for rule in self.rules:
            if rule.kind not in KINDS:
                raise FieldError(f"rules: kind {rule.kind!r}; expected {', '.join(KINDS)}")
            _known("rules", rule.of, names)
        missing = [s for s in STATES if s not in self.llm.prompt.statements]
        if missing:
            raise FieldError(f"llm.prompt.statements: no sentence for {missing[0]!r}")
        unnamed = [r for r in self.regions if r not in self.llm.prompt.places]
        if unnamed or "{place}" not in self.llm.prompt.looked:
            raise FieldError(f"llm.prompt.places: no name for {unnamed[:1]}, or no {{place}} in llm.prompt.looked")
        if self.closeup:
            _known("closeup", self.closeup.characteristics, names)
            if max(self.closeup.left, self.closeup.top) + self.closeup.size > self.parser.size:
                raise FieldError(f"closeup: its window does not lie within the parser's {self.parser.size} pixels")
        parts = (self.detector, self.parser, self.encoder, self.closeup, self.vision, self.knowledge, self.question)
        for part in (*parts, self.llm):
            _known("files", (part.file,) if part else (), self.files)
        _known("files", tuple(filter(None, (self.question.vocabulary, self.question.words))), self.files)
        for size in (self.parser.size, self.encoder.size, self.vision.size if self.vision else 32):
            if not 32 <= size <= 2048:
                raise FieldError(f"crop size {size}; expected 32 to 2048 pixels")
        if any(s <= 0 for s in (*self.parser.std, *self.encoder.std, *(self.vision.std if self.vision else ()))):
            raise FieldError("std: expected positive numbers")
        if not self.detector.sides or any(not 32 <= s <= 8192 for s in self.detector.sides):
            raise FieldError(f"detector.sides {list(self.detector.sides)}; expected at least one of 32 to 8192 pixels")
        if self.soft_weight < 0:
            raise FieldError(f"soft_weight: expected at least 0, found {self.soft_weight}")
        if self.knowledge and self.knowledge.states != STATES:
            raise FieldError(f"knowledge.states: expected {list(STATES)}, found {list(self.knowledge.states)}")
        if not self.knowledge and "{findings}" not in self.llm.prompt.findings:
            raise FieldError("llm.prompt.findings: without knowledge tokens, expected a text with {findings}")
        if self.vision and self.encoder.image_tokens:
            raise FieldError(f"vision: with it, encoder.image_tokens is 0, found {self.encoder.image_tokens}")
        if self.vision and bool(self.encoder.width) != bool(self.knowledge):
            raise FieldError("vision: with it, encoder.width is 0 and knowledge null, or both speak to its LLM")
        widths = {"vision": self.vision.width} if self.vision else {}
        if self.encoder.width or not self.vision:
            widths["encoder"] = self.encoder.width
        for name, width in widths.items():
            if width != self.llm.width:
                raise FieldError(f"{name}.width {width} does not fit llm.width {self.llm.width}")

    @property
    def image_tokens(self) -> int:
        """How many tokens the LLM is shown of a face's picture."""
        return self.vision.image_tokens if self.vision else self.encoder.image_tokens

    @property
    def face_tokens(self) -> int:
        """How many tokens the LLM is shown of a face, at most: image tokens, and one for each region."""
        return self.image_tokens + (len(self.regions) if self.encoder.width else 0)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and check. Raises BundleError with the field's path."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise BundleError(f"manifest.json is not JSON: {e}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise BundleError(f"manifest.json: format is {found!r}, expected {FORMAT!r}")
        if data.get("version") != VERSION:
            raise BundleError(
                f"manifest.json has version {data.get('version')!r}, this runtime reads version {VERSION}: "
                "update faceinsight, or export the bundle again"
            )
        try:
            return decode(cls, data, "manifest.json")
        except FieldError as e:
            raise BundleError(str(e)) from None

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def index(self, name: str) -> int:
        """Number of a characteristic, by name."""
        return next(i for i, c in enumerate(self.characteristics) if c.name == name)


def _unique(path: str, names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise FieldError(f"{path}: {twice[0]!r} stands twice")


def _known(path: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise FieldError(f"{path}: {name!r} is not one of {', '.join(map(repr, known))}")
