"""CLIP vision tower and projector of a LLaVA-1.5 in torch: what the exported graph must compute.

One layer's weights are in memory at a time.

Sources: transformers' CLIPVisionModel and LlavaModel.get_image_features, with which tests/export/onnx/test_vision.py
compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from faceinsight_models.llava.config_json import configured

from .token_merging import TokenReduction, reduce

TOWER, PROJECTOR = "vision_tower.vision_model", "multi_modal_projector"

#: By transformers' names. Each has its nodes in vision.py.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
}

#: Is shown each linear layer's name and input.
Observer = Callable[[str, torch.Tensor], None]


def _ignore(name: str, value: torch.Tensor) -> None:
    pass


class Tensors(Protocol):
    """A LLaVA checkpoint: its config.json, and tensors by name without the newer layout's leading "model."."""

    config: dict[str, Any]

    def get(self, name: str) -> NDArray[Any]:
        """A tensor, as float32."""


@dataclass(frozen=True, slots=True)
class VisionShape:
    """What config.json says of the tower and projector; sizes in pixels.

    Attributes:
        size: of the image.
        patch: side of a patch.
        width: of the hidden states.
        heads: of the attention.
        epsilon: of the layer norms.
        activation: of the tower.
        projector_activation: between the projector's layers.
        projector_bias: has the projector biases?
        feature_layers: numbers of the hidden states that are concatenated; 0 is what enters the first layer.
        drop_class: leave out the class token.
    """

    size: int
    patch: int
    width: int
    heads: int
    epsilon: float
    activation: str
    projector_activation: str
    projector_bias: bool
    feature_layers: tuple[int, ...]
    drop_class: bool

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.size // self.patch

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> VisionShape:
        """From config.json, transformers' defaults where it is silent.

        Raises:
            ValueError: it is not LLaVA-1.5.
        """
        kinds = config.get("model_type"), (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
        if kinds != ("llava", "clip_vision_model"):
            raise ValueError(f"a model of type {kinds[0]!r} with vision of type {kinds[1]!r}; expected llava with CLIP")
        llava = configured(config)
        vision, layers = llava.vision_config, llava.vision_config.num_hidden_layers
        chosen = llava.vision_feature_layer
        chosen = [chosen] if isinstance(chosen, int) else list(chosen)
        if not chosen or any(not -layers - 1 <= n <= layers for n in chosen):
            raise ValueError(f"vision_feature_layer {chosen}; the tower has hidden states 0 to {layers}")
        for activation in (vision.hidden_act, llava.projector_hidden_act):
            if activation not in ACTIVATIONS:
                raise ValueError(f"activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
        return cls(
            vision.image_size,
            vision.patch_size,
            vision.hidden_size,
            vision.num_attention_heads,
            vision.layer_norm_eps,
            vision.hidden_act,
            llava.projector_hidden_act,
            getattr(llava, "multimodal_projector_bias", True),  # an old transformers always has one
            tuple(n % (layers + 1) for n in chosen),
            llava.vision_feature_select_strategy == "default",
        )


class VisionReference:
    """pixels (B,3,size,size) -> image tokens (B,N,width), in torch and float32, one layer of weights at a time."""

    def __init__(self, source: Tensors, shape: VisionShape, reduction: TokenReduction | None) -> None:
        """reduction: of the image tokens; None: all are kept."""
        self.source = source
        self.shape = shape
        self.reduction = reduction

    def __call__(self, pixels: torch.Tensor, *, observe: Observer = _ignore) -> torch.Tensor:
        """The tokens."""
        with torch.no_grad():
            return self._project(self.features(pixels, observe=observe), observe)

    def features(self, pixels: torch.Tensor, *, observe: Observer = _ignore) -> torch.Tensor:
        """The tower's chosen hidden states (B,patches,width of all)."""
        with torch.no_grad():
            return self._features(pixels, observe)

    def _project(self, x: torch.Tensor, observe: Observer) -> torch.Tensor:
        if self.reduction is not None:
            x = torch.from_numpy(reduce(x.numpy(), self.reduction))
        for linear in ("linear_1", "linear_2"):
            name = f"{PROJECTOR}.{linear}"
            observe(name, x)
            x = F.linear(x, self.tensor(f"{name}.weight"), self._projector_bias(name))
            if linear == "linear_1":
                x = ACTIVATIONS[self.shape.projector_activation](x)
        return x

    def _features(self, pixels: torch.Tensor, observe: Observer) -> torch.Tensor:
        x = F.conv2d(pixels, self.tensor(f"{TOWER}.embeddings.patch_embedding.weight"), stride=self.shape.patch)
        first = self.tensor(f"{TOWER}.embeddings.class_embedding").expand(len(x), 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2)], 1)
        x = self._norm(x + self.tensor(f"{TOWER}.embeddings.position_embedding.weight"), f"{TOWER}.pre_layrnorm")
        states = {0: x}
        for number in range(max(self.shape.feature_layers)):
            x = self._layer(x, f"{TOWER}.encoder.layers.{number}", observe)
            if number + 1 in self.shape.feature_layers:
                states[number + 1] = x
        return torch.cat([states[n][:, int(self.shape.drop_class) :] for n in self.shape.feature_layers], 2)

    def act_absmax(self, pixels: torch.Tensor) -> dict[str, NDArray[np.float32]]:
        """For each linear layer, the largest magnitude of each of its inputs on these images."""
        found: dict[str, NDArray[np.float32]] = {}
        self(pixels, observe=lambda name, x: found.update({name: x.abs().flatten(0, 1).amax(0).numpy()}))
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor of the checkpoint as float32."""
        return torch.from_numpy(np.asarray(self.source.get(name), np.float32))

    def _layer(self, x: torch.Tensor, at: str, observe: Observer) -> torch.Tensor:
        def linear(value: torch.Tensor, name: str) -> torch.Tensor:
            observe(f"{at}.{name}", value)
            return F.linear(value, self.tensor(f"{at}.{name}.weight"), self.tensor(f"{at}.{name}.bias"))

        y = self._norm(x, f"{at}.layer_norm1")
        q, k, v = (linear(y, f"self_attn.{p}_proj").unflatten(2, (self.shape.heads, -1)).transpose(1, 2) for p in "qkv")
        x = x + linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), "self_attn.out_proj")
        y = linear(self._norm(x, f"{at}.layer_norm2"), "mlp.fc1")
        return x + linear(ACTIVATIONS[self.shape.activation](y), "mlp.fc2")

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.shape.epsilon)

    def _projector_bias(self, name: str) -> torch.Tensor | None:
        return self.tensor(f"{name}.bias") if self.shape.projector_bias else None
