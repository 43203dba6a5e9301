"""The finished parts of a run folder, read back: what the exporter and the next training steps need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceinsight.types import STATES

from . import assets
from .nets.closeup import CloseupNet
from .nets.encoder import Adapter, FaceEncoder
from .nets.llm import BpeVocabulary
from .nets.parser import FaceParser
from .nets.question import QuestionNet
from .recipe import Recipe
from .taxonomy import MASK_CLASSES, NAMES
from .train.backbone import BackboneClassifier
from .train.build import build_adapter, build_encoder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

#: Assets of the recipe, by their file names.
DETECTOR = "face_detection_yunet_2023mar.onnx"
TRUNK = "efficientnet-lite0-57934424.pth"
FACERES = "faceres.json"
LLM = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Trained:
    """The finished parts of a run."""

    recipe: Recipe
    parser: FaceParser
    encoder: FaceEncoder
    adapter: Adapter
    question: QuestionNet
    llm: LlamaForCausalLM
    vocabulary: BpeVocabulary
    calibration: NDArray[np.float64]
    detector: Path
    sets: dict[str, int]
    closeup: CloseupNet | None = None


def state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict of a run folder, on the CPU.

    Raises:
        FileNotFoundError: the training step has not finished.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: this training step has not finished")
    return torch.load(path, weights_only=True, map_location="cpu")


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def load_backbone(run: Path) -> BackboneClassifier:
    """The trained image encoder of step 1."""
    model = BackboneClassifier(len(NAMES))
    model.load_state_dict(state_dict(run / "trunk.pt"))
    return model.eval()


def load_parser(run: Path) -> FaceParser:
    """The trained parser."""
    model = FaceParser(len(MASK_CLASSES))
    model.load_state_dict(state_dict(run / "parser.pt"))
    return model.eval()


def load_encoder(run: Path, recipe: Recipe, file: str = "encoder.pt") -> FaceEncoder:
    """The trained encoder, its graph and text features included."""
    state = state_dict(run / file)
    model = build_encoder(
        state["head.ccm.features"],
        state["head.ccm.graph"],
        width=recipe.encoder.text_width,
        segmentation=recipe.encoder.segmentation_width,
    )
    if any(name.startswith("own.") for name in state):
        model.specialize()
    model.load_state_dict(state)
    return model.eval()


def load_closeup(run: Path) -> CloseupNet:
    """The trained close-up."""
    model = CloseupNet()
    model.load_state_dict(state_dict(run / "closeup.pt"))
    return model.eval()


def load_question(run: Path) -> QuestionNet:
    """The trained question encoder."""
    state = state_dict(run / "question.pt")
    # The table only fixes the sizes here: its directions are in the state already.
    table = torch.zeros(len(state["embed.weight"]), state["embed.weight"].shape[1])
    model = QuestionNet(table, state["text"], width=table.shape[1])
    model.load_state_dict(state)
    return model.eval()


def load_calibration(run: Path) -> NDArray[np.float64]:
    """(N,6) slope, shift and the bounds of the unsure bands, in the vocabulary's order."""
    table: dict[str, Any] = json.loads((run / "calibration.json").read_text())
    return np.array([table[n] for n in NAMES], np.float64)


def load_trained(recipe: Recipe, run: Path, asset_folder: Path) -> Trained:
    """Everything the exporter needs.

    Raises:
        FileNotFoundError: a step has not finished; the message names it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    state = state_dict(run / "llm.pt")
    llm = LlamaForCausalLM(LlamaConfig.from_pretrained(run / "llm_config"))
    llm.load_state_dict(_part(state, "llm."))
    adapter = build_adapter(
        text_width=recipe.encoder.text_width,
        segmentation=recipe.encoder.segmentation_width,
        states=len(STATES),
        width=llm.config.hidden_size,
    )
    adapter.load_state_dict(_part(state, "adapter."))
    return Trained(
        recipe,
        load_parser(run),
        load_encoder(run, recipe),
        adapter.eval(),
        load_question(run),
        llm.eval(),
        BpeVocabulary.load(run / "vocabulary.json"),
        load_calibration(run),
        assets.check(recipe, asset_folder)[DETECTOR],
        json.loads((run / "sets.json").read_text()),
        load_closeup(run),
    )
