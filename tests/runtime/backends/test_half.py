"""A graph in half precision: what becomes half and what stays, and that answers stay: run on the CPU, which rounds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from paths import PHOTO

plans = pytest.importorskip("plans", reason="needs torch, transformers and onnx")

from faceinsight import Face, FaceInsight
from faceinsight.backends.device import Device
from faceinsight.backends.ort import open_session
from faceinsight.backends.tensorrt.engines import TOLERANCE
from faceinsight.backends.tensorrt.half import PRODUCTS, in_half
from faceinsight.backends.tensorrt.rewrite import for_tensorrt, mapped
from faceinsight.bundle.bundle import Bundle

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
#: Of nano's graphs: how far half precision is from float32 at most (plan_check.deviation). A label map counts pixels.
FAR = {"closeup.onnx": 0.005, "encoder.onnx": 0.005, "parser.onnx": 0.05, "question.onnx": 0.002}


def write(path: Path, nodes: list, weights: dict[str, np.ndarray], *, shape=("batch", 4)) -> Path:
    """A model with an input x and an output y (rows,columns) in float32."""
    x, y = (helper.make_tensor_value_info(n, FLOAT, s) for n, s in (("x", shape), ("y", (None, None))))
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    made = [helper.make_node(op, i, o, **more) for op, i, o, more in nodes]
    graph = helper.make_graph(made, "g", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def node(op: str, inputs: str, output: str, **more) -> tuple:
    return op, inputs.split(), output.split(), more


def halved(path: Path) -> onnx.ModelProto | None:
    """What in_half makes of a file, its types proved by ONNX's own inference."""
    pieces = in_half(mapped(path))
    if pieces is None:
        return None
    proto = onnx.load_from_string(b"".join(pieces))
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def computes_in(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Operator -> the type of each of its nodes' (first) outputs."""
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.output)}
    found: dict[str, list[int]] = {}
    for each in proto.graph.node:
        found.setdefault(each.op_type, []).append(kinds[each.output[0]])
    return found


QUESTIONS = ("Is she smiling?", "What colour is her hair?")
SQUARE = np.eye(4, dtype=np.float32)


def test_products_are_half_and_what_sums_up_is_not(tmp_path: Path):
    path = write(
        tmp_path / "m.onnx",
        [
            node("Add", "x bias", "centred"),
            node("MatMul", "centred w", "a"),
            node("Erf", "a", "e"),
            node("Mul", "a e", "gelu"),
            node("MatMul", "gelu w", "b"),
            node("Add", "b bias", "c"),
            node("LayerNormalization", "c scale bias", "d"),
            node("MatMul", "d w", "scores"),
            node("Softmax", "scores", "p"),
            node("MatMul", "p w", "f"),
            node("Gemm", "f w", "logits"),
            node("Mul", "logits temperature", "y"),
        ],
        {"w": SQUARE, "bias": SQUARE[0], "scale": SQUARE[1], "temperature": np.float32(2)},
    )
    proto = halved(path)
    found = computes_in(proto)
    assert found["MatMul"] == [FLOAT16] * 4
    assert found["Erf"] == [FLOAT16]
    assert found["LayerNormalization"] == found["Softmax"] == [FLOAT]
    # The first follows the input, the second is between products.
    assert found["Add"] == [FLOAT, FLOAT16]
    # The last product and the calibration behind it.
    assert found["Gemm"] == [FLOAT]
    assert found["Mul"] == [FLOAT16, FLOAT]
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    assert kinds == {"w.fp16": FLOAT16, "w": FLOAT, "bias.fp16": FLOAT16, "bias": FLOAT, "scale": FLOAT} | {
        "temperature": FLOAT
    }
    assert [v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)] == [FLOAT, FLOAT]


@pytest.mark.parametrize("constant", [1e6, -70000.0, 1e-12, np.inf, np.nan])
def test_a_constant_that_does_not_fit_keeps_its_node_in_float32(tmp_path: Path, constant: float):
    """Too large it would be infinite, too small 0: an epsilon that keeps a division finite."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Max", "a limit", "b"),
        node("Relu", "b", "c"),
        node("MatMul", "c w", "d"),
        node("MatMul", "d w", "y"),
    ]
    weights = {"w": SQUARE, "limit": np.float32(constant)}
    found = computes_in(halved(write(tmp_path / "m.onnx", nodes, weights)))
    # What follows stays too, up to the next product.
    assert found["Max"] == found["Relu"] == [FLOAT]
    assert found["MatMul"] == [FLOAT16, FLOAT16, FLOAT]
    found = computes_in(halved(write(tmp_path / "fits.onnx", nodes, weights | {"limit": np.float32(6)})))
    assert found["Max"] == found["Relu"] == [FLOAT16]


def test_a_sum_beyond_half_stays_right(tmp_path: Path):
    """An area of 300 x 300 pixels is 90,000; half precision ends at 65,504."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("ReduceSum", "a", "area", keepdims=1),
        node("Div", "a area", "share"),
        node("MatMul", "share w", "y"),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"w": SQUARE})
    assert plans.with_half(path, tmp_path / "h.onnx")
    x = np.full((22500, 4), 1, np.float32)
    plain, half = (
        open_session(p, "cpu", threads=1, strict=True).run(None, {"x": x})[0] for p in (path, tmp_path / "h.onnx")
    )
    assert np.allclose(half, 1 / 90000, rtol=1e-3)
    assert np.allclose(plain, half, rtol=1e-3)


def test_coordinates_and_whole_numbers_keep_their_types(tmp_path: Path):
    nodes = [
        node("Conv", "x k", "a"),
        ("Resize", ["a", "", "scales"], ["b"], {"mode": "linear"}),
        node("Shape", "b", "size"),
        node("Slice", "size zero one zero", "n"),
        node("Concat", "n rest", "to", axis=0),
        node("Reshape", "b to", "c"),
        node("MatMul", "c w", "y"),
    ]
    weights = {
        "k": np.ones((2, 2, 1, 1), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "rest": np.array([32]),
        "w": np.ones((32, 4), np.float32),
    }
    proto = halved(write(tmp_path / "m.onnx", nodes, weights, shape=("batch", 2, 2, 2)))
    found = computes_in(proto)
    assert found["Conv"] == found["Resize"] == found["Reshape"] == [FLOAT16]
    assert found["Shape"] == found["Slice"] == found["Concat"] == [TensorProto.INT64]
    assert {t.name: t.data_type for t in proto.graph.initializer}["scales"] == FLOAT


def test_what_an_unknown_operator_makes_is_not_touched(tmp_path: Path):
    """Its type cannot be known: ConstantOfShape states it in an attribute."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("ConstantOfShape", "shape", "fill"),
        node("Concat", "fill a", "b", axis=0),
        node("MatMul", "b w", "c"),
        node("MatMul", "c w", "y"),
    ]
    found = computes_in(halved(write(tmp_path / "m.onnx", nodes, {"w": SQUARE, "shape": np.array([2, 4])})))
    assert found["Concat"] == [FLOAT]
    assert found["MatMul"] == [FLOAT16, FLOAT, FLOAT]


def test_graphs_that_chose_their_types_stay_as_they_are(tmp_path: Path):
    half = [node("Cast", "x", "a", to=FLOAT16), node("MatMul", "a w", "b"), node("MatMul", "b w", "c")]
    last = [node("Cast", "c", "d", to=FLOAT), node("MatMul", "d v", "y")]
    assert halved(write(tmp_path / "half.onnx", half + last, {"w": SQUARE.astype(np.float16), "v": SQUARE})) is None
    two = [node("MatMul", "x v", "a"), node("MatMul", "a w", "y")]
    eight = [node("DequantizeLinear", "q s", "w"), *two]
    weights = {"q": SQUARE.astype(np.int8), "s": np.float32(1), "v": SQUARE}
    assert halved(write(tmp_path / "eight.onnx", eight, weights)) is None
    # Of float32 throughout, its first product is half.
    assert halved(write(tmp_path / "float.onnx", two, {"v": SQUARE, "w": SQUARE})) is not None
    # An inner graph reads names of the outer one.
    found = helper.make_tensor_value_info("n", FLOAT, (None, 4))
    inner = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "inner", [], [found])
    branches = {"then_branch": inner, "else_branch": inner}
    nodes = [two[0], node("Cast", "s", "c", to=TensorProto.BOOL), node("If", "c", "b", **branches)]
    assert halved(write(tmp_path / "if.onnx", [*nodes, node("MatMul", "b v", "y")], weights)) is None
    one = [node("MatMul", "x w", "y")]
    assert halved(write(tmp_path / "one.onnx", one, {"w": SQUARE})) is None
    given = for_tensorrt(tmp_path / "one.onnx", tmp_path / "scratch.onnx", half=True)
    assert given == tmp_path / "one.onnx"


def test_weights_are_converted_one_at_a_time(tmp_path: Path):
    """On a board, copies of a vision encoder of a gigabyte are memory that is not there."""
    weights = {f"w{n}": np.ones((1024, 1024), np.float32) for n in range(32)}
    names = ["x", *(f"h{n}" for n in range(31)), "y"]
    nodes = [node("MatMul", f"{names[n]} w{n}", names[n + 1]) for n in range(32)]
    path = write(tmp_path / "m.onnx", nodes, weights, shape=("batch", 1024))
    tracemalloc.start()
    given = for_tensorrt(path, tmp_path / "scratch.onnx", half=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6
    assert path.stat().st_size > 128e6
    assert given.stat().st_size < 72e6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "scratch.onnx"]


def test_what_is_half_is_rounded(tmp_path: Path):
    """Else what follows would prove nothing: it is emulated on a CPU, and ONNX Runtime may drop conversions."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Add", "a small", "b"),
        node("Sub", "b one", "c"),
        node("MatMul", "c w", "d"),
        node("MatMul", "d w", "y"),
    ]
    weights = {"w": SQUARE, "small": np.float32(2**-12), "one": np.float32(1)}
    assert plans.with_half(write(tmp_path / "m.onnx", nodes, weights), tmp_path / "h.onnx")
    session = open_session(tmp_path / "h.onnx", "cpu", threads=1, strict=True)
    # 1 + 2^-12 is 1 in half precision; in float32 y is 2^-12.
    assert (session.run(None, {"x": np.ones((1, 4), np.float32)})[0] == 0).all()


@pytest.mark.parametrize("name", Bundle.open("nano").graph_files)
def test_nano_in_half_precision(tmp_path: Path, name: str):
    """Most products are half; the types fit; the outputs are close to float32's."""
    model = Bundle.open("nano").file(name)
    given = for_tensorrt(model, tmp_path / name, half=True)
    proto = onnx.load(given)
    onnx.checker.check_model(proto)
    halves = {t.name for t in proto.graph.initializer if t.data_type == FLOAT16}
    if name == "knowledge.onnx":  # rows of a table, which are outputs
        assert not halves
        return
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    found = computes_in(proto)
    products = [kind for op in PRODUCTS for kind in found.get(op, ())]
    assert products.count(FLOAT16) > 0.6 * len(products)
    assert set(found.get("LayerNormalization", [])) | set(found.get("Softmax", [])) <= {FLOAT}
    far = plans.half_deviation(model, tmp_path)
    assert 0 < far < FAR[name] < TOLERANCE


@pytest.mark.parametrize("share", [1, 4])
def test_a_vision_encoder_in_half_precision(tmp_path: Path, share: int):
    """Of float32, with all and with fewer tokens; one that was exported in fp16 stays as it is."""
    plans.write_tiny_vision(tmp_path / "vision.onnx", "fp32", share)
    assert 0 < plans.half_deviation(tmp_path / "vision.onnx", tmp_path) < 0.01
    plans.write_tiny_vision(tmp_path / "half.onnx", "fp16", share)
    assert in_half(mapped(tmp_path / "half.onnx")) is None


def test_a_photo_is_read_alike_in_half_precision(tmp_path: Path, monkeypatch, insight: FaceInsight, face: Face):
    """The whole way over all graphs: states, what is asked about, and the answer."""

    def in_half(self: Device, model: Path):
        if model.name == "detector.onnx":  # runs on the CPU
            return open_session(model, "cpu", threads=2, strict=True)
        assert plans.with_half(model, tmp_path / model.name) or model.name == "knowledge.onnx"
        return open_session(tmp_path / model.name, "cpu", threads=2, strict=True)

    monkeypatch.setattr(Device, "session", in_half)
    with FaceInsight.load("nano", device="cpu") as loaded:
        (found,) = loaded.perceive(PHOTO)
        answers = [(loaded.ask(found, q).text, insight.ask(face, q).text) for q in QUESTIONS]
    assert len(list(tmp_path.glob("*.onnx"))) == len(FAR) + 1
    assert [half for half, _ in answers] == [single for _, single in answers]
    pairs = list(zip(face.labels, found.labels, strict=True))
    assert [half.state for _, half in pairs] == [single.state for single, _ in pairs]
    moved = [abs(a.probability - b.probability) for a, b in pairs if a.probability is not None]
    # It was another computation.
    assert 0 < max(moved) < 0.01
