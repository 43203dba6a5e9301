"""What an ONNX file says of itself: inputs, weights, nodes and shapes, read without the onnx package.

A reader of the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) for the few fields of
onnx.proto that are needed. Weights are not copied: a file of gigabytes is mapped, and only its headers are touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import BundleError

FLOAT, FLOAT16 = 1, 10
#: Bits of an element, by onnx.TensorProto.DataType.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8,
        19: 8, 20: 8, 21: 4, 22: 4, 23: 4}  # fmt: skip

#: Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP = 1, 2, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: its name, element type (onnx.TensorProto.DataType) and shape; a free axis by its name."""

    name: str
    kind: int
    shape: tuple[int | str, ...]

    def bytes(self, axes: dict[str, int]) -> int:
        """Size with these lengths of the free axes ("2*batch" is worked out; an axis that is not known is 1)."""
        count = math.prod(d if isinstance(d, int) else _length(d, axes) for d in self.shape)
        return count * BITS.get(self.kind, 32) // 8


@dataclass(frozen=True, slots=True)
class Node:
    """One operator."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A graph's outline. `values`: all tensors whose shape the file states, weights left out."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: dict[str, Value]
    values: dict[str, Value]
    nodes: tuple[Node, ...]

    @classmethod
    def read(cls, path: Path) -> OnnxFile:
        """Raises BundleError if the file is no ONNX model, or ends early."""
        try:
            return cls._parse(memoryview(np.memmap(path, np.uint8, "r")))  # type: ignore[arg-type]
        except (ValueError, IndexError, OSError) as e:
            raise BundleError(f"{path} is not an ONNX model that can be read: {e}") from e

    @classmethod
    def _parse(cls, data: memoryview) -> OnnxFile:
        weights: dict[str, Value] = {}
        nodes: list[Node] = []
        lists: dict[int, list[Value]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: [], _GRAPH_VALUE: []}
        for number, _, value in _fields(_graph(data)[1]):
            if number == _GRAPH_INITIALIZER:
                tensor = _tensor(value)[0]
                weights[tensor.name] = tensor
            elif number == _GRAPH_NODE:
                nodes.append(_node(value))
            elif number in lists:
                lists[number].append(_value_info(value))
        values = {v.name: v for group in lists.values() for v in group if v.name not in weights}
        inputs = tuple(v for v in lists[_GRAPH_INPUT] if v.name not in weights)
        return cls(inputs, tuple(lists[_GRAPH_OUTPUT]), weights, values, tuple(nodes))

    def casts(self) -> dict[str, str]:
        """Weights that are only stored in half precision: name after the cast -> name in the file."""
        return {
            n.outputs[0]: n.inputs[0]
            for n in self.nodes
            if n.op == "Cast" and n.inputs[0] in self.weights and self.weights[n.inputs[0]].kind == FLOAT16
        }


def fold_half(data: bytes) -> bytes:
    """An ONNX model whose half-stored weights are float32 again, their casts gone.

    ONNX Runtime does this when it loads; TensorRT wants a convolution's weights to be constants.
    """
    whole = memoryview(data)
    start, graph = _graph(whole)
    halves: dict[str, memoryview] = {}
    for number, _, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            tensor, _ = _tensor(value)
            if tensor.kind == FLOAT16:
                halves[tensor.name] = value
    nodes = [(value, _node(value)) for number, _, value in _fields(graph) if number == _GRAPH_NODE]
    folded = {n.outputs[0]: n.inputs[0] for _, n in nodes if n.op == "Cast" and n.inputs[0] in halves}
    used = {name for _, n in nodes if n.outputs[0] not in folded for name in n.inputs}
    out = bytearray()
    for number, at, value in _fields(graph):
        if number == _GRAPH_NODE and _node(value).outputs[0] in folded:
            continue
        if number == _GRAPH_INITIALIZER and _tensor(value)[0].name in set(folded.values()) - used:
            continue
        out += graph[at : _end(graph, at)]
    for name, half in folded.items():
        out += _delimited(_GRAPH_INITIALIZER, _as_float(halves[half], name))
    return data[:start] + _delimited(_MODEL_GRAPH, bytes(out)) + data[_end(whole, start) :]


def _as_float(half: memoryview, name: str) -> bytes:
    tensor, raw = _tensor(half)
    if raw is None:
        raise ValueError(f"weight {tensor.name!r} is not stored as raw data")
    value = np.frombuffer(raw, "<f2").astype("<f4")
    dims = b"".join(_varint(_TENSOR_DIMS << 3) + _varint(int(d)) for d in tensor.shape)
    kind = _varint(_TENSOR_TYPE << 3) + _varint(FLOAT)
    return dims + kind + _delimited(_TENSOR_NAME, name.encode()) + _delimited(_TENSOR_RAW, value.tobytes())


def _delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number has more than 64 bits")


def _spans(data: memoryview, at: int = 0) -> Iterator[tuple[int, int, int | tuple[int, int], int]]:
    """Field number, where it starts, its number or (start, end) of its bytes, where it ends."""
    while at < len(data):
        begin = at
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        content: int | tuple[int, int]
        if kind == 0:
            content, at = _read_varint(data, at)
        elif kind in (1, 5):
            content, at = (at, at + (8 if kind == 1 else 4)), at + (8 if kind == 1 else 4)
        elif kind == 2:
            size, at = _read_varint(data, at)
            content, at = (at, at + size), at + size
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if at > len(data):
            raise ValueError(f"field {number} ends {at - len(data):,} bytes past the end")
        yield number, begin, content, at


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The length-delimited fields: number, where it starts, its bytes."""
    for number, begin, content, _ in _spans(data):
        if isinstance(content, tuple):
            yield number, begin, data[content[0] : content[1]]


def _end(data: memoryview, at: int) -> int:
    """Where the field that starts at `at` ends."""
    return next(_spans(data, at))[3]


def _graph(data: memoryview) -> tuple[int, memoryview]:
    found = next(((at, v) for n, at, v in _fields(data) if n == _MODEL_GRAPH), None)
    if found is None:
        raise ValueError("it holds no graph")
    return found


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _node(data: memoryview) -> Node:
    fields = list(_fields(data))
    inputs = tuple(_text(v) for n, _, v in fields if n == _NODE_INPUT)
    outputs = tuple(_text(v) for n, _, v in fields if n == _NODE_OUTPUT)
    return Node(next((_text(v) for n, _, v in fields if n == _NODE_OP), ""), inputs, outputs)


def _tensor(data: memoryview) -> tuple[Value, memoryview | None]:
    """A weight's outline, and its raw data."""
    dims: list[int | str] = []
    kind, name, raw = 0, "", None
    for number, _, content, _ in _spans(data):
        if isinstance(content, int):
            if number == _TENSOR_DIMS:
                dims.append(content)
            elif number == _TENSOR_TYPE:
                kind = content
            continue
        part = data[content[0] : content[1]]
        if number == _TENSOR_DIMS:
            at = 0
            while at < len(part):
                size, at = _read_varint(part, at)
                dims.append(size)
        elif number == _TENSOR_NAME:
            name = _text(part)
        elif number == _TENSOR_RAW:
            raw = part
    return Value(name, kind, tuple(dims)), raw


def _value_info(data: memoryview) -> Value:
    name, kind = "", 0
    shape: list[int | str] = []
    for number, _, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for tensor_type in (v for n, _, v in _fields(value) if n == 1):
                kind = next((c for n, _, c, _ in _spans(tensor_type) if n == 1 and isinstance(c, int)), 0)
                for dims in (v for n, _, v in _fields(tensor_type) if n == 2):
                    shape = [_dimension(d) for n, _, d in _fields(dims) if n == 1]
    return Value(name, kind, tuple(shape))


def _dimension(data: memoryview) -> int | str:
    for number, _, content, _ in _spans(data):
        if number == 1 and isinstance(content, int):
            return content
        if number == 2 and isinstance(content, tuple):
            return _text(data[content[0] : content[1]])
    return "?"


def _length(axis: str, axes: dict[str, int]) -> int:
    factors = [f.strip() for f in axis.split("*")]
    return math.prod(int(f) if f.isdigit() else axes.get(f, 1) for f in factors)
