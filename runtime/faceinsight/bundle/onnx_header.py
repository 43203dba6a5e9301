"""What an ONNX file says of itself: inputs, weights, nodes and shapes, read without the onnx package.

A reader of the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) for the few fields of
onnx.proto that are needed. Weights are not copied: a file of gigabytes is mapped, and only its headers are touched.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BundleError

FLOAT, UINT8, INT8, FLOAT16 = 1, 2, 3, 10
#: Bits of an element, by onnx.TensorProto.DataType.
BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
}

#: Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE = 1, 5, 11, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE = 1, 2, 4, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: its name, element type (onnx.TensorProto.DataType) and shape; a dynamic axis by its name."""

    name: str
    kind: int
    shape: tuple[int | str, ...]

    def bytes(self, axes: dict[str, int]) -> int:
        """Size with these lengths of the dynamic axes ("2*batch" is worked out; an axis that is not known is 1)."""
        count = math.prod(d if isinstance(d, int) else _length(d, axes) for d in self.shape)
        return count * BITS.get(self.kind, 32) // 8


@dataclass(frozen=True, slots=True)
class Node:
    """One operator."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Narrow:
    """A float32 weight that is only stored in fewer bits, in half precision or as int8 with scales.

    Attributes:
        name: as the other nodes read it.
        stored: the initialiser.
        made: outputs of the nodes that widen it: a Cast; of int8 a Cast and a Mul.
        scale: the initialiser that int8 is multiplied by.
    """

    name: str
    stored: str
    made: tuple[str, ...]
    scale: str | None = None


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """A graph's outline. `values`: all tensors whose shape the file states, weights left out."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weights: dict[str, Value]
    values: dict[str, Value]
    nodes: tuple[Node, ...]

    @classmethod
    def read(cls, path: Path) -> OnnxHeader:
        """Raises BundleError if the file is no ONNX model, or ends early."""
        try:
            return cls._parse(memoryview(np.memmap(path, np.uint8, "r")))  # type: ignore[arg-type]
        except (ValueError, IndexError, OSError) as e:
            raise BundleError(f"{path} is not an ONNX model that can be read: {e}") from e

    @classmethod
    def _parse(cls, data: memoryview) -> OnnxHeader:
        weights: dict[str, Value] = {}
        nodes: list[Node] = []
        lists: dict[int, list[Value]] = {GRAPH_INPUT: [], GRAPH_OUTPUT: [], GRAPH_VALUE: []}
        for number, value in (field for part in graph_parts(data) for field in fields(part)):
            if number == GRAPH_INITIALIZER:
                tensor = read_tensor(value)[0]
                weights[tensor.name] = tensor
            elif number == GRAPH_NODE:
                nodes.append(read_node(value))
            elif number in lists:
                lists[number].append(read_value(value))
        values = {v.name: v for group in lists.values() for v in group if v.name not in weights}
        inputs = tuple(v for v in lists[GRAPH_INPUT] if v.name not in weights)
        return cls(inputs, tuple(lists[GRAPH_OUTPUT]), weights, values, tuple(nodes))

    def narrow(self) -> list[Narrow]:
        """Weights that are only stored in fewer bits."""
        return narrow_weights(self.nodes, self.weights)


def narrow_weights(nodes: Sequence[Node], weights: Mapping[str, Value]) -> list[Narrow]:
    """The weights of a graph that are widened to float32 before anything reads them. weights: its initialisers."""
    kinds = {name: weight.kind for name, weight in weights.items()}
    casts = {n.outputs[0]: n.inputs[0] for n in nodes if n.op == "Cast" and kinds.get(n.inputs[0]) in (FLOAT16, INT8)}
    uses = Counter(name for n in nodes for name in n.inputs)
    out = [Narrow(name, stored, (name,)) for name, stored in casts.items() if kinds[stored] == FLOAT16]
    for node in nodes:
        if node.op != "Mul":
            continue
        for weight, scale in (node.inputs, node.inputs[::-1]):
            # What is cast for other readers too is more than a weight on its way.
            if weight in casts and kinds[casts[weight]] == INT8 and kinds.get(scale) == FLOAT and uses[weight] == 1:
                out.append(Narrow(node.outputs[0], casts[weight], (weight, node.outputs[0]), scale))
    return out


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


def spans(data: memoryview) -> Iterator[tuple[int, int, int | tuple[int, int], int]]:
    """Field number, where it starts, its number or (start, end) of its bytes, where it ends."""
    at = 0
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


def fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields that hold bytes: number, bytes."""
    for number, _, content, _ in spans(data):
        if isinstance(content, tuple):
            yield number, data[content[0] : content[1]]


def graph_parts(data: memoryview) -> list[memoryview]:
    """A model's graph. It may come in parts, as files that were written weight by weight have it: a message that is
    found twice is merged, and its lists are joined. Raises ValueError if there is none."""
    parts = [value for number, value in fields(data) if number == MODEL_GRAPH]
    if not parts:
        raise ValueError("it holds no graph")
    return parts


def text(value: memoryview) -> str:
    """A name."""
    return bytes(value).decode("utf-8", "replace")


def read_node(data: memoryview) -> Node:
    """NodeProto."""
    names: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_OP: []}
    for number, value in fields(data):
        if number in names:
            names[number].append(text(value))
    return Node("".join(names[NODE_OP]), tuple(names[NODE_INPUT]), tuple(names[NODE_OUTPUT]))


def read_tensor(data: memoryview) -> tuple[Value, memoryview | None]:
    """TensorProto: a weight's outline, and its raw data."""
    dims: list[int | str] = []
    kind, name, raw = 0, "", None
    for number, _, content, _ in spans(data):
        if isinstance(content, int):
            if number == TENSOR_DIMS:
                dims.append(content)
            elif number == TENSOR_TYPE:
                kind = content
            continue
        part = data[content[0] : content[1]]
        if number == TENSOR_DIMS:
            at = 0
            while at < len(part):
                size, at = _read_varint(part, at)
                dims.append(size)
        elif number == TENSOR_NAME:
            name = text(part)
        elif number == TENSOR_RAW:
            raw = part
    return Value(name, kind, tuple(dims)), raw


def read_value(data: memoryview) -> Value:
    """ValueInfoProto."""
    name, kind = "", 0
    shape: list[int | str] = []
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 2:
            for tensor_type in (v for n, v in fields(value) if n == 1):
                kind = next((c for n, _, c, _ in spans(tensor_type) if n == 1 and isinstance(c, int)), 0)
                for dims in (v for n, v in fields(tensor_type) if n == 2):
                    shape = [_dimension(d) for n, d in fields(dims) if n == 1]
    return Value(name, kind, tuple(shape))


def _dimension(data: memoryview) -> int | str:
    for number, _, content, _ in spans(data):
        if number == 1 and isinstance(content, int):
            return content
        if number == 2 and isinstance(content, tuple):
            return text(data[content[0] : content[1]])
    return "?"


def _length(axis: str, axes: dict[str, int]) -> int:
    factors = [f.strip() for f in axis.split("*")]
    return math.prod(int(f) if f.isdigit() else axes.get(f, 1) for f in factors)
