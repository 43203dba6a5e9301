"""manifest.json: everything the exporter decided and the runtime obeys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import BundleError
from ..types import STATES
from .json_decoder import FieldError, decode
from .specs import (
    KINDS,
    NEVER,
    CharacteristicSpec,
    CloseupSpec,
    CropSpec,
    DetectorSpec,
    EncoderSpec,
    FileEntry,
    KnowledgeSpec,
    Licence,
    LlmSpec,
    ParserSpec,
    QuestionSpec,
    RuleSpec,
    VisionSpec,
    require_known,
)

FORMAT = "faceinsight-bundle"
#: Version of the manifest this runtime reads. A newer one is refused, never guessed at.
VERSION = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's contract.

    What the LLM is shown of a face, and told of what was found:

    | `vision` | `encoder.width` | `knowledge` | image tokens by    | region tokens | findings         |
    | -------- | --------------- | ----------- | ------------------ | ------------- | ---------------- |
    | None     | LLM's           | a graph     | the encoder        | yes           | knowledge tokens |
    | None     | LLM's           | None        | the encoder        | yes           | words            |
    | a graph  | LLM's           | a graph     | the vision encoder | yes           | knowledge tokens |
    | a graph  | 0               | None        | the vision encoder | no            | words            |

    Attributes:
        format: FORMAT.
        version: VERSION.
        min_runtime: the oldest version of this package that reads the bundle.
        name: the bundle's.
        created: date.
        files: name -> size and sha256 of every file but this one.
        detector: finds faces.
        crop: where landmarks lie in the canonical crop.
        parser: pixels to a label map.
        encoder: pixels and label map to logits and tokens.
        knowledge: findings to tokens; None where the LLM is told in words.
        question: a question to the characteristics it asks about.
        regions: name -> classes of the label map.
        characteristics: everything that a report may hold.
        rules: what of it goes together.
        soft_weight: what breaking a soft rule costs, in calibrated logits.
        switches: groups of characteristics that a user can turn on and off, and whether they are on by default.
        llm: the language model.
        licences: of every component.
        provenance: how it was made.
        parity: largest error of each exported stage against its reference.
        vision: makes the LLM's image tokens; None where the encoder makes them.
        closeup: tells age, gender, race, expression and quality; None where the encoder makes all logits.
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
        self._check_vocabulary()
        self._check_prompt()
        self._check_files()
        self._check_sizes()
        self._check_tokens()

    def _check_vocabulary(self) -> None:
        """Characteristics, regions and rules name each other."""
        names = [c.name for c in self.characteristics]
        _require_unique("characteristics", names)
        _require_unique("parser.classes", self.parser.classes)
        for region, classes in self.regions.items():
            require_known(f"regions.{region}", classes, self.parser.classes)
        for c in self.characteristics:
            path = f"characteristics.{c.name}"
            require_known(path, (c.region, *(x.region for x in (c.needs, c.hidden_by) if x)), self.regions)
            for field_name, bounds in (("unsure", c.unsure), ("poor", c.poor)):
                if bounds and not 0 <= bounds[0] <= bounds[1] <= 1:
                    raise FieldError(f"{path}.{field_name}: expected bounds in 0..1, found {list(bounds)}")
            require_known(f"{path}.covered_by", c.covered_by, self.closeup.faults if self.closeup else ())
            require_known(f"{path}.group", (c.group,), ("", NEVER, *self.switches))
        for rule in self.rules:
            if rule.kind not in KINDS:
                raise FieldError(f"rules: kind {rule.kind!r}; expected {', '.join(KINDS)}")
            require_known("rules", rule.of, names)
        if self.closeup:
            require_known("closeup", self.closeup.characteristics, names)

    def _check_prompt(self) -> None:
        """The prompt has a sentence for each state and a name for each region."""
        prompt = self.llm.prompt
        missing = [s for s in STATES if s not in prompt.statements]
        if missing:
            raise FieldError(f"llm.prompt.statements: no sentence for {missing[0]!r}")
        unnamed = [r for r in self.regions if r not in prompt.places]
        if unnamed or "{place}" not in prompt.looked:
            raise FieldError(f"llm.prompt.places: no name for {unnamed[:1]}, or no {{place}} in llm.prompt.looked")

    def _check_files(self) -> None:
        """Every part's file is one of the bundle's."""
        parts = (self.detector, self.parser, self.encoder, self.closeup, self.vision, self.knowledge, self.question)
        for part in (*parts, self.llm):
            require_known("files", (part.file,) if part else (), self.files)
        require_known("files", tuple(filter(None, (self.question.vocabulary, self.question.words))), self.files)

    def _check_sizes(self) -> None:
        """Sizes and divisors are possible ones."""
        if self.closeup and max(self.closeup.left, self.closeup.top) + self.closeup.size > self.parser.size:
            raise FieldError(f"closeup: its window does not lie within the parser's {self.parser.size} pixels")
        for size in (self.parser.size, self.encoder.size, self.vision.size if self.vision else 32):
            if not 32 <= size <= 2048:
                raise FieldError(f"crop size {size}; expected 32 to 2048 pixels")
        if any(s <= 0 for s in (*self.parser.std, *self.encoder.std, *(self.vision.std if self.vision else ()))):
            raise FieldError("std: expected positive numbers")
        if not self.detector.sides or any(not 32 <= s <= 8192 for s in self.detector.sides):
            raise FieldError(f"detector.sides {list(self.detector.sides)}; expected at least one of 32 to 8192 pixels")
        if self.soft_weight < 0:
            raise FieldError(f"soft_weight: expected at least 0, found {self.soft_weight}")

    def _check_tokens(self) -> None:
        """What speaks to the LLM is one of the four rows of the table above, and of its width."""
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


def _require_unique(path: str, names: Sequence[str]) -> None:
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise FieldError(f"{path}: {repeated[0]!r} stands twice")
