"""An ONNX model as TensorRT wants it; what it computes stays the same. Works on the bytes, without the onnx package.

- Weights that are only stored in half precision, or as int8 with scales, become float32 constants again, as ONNX
  Runtime makes them when it loads: a convolution's weights should be constants.
- Bytes (uint8) only come in and go out, and are converted from and to float32 there: TensorRT has no operators on them.

Checked with TensorRT-RTX 1.7 behind TensorRT 11.4's bindings (tests/runtime/backends/test_nvidia.py): it builds plans
of all graphs of nano so, and without this refuses the encoder ("unsupported input type of UINT8").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
)
from .half import in_half
from .onnx_writer import cast, cast_to, graph_field, renamed, tensor_proto

#: Counts up when the rewriting changes: plans of the one before are built again.
REWRITE = 3
#: numpy's names of what weights and their scales are stored in.
_DTYPES = {FLOAT: "<f4", INT8: "<i1", FLOAT16: "<f2"}


def for_tensorrt(model: Path, scratch: Path, *, half: bool = False) -> Path:
    """The file that TensorRT is given. No weights are read into memory but those that are rewritten.

    Args:
        model: an ONNX file.
        scratch: written where something is rewritten; it must not exist.
        half: compute in half precision where that is safe (see half).

    Returns:
        `model` where TensorRT can take it as it is, else `scratch`.

    Raises:
        ValueError: it is no ONNX model.
    """
    given = model
    if (pieces := rewritten(mapped(model))) is not None:
        _write(scratch, pieces)
        given = scratch
    if half and (pieces := in_half(mapped(given))) is not None:
        # What is read now may be the scratch file.
        part = scratch.with_name(f"{scratch.name}.half")
        try:
            _write(part, pieces)
            given = part.replace(scratch)
        finally:
            part.unlink(missing_ok=True)
    return given


def _write(path: Path, pieces: Iterator[bytes | memoryview]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.writelines(pieces)


def mapped(path: Path) -> memoryview:
    """A file's bytes, which the system reads when they are looked at, and may forget."""
    return memoryview(np.memmap(path, np.uint8, "r"))  # type: ignore[arg-type]


def rewritten(data: memoryview) -> Iterator[bytes | memoryview] | None:
    """The rewritten model, in pieces; None where it stays as it is. Raises ValueError if it is none."""
    graph = [field for part in graph_parts(data) for field in fields(part)]
    nodes = [(value, read_node(value)) for number, value in graph if number == GRAPH_NODE]
    tensors = {tensor.name: (tensor, raw) for tensor, raw in map(read_tensor, _of(graph, GRAPH_INITIALIZER))}
    narrow = narrow_weights([n for _, n in nodes], {name: tensor for name, (tensor, _) in tensors.items()})
    inputs = [read_value(value) for value in _of(graph, GRAPH_INPUT)]
    as_float = {v.name: f"{v.name}.float" for v in inputs if v.kind == UINT8}
    if not narrow and not as_float and not any(_makes_bytes(value, node) for value, node in nodes):
        return None
    return _pieces(data, graph, narrow, tensors, as_float)


def _of(graph: Sequence[tuple[int, memoryview]], kind: int) -> Iterator[memoryview]:
    return (value for number, value in graph if number == kind)


def _pieces(
    data: memoryview,
    graph: Sequence[tuple[int, memoryview]],
    narrow: Sequence[Narrow],
    tensors: Mapping[str, tuple[Value, memoryview | None]],
    as_float: Mapping[str, str],
) -> Iterator[bytes | memoryview]:
    """The model's other fields, then its graph, a message for each of its fields: protobuf joins them again."""
    folded = {name for n in narrow for name in n.made}
    nodes = [(value, read_node(value)) for value in _of(graph, GRAPH_NODE)]
    used = {name for _, n in nodes if n.outputs[0] not in folded for name in n.inputs}
    unused = {name for n in narrow for name in (n.stored, n.scale)} - used
    yield from (data[begin:end] for number, begin, _, end in spans(data) if number != MODEL_GRAPH)
    # Constants and conversions of inputs stand before the nodes that read them.
    for name, new in as_float.items():
        yield from graph_field(GRAPH_NODE, cast(name, new, FLOAT))
    for weight in narrow:
        yield from graph_field(GRAPH_INITIALIZER, _as_float(weight, tensors))
    for value, node in nodes:
        for new_node in [] if node.outputs[0] in folded else _rewritten(value, node, as_float):
            yield from graph_field(GRAPH_NODE, new_node)
    for number, value in graph:
        # What was stated of tensors in between (GRAPH_VALUE) may no longer hold.
        if number not in (GRAPH_NODE, GRAPH_VALUE, GRAPH_INITIALIZER) or (
            number == GRAPH_INITIALIZER and read_tensor(value)[0].name not in unused
        ):
            yield from graph_field(number, value)


def _makes_bytes(value: memoryview, node: Node) -> bool:
    return node.op == "Cast" and cast_to(value) == UINT8


def _rewritten(value: memoryview, node: Node, as_float: Mapping[str, str]) -> list[bytes | memoryview]:
    """A node that reads converted inputs; one that makes bytes makes them of float32."""
    if _makes_bytes(value, node):
        source, target = as_float.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        return [cast(source, f"{target}.float", FLOAT), cast(f"{target}.float", target, UINT8)]
    return [renamed(value, as_float)] if set(as_float) & set(node.inputs) else [value]


def _as_float(weight: Narrow, tensors: Mapping[str, tuple[Value, memoryview | None]]) -> bytes:
    """TensorProto of the weight in float32."""
    value = _array(*tensors[weight.stored])
    if weight.scale is not None:
        value = value * _array(*tensors[weight.scale])
    return tensor_proto(weight.name, FLOAT, value)


def _array(tensor: Value, raw: memoryview | None) -> NDArray[np.float32]:
    if raw is None:
        raise ValueError(f"weight {tensor.name!r} is not stored as raw data")
    return np.frombuffer(raw, _DTYPES[tensor.kind]).astype("<f4").reshape([int(d) for d in tensor.shape])
