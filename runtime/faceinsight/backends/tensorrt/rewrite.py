"""An ONNX model as TensorRT wants it; what it computes stays the same. Works on the bytes, without the onnx package.

- Weights that are only stored in half precision, or as int8 with scales, become float32 constants again, as ONNX
  Runtime makes them when it loads: a convolution's weights should be constants.
- Bytes (uint8) only come in and go out, and are converted from and to float32 there: TensorRT has no operators on them.

Checked with the parser of TensorRT-RTX 1.7 behind TensorRT 11.4's bindings: it takes all graphs of nano so, and without
this refuses the encoder ("unsupported input type of UINT8"). That needs no GPU; a plan was not built.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...bundle.onnx_header import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_VALUE,
    INT8,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP,
    NODE_OUTPUT,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    UINT8,
    Narrow,
    Node,
    Value,
    fields,
    graph_parts,
    narrow_weights,
    read_node,
    read_tensor,
    read_value,
    spans,
    text,
)

#: Counts up when the rewriting changes: plans of the one before are built again.
REWRITE = 3
#: onnx.AttributeProto: field numbers, and the type of a whole number.
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE, _INT = 1, 3, 20, 2
#: numpy's names of what weights and their scales are stored in.
_DTYPES = {FLOAT: "<f4", INT8: "<i1", FLOAT16: "<f2"}


def for_tensorrt(data: bytes) -> bytes:
    """The rewritten model. Raises ValueError if it is none."""
    whole = memoryview(data)
    parts = graph_parts(whole)
    graph = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
    nodes = [(value, read_node(value)) for number, value in fields(graph) if number == GRAPH_NODE]
    tensors = _tensors(graph)
    narrow = narrow_weights([n for _, n in nodes], {name: tensor for name, (tensor, _) in tensors.items()})
    folded = {name for n in narrow for name in n.made}
    used = {name for _, n in nodes if n.outputs[0] not in folded for name in n.inputs}
    unused = {name for n in narrow for name in (n.stored, n.scale)} - used
    inputs = [read_value(value) for number, value in fields(graph) if number == GRAPH_INPUT]
    as_float = {v.name: f"{v.name}.float" for v in inputs if v.kind == UINT8}
    # Constants and conversions of inputs stand before the nodes that read them.
    out = [_delimited(GRAPH_NODE, _cast(name, new, FLOAT)) for name, new in as_float.items()]
    out += [_delimited(GRAPH_INITIALIZER, _as_float(n, tensors)) for n in narrow]
    for number, begin, content, end in spans(graph):
        value = graph[content[0] : content[1]] if isinstance(content, tuple) else memoryview(b"")
        if number == GRAPH_NODE:
            node = read_node(value)
            if node.outputs[0] not in folded:
                out += [_delimited(GRAPH_NODE, n) for n in _rewritten(value, node, as_float)]
        elif number == GRAPH_VALUE:
            continue  # what was stated of tensors in between may no longer hold
        elif number != GRAPH_INITIALIZER or read_tensor(value)[0].name not in unused:
            out.append(bytes(graph[begin:end]))
    return _replaced(whole, b"".join(out))


def _tensors(graph: memoryview) -> dict[str, tuple[Value, memoryview | None]]:
    """The initialisers by name: outline and raw data."""
    tensors = (read_tensor(value) for number, value in fields(graph) if number == GRAPH_INITIALIZER)
    return {tensor.name: (tensor, raw) for tensor, raw in tensors}


def _rewritten(value: memoryview, node: Node, as_float: dict[str, str]) -> list[bytes]:
    """A node that reads converted inputs; one that makes bytes makes them of float32."""
    if node.op == "Cast" and _cast_to(value) == UINT8:
        source, target = as_float.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        return [_cast(source, f"{target}.float", FLOAT), _cast(f"{target}.float", target, UINT8)]
    if not set(as_float) & set(node.inputs):
        return [bytes(value)]
    out = bytearray()
    for number, begin, content, end in spans(value):
        if number == NODE_INPUT and isinstance(content, tuple):
            name = text(value[content[0] : content[1]])
            out += _delimited(NODE_INPUT, as_float.get(name, name).encode())
        else:
            out += value[begin:end]
    return [bytes(out)]


def _cast_to(node: memoryview) -> int | None:
    for attribute in (v for number, v in fields(node) if number == NODE_ATTRIBUTE):
        named = any(number == _ATTRIBUTE_NAME and text(v) == "to" for number, v in fields(attribute))
        values = [c for number, _, c, _ in spans(attribute) if number == _ATTRIBUTE_INT and isinstance(c, int)]
        if named and values:
            return values[0]
    return None


def _cast(source: str, target: str, kind: int) -> bytes:
    to = _delimited(_ATTRIBUTE_NAME, b"to") + _whole(_ATTRIBUTE_INT, kind) + _whole(_ATTRIBUTE_TYPE, _INT)
    ends = _delimited(NODE_INPUT, source.encode()) + _delimited(NODE_OUTPUT, target.encode())
    return ends + _delimited(NODE_OP, b"Cast") + _delimited(NODE_ATTRIBUTE, to)


def _as_float(weight: Narrow, tensors: dict[str, tuple[Value, memoryview | None]]) -> bytes:
    """TensorProto of the weight in float32."""
    value = _array(*tensors[weight.stored])
    if weight.scale is not None:
        value = value * _array(*tensors[weight.scale])
    dims = b"".join(_whole(TENSOR_DIMS, d) for d in value.shape)
    kind = _whole(TENSOR_TYPE, FLOAT)
    return dims + kind + _delimited(TENSOR_NAME, weight.name.encode()) + _delimited(TENSOR_RAW, value.tobytes())


def _array(tensor: Value, raw: memoryview | None) -> NDArray[np.float32]:
    if raw is None:
        raise ValueError(f"weight {tensor.name!r} is not stored as raw data")
    return np.frombuffer(raw, _DTYPES[tensor.kind]).astype("<f4").reshape([int(d) for d in tensor.shape])


def _replaced(whole: memoryview, graph: bytes) -> bytes:
    """The model with this graph in place of its own."""
    rest = [bytes(whole[begin:end]) for number, begin, _, end in spans(whole) if number != MODEL_GRAPH]
    return b"".join([*rest, _delimited(MODEL_GRAPH, graph)])


def _delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _whole(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
