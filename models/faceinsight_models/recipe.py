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
    """The canonical crop.

    Attributes:
        template: right eye, left eye, nose, right and left mouth corner, as fractions of the crop's side.
        encoder: side of the encoder's input, pixels.
        parser: side of the parser's input, pixels.
        unlabelled: faces without masks that the parser labels for itself.
    """

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
    """Widths of the encoder.

    Attributes:
        text_width: of the refined text features T^L.
        segmentation_width: of the segmentation encoder.
    """

    text_width: int
    segmentation_width: int


@dataclass(frozen=True)
class Judgement:
    """From logits to labels.

    Attributes:
        soft_weight: logits that breaking a soft rule costs.
        risk: share of claims about an attribute that may be wrong; below that confidence the answer is "unsure".
        choice_risk: the same for the likeliest member of an exclusive group, by its name.
        miss: share of those who have an attribute and may be told that they have not.
    """

    soft_weight: float
    risk: float
    choice_risk: dict[str, float]
    miss: float


@dataclass(frozen=True)
class LlmSizes:
    """The LLM and its training data.

    Attributes:
        layers: of the uncut LLM that are kept.
        vocabulary: first token ids that are kept.
        faces: training faces that the dialogues are about.
        turns: questions per face and batch.
        context: n_ctx, tokens.
        max_question: tokens.
        max_answer: tokens.
        quantization: of the shipped weights, one of the exporter's LLM_PRECISIONS.
    """

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
    """Optimization of one step.

    Attributes:
        steps: in all.
        batch: examples per step.
        lr: peak learning rate.
        warmup: share of the steps.
        weight_decay: of matrices; vectors have none.
        ema_decay: of the averaged weights.
        checkpoint_every: steps.
        seed: of initialization and batches.
    """

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
    """Training an adapter for a frozen LLaVA.

    Attributes:
        faces: training faces.
        turns: questions per face and batch.
        accumulation_steps: forward passes that a batch is split into: less memory.
        align: schedule of the first step.
        train: schedule of the second step.
    """

    faces: int = 8000
    turns: int = 6
    accumulation_steps: int = 8
    align: Schedule = Schedule(steps=1500, batch=64, lr=1e-3)
    train: Schedule = Schedule(steps=1500, batch=8, lr=1e-3, ema_decay=0.99)


@dataclass(frozen=True)
class LlavaRecipe:
    """The prompt that a family of LLaVAs was trained with, and limits in tokens.

    Attributes:
        before_face: text before the image tokens.
        after_face: text behind them.
        before_answer: text between question and answer.
        stop: text of the token that ends an answer.
        context: n_ctx.
        between: text between two faces.
        follow: text between two questions.
        max_question: tokens.
        max_answer: tokens.
        margin: the vision encoder is given a square of `margin` times the face box's longer side.
        attach: how an adapter is trained for it.
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
        """A shipped recipe by name, or a TOML file by path.

        Raises:
            FileNotFoundError: there is no such recipe.
            ValueError: the recipe is not valid.
        """
        return read_recipe(cls, name, LLAVA_RECIPES)


def llava_recipes() -> list[str]:
    """Names of the shipped recipes for LLaVA checkpoints."""
    return sorted(p.stem for p in LLAVA_RECIPES.glob("*.toml"))


@dataclass(frozen=True)
class Asset:
    """A published file that training starts from.

    Attributes:
        package: name and version in a registry.
        member: path of the file in the package.
        sha256: of the file.
        licence: of the file.
    """

    package: str
    member: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Recipe:
    """A model variant.

    Attributes:
        name: of the recipe.
        crop: the canonical crop.
        encoder: widths of the encoder.
        closeup: window and mixture of the close-up.
        llm: the LLM.
        sampling_weights: set -> its share of a batch.
        judgement: from logits to labels.
        train: step -> its schedule.
        assets: file name -> where it comes from.
    """

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
        """A shipped recipe by name, or a TOML file by path.

        Raises:
            FileNotFoundError: there is no such recipe.
            ValueError: the recipe is not valid.
        """
        return read_recipe(cls, name, RECIPES)


def read_recipe(kind: type[T], name: str, folder: Path) -> T:
    """A recipe of the folder by name, or a TOML file by path.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: the recipe is not valid.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise FileNotFoundError(f"no recipe {name!r}; shipped: {shipped}; or give a .toml file")
    try:
        return decode(kind, read_table(path), path.name)
    except (FieldError, TableError) as e:
        raise ValueError(f"{path}: {e}") from None
