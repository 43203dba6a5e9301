"""Pieces of an ONNX file in the protobuf wire format, written without the onnx package (see bundle.onnx_header)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ...bundle.onnx_header import (
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP,
    NODE_OUTPUT,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    fields,
    spans,
    text,
)

#: onnx.AttributeProto: field numbers, and the type of a whole number.
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE, _INT = 1, 3, 20, 2


def graph_field(number: int, value: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """A model's graph of one field: protobuf joins a message that comes in parts. The value is not copied."""
    head = _varint(number << 3 | 2) + _varint(len(value))
    return _varint(MODEL_GRAPH << 3 | 2) + _varint(len(head) + len(value)) + head, value


def cast(source: str, target: str, kind: int) -> bytes:
    """NodeProto of a Cast. kind: onnx.TensorProto.DataType."""
    to = _delimited(_ATTRIBUTE_NAME, b"to") + _whole(_ATTRIBUTE_INT, kind) + _whole(_ATTRIBUTE_TYPE, _INT)
    ends = _delimited(NODE_INPUT, source.encode()) + _delimited(NODE_OUTPUT, target.encode())
    return ends + _delimited(NODE_OP, b"Cast") + _delimited(NODE_ATTRIBUTE, to)


def cast_to(node: memoryview) -> int | None:
    """What a Cast makes (onnx.TensorProto.DataType)."""
    for attribute in (v for number, v in fields(node) if number == NODE_ATTRIBUTE):
        named = any(number == _ATTRIBUTE_NAME and text(v) == "to" for number, v in fields(attribute))
        values = [c for number, _, c, _ in spans(attribute) if number == _ATTRIBUTE_INT and isinstance(c, int)]
        if named and values:
            return values[0]
    return None


def renamed(node: memoryview, names: Mapping[str, str]) -> bytes:
    """The node with other names of its inputs and outputs."""
    out = bytearray()
    for number, begin, content, end in spans(node):
        if number in (NODE_INPUT, NODE_OUTPUT) and isinstance(content, tuple):
            name = text(node[content[0] : content[1]])
            out += _delimited(number, names.get(name, name).encode())
        else:
            out += node[begin:end]
    return bytes(out)


def tensor_proto(name: str, kind: int, value: NDArray[Any]) -> bytes:
    """TensorProto of raw data. kind: onnx.TensorProto.DataType of value's dtype, which is little-endian."""
    dims = b"".join(_whole(TENSOR_DIMS, d) for d in value.shape)
    head = dims + _whole(TENSOR_TYPE, kind) + _delimited(TENSOR_NAME, name.encode())
    return head + _delimited(TENSOR_RAW, value.tobytes())


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
