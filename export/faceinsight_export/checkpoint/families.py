"""The LLM families that llama.cpp computes as transformers does: what each has in its GGUF, and does to its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from torch import nn

from faceinsight_models.nets.llm import interleave_rope

from .checkpoint import CheckpointError
from .rope import Rope


@dataclass(frozen=True, slots=True)
class Family:
    """How llama.cpp's graph of an architecture differs from transformers'.

    Attributes:
        arch: llama.cpp's architecture.
        activations: what the feed-forward network may use.
        paired: RoPE turns neighbouring rows of q and k; transformers turns the two halves of a head.
        norm_offset: transformers adds it to each norm's weight in the graph, llama.cpp has it in the weight.
        free_heads: heads x head width may differ from the hidden width.
        windowed: the graph applies the sliding window; otherwise the context is cut to it.
        scalings: RoPE scalings of the configuration that the graph reproduces.
    """

    arch: gguf.MODEL_ARCH
    activations: tuple[str, ...] = ("silu",)
    paired: bool = False
    norm_offset: float = 0.0
    free_heads: bool = True
    windowed: bool = False
    scalings: tuple[str, ...] = ("default", "linear", "yarn")

    def to_gguf(self, name: str, value: NDArray[Any], config: Any) -> NDArray[Any]:
        """A tensor as llama.cpp wants it. Acts on rows alone, so it holds for a LoRA's B (out,r) too."""
        if self.paired and ".self_attn.q_proj." in name:
            return np.asarray(interleave_rope(value, config.num_attention_heads))
        if self.paired and ".self_attn.k_proj." in name:
            return np.asarray(interleave_rope(value, config.num_key_value_heads))
        if self.norm_offset and name.endswith("norm.weight"):
            return np.asarray(value + np.float32(self.norm_offset))
        return value


_ARCH = gguf.MODEL_ARCH
_LLAMA = Family(_ARCH.LLAMA, paired=True, scalings=("default", "linear", "yarn", "llama3"))
#: Gemma's first configurations say "gelu" and mean its tanh form, which is what llama.cpp computes.
_GELU = ("gelu_pytorch_tanh", "gelu")
#: transformers' architecture -> family. Vicuna is a Llama; Qwen2.5 a Qwen2.
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Family(_ARCH.QWEN2, free_heads=False),
    "Qwen3ForCausalLM": Family(_ARCH.QWEN3),
    "Phi3ForCausalLM": Family(_ARCH.PHI3, free_heads=False, scalings=("default", "longrope")),
    "GemmaForCausalLM": Family(_ARCH.GEMMA, activations=_GELU, norm_offset=1.0, scalings=("default",)),
    "Gemma2ForCausalLM": Family(
        _ARCH.GEMMA2, activations=_GELU, norm_offset=1.0, windowed=True, scalings=("default",)
    ),
}  # fmt: skip


def family_of(config: Any) -> Family:
    """The family of a transformers configuration.

    Raises:
        CheckpointError: llama.cpp would compute the architecture, activation, head width or RoPE scaling otherwise.
    """
    name = architecture(config)
    if name not in FAMILIES:
        raise CheckpointError(f"architecture {name} is not supported; these are: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    _expect(name, "hidden_act", activation(config), family.activations)
    rope = Rope.read(config)
    _expect(name, "rope_scaling", rope.kind, family.scalings)
    rope.require_options(name)
    if not family.free_heads:
        _expect(name, "heads x head width", config.num_attention_heads * head_width(config), (config.hidden_size,))
    if family.scalings != ("default", "longrope"):
        _expect(name, "partial_rotary_factor", rope.share, (1.0,))
    if family.arch == _ARCH.GEMMA2:
        # llama.cpp tells the 27B by its layers, and scales its scores by another width.
        is_27b = config.num_hidden_layers == 46
        width = config.hidden_size // config.num_attention_heads if is_27b else head_width(config)
        _expect(name, "query_pre_attn_scalar", config.query_pre_attn_scalar, (width,))
    return family


def _expect(name: str, what: str, found: object, expected: tuple[object, ...]) -> None:
    if found not in expected:
        raise CheckpointError(f"{name} with {what} {found!r}; llama.cpp computes {', '.join(map(str, expected))}")


def architecture(config: Any) -> str:
    """Name of transformers' class: as the configuration says, or as its model type implies (LLaVA often omits it)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)]
    return str(named[0])


def activation(config: Any) -> str:
    """Name of the feed-forward network's activation."""
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def head_width(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def tied(config: Any) -> bool:
    """Is the output layer the embedding table?"""
    return bool(config.tie_word_embeddings)


def context_length(family: Family, config: Any) -> int:
    """Positions within which llama.cpp and transformers agree."""
    window = getattr(config, "sliding_window", None)
    length = int(config.max_position_embeddings)
    return length if family.windowed or not window else min(length, int(window))


def add_hyperparameters(writer: Any, family: Family, config: Any) -> None:
    """Write the architecture's numbers under llama.cpp's keys."""
    width, rope = head_width(config), Rope.read(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(family, config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    rope.add_to(writer, width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if family.arch == _ARCH.GEMMA2:
        # llama.cpp caps always: a cap far beyond any logit is none.
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping or 1e9)
        writer.add_final_logit_softcapping(config.final_logit_softcapping or 1e9)


def rope_factors(config: Any) -> dict[str, NDArray[np.float32]]:
    """GGUF tensors by which RoPE's frequencies are divided (Rope.factors)."""
    return Rope.read(config).factors(head_width(config))


def meta_model(config: Any) -> Any:
    """Transformers' model of a configuration, in float32 and without weights (they are on torch's meta device)."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = copy.deepcopy(config)
    # The plain formula: Gemma2's soft cap exists in no other.
    config._attn_implementation = "eager"
    with _weightless():
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


@contextmanager
def _weightless() -> Iterator[None]:
    """Parameters made in here take no memory; buffers, such as RoPE's frequencies, are real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register
