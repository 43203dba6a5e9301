"""LLM to GGUF: a mapping of names, written with the gguf package, quantised in process by llama.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from faceinsight_models.llm import BLOCK_NAMES, BpeVocabulary, interleave_rope

#: llama.cpp's file types by the names people use.
QUANTISATIONS = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def write_llama(model: Any, vocabulary: BpeVocabulary, path: Path, *, name: str) -> None:
    """A transformers LlamaForCausalLM with tied embeddings -> float32 GGUF."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)

    theirs = {v: k for k, v in BLOCK_NAMES.items()}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight":
            continue  # tied: llama.cpp reads the embedding table
        if key.startswith("model.layers."):
            number, rest = key.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            gguf_name = theirs[rest]
            if gguf_name in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if gguf_name == "attn_q" else config.num_key_value_heads
                value = interleave_rope(value, heads)
            target = f"blk.{number}.{gguf_name}.weight"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[key]
        writer.add_tensor(target, np.ascontiguousarray(value.detach().numpy(), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_theta(config: Any) -> float:
    # transformers 4 keeps it on the config, later ones inside rope_parameters.
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(getattr(config, "rope_theta", None) or parameters["rope_theta"])


def quantise(source: Path, target: Path, kind: str, *, threads: int = 0) -> None:
    """Re-encode a GGUF's weights by llama.cpp. Raises ValueError for an unknown kind, RuntimeError if it fails."""
    import llama_cpp

    if kind not in QUANTISATIONS:
        raise ValueError(f"quantisation {kind!r}; expected one of {', '.join(QUANTISATIONS)}")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(QUANTISATIONS[kind])
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0 or not target.exists():
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind} (status {status})")
