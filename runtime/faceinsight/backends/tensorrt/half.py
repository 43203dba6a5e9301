"""An ONNX model of float32 that computes in half precision where that is safe.

TensorRT's strongly typed networks compute in the types that the graph states; TensorRT 11 has no other kind.

Products take half precision, and what lies between two of them goes on in it. What sums up, exponentiates or normalises
stays in float32, and so does what follows it up to the next product: sums may be beyond half's 65504. From the last
product before an output on (logits, their calibration, a label map's argmax) all is float32. Inputs and outputs keep
their types.

Not run on hardware; the rounding is emulated on the CPU (tests/runtime/backends/test_half.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...bundle.onnx_header import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_VALUE,
    MODEL_GRAPH,
    Node,
    Value,
    fields,
    graph_parts,
    read_node,
    read_tensor,
    read_value,
    spans,
)
from .onnx_writer import cast, cast_to, graph_field, renamed, tensor_proto

PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
#: Goes on in half precision.
BETWEEN = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Where"),
        *("Relu", "LeakyRelu", "PRelu", "Clip", "Erf", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
        *("AveragePool", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Resize"),
        *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    )
)
#: Stays in float32, and gives the type that its first input has. An operator in none of these lists stays too; what
#: reads its output does then, as its type is not known.
SINGLE = frozenset(
    (
        *("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
        *("BatchNormalization", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1"),
        *("ReduceL2", "ReduceProd", "ReduceLogSumExp", "CumSum", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Abs"),
    )
)
#: A tensor in half precision has its name and this.
HALF = ".fp16"
_MAY = PRODUCTS | BETWEEN
_INT64, _BOOL = 7, 9
_MAKES = dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero"), _INT64) | dict.fromkeys(
    ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"), _BOOL
)
#: A graph with one of these stays as it is: 8 bits are chosen with care, and inner graphs read names of the outer one.
_FOREIGN = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Scan"))
#: Of half precision; what is smaller than the smallest loses digits.
_SMALLEST, _LARGEST = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)

_Nodes = Sequence[tuple[memoryview, Node]]
_Weights = Mapping[str, tuple[Value, memoryview | None]]


def in_half(data: memoryview) -> Iterator[bytes | memoryview] | None:
    """The model in half precision, in pieces; weights are converted one at a time.

    None where it stays as it is: it has types of its own (half precision, 8 bits), or nothing in it may be half.

    Raises:
        ValueError: it is no ONNX model.
    """
    graph = [field for part in graph_parts(data) for field in fields(part)]
    nodes = [(value, read_node(value)) for number, value in graph if number == GRAPH_NODE]
    weights = {w.name: (w, raw) for w, raw in (read_tensor(v) for n, v in graph if n == GRAPH_INITIALIZER)}
    if any(n.op in _FOREIGN for _, n in nodes) or any(w.kind == FLOAT16 for w, _ in weights.values()):
        return None
    inputs = [read_value(value) for number, value in graph if number == GRAPH_INPUT]
    outputs = {read_value(value).name for number, value in graph if number == GRAPH_OUTPUT}
    chosen = _chosen(nodes, weights, inputs, outputs)
    return _pieces(data, graph, nodes, weights, chosen) if chosen else None


def _chosen(nodes: _Nodes, weights: _Weights, inputs: Sequence[Value], outputs: set[str]) -> dict[int, tuple[str, ...]]:
    """Which nodes compute in half precision, by their place: those of their inputs that become half."""
    kinds = {v.name: v.kind for v in inputs} | {name: weight.kind for name, (weight, _) in weights.items()}
    single = {v.name for v in inputs} - weights.keys()
    last = _last(nodes, outputs)
    chosen: dict[int, tuple[str, ...]] = {}
    for place, (value, node) in enumerate(nodes):
        kind = _kind(value, node, kinds)
        kinds |= dict.fromkeys(node.outputs, kind)
        # Of Resize the other inputs are coordinates, which are float32 by its definition.
        data = node.inputs[:1] if node.op == "Resize" else node.inputs
        real = tuple(name for name in data if kinds.get(name) == FLOAT)
        may = kind == FLOAT and place not in last and node.op in _MAY
        known = all(kinds.get(name) for name in node.inputs if name)
        if may and known and (node.op in PRODUCTS or not single & set(real)) and _fit(real, weights):
            chosen[place] = real
        else:
            single |= set(node.outputs)
    return chosen


def _last(nodes: _Nodes, outputs: set[str]) -> set[int]:
    """Places of the nodes from the last products on."""
    wanted, last = set(outputs), set()
    for place in reversed(range(len(nodes))):
        node = nodes[place][1]
        if wanted & set(node.outputs):
            last.add(place)
            if node.op not in PRODUCTS:
                wanted |= set(node.inputs)
    return last


def _kind(value: memoryview, node: Node, kinds: Mapping[str, int]) -> int:
    """Type of a node's outputs (onnx.TensorProto.DataType); 0: not known."""
    if node.op == "Cast":
        return cast_to(value) or 0
    if node.op in _MAKES:
        return _MAKES[node.op]
    # MaxPool's and BatchNormalization's further outputs are of other types.
    if node.op in _MAY | SINGLE and (len(node.outputs) == 1 or node.op == "Split"):
        return kinds.get(node.inputs[1 if node.op == "Where" else 0], 0)
    return 0


def _fit(names: Sequence[str], weights: _Weights) -> bool:
    """Do constants fit into half precision? Not what is too large, and not what would vanish as a whole: an epsilon."""
    for raw in (weights[name][1] for name in names if name in weights):
        if raw is None:
            return False
        values = np.frombuffer(raw, "<f4")
        largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
        if largest and not _SMALLEST <= largest <= _LARGEST:
            return False
    return True


def _pieces(
    data: memoryview,
    graph: Sequence[tuple[int, memoryview]],
    nodes: _Nodes,
    weights: _Weights,
    chosen: Mapping[int, tuple[str, ...]],
) -> Iterator[bytes | memoryview]:
    yield from (data[begin:end] for number, begin, _, end in spans(data) if number != MODEL_GRAPH)
    as_half = {name for names in chosen.values() for name in names}
    as_single = {name for place, (_, n) in enumerate(nodes) for name in n.inputs if name not in chosen.get(place, ())}
    for number, value in graph:
        name = read_tensor(value)[0].name if number == GRAPH_INITIALIZER else ""
        if name in as_half:
            yield from graph_field(number, _narrowed(*weights[name]))
        # What was stated of tensors in between (GRAPH_VALUE) no longer holds.
        if number not in (GRAPH_NODE, GRAPH_VALUE) and (name not in as_half or name in as_single):
            yield from graph_field(number, value)
    there = {name for place in chosen for name in nodes[place][1].outputs}
    halves, singles = there | (weights.keys() & as_half), set(weights)
    for place, (value, node) in enumerate(nodes):
        for name in dict.fromkeys(filter(None, node.inputs)):
            if name in chosen.get(place, ()) and name not in halves:
                yield from graph_field(GRAPH_NODE, cast(name, _half(name), FLOAT16))
                halves.add(name)
            elif name not in chosen.get(place, ()) and name in there and name not in singles:
                yield from graph_field(GRAPH_NODE, cast(_half(name), name, FLOAT))
                singles.add(name)
        names = {name: _half(name) for name in (*chosen[place], *node.outputs)} if place in chosen else {}
        yield from graph_field(GRAPH_NODE, renamed(value, names) if names else value)


def _half(name: str) -> str:
    return f"{name}{HALF}"


def _narrowed(weight: Value, raw: memoryview | None) -> bytes:
    values = np.frombuffer(raw or b"", "<f4").astype("<f2")
    return tensor_proto(_half(weight.name), FLOAT16, values.reshape([int(d) for d in weight.shape]))
