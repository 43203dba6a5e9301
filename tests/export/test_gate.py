"""The export gate: two readings of a folder that share nothing, and what cannot be read refused before work begins."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
import transformers as tf
from checkpoints import as_transformers_5, byte_level, edit, randomise, rename, save, small
from safetensors.torch import load_file, save_file

from faceinsight.bundle.bundle import Bundle
from faceinsight_export.checkpoint import rope
from faceinsight_export.checkpoint.checkpoint import Checkpoint, CheckpointError
from faceinsight_export.cli import main
from faceinsight_export.llava_bundle import ExportOptions, export_llava
from faceinsight_export.llava_manifest import require_recipe
from faceinsight_export.parity.reference import Reference, logits
from faceinsight_export.parity.stages import ParityError
from faceinsight_models.llava import config_json, hf_folder
from faceinsight_models.llava.frozen import FrozenLlava
from faceinsight_models.llava.hf_folder import load_tokenizer, scale_embeddings
from faceinsight_models.llava.pixels import CLIP_MEAN, CLIP_STD, preprocessing
from faceinsight_models.recipe import LlavaRecipe

pytestmark = pytest.mark.slow

RECIPE, EXACT = "llava-1.5-7b", ExportOptions("fp32", "f16")
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny LLaVA, large enough that its prompt fits."""
    out = tmp_path_factory.mktemp("made") / "llava"
    checkpoints.llava(out, new=False, image_size=56, max_position_embeddings=2048)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "llava"))


def refused(folder: Path, message: str, recipe: str = RECIPE) -> None:
    """By name, and before anything is written."""
    with pytest.raises((ValueError, OSError), match=message) as e:
        export_llava(folder, folder.parent / "out", recipe=recipe, options=EXACT)
    assert "\n" not in str(e.value)
    assert not [p for p in folder.parent.iterdir() if p != folder]


def failed(folder: Path) -> list[str]:
    with pytest.raises(ParityError) as e:
        export_llava(folder, folder.parent / "out", recipe=RECIPE, options=EXACT)
    return [line.split("  ")[0].strip() for line in str(e.value).splitlines() if "FAILED" in line]


@pytest.mark.parametrize("kind", [{"rope_type": "default"}, LLAMA3], ids=["default", "llama3"])
def test_what_transformers_5_saves_is_read(kind: dict[str, Any], folder: Path, tmp_path: Path):
    import gguf

    as_transformers_5(folder, rope_theta=1e6, **kind)
    stages = export_llava(folder, tmp_path / "out", recipe=RECIPE, options=EXACT)
    assert all(s.passed for s in stages)
    file = gguf.GGUFReader(tmp_path / "out" / "llm.gguf")
    assert file.fields["llama.rope.freq_base"].contents() == 1e6
    assert ("rope_freqs.weight" in {t.name for t in file.tensors}) == (kind is LLAMA3)
    vision = Bundle.open(tmp_path / "out").manifest.vision
    assert (vision.mean, vision.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_the_reference_computes_with_the_rope_that_the_folder_says(folder: Path):
    """Against transformers' model whose configuration was made with that base and scaling, in its own terms."""
    as_transformers_5(folder, rope_theta=1e6, **LLAMA3)
    reference = Reference.open(folder)
    text = reference.config.text_config
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**small(text.vocab_size, max_position_embeddings=2048, rope_theta=1e6,
                                                       rope_scaling=LLAMA3)))  # fmt: skip
    state = {n: torch.from_numpy(Checkpoint.open(folder).get(n)) for n in model.state_dict()}
    model.load_state_dict(state)
    tokens = list(range(3, 200))
    found = logits(reference.model, tokens)
    np.testing.assert_allclose(found, logits(model.eval(), tokens), atol=1e-4)
    frozen = FrozenLlava.open(folder, margin=2.0, device=torch.device("cpu"))
    assert rope.Rope.read(frozen.config.text_config).base == 1e6
    edit(folder / "config.json", **{"text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    assert np.abs(found - logits(Reference.open(folder).model, tokens)).max() > 0.05


def test_a_reading_that_is_wrong_on_one_side_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch):
    as_transformers_5(folder, rope_theta=1e6, rope_type="default")

    def forget(config: dict[str, Any]) -> Any:
        text = {k: v for k, v in config["text_config"].items() if k != "rope_parameters"}
        return config_json.for_transformers(config | {"text_config": text})

    with monkeypatch.context() as patch:
        patch.setattr(hf_folder, "for_transformers", forget)
        assert "llm logits" in failed(folder)
    read = rope.Rope.read

    def without(config: Any) -> rope.Rope:
        config = tf.LlamaConfig(**{k: v for k, v in config.to_dict().items() if k != "rope_parameters"})
        return read(config)

    monkeypatch.setattr(rope.Rope, "read", staticmethod(without))
    shutil.rmtree(folder.parent / ".out.part")
    assert "llm logits" in failed(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "attention_multiplier", 0.5),
        ("config.json", "text_config.attention_multiplier", 0.5),
        ("config.json", "vision_config.use_rope", True),
        ("preprocessor_config.json", "crop_pct", 0.9),
    ],
)
def test_a_key_that_nobody_knows_is_an_error_by_name(file: str, key: str, value: Any, folder: Path):
    edit(folder / "config.json", transformers_version="9.9.9")
    edit(folder / "preprocessor_config.json", size=56, crop_size=56, **({key: value} if "pre" in file else {}))
    if "pre" not in file:
        edit(folder / file, **{key: value})
    refused(folder, rf"{file}: {key} is {json.dumps(value)}, which ")
    if file == "config.json":
        refused(folder, r"nothing to transformers \d.* saved by 9.9.9")
    edit(folder / file, **{key: None})
    Reference.open(folder)
    preprocessing(folder, 56)


def test_configurations_that_people_have_are_known(folder: Path):
    """Keys that older and newer versions of transformers, and trainers, leave in a folder."""
    old = {
        "ignore_index": -100, "vocab_size": 443, "pad_token_id": 1, "torch_dtype": "float16", "top_k": 50,
        "text_config._name_or_path": "lmsys/vicuna-7b-v1.5", "text_config.tf_legacy_loss": False,
        "text_config.pretraining_tp": 1, "text_config.temperature": 0.9, "text_config.auto_map": {"AutoConfig": "a.B"},
        "text_config.use_cache": False, "vision_config.vocab_size": 32000, "vision_config.dropout": 0.0,
        "text_config.eos_token_id": [2, 3], "unsloth_version": "2025.1", "use_bidirectional_attention": None,
    }  # fmt: skip
    edit(folder / "config.json", **old)
    Reference.open(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("text_config.hidden_size", "64", r'text_config.hidden_size is "64"; expected an integer, such as 4096'),
        ("text_config.hidden_size", 64.5, "expected an integer"),
        ("text_config.num_hidden_layers", True, "num_hidden_layers is true; expected an integer"),
        ("text_config.rope_theta", None, "rope_theta is null; expected a number such as 10000.0"),
        ("text_config.rope_theta", [1e4], "rope_theta is .10000.0.; expected a number"),
        ("text_config.hidden_act", 3, "hidden_act is 3; expected a string"),
        ("text_config.tie_word_embeddings", "no", 'tie_word_embeddings is "no"; expected true or false'),
        ("text_config.rope_scaling", {"type": "linear"}, "factor"),
        ("text_config.rope_scaling", 2, "config.json is none that transformers' llava takes"),
        ("text_config.rope_parameters", {"full_attention": {"rope_theta": 1e4}}, "expected one object for all layers"),
        ("text_config.rope_parameters", {"rope_theta": 3e4}, r"says rope_theta 10000.0 and, in rope_parameters, 30000"),
        ("text_config.pad_token_id", 99999, "pad_token_id is 99999; the vocabulary has 443 tokens"),
        ("text_config.pad_token_id", -1, "pad_token_id is -1"),
        ("quantization_config", None, "quantization_config is null, which transformers does not take: remove it"),
        ("vision_config.patch_size", None, "vision_config.patch_size is null"),
        ("vision_config", "clip", 'vision_config is "clip"; expected an object'),
        ("vision_feature_layer", None, "vision_feature_layer is null"),
        ("vision_feature_layer", "-2", "vision_feature_layer is .* expected an integer"),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336", "original layout.*llava-hf.*convert_llava_weights"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(key: str, value: Any, message: str, folder: Path):
    edit(folder / "config.json", **{"text_config.rope_theta": 10000.0})
    edit(folder / "config.json", **{key: value})
    refused(folder, message)


def test_a_number_that_is_none(folder: Path):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": NaN'))
    refused(folder, "is not JSON: NaN is no number")


def test_options_of_a_scaling_are_all_read_or_refused(folder: Path):
    for scaling, message in (
        # transformers 5 says so itself.
        ({"rope_type": "linear"}, "'linear': factor is missing; expected a number|Missing required keys"),
        ({"rope_type": "linear", "factor": "2"}, "'linear': factor is '2'"),
        ({**LLAMA3, "factor": None}, "'llama3': factor is missing"),
        ({"rope_type": "default", "beta_fast": 3}, r"'default' \['beta_fast'\]; llama.cpp has none"),
    ):
        edit(folder / "config.json", **{"text_config.rope_theta": ...})
        edit(folder / "config.json", **{"text_config.rope_parameters": {"rope_theta": 1e4, **scaling}})
        with pytest.raises(CheckpointError, match=message):
            rope.Rope.read(Checkpoint.open(folder).text_config).require_options("Llama")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_normalize": False}, "do_normalize is False; expected true"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078.*; expected 1/255"),
        ({"resample": 2}, r"resample is 2; expected 3 \(bicubic\)"),
        ({"resample": "bicubic"}, "resample is 'bicubic'; expected 3"),
        ({"crop_size": {"height": 28, "width": 28}}, "crop_size is .*28.*; expected the vision tower's 56 px"),
        ({"size": 28}, "size is 28; expected the vision tower's 56 px"),
        ({"size": None}, "size is None; expected the vision tower's 56 px"),
        ({"size": {"height": 56, "width": 28}}, "size is .*; expected the vision tower's 56 px"),
        ({"image_mean": 0.5}, "image_mean is 0.5; expected three numbers"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .* expected three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std is .* above zero"),
        (
            {"image_processor_type": "SiglipImageProcessor"},
            "image_processor_type is 'SiglipImageProcessor'; expected CLIPImageProcessor or",
        ),
    ],
)
def test_another_preprocessing_is_refused_first(changes: dict[str, Any], message: str, folder: Path):
    good = {"size": {"shortest_edge": 56}, "crop_size": 56}
    edit(folder / "preprocessor_config.json", **{**good, **changes})
    refused(folder, f"preprocessor_config.json: {message}")
    (folder / "preprocessor_config.json").unlink()
    edit(folder / "processor_config.json", image_processor={**good, **changes})
    refused(folder, f"processor_config.json: {message}")


def test_clips_preprocessing_in_its_forms(folder: Path):
    assert preprocessing(folder, 56) == (CLIP_MEAN, CLIP_STD)
    file = folder / "preprocessor_config.json"
    edit(file, size=56, crop_size=56, image_mean=None, image_std=[0.5, 0.5, 1])
    assert preprocessing(folder, 56) == (CLIP_MEAN, (0.5, 0.5, 1.0))
    edit(file, size={"height": 56, "width": 56}, do_center_crop=False, image_processor_type="CLIPImageProcessorFast")
    assert preprocessing(folder, 56) == (CLIP_MEAN, (0.5, 0.5, 1.0))
    edit(folder / "processor_config.json", image_processor={"size": 56, "crop_size": 56})
    refused(folder, "different means or deviations")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
@pytest.mark.parametrize("flat", [False, True])
def test_wrapped_names_are_unwrapped_on_both_sides(prefix: str, flat: bool, folder: Path, made: Path):
    rename(folder, lambda n: prefix + (n.replace("vision_tower.vision_model.", "vision_tower.") if flat else n))
    plain, wrapped = Checkpoint.open(made), Checkpoint.open(folder)
    assert set(plain.names) == set(wrapped.names)
    assert all(np.array_equal(plain.get(name), wrapped.get(name)) for name in plain.names)
    a, b = (dict(Reference.open(f).model.named_parameters()) for f in (made, folder))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_saved_with_its_adapter_is_named(folder: Path):
    rename(folder, lambda n: n.replace("q_proj.weight", "q_proj.base_layer.weight"))
    refused(folder, r"adapter unmerged.*merge_and_unload\(\)\.save_pretrained")


def test_a_gemma_multiplies_what_it_is_given_whatever_transformers_it_is():
    """As transformers did until 5.3; a table of the newer kind stands here for any version."""

    class Table(torch.nn.Embedding):
        def __init__(self) -> None:
            super().__init__(9, 4)
            self.register_buffer("embed_scale", torch.tensor(2.0), persistent=False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens) * self.embed_scale

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = Table()

        def forward(self, input_ids=None, inputs_embeds=None):
            return self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Decoder()

        def get_input_embeddings(self) -> Table:
            return self.model.embed_tokens

    model, tokens, rows = Model(), torch.tensor([[1, 5]]), torch.ones(1, 3, 4)
    words = model.model(input_ids=tokens)
    assert torch.equal(model.model(inputs_embeds=rows), rows)
    assert scale_embeddings(model) is model
    assert torch.equal(model.model(inputs_embeds=rows), 2 * rows)
    assert torch.equal(model.model(input_ids=tokens), words)
    assert torch.equal(model.model(inputs_embeds=model.get_input_embeddings()(tokens)), words)


@pytest.mark.parametrize(("saved", "text", "fits"), [
    ("5.4.0", "gemma", False), ("5.24.0.dev0", "gemma2", False), ("6.0", "gemma", False), ("5.3.1", "gemma", True),
    ("4.57.6", "gemma2", True), (None, "gemma", True), ("5.24.0", "llama", True),
])  # fmt: skip
def test_a_gemma_whose_image_tokens_were_not_multiplied_is_refused(saved: str | None, text: str, fits: bool):
    config = {"model_type": "llava", "text_config": {"model_type": text}}
    config |= {"transformers_version": saved} if saved else {}
    if fits:
        config_json.require_known(config, Path("config.json"))
    else:
        with pytest.raises(CheckpointError, match=r"multiply them by sqrt\(hidden_size\)"):
            config_json.require_known(config, Path("config.json"))


def test_weights_that_transformers_would_make_up_are_an_error(folder: Path):
    file = folder / "model.safetensors"
    state = load_file(file)
    kept = {k: v for k, v in state.items() if not k.endswith("layers.1.mlp.fc2.bias")}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(.*layers.1.mlp.fc2.bias\)"):
        Reference.open(folder)
    save_file(state | {"vision_tower.nose.weight": torch.ones(2)}, file, {"format": "pt"})
    refused(folder, r"1 tensors are left over \(.*nose.weight\)")


def test_a_recipe_of_another_family_is_refused(folder: Path):
    refused(
        folder,
        r"llava-chatml stops at '<\|im_end\|>', which must be one token and is \d+.*llava-1.5-13b",
        "llava-chatml",
    )
    refused(folder, "llava-gemma stops at '<end_of_turn>'", "llava-gemma")
    own = folder.parent / "own.toml"
    lines = ['before_face = "<begin> "', 'after_face = "?"', 'before_answer = ":"', 'stop = "</s>"', "context = 900"]
    own.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="has '<begin>', which must be one token"):
        require_recipe(LlavaRecipe.load(str(own)), Reference.open(folder), "own")
    require_recipe(LlavaRecipe.load("llava-mistral"), Reference.open(folder), "llava-mistral")


@pytest.mark.parametrize("tokens", [7, 0, -4])
def test_a_number_of_tokens_that_no_grid_has_is_refused_first(tokens: int, folder: Path):
    with pytest.raises(ValueError, match=f"{tokens} tokens; expected one of 16, 8"):
        export_llava(folder, folder.parent / "out", recipe=RECIPE, options=ExportOptions("fp32", "f16", tokens=tokens))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_tokenizer_is_tried_first(folder: Path):
    edit(folder / "tokenizer_config.json", tokenizer_class="MyTok", auto_map={"AutoTokenizer": ["tok.MyTok", None]})
    if hasattr(tf, "TokenizersBackend"):  # transformers 5 reads tokenizer.json, whatever class is named
        assert load_tokenizer(folder)("Is she smiling?")["input_ids"]
    else:
        refused(folder, r"does not read the tokenizer in .* \(tokenizer_class MyTok\)")
    edit(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend", auto_map=...)
    assert load_tokenizer(folder)("Is she smiling?")["input_ids"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x00")
    refused(folder, "tokenizer.model is not a SentencePiece model")


def test_sentencepiece_is_asked_for_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="sentencepiece, which is not installed"):
        load_tokenizer(folder)


def test_a_typed_text_of_other_tokens_fails(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The prompt alone would not show it."""
    monkeypatch.setattr(Reference, "tokens", lambda self, text: [*_TOKENS(self, text), *([3] if "漢" in text else [])])
    assert failed(folder) == ["prompt tokens"]


_TOKENS = Reference.tokens


def test_a_qwen_in_the_newer_layout(tmp_path: Path):
    tokenizer = byte_level(tmp_path / "qwen", "qwen2")
    vision = tf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
    )  # fmt: skip
    text = tf.Qwen2Config(**small(tokenizer.get_vocab_size(), max_position_embeddings=2048))
    model = randomise(
        tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=1))
    )
    save(model, tmp_path / "qwen", shard="10GB")
    as_transformers_5(tmp_path / "qwen", rope_theta=1e6, rope_type="default")
    edit(tmp_path / "qwen" / "config.json", **{"text_config.tie_word_embeddings": False})
    assert export_llava(tmp_path / "qwen", tmp_path / "out", recipe="llava-chatml", options=EXACT)


def test_the_command_line_says_what_to_do(folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    command = ["bundle", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "is a LLaVA checkpoint: give --recipe the prompt" in capsys.readouterr().err

    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("faceinsight_export.llava_bundle.export_llava", stop)
        assert main([*command, "--recipe", RECIPE]) == 130
    assert capsys.readouterr().err == (
        "faceinsight-export: interrupted; the same command goes on with the step it was in\n"
    )
    if os.geteuid() == 0:  # root may read all: what open() says is what is passed on

        def closed(self: Path, *args: Any, **options: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr("faceinsight_export.checkpoint.checkpoint.Path.open", closed)
    else:
        (folder / "model.safetensors").chmod(0)
    assert main([*command, "--recipe", RECIPE]) == 1
    assert "Permission denied" in capsys.readouterr().err
