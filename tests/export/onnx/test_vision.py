"""A LLaVA checkpoint's eyes as ONNX: equal to transformers', reduced precisions judged, faults caught."""

from __future__ import annotations

import copy
import platform
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from faceinsight.backends import ort
from faceinsight.backends.device import Device
from faceinsight.backends.tensorrt.rewrite import for_tensorrt
from faceinsight.bundle.onnx_header import OnnxHeader
from faceinsight.diagnostics.fit import activations
from faceinsight.host.machine import saturates
from faceinsight_export.checkpoint.checkpoint import canonical
from faceinsight_export.onnx import int8
from faceinsight_export.onnx.int8 import AccuracyError, agreement, smooth
from faceinsight_export.onnx.token_merging import METHODS, TokenReduction, reduce, token_counts
from faceinsight_export.onnx.vision import write_vision
from faceinsight_export.onnx.vision_reference import VisionShape
from faceinsight_export.onnx.writer import FLOAT, onnx_file
from faceinsight_export.parity.stages import graph_stages
from faceinsight_models.llava.hf_folder import part

pytestmark = pytest.mark.slow

CPU = Device("cpu", False, 1)
#: Of a square projector: a transposed weight still fits.
WIDTH, LAYERS, SIZE = 64, 3, 56


class Memory:
    """A checkpoint in memory, in the names that both layouts of the folder are read under."""

    def __init__(self, config: dict, tensors: dict[str, np.ndarray]) -> None:
        self.config = config
        self.tensors = tensors

    def get(self, name: str) -> np.ndarray:
        return self.tensors[name]


def build(*, vision: dict | None = None, **options):
    """A tiny random LLaVA, and its tensors."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=160, num_hidden_layers=LAYERS, num_attention_heads=4, image_size=SIZE,
        patch_size=14, **(vision or {}),
    )  # fmt: skip
    llm = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=tower, text_config=llm, image_token_index=98, **options)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Large enough that attention attends and every bias counts.
            parameter += 0.1 * torch.randn_like(parameter)
    tensors = {canonical(name): value.numpy() for name, value in model.state_dict().items()}
    return model, Memory(model.config.to_dict(), tensors)


@pytest.fixture(scope="module")
def llava():
    return build()


def noise(count: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)


def theirs(model, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        layer = model.config.vision_feature_layer
        # A list: transformers 5 takes a bare 0 for no layer.
        layers = layer if isinstance(layer, list) else [layer]
        found = model.get_image_features(torch.from_numpy(pixels), vision_feature_layer=layers)
        # transformers 5 returns more beside them.
        return torch.stack(list(getattr(found, "pooler_output", found))).numpy()


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    return CPU.session(path).run(["image_tokens"], {"pixels": pixels})[0]


def error(reference: np.ndarray, found: np.ndarray) -> float:
    """Largest, relative to the reference's largest value."""
    assert reference.shape == found.shape
    return float(np.abs(reference - found).max() / np.abs(reference).max())


CASES = {
    "as LLaVA-1.5": {},
    "last layer": {"vision_feature_layer": -1},
    "before the first layer": {"vision_feature_layer": 0},
    "two layers side by side": {"vision_feature_layer": [-2, 1]},
    "with the class token": {"vision_feature_select_strategy": "full"},
    "gelu": {"vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
    "no bias, quick gelu": {"multimodal_projector_bias": False, "projector_hidden_act": "quick_gelu"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_reproduces_transformers(options, tmp_path: Path):
    model, source = build(**options)
    reference = write_vision(source, tmp_path / "vision.onnx")
    expected = theirs(model, noise())
    assert error(expected, run(tmp_path / "vision.onnx", noise())) <= 1e-4
    assert error(expected, reference(torch.from_numpy(noise())).numpy()) <= 1e-5
    (stage,) = graph_stages(reference, tmp_path / "vision.onnx", {"pixels": noise(1)}, ["image_tokens"], 1e-4, CPU)
    assert stage.passed, stage


def test_one_plain_file(llava, tmp_path: Path):
    write_vision(llava[1], tmp_path / "vision.onnx")
    onnx.checker.check_model(str(tmp_path / "vision.onnx"), full_check=True)
    model = onnx.load(tmp_path / "vision.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    # ir_version is the first field, without which OpenVINO says that this is no ONNX file.
    assert (tmp_path / "vision.onnx").read_bytes()[:2] == bytes([1 << 3, model.ir_version])
    kinds = [n.op_type for n in model.graph.node]
    # The one before the layers, and two in each layer that is used: hidden_states[-2] needs all but the last.
    assert kinds.count("LayerNormalization") == 1 + 2 * (LAYERS - 1)
    assert kinds.count("Softmax") == LAYERS - 1
    assert not {"Pow", "Shape", "Expand"} & set(kinds)
    assert [p.name for p in tmp_path.iterdir()] == ["vision.onnx"]
    with pytest.raises(FileExistsError, match="exists already"):
        write_vision(llava[1], tmp_path / "vision.onnx")


def test_attention_is_the_shape_that_is_fused(llava, tmp_path: Path):
    pytest.importorskip("sympy")
    from onnxruntime.transformers.optimizer import optimize_model

    write_vision(llava[1], tmp_path / "vision.onnx")
    fused = optimize_model(str(tmp_path / "vision.onnx"), model_type="clip", num_heads=4, hidden_size=WIDTH)
    assert len(fused.get_nodes_by_op_type("Attention")) == LAYERS - 1
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    assert error(run(tmp_path / "vision.onnx", noise()), run(tmp_path / "fused.onnx", noise())) < 1e-4


def test_fixed_batch(llava, tmp_path: Path):
    write_vision(llava[1], tmp_path / "two.onnx", batch=2, precision="fp16", images=noise())
    session = CPU.session(tmp_path / "two.onnx")
    assert session.get_inputs()[0].shape == [2, 3, SIZE, SIZE]
    assert session.get_outputs()[0].shape == [2, 16, 64]


def test_memory_is_one_tensor_not_the_model(tmp_path: Path):
    """20 MB of weights, the largest of them 1 MB."""
    config = {
        "model_type": "llava",
        "vision_config": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "image_size": SIZE,
                          "num_attention_heads": 4, "patch_size": 14},
    }  # fmt: skip

    class Made(Memory):
        def get(self, name: str) -> np.ndarray:
            shape = {
                "patch_embedding.weight": (256, 3, 14, 14), "class_embedding": (256,), "fc1.weight": (1024, 256),
                "position_embedding.weight": (17, 256), "fc2.weight": (256, 1024), "fc1.bias": (1024,),
            }  # fmt: skip
            square = (
                (256, 256) if name.endswith("weight") and "norm" not in name and "lay" not in name[-20:] else (256,)
            )
            fits = next((v for k, v in shape.items() if name.endswith(k)), square)
            return np.ones(fits, np.float32)

    tracemalloc.start()
    write_vision(Made(config, {}), tmp_path / "vision.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "vision.onnx").stat().st_size
    assert size > 20e6
    assert peak < 8e6


def test_nothing_is_left_of_a_failed_export(llava, tmp_path: Path):
    _, source = llava
    lacking = Memory(source.config, {k: v for k, v in source.tensors.items() if "layers.1.mlp.fc2" not in k})
    with pytest.raises(KeyError, match=r"layers\.1\.mlp\.fc2"):
        write_vision(lacking, tmp_path / "vision.onnx")
    large = Memory(source.config, dict(source.tensors))
    name = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    large.tensors[name] = large.tensors[name] * 1e7
    with pytest.raises(ValueError, match="not finite in float16"):
        write_vision(large, tmp_path / "vision.onnx", precision="fp16", images=noise())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "llava_next"}, "expected llava with CLIP"),
        ({"vision_feature_layer": -5}, "hidden states 0 to 3"),
        ({"projector_hidden_act": "relu"}, "activation 'relu'"),
    ],
)
def test_what_is_not_llava_is_refused(llava, tmp_path: Path, options, message):
    source = Memory(copy.deepcopy(llava[1].config) | options, llava[1].tensors)
    with pytest.raises(ValueError, match=message):
        write_vision(source, tmp_path / "vision.onnx")


def test_a_config_of_another_model_is_seen(llava, tmp_path: Path):
    config = copy.deepcopy(llava[1].config)
    config["vision_config"]["image_size"] = 70
    with pytest.raises(ValueError, match="17 position embeddings"):
        write_vision(Memory(config, llava[1].tensors), tmp_path / "vision.onnx")


def test_faults_are_caught(llava, tmp_path: Path):
    """A wrong layer, a transposed square projector, a lost class token: each is far beyond the tolerance."""
    model, source = llava
    expected = theirs(model, noise())
    config = copy.deepcopy(source.config) | {"vision_feature_layer": -1}
    turned = dict(source.tensors)
    turned["multi_modal_projector.linear_2.weight"] = turned["multi_modal_projector.linear_2.weight"].T
    blank = dict(source.tensors)
    blank["vision_tower.vision_model.embeddings.class_embedding"] = np.zeros(WIDTH, np.float32)
    faults = [Memory(config, source.tensors), Memory(source.config, turned), Memory(source.config, blank)]
    for number, fault in enumerate(faults):
        write_vision(fault, tmp_path / f"{number}.onnx")
        assert error(expected, run(tmp_path / f"{number}.onnx", noise())) > 1e-2, number


def test_half_precision(llava, tmp_path: Path):
    model, source = llava
    write_vision(source, tmp_path / "half.onnx", precision="fp16", images=noise())
    found, expected = run(tmp_path / "half.onnx", noise()), theirs(model, noise())
    assert found.dtype == np.float32
    assert error(expected, found) <= 0.01
    assert agreement(expected, found).worst >= 0.9999
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert {i.data_type for i in graph.initializer} == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}


class LayerNormalization(OpRun):
    """The node as its specification has it: statistics in float32, as `stash_type` 1 demands."""

    op_domain, op_schema = "", onnx.defs.get_schema("LayerNormalization")

    def _run(self, x, weight, bias, axis=None, epsilon=None, stash_type=None):
        if stash_type != 1:
            raise ValueError(f"stash_type {stash_type}")
        wide = x.astype(np.float32) - x.astype(np.float32).mean(-1, keepdims=True)
        wide /= np.sqrt((wide * wide).mean(-1, keepdims=True) + epsilon)
        return (wide.astype(x.dtype) * weight + bias,)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("tokens", [None, 8])
def test_half_precision_does_not_overflow_where_squares_would(tmp_path: Path, tokens):
    """CLIP's residual stream has a few features of hundreds, and their squares are beyond 65504.

    ONNX Runtime's CPU kernels compute half precision in float32; onnx's evaluator does each node in half precision.
    """
    _, source = build()
    source.tensors["vision_tower.vision_model.encoder.layers.0.mlp.fc2.bias"][[3, 40]] += [300, -300]
    path = tmp_path / "half.onnx"
    reference = write_vision(source, path, precision="fp16", tokens=tokens, images=noise())
    expected = reference(torch.from_numpy(noise())).numpy()
    (found,) = ReferenceEvaluator(str(path), new_ops=[LayerNormalization]).run(None, {"pixels": noise()})
    assert most(expected, found) < 0.005
    # Planted: statistics in half precision, as onnx's own evaluator has them.
    (found,) = ReferenceEvaluator(str(path)).run(None, {"pixels": noise()})
    assert most(expected, found) > 0.01


def most(reference: np.ndarray, found: np.ndarray) -> float:
    """Error of nine tokens in ten: two that are as alike as two others may be merged in their place."""
    worst = np.abs(reference - found).max(-1) / np.abs(reference).max()
    return float(np.quantile(worst, 0.9))


def linears(graph: onnx.GraphProto, op: str) -> int:
    return sum(n.op_type == op for n in graph.node)


@pytest.mark.parametrize(("precision", "op"), [("int8", "MatMulInteger"), ("int8-static", "QuantizeLinear")])
def test_eight_bits(llava, tmp_path: Path, precision, op):
    model, source = llava
    path = tmp_path / "vision.onnx"
    write_vision(source, path, precision=precision, images=noise(8), min_cosine=0.998)
    onnx.checker.check_model(str(path), full_check=True)
    fresh = noise(4, seed=1)
    assert agreement(theirs(model, fresh), run(path, fresh)).mean > 0.998
    graph = onnx.load(path).graph
    # Each layer's q, k and v share an input; all six linears of a layer, and the projector's two, are 8 bits.
    assert linears(graph, op) == ((LAYERS - 1) * 6 + 2 if op == "MatMulInteger" else (LAYERS - 1) * 4 + 2)
    kept = [i for i in graph.initializer if i.data_type == FLOAT and len(i.dims) == 2]
    assert not kept
    # Attention stays in float: two products in each layer.
    assert linears(graph, "MatMul") == (LAYERS - 1) * 2 + (0 if op == "MatMulInteger" else (LAYERS - 1) * 6 + 2)


@pytest.mark.parametrize(
    ("flags", "wrong"), [("fma avx2", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False), (None, True)]
)
def test_which_cpus_compute_eight_bits_wrongly(tmp_path: Path, monkeypatch, flags, wrong):
    if flags is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert saturates(tmp_path) is wrong
    saturates.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not saturates(tmp_path)


@pytest.mark.parametrize("told", [None, True])
@pytest.mark.parametrize("write", [int8.dynamic_dense, int8.static_dense])
def test_eight_bits_are_computed_exactly(tmp_path: Path, monkeypatch, write, told):
    """Without VNNI, x86 saturates 255 * 127 + 255 * 127 in 16 bits. As it is here, and as where that would happen."""
    if told:
        monkeypatch.setattr(ort, "saturates", lambda: told)
    path, peak = tmp_path / "product.onnx", np.full(64, 127, np.float32)
    layers = [int8.Dense(n, np.full((64, 64), 127, np.float32), None, peak) for n in ("one", "two")]
    with onnx_file(path, "product") as graph:
        x = graph.input("x", FLOAT, ["batch", 64])
        # Two layers on one input, as attention has them.
        y = graph.add("Add", *(write(graph, x, layer) for layer in layers), name="y")
        graph.output(y, FLOAT, ["batch", 64])
    (found,) = CPU.session(path).run(None, {"x": np.full((3, 64), 127, np.float32)})
    assert np.allclose(found, 2 * 127.0 * 127 * 64, rtol=1e-6)


def test_onnx_runtime_runs_eight_bits_in_one_node(llava, tmp_path: Path):
    write_vision(llava[1], tmp_path / "vision.onnx", precision="int8", images=noise(4), min_cosine=0.9)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "vision.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    fused = linears(graph, "DynamicQuantizeMatMul") + linears(graph, "MatMulIntegerToFloat")
    assert (fused, linears(graph, "MatMulInteger")) == ((LAYERS - 1) * 6 + 2, 0)


def outliers() -> Memory:
    """A norm's output has a channel a hundred times the others, that hardly counts behind it."""
    _, source = build()
    tensors = {name: value.copy() for name, value in source.tensors.items()}
    for layer in range(LAYERS):
        at = f"vision_tower.vision_model.encoder.layers.{layer}"
        for norm, behind in (("layer_norm1", [f"self_attn.{p}_proj" for p in "qkv"]), ("layer_norm2", ["mlp.fc1"])):
            tensors[f"{at}.{norm}.weight"][7] *= 100
            tensors[f"{at}.{norm}.bias"][7] *= 100
            for linear in behind:
                tensors[f"{at}.{linear}.weight"][:, 7] /= 100
    return Memory(source.config, tensors)


def test_eight_bits_bear_outliers(tmp_path: Path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = outliers()
    write_vision(source, tmp_path / "vision.onnx", precision="int8", images=noise(8), min_cosine=0)
    reference = write_vision(source, tmp_path / "full.onnx")
    quantize_dynamic(
        tmp_path / "full.onnx", tmp_path / "theirs.onnx", ["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
    expected = reference(torch.from_numpy(noise(2, seed=1))).numpy()
    ours, plain = (agreement(expected, run(tmp_path / f, noise(2, seed=1))) for f in ("vision.onnx", "theirs.onnx"))
    assert ours.mean > 0.998
    assert plain.mean < 0.99


def test_inaccurate_eight_bits_are_refused(llava, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(int8, "LEVELS", 3)
    for precision in ("int8", "int8-static"):
        with pytest.raises(AccuracyError, match=r"mean cosine of 0\.\d+ .* expected at least 0\.999"):
            write_vision(llava[1], tmp_path / "vision.onnx", precision=precision, images=noise(4))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at least 2"):
        write_vision(llava[1], tmp_path / "vision.onnx", precision="int8", images=noise(1))
    with pytest.raises(ValueError, match="expected one of fp32"):
        write_vision(llava[1], tmp_path / "vision.onnx", precision="int4")


def test_smoothing_changes_nothing_but_ranges():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (50, 8)).astype(np.float32) * np.array([100, 1, 1, 1, 1, 1, 1, 0], np.float32)
    layers = [int8.Dense(n, rng.normal(0, 1, (8, 5)).astype(np.float32), None, np.abs(x).max(0)) for n in "ab"]
    factors, smoothed = smooth(layers)
    for before, after in zip(layers, smoothed, strict=True):
        assert np.allclose(x @ before.weight, (x / factors) @ after.weight, atol=1e-3)
        assert np.allclose(after.act_absmax, np.abs(x / factors).max(0))
    peaks = np.abs(x / factors).max(0)
    assert peaks[0] < 20 * peaks[1]
    with pytest.raises(ValueError, match="no calibration"):
        smooth([int8.Dense("a", layers[0].weight, None)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", [16, 8, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fewer_tokens_in_the_graph(llava, tmp_path: Path, method, tokens, precision):
    model, source = llava
    path = tmp_path / "vision.onnx"
    reference = write_vision(
        source, path, tokens=tokens, method=method, precision=precision, images=noise(), min_cosine=0.999
    )
    found = run(path, noise())
    assert found.shape == (3, tokens, 64)
    assert error(reference(torch.from_numpy(noise())).numpy(), found) < (1e-4 if precision == "fp32" else 0.02)
    # The reference itself, the long way round: transformers' features, reduced, through transformers' projector.
    with torch.no_grad():
        states = part(model, "vision_tower")(torch.from_numpy(noise()), output_hidden_states=True).hidden_states[-2][
            :, 1:
        ]
        few = reduce(states.numpy(), TokenReduction(4, tokens, method))
        expected = part(model, "multi_modal_projector")(torch.from_numpy(few)).numpy()
    assert error(expected, reference(torch.from_numpy(noise())).numpy()) < 1e-5
    if tokens == 16:
        assert error(theirs(model, noise()), found) < 0.01


def test_merging_by_hand():
    """A 2x2 grid, of which the diagonal stays: each other token goes to the one it resembles, and means are taken."""
    tokens = np.array([[[9, 0, 0], [8, 1, 0], [0, 1, 8], [0, 0, 9]]], np.float32)
    assert np.allclose(reduce(tokens, TokenReduction(2, 2))[0], [[8.5, 0.5, 0], [0, 0.5, 8.5]])
    # Both to the first: a mean of three. In the next step all become one: the mean of all four, not of two means.
    tokens = np.array([[[9, 0, 0], [8, 1, 0], [8, 0, 1], [0, 0, 9]]], np.float32)
    assert np.allclose(reduce(tokens, TokenReduction(2, 2))[0], [[25 / 3, 1 / 3, 1 / 3], [0, 0, 9]])
    assert np.allclose(reduce(tokens, TokenReduction(2, 1))[0], tokens[0].mean(0))


def test_tokens_keep_their_places():
    """Where all tokens are nearly their own, those that stay are a chessboard's, then every other row's."""
    unlike = np.eye(64, dtype=np.float32)[None] * 100
    half, quarter = (reduce(unlike, TokenReduction(8, n))[0].argmax(1) for n in (32, 16))
    places = np.arange(64).reshape(8, 8)
    # Each output holds the token that stays as its largest or equal part; one that took nothing is itself.
    assert set(half) <= set(range(64))
    chessboard = places[np.add.outer(np.arange(8), np.arange(8)) % 2 == 0]
    whole = reduce(unlike, TokenReduction(8, 32))[0]
    assert (whole[np.arange(32), chessboard] > 0).all()
    whole = reduce(unlike, TokenReduction(8, 16))[0]
    assert (whole[np.arange(16), places[::2, ::2].ravel()] > 0).all()
    assert len(quarter) == 16
    pooled = reduce(unlike, TokenReduction(8, 16, "pool"))[0]
    assert np.flatnonzero(pooled[5]).tolist() == places[2:4, 2:4].ravel().tolist()
    pooled = reduce(unlike, TokenReduction(8, 32, "pool"))[0]
    assert np.flatnonzero(pooled[5]).tolist() == places[1, 2:4].tolist()
    chosen = reduce(unlike, TokenReduction(8, 16, "random"))[0].argmax(1)
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() != reduce(unlike, TokenReduction(8, 16, "random", 1))[0].argmax(1).tolist()


def test_budgets_that_there_are(llava, tmp_path: Path):
    assert token_counts(24) == [576, 288, 144, 72, 36, 18, 9]
    with pytest.raises(ValueError, match="expected one of 576, 288, 144"):
        TokenReduction(24, 200)
    with pytest.raises(ValueError, match="expected one of merge, pool, random"):
        TokenReduction(24, 144, "best")
    source = Memory(copy.deepcopy(llava[1].config) | {"vision_feature_select_strategy": "full"}, llava[1].tensors)
    with pytest.raises(ValueError, match="class token"):
        write_vision(source, tmp_path / "vision.onnx", tokens=8)


def test_defaults_are_those_of_the_published_checkpoint():
    """llava-hf/llava-1.5-7b-hf's config.json leaves out what CLIP has by default."""
    config = {
        "model_type": "llava", "projector_hidden_act": "gelu", "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "text_config": {"model_type": "llama"},
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_hidden_layers": 24,
                          "model_type": "clip_vision_model", "num_attention_heads": 16, "patch_size": 14},
    }  # fmt: skip
    shape = VisionShape.read(config)
    assert (shape.side, shape.feature_layers, shape.activation, shape.epsilon) == (24, (23,), "quick_gelu", 1e-5)
    assert shape.drop_class


def test_a_name_is_written_once(tmp_path: Path):
    def twice(add) -> None:
        with onnx_file(tmp_path / "a.onnx", "a") as graph:
            add(graph, 1)
            add(graph, 2)

    with pytest.raises(ValueError, match="two weights"):
        twice(lambda graph, value: graph.weight("w", np.array([value])))
    with pytest.raises(ValueError, match="two nodes"):
        twice(lambda graph, value: graph.add("Neg", f"x{value}", name="y"))
    assert list(tmp_path.iterdir()) == []
    twice(lambda graph, value: graph.add("Neg", "x", name="y"))
    assert len(onnx.load(tmp_path / "a.onnx").graph.node) == 1


@pytest.mark.parametrize(("precision", "tokens"), [("fp32", None), ("int8", 8), ("fp16", 8)])
def test_the_runtime_reads_a_file_that_was_written_weight_by_weight(tmp_path: Path, llava, precision, tokens):
    """Its graph is in parts: all of them count, for the memory it will take as for TensorRT."""
    path = tmp_path / "vision.onnx"
    write_vision(llava[1], path, precision=precision, tokens=tokens, images=noise(8), min_cosine=0.9)
    outline, graph = OnnxHeader.read(path), onnx.load(path).graph
    assert len(outline.weights) == len(graph.initializer)
    assert len(outline.nodes) == len(graph.node)
    assert {name for node in graph.node for name in node.output} <= set(outline.values)
    session = CPU.session(path)
    assert outline.values["image_tokens"].shape == tuple(session.get_outputs()[0].shape)
    assert activations(outline, {"batch": 2}) > 1.5 * activations(outline, {"batch": 1}) > 4 * noise(1).size
    # TensorRT takes it as it is: a file of a gigabyte is not copied.
    assert for_tensorrt(path, tmp_path / "rewritten.onnx") == path
