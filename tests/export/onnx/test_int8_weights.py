"""Weights stored as int8 with scales: what rounding costs, and that everything downstream sees float32 constants."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from faceinsight.backends.tensorrt.rewrite import for_tensorrt, mapped, rewritten
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.onnx_header import OnnxHeader
from faceinsight.diagnostics import fit
from faceinsight_export.attach import _join
from faceinsight_export.face_parts import OUTPUTS, cut
from faceinsight_export.onnx.fp16_weights import store_fp16
from faceinsight_export.onnx.int8_weights import rounded, store_int8
from faceinsight_models.llava.region_features import FEATURES, RegionFeatureEncoder

pytestmark = pytest.mark.slow

#: Weights of the graph: output channels first, last, first (rows of a table).
SHAPES = {"conv": (64, 32, 3, 3), "dense": (64, 128), "table": (96, 128)}


def uneven(rng: np.random.Generator, shape: tuple[int, ...], channel: int) -> np.ndarray:
    """Weights whose output channels differ in size by a factor of 100: with scales along another axis, or with one for
    all, the small ones are lost."""
    sizes = np.geomspace(0.01, 1, shape[channel]).reshape([-1 if a == channel else 1 for a in range(len(shape))])
    return (rng.normal(0, 0.1, shape) * rng.permuted(sizes, axis=channel)).astype(np.float32)


def save(path: Path, nodes, inputs, outputs, weights, *, ir_version: int = 9) -> None:
    tensors = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=ir_version), path)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """pixels (batch,32,8,8), numbers (batch,) -> y (batch,128): Conv, Relu, mean, MatMul, plus a row of a table."""
    rng = np.random.default_rng(0)
    weights = {name: uneven(rng, shape, 1 if name == "dense" else 0) for name, shape in SHAPES.items()}
    weights["bias"] = rng.normal(0, 0.01, 128).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "conv"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["d"]),
        helper.make_node("Gather", ["table", "numbers"], ["t"]),
        helper.make_node("Add", ["d", "t"], ["s"]),
        helper.make_node("Add", ["s", "bias"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 32, 8, 8]),
        helper.make_tensor_value_info("numbers", TensorProto.INT64, ["batch"]),
    ]
    path = tmp_path / "plain.onnx"
    save(path, nodes, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 128])], weights)
    return path


@pytest.fixture
def stored(plain: Path) -> Path:
    path = plain.with_name("int8.onnx")
    path.write_bytes(plain.read_bytes())
    store_int8(path)
    return path


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"pixels": rng.normal(size=(5, 32, 8, 8)).astype(np.float32), "numbers": np.array([0, 95, 3, 3, 50])}


def session(model: Path | bytes, *, saved: Path | None = None) -> onnxruntime.InferenceSession:
    """On one thread; `saved`: where the graph goes that is really run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if saved:
        options.optimized_model_filepath = str(saved)
    data = model if isinstance(model, bytes) else model.read_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("shape", "last"), [((64, 32, 3, 3), False), ((64, 128), True), ((96, 128), False)])
def test_an_error_is_half_a_step_of_its_channel(shape: tuple[int, ...], last: bool):
    channel = len(shape) - 1 if last else 0
    weight = uneven(np.random.default_rng(0), shape, channel)
    values, scale = rounded(weight, last=last)
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == tuple(n if axis == channel else 1 for axis, n in enumerate(shape))
    others = tuple(axis for axis in range(len(shape)) if axis != channel)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    assert (np.abs(values * scale - weight) <= largest / 254 * (1 + 1e-5)).all()
    # All steps are used: the largest weight of each channel is stored exactly.
    assert (np.abs(values.astype(int)).max(axis=others) == 127).all()


def test_a_channel_of_nothing_stays_nothing():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[1] = 0
    # Dead channels shrink under weight decay until they are subnormal.
    weight[2] *= 1e-43
    assert 0 < np.abs(weight[2]).max() < 1e-42
    with np.errstate(all="raise", under="ignore"):
        values, scale = rounded(weight)
    assert np.isfinite(scale).all()
    assert not values[1:3].any()
    assert values[0].any()
    assert values[3].any()


def test_the_graph_says_nearly_the_same_from_a_third_of_the_bytes(plain: Path, stored: Path):
    (expected,), (found,) = (session(p).run(None, feeds()) for p in (plain, stored))
    assert not np.array_equal(expected, found)
    # Each output by its own size, those of small channels too: 0.006; 0.016 with MatMul's scales along the other axis,
    # 0.038 with one scale for a weight.
    errors = np.linalg.norm(found - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert np.median(errors) <= 0.01
    assert stored.stat().st_size < 0.33 * plain.stat().st_size
    weights = OnnxHeader.read(stored).weights
    assert {n: w.shape for n, w in weights.items() if n.endswith(".scale")} == {
        "conv.scale": (64, 1, 1, 1), "dense.scale": (1, 128), "table.scale": (96, 1),
    }  # fmt: skip
    assert {n for n, w in weights.items() if w.kind == TensorProto.INT8} == {f"{n}.int8" for n in SHAPES}
    assert weights["bias"].kind == TensorProto.FLOAT


def test_onnxruntime_folds_it_and_fuses_as_before(plain: Path, stored: Path, tmp_path: Path):
    graphs = []
    for path in (plain, stored):
        session(path, saved=tmp_path / "run.onnx")
        graphs.append(onnx.load(tmp_path / "run.onnx").graph)
    expected, found = (Counter(n.op_type for n in g.node) for g in graphs)
    assert found == expected
    assert any(a.name == "activation" for n in graphs[1].node for a in n.attribute)
    assert not {"Cast", "Mul", "Relu"} & set(found)
    assert TensorProto.INT8 not in {t.data_type for t in graphs[1].initializer}


@pytest.mark.slow
def test_it_runs_as_fast_as_half_stored_weights(plain: Path, stored: Path):
    half = plain.with_name("half.onnx")
    half.write_bytes(plain.read_bytes())
    store_fp16(half)
    arms, inputs = [session(half), session(stored)], feeds()
    times: list[list[float]] = [[], []]
    for turn in range(300):
        for arm in (0, 1) if turn % 2 else (1, 0):
            begin = time.perf_counter()
            arms[arm].run(None, inputs)
            times[arm].append(time.perf_counter() - begin)
    before, now = (np.median(t[20:]) for t in times)
    assert now == pytest.approx(before, rel=0.15)


def test_tensorrt_gets_constants(plain: Path, stored: Path):
    data = b"".join(rewritten(mapped(stored)))
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto)
    assert [n.op_type for n in proto.graph.node] == [n.op_type for n in onnx.load(plain).graph.node]
    assert {t.name: t.data_type for t in proto.graph.initializer} == dict.fromkeys([*SHAPES, "bias"], TensorProto.FLOAT)
    for tensor in proto.graph.initializer:
        if tensor.name in SHAPES:
            original = next(t for t in onnx.load(plain).graph.initializer if t.name == tensor.name)
            values, scale = rounded(numpy_helper.to_array(original), last=tensor.name == "dense")
            assert np.array_equal(numpy_helper.to_array(tensor), values * scale)
    (expected,), (found,) = (session(m).run(None, feeds()) for m in (stored, data))
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert rewritten(memoryview(data)) is None


def test_a_cast_that_others_read_stays(tmp_path: Path):
    """And a scale that stands first, and one that others read."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["a.int8"], ["a.wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a.wide", "scale"], ["a"]),
        helper.make_node("Cast", ["b.int8"], ["b.wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "b.wide"], ["b"]),
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node("MatMul", ["xa", "b"], ["xab"]),
        helper.make_node("MatMul", ["xab", "a.wide"], ["h"]),
        helper.make_node("Add", ["h", "scale"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 8]) for n in "xy"]
    weights = {n: rng.integers(-127, 128, (8, 8)).astype(np.int8) for n in ("a.int8", "b.int8")}
    weights["scale"] = rng.random((1, 8)).astype(np.float32) / 100
    path = tmp_path / "g.onnx"
    save(path, nodes, ends[:1], ends[1:], weights)
    assert [(n.name, n.stored, n.scale) for n in OnnxHeader.read(path).narrow()] == [("b", "b.int8", "scale")]
    data = b"".join(rewritten(mapped(path)))
    assert {t.name for t in onnx.load_from_string(data).graph.initializer} == {"a.int8", "b", "scale"}
    x = {"x": rng.normal(size=(3, 8)).astype(np.float32)}
    (expected,), (found,) = (session(m).run(None, x) for m in (path, data))
    assert np.allclose(found, expected, rtol=1e-5)


def test_memory_is_that_of_float32_weights(plain: Path, stored: Path):
    for path in (plain, stored):
        # As torch's exporter does, the shapes of all values are stated, those of widened weights too.
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    before, now = OnnxHeader.read(plain), OnnxHeader.read(stored)
    assert {"conv", "conv.wide"} <= set(now.values)
    elements = sum(int(np.prod(shape)) for shape in SHAPES.values())
    newest = (1, 32)
    kept, loading = fit.weights(now, onnxruntime=newest)
    assert kept == pytest.approx(4 * elements, rel=0.1)
    assert kept == fit.weights(before, onnxruntime=newest)[0]
    assert loading > fit.weights(before, onnxruntime=newest)[1]
    axes = {"batch": 1}
    assert fit.activations(now, axes) == fit.activations(before, axes)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> tuple[Path, Path]:
    """nano's encoder with float32 weights, and with int8."""
    folder = tmp_path_factory.mktemp("encoders")
    wide, narrow = folder / "wide.onnx", folder / "narrow.onnx"
    bundle = Bundle.open("nano")
    assert for_tensorrt(bundle.file(bundle.manifest.encoder.file), wide) == wide
    narrow.write_bytes(wide.read_bytes())
    store_int8(narrow)
    assert len(OnnxHeader.read(narrow).narrow()) > 50
    return wide, narrow


@pytest.fixture(scope="module")
def face() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 19, (2, 8, 8)).astype(np.uint8)
    return {
        "pixels": rng.normal(0, 0.6, (2, 3, 128, 128)).astype(np.float32),
        "label_map": np.kron(blocks, np.ones((1, 32, 32), np.uint8)),
        "characteristics": np.arange(64),
    }


def seen(encoder: RegionFeatureEncoder, path: Path, face: dict[str, np.ndarray]) -> np.ndarray:
    """Its region features."""
    encoder.save(path, [FEATURES])
    return session(path).run(None, {name: face[name] for name in ("pixels", "label_map")})[0]


def test_an_encoder_stored_so_can_be_cut(encoders, face, tmp_path: Path):
    narrow, target = encoders[1], tmp_path / "cut.onnx"
    cut(narrow, target)
    assert target.stat().st_size < narrow.stat().st_size
    assert 0 < len(OnnxHeader.read(target).narrow()) < len(OnnxHeader.read(narrow).narrow())
    whole, found = (session(p).run(list(OUTPUTS), face) for p in (narrow, target))
    assert all(np.array_equal(a, b) for a, b in zip(whole, found, strict=True))


def test_an_encoder_stored_so_can_be_laid_open(encoders, face, tmp_path: Path):
    before, now = (RegionFeatureEncoder.open(p) for p in encoders)
    assert np.allclose(now.text, before.text, atol=float(before.text.abs().max()) / 250)
    for name, weight in before.view.items():
        assert np.allclose(now.view[name], weight, atol=float(weight.abs().max()) / 250), name
    expected, found = (seen(e, tmp_path / "features.onnx", face) for e in (before, now))
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("store", [store_fp16, store_int8])
def test_an_adapter_stands_behind_an_encoder_stored_so(encoders, face, tmp_path: Path, store):
    """As attach does; the adapter's own weights are stored in fewer bits too."""
    encoder = RegionFeatureEncoder.open(encoders[1])
    weight = np.random.default_rng(0).normal(size=(encoder.width, 32)).astype(np.float32)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", encoder.regions, width])
        for name, width in (("region_features", encoder.width), ("region_tokens", 32))
    ]
    nodes = [helper.make_node("MatMul", ["region_features", "weight"], ["region_tokens"])]
    save(tmp_path / "regions.onnx", nodes, ends[:1], ends[1:], {"weight": weight}, ir_version=encoder.model.ir_version)
    store(tmp_path / "regions.onnx")
    _join(encoder, tmp_path / "regions.onnx", tmp_path / "joined.onnx")
    features = seen(encoder, tmp_path / "features.onnx", face)
    (tokens,) = session(tmp_path / "joined.onnx").run(["region_tokens"], face)
    assert np.abs(tokens - features @ weight).max() <= 0.02 * np.abs(tokens).max()
    assert "attached.weight" in {n.name for n in OnnxHeader.read(tmp_path / "joined.onnx").narrow()}
