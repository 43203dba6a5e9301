"""Checkpoint folders: both layouts read alike, and what cannot be used is refused with the reason."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from checkpoints import byte_level, llava, randomise, save, sentencepiece, small
from safetensors.torch import load_file, save_file

from faceinsight_export.checkpoint.checkpoint import Checkpoint, CheckpointError
from faceinsight_export.checkpoint.families import FAMILIES, family_of
from faceinsight_export.checkpoint.lora import LoraAdapter, MergedCheckpoint
from faceinsight_export.gguf import llm as llm_gguf
from faceinsight_export.gguf.llm import gguf_tensors, write_llm
from faceinsight_export.gguf.tokenizer import read_vocabulary

pytestmark = pytest.mark.slow

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama in several shards, with a SentencePiece tokenizer."""
    size = sentencepiece(tmp_path / "llama").get_vocab_size()
    save(randomise(tf.LlamaForCausalLM(tf.LlamaConfig(**small(size)))), tmp_path / "llama")
    return tmp_path / "llama"


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def test_both_layouts_of_llava_are_one(tmp_path: Path):
    models = [llava(tmp_path / str(new), new=new) for new in (False, True)]
    old, new = (Checkpoint.open(tmp_path / str(new)) for new in (False, True))
    assert set(old.names) == set(new.names)
    for name in (
        "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", "multi_modal_projector.linear_2.weight",
    ):  # fmt: skip
        assert old.has(name), name
        assert np.array_equal(old.get(name), new.get(name))
        assert old.get(name).shape == old.shape(name)
    assert old.config["vision_config"]["image_size"] == 28
    assert np.array_equal(old.get("lm_head.weight"), models[0].get_output_embeddings().weight.detach().numpy())
    assert not old.has("nose")
    with pytest.raises(CheckpointError, match="no tensor 'nose'"):
        old.get("nose")


def test_what_the_configuration_leaves_out_is_transformers_default(tmp_path: Path):
    """LLaVA-1.5 says little about its LLM: the rest is a 7B Llama's."""
    llava(tmp_path, new=False)
    text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064}
    edit(tmp_path / "config.json", text_config=text)
    config = Checkpoint.open(tmp_path).text_config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (4096, 32, 32064)
    assert family_of(config) is FAMILIES["LlamaForCausalLM"]
    edit(tmp_path / "config.json", text_config={"model_type": "llama"})
    assert family_of(Checkpoint.open(tmp_path).text_config) is FAMILIES["LlamaForCausalLM"]


def test_half_precision_is_widened_and_integers_are_kept(folder: Path):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / INDEX).unlink()
    state = {"a": torch.tensor([1.0, 1 / 3]).bfloat16(), "b": torch.arange(3)}
    save_file(state, folder / "model.safetensors")
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.get("a").dtype == np.float32
    assert checkpoint.get("a").tolist() == state["a"].float().tolist()
    assert checkpoint.get("b").dtype == np.int64


def test_reading_changes_nothing(folder: Path, tmp_path: Path):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    checkpoint = Checkpoint.open(folder)
    checkpoint.get("model.norm.weight")[:] = 7
    write_llm(checkpoint, tmp_path / "a.gguf", precision="f16")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def _pickle_only(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def _torn(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])


def _out_of_step(folder: Path) -> None:
    shard = min(folder.glob("*.safetensors"))
    save_file(dict(list(load_file(shard).items())[1:]), shard)


def _point_at(name: str) -> Any:
    def change(folder: Path) -> None:
        (folder.parent / "outside.safetensors").write_bytes(b"")
        weights = json.loads((folder / INDEX).read_text())["weight_map"]
        edit(folder / INDEX, weight_map=weights | {"model.norm.weight": name})

    return change


def _two_in_one(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    shard = folder / index["model.norm.weight"]
    save_file(load_file(shard) | {"language_model.model.norm.weight": torch.ones(64)}, shard)
    edit(folder / INDEX, weight_map=index | {"language_model.model.norm.weight": shard.name})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "expected an object"),
        (lambda f: (f / INDEX).unlink(), FileNotFoundError, "neither model.safetensors nor"),
        (lambda f: edit(f / INDEX, weight_map={}), CheckpointError, "no weight_map"),
        (lambda f: min(f.glob("*.safetensors")).unlink(), FileNotFoundError, "complete the download"),
        (lambda f: edit(f / "config.json", quantization_config={"bits": 4}), CheckpointError, "quantized checkpoint"),
        (_pickle_only, CheckpointError, "pickle files can run code"),
        (_torn, CheckpointError, "not a whole safetensors file"),
        (_out_of_step, CheckpointError, "disagree on 1 tensors"),
        (_two_in_one, CheckpointError, "are the same tensor"),
        (_point_at("../outside.safetensors"), CheckpointError, "within the folder"),
        (_point_at("/etc/passwd"), CheckpointError, "within the folder"),
        (_point_at(".."), CheckpointError, "within the folder"),
        (_point_at("..\\outside.safetensors"), CheckpointError, "within the folder"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, change: Any, error: type[Exception], message: str):
    Checkpoint.open(folder)
    change(folder)
    with pytest.raises(error, match=message):
        Checkpoint.open(folder)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        Checkpoint.open(folder / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nose"}, "'nose' is unknown to transformers"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; .*Qwen3"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'; llama.cpp computes silu"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling 'dynamic'"),
        ({"num_hidden_layers": 3}, "no tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "9 tensors that the configuration has no use for"),
        ({"intermediate_size": 100}, "has shape .96, 64.; the configuration asks for .100, 64."),
        ({"attention_bias": True}, "no tensor model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_a_configuration_that_does_not_fit(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str):
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        write_llm(Checkpoint.open(folder), tmp_path / "a.gguf", precision="f32")
    assert [p.name for p in tmp_path.iterdir()] == ["llama"]


def test_families_llama_cpp_computes_otherwise():
    yarn = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}
    for config, message in (
        (tf.Qwen2Config(**small(9, rope_scaling=yarn)), r"options of RoPE scaling 'yarn' \['attention_factor'\]"),
        (tf.Gemma2Config(**small(9, head_dim=32, query_pre_attn_scalar=99)), "query_pre_attn_scalar 99"),
        (tf.Qwen2Config(**small(9), head_dim=32), "heads x head width 128; llama.cpp computes 64"),
    ):
        with pytest.raises(CheckpointError, match=message):
            family_of(config)


def test_old_rope_buffers_are_passed_over_and_others_are_not(folder: Path):
    (folder / INDEX).unlink()
    state: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        state |= load_file(shard)
        shard.unlink()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(state, folder / "model.safetensors")
    checkpoint = Checkpoint.open(folder)
    assert len(gguf_tensors(checkpoint, family_of(checkpoint.text_config))) == 21
    save_file(state | {"model.mm_projector.0.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no use for: model.mm_projector.0.weight"):
        gguf_tensors(Checkpoint.open(folder), FAMILIES["LlamaForCausalLM"])


def test_a_failed_conversion_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / INDEX).unlink()
    state: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        state |= load_file(shard)
        shard.unlink()
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="beyond float16's range"):
        write_llm(Checkpoint.open(folder), tmp_path / "a.gguf", precision="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["llama"]
    with pytest.raises(ValueError, match="quantize the rest"):
        write_llm(Checkpoint.open(folder), tmp_path / "a.gguf", precision="q4_0")

    class Full:
        free = 1000

    monkeypatch.setattr(llm_gguf.shutil, "disk_usage", lambda path: Full)
    with pytest.raises(OSError, match=r"0.0 GB are free: make room"):
        write_llm(Checkpoint.open(folder), tmp_path / "a.gguf", precision="f32")


def test_a_tokenizer_model_says_what_tokenizer_json_says(folder: Path):
    """transformers' rule of making the one from the other, backwards: the same pieces, scores by their order."""
    from transformers.convert_slow_tokenizer import import_protobuf

    config = Checkpoint.open(folder).text_config
    known = read_vocabulary(folder, config)
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.normalizer_spec.remove_extra_whitespaces = False
    for i, (text, kind) in enumerate(zip(known.tokens, known.types, strict=True)):
        proto.pieces.add(piece=text, score=-max(i - 259, 0.0), type=2 if text == "<unk>" else kind)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    size = config.vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": size}))
    config.vocab_size += 3
    found = read_vocabulary(folder, config)
    assert (found.model, found.begin, found.space_prefix) == ("llama", True, True)
    assert (found.special["bos"], found.special["eos"]) == (1, 2)
    assert found.tokens == [*known.tokens, "<image>", f"[PAD{size + 1}]", f"[PAD{size + 2}]"]
    assert found.types[size:] == [3, 5, 5]
    made = [i for i, kind in enumerate(known.types) if kind == 1 and len(known.tokens[i]) > 1]
    order = sorted(made, key=lambda i: -known.scores[i])
    assert order == sorted(made, key=lambda i: -found.scores[i]) == made
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match=r"type UNIGRAM.* supported: BPE"):
        read_vocabulary(folder, config)
    (folder / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        read_vocabulary(folder, config)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor tokenizer.model"):
        read_vocabulary(folder, config)


def test_a_sentencepiece_that_protobuf_cannot_load_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """sentencepiece 0.2.3 asks for protobuf 7.36 when it is imported, and not when it is installed."""
    convert = importlib.import_module("transformers.convert_slow_tokenizer")

    def fails() -> None:
        raise TypeError("Detected mismatched Protobuf Gencode/Runtime major versions")

    monkeypatch.setattr(convert, "import_protobuf", fails)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"mismatched.*pip install -U sentencepiece protobuf"):
        read_vocabulary(folder, Checkpoint.open(folder).text_config)


def test_tokenizers_that_llama_cpp_would_apply_otherwise(tmp_path: Path):
    config = tf.LlamaConfig(**small(400))
    byte_level(tmp_path, "qwen2")
    good = json.loads((tmp_path / "tokenizer.json").read_text())
    assert read_vocabulary(tmp_path, config).pre == "qwen2"

    def refused(message: str, **changes: Any) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(good | changes))
        with pytest.raises(CheckpointError, match=message):
            read_vocabulary(tmp_path, config)

    odd = {"type": "Split", "pattern": {"Regex": "nose+"}, "behavior": "Isolated", "invert": False}
    refused(r"nose\+.*supported: llama-bpe, smaug-bpe, qwen2, gpt-2, smollm", pre_tokenizer=odd)
    refused("ignore_merges True", model=good["model"] | {"ignore_merges": True})
    refused("normalizer Lowercase", normalizer={"type": "Lowercase"})
    refused("tokenizer of type WordLevel", model={"type": "WordLevel", "vocab": {"a": 0}})
    twice = {"id": 350, "content": "!", "special": False}
    refused(r"1 tokens occur twice \['!'\]", added_tokens=[*good["added_tokens"], twice])

    sentencepiece(tmp_path)
    good = json.loads((tmp_path / "tokenizer.json").read_text())
    config.vocab_size = 384
    assert read_vocabulary(tmp_path, config).model == "llama"
    refused("only replaces spaces", normalizer={"type": "NFKC"})
    refused("expected Metaspace", pre_tokenizer={"type": "Digits", "individual_digits": True})
    # "</s" and ">": typed, they would become the end of the answer.
    vocabulary = good["model"]["vocab"] | {"</s": 382, ">": 383}
    refused("can turn into the control token '</s>'", model=good["model"] | {"vocab": vocabulary})


def test_tokens_without_an_embedding_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture):
    config = Checkpoint.open(folder).text_config
    config.vocab_size -= 2
    with caplog.at_level(logging.WARNING):
        assert len(read_vocabulary(folder, config).tokens) == config.vocab_size
    assert "2 tokens have no embedding" in caplog.text


@pytest.fixture
def lora(folder: Path, tmp_path: Path) -> Path:
    """An adapter on one layer of `folder`."""
    out = tmp_path / "lora"
    out.mkdir()
    module = "base_model.model.model.layers.0.mlp.up_proj"
    state = {f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(96, 2)}
    save_file(state, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return out


def test_an_adapter_adds_alpha_over_r_times_b_a(folder: Path, lora: Path):
    checkpoint = Checkpoint.open(folder)
    merged, name = MergedCheckpoint(checkpoint, LoraAdapter.open(lora)), "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_allclose(merged.get(name), checkpoint.get(name) + 4, atol=1e-6)
    assert np.array_equal(merged.get("model.norm.weight"), checkpoint.get("model.norm.weight"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "type IA3; only LORA"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is not supported"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base model's weights"),
    ],
)
def test_an_adapter_that_is_no_plain_lora(lora: Path, changes: dict[str, Any], message: str):
    edit(lora / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        LoraAdapter.open(lora)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model.layers.0.mlp.up_proj.lora_magnitude_vector.weight": (96,)}, "only LoRA on linear layers"),
        ({"model.embed_tokens.lora_embedding_A": (2, 64)}, "only LoRA on linear layers"),
        ({"model.layers.1.mlp.up_proj.lora_A.weight": (2, 64)}, "has only its lora_A"),
        (
            {"model.layers.7.mlp.up_proj.lora_A.weight": (2, 64), "model.layers.7.mlp.up_proj.lora_B.weight": (96, 2)},
            "changes model.layers.7.mlp.up_proj.weight, which .* has not",
        ),
        (
            {"model.layers.1.mlp.up_proj.lora_A.weight": (2, 32), "model.layers.1.mlp.up_proj.lora_B.weight": (96, 2)},
            r"by a matrix of \(96, 32\); the checkpoint's is \(96, 64\)",
        ),
        ({"model.nose.weight": (2, 2)}, "changes model.nose.weight, which"),
    ],
)
def test_an_adapter_that_does_not_fit(folder: Path, lora: Path, more: dict[str, tuple[int, ...]], message: str):
    file = lora / "adapter_model.safetensors"
    save_file(load_file(file) | {f"base_model.model.{k}": torch.ones(shape) for k, shape in more.items()}, file)
    with pytest.raises(CheckpointError, match=message):
        MergedCheckpoint(Checkpoint.open(folder), LoraAdapter.open(lora))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"safe_serialization=True"):
        LoraAdapter.open(lora)
