"""The LLM families that llama.cpp computes as transformers does: what each has in its GGUF, and does to its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from faceinsight_models.llm import interleave_rope

from .checkpoint import CheckpointError

#: Options of YaRN that llama.cpp takes from its own defaults.
_YARN = {"rope_type", "type", "factor", "original_max_position_embeddings"}


@dataclass(frozen=True, slots=True)
class Family:
    """How llama.cpp's graph of an architecture differs from transformers'.

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

    Raises CheckpointError for an architecture, activation, head width or RoPE scaling that llama.cpp would not compute
    as transformers does.
    """
    name = architecture(config)
    if name not in FAMILIES:
        raise CheckpointError(f"architecture {name} is not supported; these are: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    _expect(name, "hidden_act", activation(config), family.activations)
    _expect(name, "rope_scaling", rope_scaling(config), family.scalings)
    if not family.free_heads:
        _expect(name, "heads x head width", config.num_attention_heads * head_width(config), (config.hidden_size,))
    if family.scalings != ("default", "longrope"):
        _expect(name, "partial_rotary_factor", getattr(config, "partial_rotary_factor", None) or 1.0, (1.0,))
    if rope_scaling(config) == "yarn":
        _expect(name, "further YaRN options", sorted(config.rope_scaling.keys() - _YARN), ([],))
    if family.arch == _ARCH.GEMMA2:
        # llama.cpp tells the 27B by its layers, and scales its scores by another width.
        wide = config.num_hidden_layers == 46
        width = config.hidden_size // config.num_attention_heads if wide else head_width(config)
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


def rope_scaling(config: Any) -> str:
    """Kind of RoPE scaling, "default" for none."""
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def rope_theta(config: Any) -> float:
    """RoPE's base. Transformers 4 keeps it on the configuration, later ones inside rope_parameters."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(getattr(config, "rope_theta", None) or parameters["rope_theta"])


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
    width = head_width(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(family, config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(int(width * (getattr(config, "partial_rotary_factor", None) or 1.0)))
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if family.arch == _ARCH.GEMMA2:
        # llama.cpp caps always: a cap far beyond any logit is none.
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping or 1e9)
        writer.add_final_logit_softcapping(config.final_logit_softcapping or 1e9)
    scaling = rope_scaling(config)
    if scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
        writer.add_rope_scaling_factor(float(config.rope_scaling["factor"]))
    if scaling == "yarn":
        original = config.rope_scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
    if scaling == "longrope":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_rope_scaling_attn_factors(_scaled_rope(config)[1])


def rope_factors(config: Any) -> dict[str, NDArray[np.float32]]:
    """GGUF tensors by which RoPE's frequencies are divided; none for a scaling that is a number.

    Longrope's long factors serve contexts beyond the original length: llama.cpp chooses by the context it was opened
    with, transformers by the text, so the two agree where the runtime's context is at most that length.
    """
    scaling, names = rope_scaling(config), gguf.TENSOR_NAMES
    if scaling == "longrope":
        return {
            f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_LONG]}.weight": np.float32(config.rope_scaling["long_factor"]),
            f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT]}.weight": np.float32(config.rope_scaling["short_factor"]),
        }
    if scaling == "llama3":
        width = head_width(config)
        plain = 1.0 / rope_theta(config) ** (np.arange(0, width, 2, dtype=np.float64) / width)
        factors = plain / _scaled_rope(config)[0].double().numpy()
        return {f"{names[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight": factors.astype(np.float32)}
    return {}


def _scaled_rope(config: Any) -> tuple[torch.Tensor, float]:
    """Frequencies and the attention factor, by transformers' own formulas."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[rope_scaling(config)](config, torch.device("cpu"))
    return frequencies, float(factor)


def skeleton(config: Any) -> Any:
    """transformers' model of a configuration, in float32 and without weights (they are on torch's meta device)."""
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
