"""The language model: SmolLM2 cut down in depth and vocabulary, fed with face tokens through its embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class BpeVocabulary:
    """A byte-level BPE vocabulary in GGUF's terms: tokens and types by id, merges by rank."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str

    @classmethod
    def from_gguf(cls, path: Path) -> BpeVocabulary:
        """From the metadata of a GGUF."""
        import gguf

        fields = gguf.GGUFReader(path).fields

        def get(name: str) -> Any:
            return fields[f"tokenizer.ggml.{name}"].contents()

        return cls(get("tokens"), get("token_type"), get("merges"), get("pre"))

    def prune(self, size: int) -> BpeVocabulary:
        """The first `size` tokens and the merges that make them.

        Ids follow merge ranks in this family, so cutting the tail leaves a complete BPE: every text still
        tokenizes, rare words into more pieces.
        """
        known = set(self.tokens[:size])
        merges = [m for m in self.merges if m.replace(" ", "") in known]
        if merges != self.merges[: len(merges)]:
            raise ValueError("token ids do not follow merge ranks: this vocabulary cannot be cut by id")
        return BpeVocabulary(self.tokens[:size], self.types[:size], merges, self.pre)

    def tokenizer(self) -> Any:
        """The same vocabulary as a `tokenizers.Tokenizer` (single digits, then GPT-2's pattern)."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        merges = [(left, right) for left, right in (m.split(" ") for m in self.merges)]
        tok = Tokenizer(models.BPE({t: i for i, t in enumerate(self.tokens)}, merges))
        digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
        tok.decoder = decoders.ByteLevel()
        control = [t for t, kind in zip(self.tokens, self.types, strict=True) if kind == 3]
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
        return tok

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(
            json.dumps({"tokens": self.tokens, "types": self.types, "merges": self.merges, "pre": self.pre})
        )

    @classmethod
    def load(cls, path: Path) -> BpeVocabulary:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))


#: GGUF's tensor names for a Llama block, and transformers' names.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def interleave_rope(weight: Any, heads: int) -> Any:
    """Rows of a q or k projection from transformers' order (two halves) to GGUF's Llama order (interleaved pairs).

    Of a torch tensor or a numpy array; its bias too.
    """
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def separate_rope(weight: Tensor, heads: int) -> Tensor:
    """Inverse of `interleave_rope`."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def load_gguf(path: Path) -> LlamaForCausalLM:
    """A Llama GGUF with tied embeddings as a float32 torch model."""
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=field("vocab_size"),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"),
        tie_word_embeddings=True,
    )
    state = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                value = separate_rope(value, heads if parts[2] == "attn_q" else kv_heads)
            state[f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"] = value
        else:
            state[{"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[parts[0]] + ".weight"] = value
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


def prune(model: LlamaForCausalLM, *, layers: Sequence[int], vocabulary: int) -> LlamaForCausalLM:
    """A new model of the chosen layers and the first `vocabulary` tokens; the given one is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = model.config.to_dict() | {"num_hidden_layers": len(layers), "vocab_size": vocabulary}
    pruned = LlamaForCausalLM(LlamaConfig(**settings))
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("model.layers."):
            number, rest = key.removeprefix("model.layers.").split(".", 1)
            if int(number) in layers:
                state[f"model.layers.{list(layers).index(int(number))}.{rest}"] = value
        elif key in ("model.embed_tokens.weight", "lm_head.weight"):
            state[key] = value[:vocabulary]
        else:
            state[key] = value
    pruned.load_state_dict({k: v.clone() for k, v in state.items()})
    return pruned


@torch.no_grad()
def text_features(model: LlamaForCausalLM, tokenizer: Any, phrases: Sequence[str]) -> Tensor:
    """T^0 (N,d): mean last hidden state of "The person {phrase}.", centered over the phrases and scaled to unit norm.

    A causal LM's features share one large common direction; without centring all characteristics look alike.
    """
    rows = []
    for phrase in phrases:
        ids = torch.tensor([tokenizer.encode(f"The person {phrase}.").ids])
        hidden = model.model(input_ids=ids).last_hidden_state[0]
        rows.append(hidden[2:].mean(0))
    features = torch.stack(rows)
    features = features - features.mean(0)
    return features / features.norm(dim=1, keepdim=True)
