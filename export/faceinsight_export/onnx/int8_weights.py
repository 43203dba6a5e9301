"""Store an ONNX graph's weights as 8-bit numbers with a scale per output channel, and widen them where they are used.

A quarter of the file. ONNX Runtime folds Cast and Mul when it loads, so it computes in float32 as before; with its
default options a DequantizeLinear would stay in the graph and be computed again for every face.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from faceinsight_models.storage import MIN_ELEMENTS

#: Operators whose second input has its output channels last; those of all others are first.
_LAST = ("MatMul",)


def store_int8(path: Path) -> None:
    """Rewrite the file in place: float weights of two or more axes; vectors stay as they are."""
    model = onnx.load(path)
    graph = model.graph
    last = {node.input[1] for node in graph.node if node.op_type in _LAST and len(node.input) > 1}
    nodes, scales = [], []
    for tensor in graph.initializer:
        name = tensor.name
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or int(np.prod(tensor.dims)) < MIN_ELEMENTS:
            continue
        # One scale for all of a tensor (a table of positions, say) would be too coarse.
        if tensor.dims[-1 if name in last else 0] == 1:
            continue
        values, scale = rounded(numpy_helper.to_array(tensor), last=name in last)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.int8"))
        scales.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.wide"], name=f"{name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.wide", f"{name}.scale"], [name], name=f"{name}.mul"),
        ]
    graph.initializer.extend(scales)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def rounded(weight: NDArray[np.float32], *, last: bool = False) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values -127..127 and the scale of each output channel (its axis first, or last), in a shape that multiplies."""
    channel = weight.ndim - 1 if last else 0
    others = tuple(axis for axis in range(weight.ndim) if axis != channel)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    # Below that a scale would be subnormal, too coarse to divide by: such a channel becomes zeros.
    usable = largest > 127 * np.finfo(np.float32).tiny
    scale = np.where(usable, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale
