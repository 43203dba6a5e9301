"""LLM families: the GGUF computes and tokenises as transformers does, and planted faults are seen."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers as tf
from checkpoints import TEXTS, byte_level, llava, randomise, save, sentencepiece, small
from lora_gguf import apply_adapter, write_adapter
from safetensors.torch import load_file, save_file

from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.loader import load_llm
from faceinsight.backends.llama_cpp.model import EXACT
from faceinsight.bundle.specs import LlmSpec
from faceinsight_export.checkpoint import families
from faceinsight_export.checkpoint.checkpoint import Checkpoint, CheckpointError
from faceinsight_export.checkpoint.lora import LoraAdapter, MergedCheckpoint
from faceinsight_export.gguf import llm as llm_gguf
from faceinsight_export.gguf.llm import llm_bytes, write_llm
from faceinsight_export.gguf.quantize import quantize
from faceinsight_export.gguf.tokenizer import read_vocabulary
from faceinsight_export.parity.reference import Reference, layerwise, logits
from faceinsight_export.parity.stages import LlmProbe, compare
from faceinsight_export.precisions import LLM_PRECISIONS
from faceinsight_models.llava.hf_folder import scale_embeddings
from faceinsight_models.train.llm import PROMPT
from greedy import cache_name

pytestmark = pytest.mark.slow

CPU = Device("cpu", False, 1)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = {"type": "longrope", "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [3.0] * 8}
#: name -> tokenizer, architecture, what is special about its configuration
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("spm", "Llama", {}),
    "llama-3": ("llama-bpe", "Llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "tie_word_embeddings": True}),
    "llama-biased": ("smollm", "Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "mistral": ("spm", "Mistral", {"sliding_window": 200}),
    "qwen2": ("qwen2", "Qwen2", {}),
    "qwen2-yarn": (
        "gpt-2", "Qwen2",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "qwen3": ("qwen2", "Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3": ("spm", "Phi3", {"sliding_window": 199}),
    "phi3-long": (
        "spm", "Phi3",
        {"rope_scaling": LONG, "original_max_position_embeddings": 256, "max_position_embeddings": 1024},
    ),
    "gemma": ("gemma", "Gemma", {"head_dim": 32}),
    "gemma2": ("gemma", "Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
}  # fmt: skip


def make(name: str, folder: Path, **more: Any) -> tuple[Any, Any]:
    """A checkpoint in `folder`; its model and its tokenizer."""
    kind, architecture, special = MODELS[name]
    pieces = kind in ("spm", "gemma")
    tokenizer = sentencepiece(folder, prefix=kind == "spm") if pieces else byte_level(folder, kind)
    config = getattr(tf, f"{architecture}Config")(**small(tokenizer.get_vocab_size() + 5, **special, **more))
    config._attn_implementation = "eager"
    model = randomise(getattr(tf, f"{architecture}ForCausalLM")(config))
    save(model, folder)
    return scale_embeddings(model), tokenizer


def opened(path: Path, width: int = 64) -> LlmProbe:
    spec = LlmSpec(path.name, width, 192, PROMPT, 64, 64)
    return LlmProbe(load_llm(path, CPU, n_embd=spec.width, n_ctx=spec.context, parameters=EXACT), spec)


def ids(size: int, count: int = 40, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, size, count).tolist()


def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (7, 64)).astype(np.float32)


def worst(model: Any, language: LlmProbe) -> float:
    """Largest error over the positions, of each relative to the largest logit there."""
    tokens = ids(model.get_input_embeddings().num_embeddings)
    reference, found = logits(model, tokens, rows()), language.logits(tokens, rows())
    return max(compare("logits", r[None], f[None], 0).error for r, f in zip(reference, found, strict=True))


def greedy(model: Any, tokens: list[int], count: int = 64) -> list[int]:
    out, cache, batch = [], {cache_name(model): None}, tokens
    with torch.no_grad():
        for _ in range(count):
            result = model(input_ids=torch.tensor([batch]), use_cache=True, **cache)
            cache, batch = {name: result[name] for name in cache}, [int(result.logits[0, -1].argmax())]
            out += batch
    return out


@pytest.mark.parametrize("name", MODELS)
def test_a_family_computes_as_transformers_does(name: str, tmp_path: Path):
    model, tokenizer = make(name, tmp_path / "in")
    checkpoint = Checkpoint.open(tmp_path / "in")
    write_llm(checkpoint, tmp_path / "a.gguf", precision="f32")
    with opened(tmp_path / "a.gguf") as language:
        assert worst(model, language) <= 1e-3
        tokens = ids(model.config.vocab_size, 9)
        assert language.greedy(tokens, 64) == greedy(model, tokens)
        for text in TEXTS:
            found = [*language.start(), *language.tokenizer.encode(text, special=True, at_start=True)]
            assert found == tokenizer.encode(text).ids, text
            tokenizer.encode_special_tokens = True
            found = language.tokenizer.encode(text, at_start=True)
            assert found == tokenizer.encode(text, add_special_tokens=False).ids, text
            tokenizer.encode_special_tokens = False


@pytest.mark.parametrize("new", [False, True])
def test_the_llm_of_a_llava(new: bool, tmp_path: Path):
    model = llava(tmp_path / "in", new=new)
    checkpoint = Checkpoint.open(tmp_path / "in")
    seen: list[tuple[int, int]] = []
    write_llm(checkpoint, tmp_path / "a.gguf", precision="f32", progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] > 100_000
    vocabulary = read_vocabulary(checkpoint.folder, checkpoint.text_config)
    size = (tmp_path / "a.gguf").stat().st_size
    assert size <= llm_bytes(checkpoint, "f32", vocabulary) < size + 20_000
    with opened(tmp_path / "a.gguf") as language:
        assert worst(model, language) <= 1e-3
        tokens = [
            *language.start(),
            *language.tokenizer.encode("USER: Is she smiling? ASSISTANT:", special=True, at_start=True),
        ]
        assert language.greedy(tokens, 64) == greedy(model, tokens)
    with pytest.raises(FileExistsError, match="exists already"):
        write_llm(checkpoint, tmp_path / "a.gguf", precision="f32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_read_exactly(dtype: torch.dtype, tmp_path: Path):
    model, _ = make("llama", tmp_path / "in")
    save(model.to(dtype), tmp_path / "in")
    write_llm(Checkpoint.open(tmp_path / "in"), tmp_path / "a.gguf", precision="f32")
    model = tf.LlamaForCausalLM.from_pretrained(tmp_path / "in", torch_dtype=torch.float32)
    with opened(tmp_path / "a.gguf") as language:
        assert worst(model, language) <= 1e-3


def test_rounding_stays_within_bounds(tmp_path: Path):
    """Root mean square error of the logits, relative to theirs, of random weights: the worst there are to round."""
    model, _ = make("llama", tmp_path / "in", hidden_size=256, intermediate_size=512)
    checkpoint = Checkpoint.open(tmp_path / "in")
    write_llm(checkpoint, tmp_path / "f16.gguf", precision="f16")
    tokens = ids(model.config.vocab_size)
    reference, sizes = logits(model, tokens), {}
    for kind, bound in {"f16": 0.005, "q8_0": 0.1, "q6_k": 0.2, "q5_k_m": 0.35, "q4_k_m": 0.6}.items():
        path = tmp_path / f"{kind}.gguf"
        if kind != "f16":
            quantize(tmp_path / "f16.gguf", path, kind)
        sizes[kind] = path.stat().st_size
        with opened(path, 256) as language:
            stage = compare(kind, reference, language.logits(tokens, rows()[:0]), bound, rms=True)
        assert stage.passed, stage
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())
    assert sizes.keys() <= LLM_PRECISIONS.keys()
    with pytest.raises(ValueError, match="f32 or f16"):
        llm_bytes(checkpoint, "q8_0")


def test_a_context_that_llama_cpp_would_not_slide_is_cut(tmp_path: Path):
    import gguf

    make("mistral", tmp_path / "in")
    write_llm(Checkpoint.open(tmp_path / "in"), tmp_path / "a.gguf", precision="f16")
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    assert fields["llama.context_length"].contents() == fields["llama.attention.sliding_window"].contents() == 200


FAULTS = {
    "RoPE's order left out": ("llama", {"paired": False}),
    "Gemma's one left out": ("gemma", {"norm_offset": 0.0}),
    "RoPE's order in a family that has it not": ("qwen2", {"paired": True}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, change = FAULTS[fault]
    model, _ = make(name, tmp_path / "in")
    architecture = f"{MODELS[name][1]}ForCausalLM"
    broken = dataclasses.replace(families.FAMILIES[architecture], **change)
    monkeypatch.setitem(families.FAMILIES, architecture, broken)
    write_llm(Checkpoint.open(tmp_path / "in"), tmp_path / "a.gguf", precision="f32")
    with opened(tmp_path / "a.gguf") as language:
        assert worst(model, language) > 0.02


def test_llama_3s_factors_left_out_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, _ = make("llama-3", tmp_path / "in")
    monkeypatch.setattr(llm_gguf, "rope_factors", lambda config: {})
    write_llm(Checkpoint.open(tmp_path / "in"), tmp_path / "a.gguf", precision="f32")
    with opened(tmp_path / "a.gguf") as language:
        assert worst(model, language) > 0.02


def test_conversion_holds_one_tensor_at_a_time(tmp_path: Path):
    class Counting(Checkpoint):
        alive: ClassVar[list[weakref.ref[Any]]] = []
        most = 0

        def get(self, name: str) -> Any:
            value = np.array(super().get(name))
            self.alive.append(weakref.ref(value))
            Counting.most = max(Counting.most, sum(r() is not None for r in self.alive))
            return value

    make("llama", tmp_path / "in", num_hidden_layers=4)
    checkpoint = Counting.open(tmp_path / "in")
    write_llm(checkpoint, tmp_path / "a.gguf", precision="f32")
    assert len(Counting.alive) > 36
    assert Counting.most <= 2


@pytest.mark.parametrize("name", ["llama-3", "phi3", "gemma2"])
def test_the_streamed_reference_is_the_whole_model_one_layer_at_a_time(name: str, tmp_path: Path):
    model, _ = make(name, tmp_path / "in")
    save(model.to(torch.bfloat16), tmp_path / "in")
    load, tokens = getattr(tf, f"{MODELS[name][1]}ForCausalLM").from_pretrained, ids(model.config.vocab_size)
    model, half = (
        load(tmp_path / "in", torch_dtype=kind, attn_implementation="eager") for kind in (torch.float32, torch.bfloat16)
    )
    reference = layerwise(half)
    wide: list[int] = []
    for layer in reference.model.layers:
        count = lambda *_: wide.append(sum(p.dtype == torch.float32 for p in reference.parameters()))  # noqa: E731
        layer.mlp.register_forward_hook(count)
    assert np.array_equal(logits(reference, tokens, rows()), logits(model, tokens, rows()))
    assert np.array_equal(logits(reference, tokens), logits(model, tokens))
    assert max(wide) == len(list(reference.model.layers[0].parameters()))
    assert all(p.dtype == torch.bfloat16 for p in reference.parameters())


def test_the_reference_of_a_llava_maps_its_weights(tmp_path: Path):
    model = llava(tmp_path / "in", new=False)
    reference, tokens = Reference.open(tmp_path / "in"), ids(300)
    np.testing.assert_allclose(logits(reference.model, tokens, rows()), logits(model, tokens, rows()), atol=1e-4)


def adapter(folder: Path, model: Any, prefix: str, **more: Any) -> dict[str, torch.Tensor]:
    """A PEFT adapter on q, k, down and the fused layers; the changes by module."""
    generator, state, changes = torch.Generator().manual_seed(3), {}, {}
    linears = ("q_proj", "k_proj", "down_proj", "qkv_proj", "gate_up_proj")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": linears, "bias": "none"} | more
    for name, weight in model.state_dict().items():
        if name.split(".")[-2] not in linears or weight.dim() != 2:
            continue
        a = torch.randn(4, weight.shape[1], generator=generator) * 0.2
        b = torch.randn(weight.shape[0], 4, generator=generator) * 0.2
        module = name.removesuffix(".weight")
        state |= {f"{prefix}{module}.lora_A.weight": a, f"{prefix}{module}.lora_B.weight": b}
        alpha = config.get("alpha_pattern", {}).get(module.split(".")[-1], config["lora_alpha"])
        changes[module] = alpha / (2 if config.get("use_rslora") else 4) * (b @ a)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(state, folder / "adapter_model.safetensors")
    return changes


@pytest.mark.parametrize(
    ("name", "more"),
    [("llama", {}), ("phi3", {"use_rslora": True}), ("qwen2", {"alpha_pattern": {"k_proj": 20}})],
)
def test_a_lora_merged_and_applied(name: str, more: dict[str, Any], tmp_path: Path):
    model, _ = make(name, tmp_path / "in")
    changes = adapter(tmp_path / "lora", model, "base_model.model.", **more)
    checkpoint, lora = Checkpoint.open(tmp_path / "in"), LoraAdapter.open(tmp_path / "lora")
    write_llm(checkpoint, tmp_path / "base.gguf", precision="f32")
    write_llm(MergedCheckpoint(checkpoint, lora), tmp_path / "merged.gguf", precision="f32")
    write_adapter(checkpoint, lora, tmp_path / "lora.gguf")
    plain = logits(model, ids(300), rows())
    for module, change in changes.items():
        model.get_submodule(module).weight.data += change
    assert compare("changed", plain, logits(model, ids(300), rows()), 0.1).error > 0.1
    with opened(tmp_path / "merged.gguf") as language:
        assert worst(model, language) <= 1e-3
    with opened(tmp_path / "base.gguf") as language:
        assert worst(model, language) > 0.1
        apply_adapter(language, tmp_path / "lora.gguf")
        assert worst(model, language) <= 1e-3
        with pytest.raises(ValueError, match="no adapter for this model"):
            apply_adapter(language, tmp_path / "base.gguf")


@pytest.mark.parametrize("new", [False, True])
def test_a_lora_of_a_llava_changes_its_projector_too(new: bool, tmp_path: Path):
    model = llava(tmp_path / "in", new=new)
    # PEFT names modules as the model it wrapped did: before or after transformers 4.52.
    prefix = "base_model.model.model.language_model." if new else "base_model.model.language_model.model."
    changes = adapter(tmp_path / "lora", model.model.language_model, prefix)
    projector = torch.randn(64, 32)
    state = {f"base_model.model.{'model.' if new else ''}multi_modal_projector.linear_1.weight": projector}
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file(load_file(file) | state, file)
    checkpoint = Checkpoint.open(tmp_path / "in")
    merged = MergedCheckpoint(checkpoint, LoraAdapter.open(tmp_path / "lora"))
    assert np.array_equal(merged.get("multi_modal_projector.linear_1.weight"), projector.numpy())
    write_llm(merged, tmp_path / "merged.gguf", precision="f32")
    for module, change in changes.items():
        model.model.language_model.get_submodule(module).weight.data += change
    with opened(tmp_path / "merged.gguf") as language:
        assert worst(model, language) <= 1e-3
    reference = Reference.open(tmp_path / "in", LoraAdapter.open(tmp_path / "lora"))
    np.testing.assert_allclose(logits(reference.model, ids(300)), logits(model, ids(300)), atol=1e-4)
    with pytest.raises(CheckpointError, match="merge the adapter instead"):
        write_adapter(checkpoint, LoraAdapter.open(tmp_path / "lora"), tmp_path / "lora.gguf")


def test_an_adapters_strength_is_one(tmp_path: Path):
    """llama.cpp multiplies by alpha / r where a file names alpha: it must not find one."""
    import llama_cpp

    model, _ = make("llama", tmp_path / "in")
    adapter(tmp_path / "lora", model, "base_model.model.")
    checkpoint = Checkpoint.open(tmp_path / "in")
    write_llm(checkpoint, tmp_path / "base.gguf", precision="f32")
    write_adapter(checkpoint, LoraAdapter.open(tmp_path / "lora"), tmp_path / "lora.gguf")
    with opened(tmp_path / "base.gguf") as language:
        loaded = llama_cpp.llama_adapter_lora_init(language.llm.model, str(tmp_path / "lora.gguf").encode())
        value = ctypes.create_string_buffer(32)
        assert llama_cpp.llama_adapter_meta_val_str(loaded, b"adapter.type", value, 32) == 4
        assert llama_cpp.llama_adapter_meta_val_str(loaded, b"adapter.lora.alpha", value, 32) == -1
