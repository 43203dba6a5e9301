"""The reference that an exported LLM is compared with: transformers in float32, in the memory of one layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .checkpoint import Weights
from .families import skeleton, tied


def streamed(weights: Weights) -> Any:
    """transformers' model of a checkpoint's LLM, called as any other, that holds one part's weights at a time.

    The embedding table, each decoder layer, the last norm and the output layer are read when they are reached and
    dropped when they are done: a 7B model runs in about 1 GB beside its activations. Each call reads the whole
    checkpoint, so give it a whole text and no cache, under torch.no_grad(): `model(input_ids=..., use_cache=False)`.
    """
    config = weights.text_config
    model = skeleton(config)
    parts = {f"model.layers.{i}": layer for i, layer in enumerate(model.model.layers)}
    parts |= {"model.embed_tokens": model.model.embed_tokens, "model.norm": model.model.norm, "lm_head": model.lm_head}
    for name, part in parts.items():
        source = "model.embed_tokens" if name == "lm_head" and tied(config) else name
        _stream(part, source, weights)
    return model


def _stream(part: nn.Module, source: str, weights: Weights) -> None:
    """Load a part's weights before it runs, drop them after."""
    names = [name for name, _ in part.named_parameters()]

    def load(module: nn.Module, _: object) -> None:
        for name in names:
            _put(module, name, torch.from_numpy(weights.get(f"{source}.{name}")))

    def drop(module: nn.Module, _: object, __: object) -> None:
        for name in names:
            _put(module, name, module.get_parameter(name).to("meta"))

    part.register_forward_pre_hook(load)
    part.register_forward_hook(drop)


def _put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def logits(model: Any, tokens: list[int], rows: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """(len(tokens),vocabulary) next-token logits after each token, behind embedding rows (L,width) if there are any.

    `model` is a causal LM of transformers, streamed or whole.
    """
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.tensor([tokens]))
        if rows is not None:
            embedded = torch.cat([torch.from_numpy(rows)[None], embedded], 1)
        out = model(inputs_embeds=embedded, use_cache=False).logits[0, -len(tokens) :]
    return np.asarray(out.float().numpy())
