"""A model variant is a recipe: one TOML file with every size and setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from faceinsight.bundle.json_decoder import FieldError, decode

from .toml_file import TableError, read_table

T = TypeVar("T")

RECIPES = Path(__file__).parent / "recipes"
LLAVA_RECIPES = RECIPES / "llava"


@dataclass(frozen=True)
class Crop:
    template: tuple[tuple[float, float], ...]
    encoder: int
    parser: int
    unlabelled: int

    def points(self) -> NDArray[np.float32]:
        """The template as (5,2)."""
        return np.array(self.template, np.float32)


@dataclass(frozen=True)
class CloseupSizes:
    """The close-up's window and training mixture.

    Attributes:
        left: of the window in the parser's crop, pixels.
        top: of the window in the parser's crop, pixels.
        size: side of the window, pixels.
        sampling_weights: set -> its share of a batch.
        poor_below: quality, 0..1, below which a picture is poor.
    """

    left: int
    top: int
    size: int
    sampling_weights: dict[str, float]
    poor_below: float = 0.5

    def template(self, crop: Crop) -> NDArray[np.float32]:
        """(5,2): where the landmarks lie in the window, as fractions of its side."""
        corner = np.array([self.left, self.top])
        return np.asarray((crop.points() * crop.parser - corner) / self.size, np.float32)


@dataclass(frozen=True)
class EncoderSizes:
    text_width: int
    segmentation_width: int


@dataclass(frozen=True)
class Judgement:
    """From logits to labels: what a broken soft rule costs (logits), the share of claims that may be wrong (of an
    attribute, of a choice) before the answer is "unsure", and the share of those who have an attribute and are told
    they have not."""

    soft_weight: float
    risk: float
    choice_risk: dict[str, float]
    miss: float


@dataclass(frozen=True)
class LlmSizes:
    layers: tuple[int, ...]
    vocabulary: int
    faces: int
    turns: int
    context: int
    max_question: int
    max_answer: int
    quantization: str


@dataclass(frozen=True)
class Schedule:
    """Optimization of one step: steps in all, batch size, peak learning rate, share of warm-up, weight decay,
    decay of the averaged weights."""

    steps: int
    batch: int
    lr: float
    warmup: float = 0.06
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class AttachSizes:
    """Teaching an adapter to speak to a frozen LLaVA: how many faces, questions per face and batch, forward passes that
    a batch goes through in (less memory), and the schedules of its two steps."""

    faces: int = 8000
    turns: int = 6
    accumulation_steps: int = 8
    align: Schedule = Schedule(steps=1500, batch=64, lr=1e-3)
    train: Schedule = Schedule(steps=1500, batch=8, lr=1e-3, ema_decay=0.99)


@dataclass(frozen=True)
class LlavaRecipe:
    """The prompt that a family of LLaVAs was trained with, and limits in tokens.

    margin: the vision encoder is shown a square with `margin` times the face box's longer side.
    """

    before_face: str
    after_face: str
    before_answer: str
    stop: str
    context: int
    between: str = "\n"
    follow: str = "\n"
    max_question: int = 256
    max_answer: int = 256
    margin: float = 2.0
    attach: AttachSizes = AttachSizes()

    @classmethod
    def load(cls, name: str) -> LlavaRecipe:
        """A shipped recipe by name, or a TOML file by path. Raises FileNotFoundError or ValueError."""
        return read_recipe(cls, name, LLAVA_RECIPES)


def llava_recipes() -> list[str]:
    """Names of the shipped recipes for LLaVA checkpoints."""
    return sorted(p.stem for p in LLAVA_RECIPES.glob("*.toml"))


@dataclass(frozen=True)
class Asset:
    package: str
    member: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Recipe:
    name: str
    crop: Crop
    encoder: EncoderSizes
    closeup: CloseupSizes
    llm: LlmSizes
    sampling_weights: dict[str, float]
    judgement: Judgement
    train: dict[str, Schedule] = field(default_factory=dict)
    assets: dict[str, Asset] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> Recipe:
        """A shipped recipe by name, or a TOML file by path. Raises FileNotFoundError or ValueError."""
        return read_recipe(cls, name, RECIPES)


def read_recipe(kind: type[T], name: str, folder: Path) -> T:
    """A recipe of the folder by name, or a TOML file by path. Raises FileNotFoundError or ValueError."""
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise FileNotFoundError(f"no recipe {name!r}; shipped: {shipped}; or give a .toml file")
    try:
        return decode(kind, read_table(path), path.name)
    except (FieldError, TableError) as e:
        raise ValueError(f"{path}: {e}") from None
