"""manifest.json: everything the exporter decided and the runtime obeys."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from .decode_json import FieldError, decode
from .errors import BundleError

FORMAT = "faceinsight-bundle"
#: Version of the manifest this runtime reads. A newer one is refused, never guessed at.
VERSION = 1
#: Groups that no switch turns on.
NEVER = "never"
#: What can be known of a characteristic, in the order of their numbers.
STATES = ("no", "yes", "unsure", "not visible")

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
    """Pixels (B,3,size,size), label map, characteristics (K,) -> logits, image tokens, region tokens, region area."""

    file: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_tokens: int
    width: int


@dataclass(frozen=True, slots=True)
class KnowledgeSpec:
    """Characteristics (K,) and states (K,) -> knowledge tokens (K,width). `states` in the order of their numbers."""

    file: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuestionSpec:
    """Token ids (B,L) of a question -> relevance (B,N); above zero the LLM is given that characteristic's token.

    list_from: a question about at least this many is given a list of findings: those that are not "no".
    """

    file: str
    list_from: int


@dataclass(frozen=True, slots=True)
class RegionLimit:
    """A bound on a region's share of the crop."""

    region: str
    area: float


@dataclass(frozen=True, slots=True)
class CharacteristicSpec:
    """One characteristic.

    calibration: (a, b) with probability = sigmoid(a * logit + b).
    mentions: words of an answer that speak of it; while it is switched off, an answer stops before them.
    needs: not visible unless the region covers at least this share of the crop.
    hidden_by: not visible when the region covers more than this share.
    """

    name: str
    phrase: str
    region: str
    group: str
    calibration: tuple[float, float]
    mentions: tuple[str, ...]
    needs: RegionLimit | None = None
    hidden_by: RegionLimit | None = None


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A logical rule: "at_most_one" over `of`, "excludes" (the first forbids each of the others), "at_least_one"."""

    kind: str
    of: tuple[str, ...]
    hard: bool

    def __str__(self) -> str:
        if self.kind == "excludes":
            return f"{self.of[0]} excludes {', '.join(self.of[1:])}"
        return f"{self.kind.replace('_', ' ')} of {', '.join(self.of)}"


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """Fixed parts around what varies:
    before_face [face tokens] after_face [question] [knowledge tokens] before_answer [answer] stop.

    withheld: what is said instead of an answer that would mention something switched off.
    """

    before_face: str
    after_face: str
    before_answer: str
    stop: str
    withheld: str


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
    """A bundle's contract. `unsure`: probabilities between these bounds are reported as unsure."""

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
    knowledge: KnowledgeSpec
    question: QuestionSpec
    regions: dict[str, tuple[str, ...]]
    characteristics: tuple[CharacteristicSpec, ...]
    unsure: tuple[float, float]
    rules: tuple[RuleSpec, ...]
    sensitive: tuple[str, ...]
    llm: LlmSpec
    licences: tuple[Licence, ...]
    provenance: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [c.name for c in self.characteristics]
        _unique("characteristics", names)
        _unique("parser.classes", list(self.parser.classes))
        for region, classes in self.regions.items():
            _known(f"regions.{region}", classes, self.parser.classes)
        for c in self.characteristics:
            limits = [x.region for x in (c.needs, c.hidden_by) if x]
            _known(f"characteristics.{c.name}", (c.region, *limits), self.regions)
            _known(f"characteristics.{c.name}.group", (c.group,), ("", NEVER, *self.sensitive))
        for rule in self.rules:
            if rule.kind not in ("at_most_one", "excludes", "at_least_one"):
                raise FieldError(f"rules: kind {rule.kind!r}; expected at_most_one, excludes or at_least_one")
            _known("rules", rule.of, names)
        for part in (self.detector, self.parser, self.encoder, self.knowledge, self.question, self.llm):
            _known("files", (part.file,), self.files)
        for size in (self.parser.size, self.encoder.size):
            if not 32 <= size <= 2048:
                raise FieldError(f"crop size {size}; expected 32 to 2048 pixels")
        if not self.detector.sides or any(not 32 <= s <= 8192 for s in self.detector.sides):
            raise FieldError(f"detector.sides {list(self.detector.sides)}; expected at least one of 32 to 8192 pixels")
        if any(s <= 0 for s in (*self.parser.std, *self.encoder.std)):
            raise FieldError("std: expected positive numbers")
        if not 0 <= self.unsure[0] <= 0.5 <= self.unsure[1] <= 1:
            raise FieldError(f"unsure: expected bounds around 0.5, found {list(self.unsure)}")
        if self.knowledge.states != STATES:
            raise FieldError(f"knowledge.states: expected {list(STATES)}, found {list(self.knowledge.states)}")
        if self.encoder.width != self.llm.width:
            raise FieldError(f"encoder.width {self.encoder.width} does not fit llm.width {self.llm.width}")

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
