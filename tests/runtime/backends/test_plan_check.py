"""What a new plan is accepted by: TF32 passes, a graph that computes something else does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

plans = pytest.importorskip("plans", reason="needs torch, transformers and onnx")

from onnx import numpy_helper

from faceinsight.backends.ort import open_session
from faceinsight.backends.plan_check import deviation, difference
from faceinsight.backends.tensorrt.engines import TOLERANCE, key_of
from faceinsight.backends.tensorrt.shapes import shapes_to_compare
from faceinsight.backends.tensorrt.target import EngineTarget
from faceinsight.bundle.bundle import Bundle

NOWHERE = EngineTarget("10.3.0", 0, "none", 0, 0, 0, 0, integrated=False)


def test_a_difference_is_relative_and_what_is_not_finite_is_infinite():
    ones = np.ones((3, 4), np.float32)
    assert difference(ones, ones) == 0
    assert difference(ones, 1.01 * ones) == pytest.approx(0.01, rel=1e-3)
    assert difference(1000 * ones, 1010 * ones) == pytest.approx(0.01, rel=1e-3)
    assert difference(ones, ones * np.nan) == difference(ones, ones[:2]) == float("inf")


def test_of_whole_numbers_the_commonest_one_does_not_count():
    """A label map that is all background is no label map that is right."""
    expected = np.zeros(1000, np.uint8)
    expected[:4] = 1
    found = expected.copy()
    assert difference(expected, found) == 0
    found[3] = 0
    assert difference(expected, found) == 0.25
    assert difference(expected, np.zeros_like(expected)) == 1
    assert difference(np.zeros_like(expected), expected) == 1
    assert difference(np.zeros_like(expected), np.zeros_like(expected)) == 0


def test_the_inputs_are_larger_than_one_where_they_may_be():
    bundle = Bundle.open("nano")
    shapes = {n: shapes_to_compare(key_of(bundle.file(n), NOWHERE).profile) for n in bundle.graph_files}
    assert shapes["encoder.onnx"] == {
        "pixels": (2, 3, 128, 128),
        "label_map": (2, 256, 256),
        "characteristics": (65,),
    }


@pytest.mark.parametrize("name", Bundle.open("nano").graph_files)
def test_tf32_is_accepted(tmp_path: Path, name: str):
    """TensorRT's default: products of operands with 10 bits."""
    found = plans.tf32_deviation(Bundle.open("nano").file(name), tmp_path)
    assert found is None or 0 < found < TOLERANCE / 4
    assert (found is None) == (name == "knowledge.onnx")  # a table


def test_tf32_rounds_to_ten_bits(tmp_path: Path):
    """x * 1 gives x rounded: 1 + 2^-11 is halfway between 1 and 1 + 2^-10."""
    x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", 1]) for n in "xy")
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "one"], ["y"])], "g", [x], [y], [one])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a"
    )
    assert plans.with_tf32(tmp_path / "a", tmp_path / "b")
    given = np.array([[1], [1 + 2**-10], [1 + 2**-12], [1 + 3 * 2**-12], [1e30]], np.float32)
    (found,) = open_session(tmp_path / "b", "cpu", threads=1, strict=True).run(None, {"x": given})
    assert np.array_equal(found[:4, 0], np.array([1, 1 + 2**-10, 1, 1 + 2**-10], np.float32))
    assert found[4, 0] == pytest.approx(1e30, rel=2**-11)


@pytest.mark.parametrize("name", ["encoder.onnx", "parser.onnx", "question.onnx", "closeup.onnx"])
def test_one_layer_that_computes_nothing_is_refused(tmp_path: Path, name: str):
    """The largest weight of a graph is zero."""
    model = Bundle.open("nano").file(name)
    proto = onnx.load(model)
    largest = max(proto.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    largest.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(largest)), largest.name))
    onnx.save(proto, tmp_path / name)
    session = open_session(tmp_path / name, "cpu", threads=2, strict=True)
    assert deviation(model, session, shapes_to_compare(key_of(model, NOWHERE).profile)) > TOLERANCE
