"""The reference that a bundle is compared with: transformers' own model of the folder, in float32.

It shares no reading with the exporter: transformers finds, names, ties and types the weights, reads the configuration
(faceinsight_models.llava.hf_folder), and runs its own forward passes. Weights stay in their files, mapped and in their
own type; one layer at a time is widened, so a 7B model runs in about 1 GB beside its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from faceinsight_models.llava.hf_folder import load_image_processor, load_model, load_tokenizer, part

from ..checkpoint.checkpoint import canonical
from ..checkpoint.lora import LoraAdapter


@dataclass(frozen=True)
class Reference:
    """transformers' model of a checkpoint. Open it with `Reference.open`.

    What transformers does not read is known then, before anything is converted.

    Attributes:
        folder: the checkpoint.
        model: LlavaForConditionalGeneration, layer by layer (`layerwise`).
        tokenizer: the folder's.
        processor: the folder's image processor; None: CLIP's.
    """

    folder: Path
    model: Any
    tokenizer: Any
    processor: Any

    @classmethod
    def open(cls, folder: Path, adapter: LoraAdapter | None = None) -> Reference:
        """Load a folder, with an adapter added.

        Raises:
            FileNotFoundError: a file is missing.
            CheckpointError: transformers does not read the folder whole.
        """
        tokenizer, processor = load_tokenizer(folder), load_image_processor(folder)
        return cls(folder, layerwise(load_model(folder, attention="eager"), adapter), tokenizer, processor)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def pixels(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """RGB pictures (H,W,3) -> (B,3,size,size): LLaVA-1.5's square in the mean color, then the processor."""
        from PIL import Image
        from transformers import CLIPImageProcessor

        size = self.config.vision_config.image_size
        clip = self.processor or CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        color = tuple(int(m * 255) for m in clip.image_mean)

        def square(image: NDArray[np.uint8]) -> Any:
            side = max(image.shape[:2])
            canvas = Image.new("RGB", (side, side), color)
            canvas.paste(Image.fromarray(image), ((side - image.shape[1]) // 2, (side - image.shape[0]) // 2))
            return canvas

        return np.asarray(clip([square(i) for i in images], return_tensors="np")["pixel_values"], np.float32)

    def encode_image(
        self, pixels: NDArray[np.float32], reduce: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run vision tower and projector.

        Args:
            pixels: (B,3,size,size).
            reduce: to fewer features, before the projector; without it the tokens are the model's own.

        Returns:
            Vision features (B,P,C) as they enter the projector, and image tokens (B,N,width) as they leave it.
        """
        projector = part(self.model, "multi_modal_projector")
        captured: list[torch.Tensor] = []
        hook = projector.register_forward_hook(lambda module, inputs, output: captured.extend((inputs[0], output)))
        config = self.config
        layer = config.vision_feature_layer
        owner = self.model if hasattr(self.model, "get_image_features") else self.model.model
        try:
            with torch.no_grad():
                owner.get_image_features(
                    pixel_values=torch.from_numpy(pixels),
                    # A list: transformers 5 takes a bare 0 for no layer.
                    vision_feature_layer=layer if isinstance(layer, list) else [layer],
                    vision_feature_select_strategy=config.vision_feature_select_strategy,
                )
                features = captured[0].numpy()
                if reduce is None:
                    return features, captured[1].numpy()
                return features, projector(torch.from_numpy(reduce(features))).numpy()
        finally:
            hook.remove()

    def embed(self, tokens: list[int]) -> NDArray[np.float32]:
        """(len(tokens),width): word embeddings."""
        with torch.no_grad():
            return np.asarray(self.model.get_input_embeddings()(torch.tensor([tokens], dtype=torch.long))[0].numpy())

    def tokens(self, text: str) -> list[int]:
        """Of a part of a prompt: control tokens in it are meant, none is added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def layerwise(model: Any, adapter: LoraAdapter | None = None) -> Any:
    """Make a model of transformers widen each part's weights before it runs, and drop them after.

    Call it under torch.no_grad(), without a cache: each call reads the whole model.

    Args:
        model: changed in place.
        adapter: added to the weights as they are widened.

    Returns:
        The same object.
    """
    # A tensor that two modules share has the name of the first.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in _parts(model):
        parameters = {name: (names[id(value)], value) for name, value in module.named_parameters()}
        _load_on_demand(module, parameters, adapter)
    return model


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that hold no list of layers, down to which the model is taken apart."""
    if not any(isinstance(m, nn.ModuleList) for m in module.modules()):
        yield module
        return
    beside = [name for name, _ in module.named_parameters(recurse=False)]
    if beside:
        raise ValueError(
            f"{type(module).__name__} holds weights beside its layers ({beside[0]}): it cannot be run layer by layer"
        )
    for child in module.children():
        yield from _parts(child)


def _load_on_demand(
    part: nn.Module, parameters: dict[str, tuple[str, nn.Parameter]], adapter: LoraAdapter | None
) -> None:
    """parameters: name within the part -> name in the whole model, and value."""

    def load(module: nn.Module, _: object) -> None:
        for name, (full_name, value) in parameters.items():
            widened = value.detach().to(torch.float32)
            if adapter:
                widened = torch.from_numpy(adapter.applied(canonical(full_name), widened.numpy()))
            _put(module, name, widened)

    def drop(module: nn.Module, _: object, __: object) -> None:
        for name, (_, value) in parameters.items():
            _put(module, name, value)

    part.register_forward_pre_hook(load)
    part.register_forward_hook(drop, always_call=True)


def _put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
    setattr(module.get_submodule(owner), leaf, parameter)


def logits(model: Any, tokens: list[int], embeddings: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Next-token logits (len(tokens),V) after each token.

    Args:
        model: of transformers, with a language model's head; layerwise or whole.
        tokens: token ids.
        embeddings: (L,width) that stand before the tokens, if any.
    """
    with torch.no_grad():
        inputs = model.get_input_embeddings()(torch.tensor([tokens]))
        if embeddings is not None:
            inputs = torch.cat([torch.from_numpy(embeddings)[None], inputs], 1)
        out = model(inputs_embeds=inputs, use_cache=False).logits[0, -len(tokens) :]
    return np.asarray(out.float().numpy())
