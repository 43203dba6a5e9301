"""A LLaVA checkpoint as transformers runs it, frozen: LLM and vision encoder beside an adapter that is trained.

Nothing is downloaded and nothing of the folder is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceinsight.bundle.bundle import sha256_of
from faceinsight.bundle.specs import VisionSpec
from faceinsight.perception.clip_pixels import to_pixels
from faceinsight.perception.vision_encoder import surroundings

from .config_json import CONFIG, read_json
from .hf_folder import decoder_of, load_model, load_tokenizer, part
from .pixels import preprocessing

#: What no tokenizer joins with what follows: as the runtime's Vocabulary has it.
_ANCHOR = "\n"


def fingerprint(folder: Path) -> str:
    """Of a checkpoint folder's configuration and all its weights.

    Raises:
        FileNotFoundError: there are no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no .safetensors file: expected a checkpoint in the Hugging Face layout"
        )
    hashes = [sha256_of(p) for p in (folder / "config.json", *files)]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class FrozenLlava:
    """The parts of a LLaVA, none of which is trained.

    Attributes:
        body: its LLM, from embeddings (B,L,width) to hidden states.
        output: from hidden states to logits (`head`).
        tower: CLIP vision tower.
        projector: from the tower's features to image tokens (`image_tokens`).
        config: transformers' configuration.
        tokenizer: transformers' tokenizer.
        spec: the vision encoder as in the manifest of a bundle.
    """

    body: Any
    output: Any
    tower: Any
    projector: Any
    config: Any
    tokenizer: Any
    spec: VisionSpec

    @classmethod
    def open(cls, folder: Path, *, margin: float, device: torch.device) -> FrozenLlava:
        """Load a checkpoint: float32 on a CPU, bfloat16 on a GPU.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the checkpoint is quantized or is not LLaVA-1.5.
        """
        if read_json(folder / CONFIG).get("quantization_config"):
            raise ValueError(
                f"{folder / CONFIG}: a quantized checkpoint; no gradient goes through it. Use the 16-bit weights"
            )
        model = load_model(folder, torch.float32 if device.type == "cpu" else torch.bfloat16)
        model.requires_grad_(False).to(device)
        config = model.config
        size, patch = config.vision_config.image_size, config.vision_config.patch_size
        count = (size // patch) ** 2 + (config.vision_feature_select_strategy != "default")
        (m, s), width = preprocessing(folder, size), model.get_input_embeddings().weight.shape[1]
        spec = VisionSpec("", size, (m[0], m[1], m[2]), (s[0], s[1], s[2]), "mean", count, width, margin)
        tokenizer = load_tokenizer(folder)
        tower, projector = part(model, "vision_tower"), part(model, "multi_modal_projector")
        return cls(decoder_of(model), model.get_output_embeddings(), tower, projector, config, tokenizer, spec)

    @property
    def table(self) -> Tensor:
        """(V,width): word embeddings, float32 on the CPU."""
        return self.body.embed_tokens.weight.detach().float().cpu()

    def tokens(self, text: str, first: bool) -> list[int]:
        """Tokens of a part of a prompt, as the runtime's Vocabulary makes them; first: no text stands before it."""
        if first or not text:
            return self._encode(text)
        anchor, anchored = self._encode(_ANCHOR), self._encode(_ANCHOR + text)
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def pixels(self, picture: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.float32]:
        """(3,size,size): a face box (x, y, width, height) of a photo (H,W,3) and its surroundings, as in use."""
        x, y, width, height = (float(v) for v in box)
        return np.asarray(to_pixels([surroundings(picture, (x, y, width, height), self.spec)], self.spec)[0])

    @torch.no_grad()
    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Pixels (F,3,size,size) -> (F,P,width)."""
        states = self.tower(pixels.to(self.body.embed_tokens.weight.dtype), output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = [states[n] for n in (layers if isinstance(layers, (list, tuple)) else [layers])]
        if self.config.vision_feature_select_strategy == "default":
            chosen = [x[:, 1:] for x in chosen]
        return self.projector(torch.cat(chosen, 2))

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (M,width) -> logits (M,V)."""
        logits = self.output(hidden)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
