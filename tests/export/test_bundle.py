"""Export: GGUF and ONNX equal their torch sources, and planted faults are caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from faceinsight.backends.device import Device
from faceinsight.bundle.specs import LlmSpec
from faceinsight_export.bundle import export_bundle
from faceinsight_export.checkpoint import families
from faceinsight_export.gguf import quantize as gguf_file
from faceinsight_export.onnx.fp16_weights import store_fp16
from faceinsight_export.parity.stages import ParityError, compare, graph_stages, llm_stages
from faceinsight_models.nets.closeup import CloseupNet
from faceinsight_models.nets.graphs import write_encoder, write_knowledge, write_parser, write_question
from faceinsight_models.nets.llm import BpeVocabulary, interleave_rope, load_gguf, prune, separate_rope
from faceinsight_models.nets.parser import FaceParser
from faceinsight_models.nets.question import QuestionNet
from faceinsight_models.parts import Trained
from faceinsight_models.recipe import Recipe
from faceinsight_models.taxonomy import NAMES
from faceinsight_models.train.build import build_adapter, build_encoder
from faceinsight_models.train.llm import PROMPT

pytestmark = pytest.mark.slow

CPU = Device("cpu", False, 2)
SPEC = LlmSpec("llm.gguf", 64, 256, PROMPT, 64, 64)


@pytest.fixture(scope="module")
def vocabulary() -> BpeVocabulary:
    """A small byte-level BPE in SmolLM2's layout: control tokens, bytes, merges by rank."""
    from tokenizers.pre_tokenizers import ByteLevel

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(ByteLevel.alphabet())
    merges = ["i s", "Ġ a", "e r", "Ġ s", "Ġs h", "Ġsh e", "a s", "as s", "g l", "gl ass", "Ġ glass", "e s"]
    tokens = control + letters + [m.replace(" ", "") for m in merges]
    return BpeVocabulary(tokens, [3] * 3 + [1] * (len(tokens) - 3), merges, "smollm")


@pytest.fixture(scope="module")
def llm(vocabulary: BpeVocabulary):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary.tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, rope_theta=10000.0,
        initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def stages(llm, vocabulary, path, tolerance, *, rms=False):
    rows = np.random.default_rng(0).normal(0, 1, (9, 64)).astype(np.float32)
    texts = ["Is she wearing glasses?", "Ünïcode 123, zwei\n\ndrei"]
    return llm_stages(llm, vocabulary.tokenizer(), path, SPEC, rows, texts, tolerance, CPU, rms=rms)


def test_gguf_reproduces_transformers(llm, vocabulary, tmp_path: Path):
    gguf_file.write_llama(llm, vocabulary, tmp_path / "a.gguf", name="tiny")
    for stage in stages(llm, vocabulary, tmp_path / "a.gguf", 1e-3):
        assert stage.passed, stage
        assert stage.cosine > 0.99999
    again = load_gguf(tmp_path / "a.gguf")
    for key, value in llm.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 0.01), ("q8_0", 0.1)])
def test_quantised_gguf_is_close(llm, vocabulary, tmp_path: Path, kind, tolerance):
    gguf_file.write_llama(llm, vocabulary, tmp_path / "a.gguf", name="tiny")
    gguf_file.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", kind)
    assert (tmp_path / "b.gguf").stat().st_size < 0.7 * (tmp_path / "a.gguf").stat().st_size
    for stage in stages(llm, vocabulary, tmp_path / "b.gguf", tolerance, rms=True):
        assert stage.passed, stage
    with pytest.raises(ValueError, match="expected one of"):
        gguf_file.quantize(tmp_path / "a.gguf", tmp_path / "c.gguf", "q3")


def test_rope_order_left_out_is_caught(llm, vocabulary, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(families, "interleave_rope", lambda weight, heads: weight)
    gguf_file.write_llama(llm, vocabulary, tmp_path / "a.gguf", name="tiny")
    assert not all(s.passed for s in stages(llm, vocabulary, tmp_path / "a.gguf", 0.05))


def test_rope_orders_are_inverse():
    weight = torch.randn(24, 5)
    assert torch.equal(separate_rope(interleave_rope(weight, 3), 3), weight)


def test_prune_keeps_what_it_keeps(llm, vocabulary):
    small = prune(llm, layers=[0, 2], vocabulary=200)
    assert torch.equal(small.model.embed_tokens.weight, llm.model.embed_tokens.weight[:200])
    assert torch.equal(small.model.layers[1].mlp.up_proj.weight, llm.model.layers[2].mlp.up_proj.weight)
    assert llm.config.vocab_size == len(vocabulary.tokens)
    cut = vocabulary.prune(len(vocabulary.tokens) - 2)
    assert cut.merges == vocabulary.merges[:-2]
    assert cut.tokenizer().decode(cut.tokenizer().encode("she glasses").ids) == "she glasses"


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    encoder = build_encoder(F.normalize(torch.randn(len(NAMES), 16)), torch.eye(len(NAMES))).eval()
    return FaceParser(19).eval(), encoder, build_adapter(states=4, width=64).eval()


@pytest.fixture(scope="module")
def question(vocabulary):
    torch.manual_seed(0)
    return QuestionNet(torch.randn(len(vocabulary.tokens), 64), torch.randn(len(NAMES), 256), width=32).eval()


@pytest.mark.slow
def test_onnx_graphs_reproduce_torch(parts, question, tmp_path: Path):
    parser, encoder, adapter = parts
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 1, (3, 3, 128, 128)).astype(np.float32)
    maps = rng.integers(0, 19, (3, 256, 256)).astype(np.uint8)
    module = write_encoder(encoder, adapter, tmp_path / "encoder.onnx", size=128, map_size=256)
    inputs = {"pixels": pixels, "label_map": maps, "characteristics": np.array([4, 1, 39])}
    outputs = ["logits", "image_tokens", "region_tokens", "region_area"]
    for stage in graph_stages(module, tmp_path / "encoder.onnx", inputs, outputs, 1e-4, CPU):
        assert stage.passed, stage
    # torch writes the source files and lines that made each node beside it: they are the exporting machine's own.
    written = (tmp_path / "encoder.onnx").read_bytes()
    assert b"site-packages" not in written
    assert b".py" not in written
    size = (tmp_path / "encoder.onnx").stat().st_size
    store_fp16(tmp_path / "encoder.onnx")
    assert (tmp_path / "encoder.onnx").stat().st_size < 0.6 * size
    for stage in graph_stages(module, tmp_path / "encoder.onnx", inputs, outputs, 0.02, CPU):
        assert stage.passed, stage

    module = write_knowledge(encoder.head.ccm(), adapter, tmp_path / "knowledge.onnx")
    inputs = {"characteristics": np.array([0, 39]), "states": np.array([3, 1])}
    (stage,) = graph_stages(module, tmp_path / "knowledge.onnx", inputs, ["knowledge_tokens"], 1e-5, CPU)
    assert stage.passed, stage
    module = write_question(question, tmp_path / "question.onnx")
    for length in (1, 23):
        tokens = {"tokens": rng.integers(0, 200, (1, length))}
        stages = graph_stages(module, tmp_path / "question.onnx", tokens, ["relevance", "kinds"], 1e-4, CPU)
        assert all(s.passed for s in stages), stages
    module = write_parser(parser, tmp_path / "parser.onnx", size=64)
    wide = rng.normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    (stage,) = graph_stages(module, tmp_path / "parser.onnx", {"pixels": wide}, ["label_map"], 1e-3, CPU)
    assert stage.passed, stage


def test_fused_layer_normalization(parts, tmp_path: Path):
    import onnx

    write_encoder(parts[1], parts[2], tmp_path / "encoder.onnx", size=128, map_size=256)
    model = onnx.load(tmp_path / "encoder.onnx", load_external_data=False)
    assert sum(n.op_type == "LayerNormalization" for n in model.graph.node) == 5
    assert not any(n.op_type == "Pow" for n in model.graph.node)
    assert max(o.version for o in model.opset_import if o.domain == "") >= 17
    assert not list(tmp_path.glob("*.data"))


def test_compare_measures_what_it_says():
    a = np.array([[3.0, 4.0], [0.0, 2.0]])
    same = compare("x", a, a.copy(), 0.0)
    assert same.passed
    assert same.cosine == pytest.approx(1)
    off = compare("x", a, a + 0.4, 0.05)
    assert off.error == pytest.approx(0.1)
    assert not off.passed
    assert not compare("x", a, a * np.nan, 1.0).passed
    with pytest.raises(ValueError, match="shape"):
        compare("x", a, a[:1], 1.0)


@pytest.fixture
def trained(parts, question, llm, vocabulary, tmp_path: Path) -> Trained:
    import dataclasses

    from faceinsight.bundle.bundle import locate

    recipe = Recipe.load("nano")
    recipe = dataclasses.replace(recipe, llm=dataclasses.replace(recipe.llm, context=256, quantization="f16"))
    detector = locate("nano") / "detector.onnx"
    return Trained(
        recipe,
        *parts,
        question,
        llm,
        vocabulary,
        np.tile([1.0, 0.0, 0.4, 0.6, 0.0, 1.0], (len(NAMES), 1)),
        detector,
        {"celebahq": 5},
        CloseupNet().eval(),
    )


@pytest.mark.slow
def test_export_is_atomic_and_the_runtime_runs_it(trained, tmp_path: Path):
    from paths import PHOTO

    from faceinsight import FaceInsight

    out = tmp_path / "bundles" / "tiny"
    messages: list[str] = []
    assert all(s.passed for s in export_bundle(trained, out, progress=messages.append))
    assert messages[0] == "detector"
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]
    assert "CelebA-HQ and CelebAMask-HQ (non-commercial research)" in (out / "model-card.md").read_text()
    with FaceInsight.load(out, device="cpu") as insight:
        (face,) = insight.perceive(PHOTO)
        # Nobody taught its question encoder what is answered: the LLM is asked by itself.
        assert len(list(insight.unchecked(face, "Is she smiling?", max_tokens=5))) >= 1
        assert len(list(insight.unchecked(face, "Are you sure?", after="Is she smiling?", max_tokens=5))) >= 1
        assert insight.ask(face, "Is she smiling?", max_tokens=5).text
        both = insight.questions.query("Who is smiling?", (face, face))
        assert len(both.findings) == 2
        assert insight.ask((face, face), "Who is smiling?", max_tokens=5).text
    with pytest.raises(FileExistsError, match="exists already"):
        export_bundle(trained, out)


@pytest.mark.slow
def test_a_failed_gate_leaves_nothing(trained, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(families, "interleave_rope", lambda weight, heads: weight)
    with pytest.raises(ParityError, match=r"llm logits 0 f32.*FAILED"):
        export_bundle(trained, tmp_path / "out" / "bad")
    assert list((tmp_path / "out").iterdir()) == []
