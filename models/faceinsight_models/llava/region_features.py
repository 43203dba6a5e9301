"""Exposes the pooled region features of a bundle's encoder as an extra output of its graph.

An adapter for another LLM is trained on them, so training and use have the same features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

#: The extra output: (B,R,D).
FEATURES = "region_features"
#: The encoder's own projector of region features, by the name of its first bias; and the head's way from them.
_PROJECTOR, _VIEW = "adapter.region.into.0.bias", "encoder.head.view.region"


@dataclass(frozen=True)
class RegionFeatureEncoder:
    """An encoder graph with FEATURES as a further output.

    Attributes:
        model: the graph.
        regions: how many.
        width: of a region feature.
        text: (N,dt) refined text features, values of about unit size.
        view: weights of the head's projection from region features to text features.
    """

    model: onnx.ModelProto
    regions: int
    width: int
    text: Tensor
    view: dict[str, Tensor]

    @classmethod
    def open(cls, path: Path) -> RegionFeatureEncoder:
        """Read the encoder of a bundle.

        Raises:
            ValueError: the encoder has no region tokens.
        """
        model = onnx.load(path)
        weights = {w.name.removesuffix(".half").removesuffix(".int8"): w for w in model.graph.initializer}
        wanted = [f"{_VIEW}.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
        missing = [n for n in ("text", _PROJECTOR, *wanted) if n not in weights]
        if missing:
            raise ValueError(
                f"{path} has no {missing[0]}: expected the encoder of a bundle that was made of a training run, as "
                "nano is, with region tokens of its own"
            )
        view = {n.removeprefix(f"{_VIEW}."): _read(weights, n) for n in wanted}
        width = view["0.weight"].shape[1]
        regions = _expose_features(model.graph, width)
        # In the graph they are of unit length.
        text = _read(weights, "text")
        return cls(model, regions, width, text * text.shape[1] ** 0.5, view)

    def of(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The graph of these outputs only."""
        return pruned(self.model, outputs)

    def save(self, path: Path, outputs: Sequence[str]) -> None:
        """Write the graph of these outputs only."""
        onnx.save(self.of(outputs), path)


def _read(weights: dict[str, onnx.TensorProto], name: str) -> Tensor:
    """A weight in float32, however it is stored; the scale of one that is stored as int8 is a weight of its own."""
    value = numpy_helper.to_array(weights[name]).astype(np.float32)
    if weights[name].name.endswith(".int8"):
        value = value * numpy_helper.to_array(weights[f"{name}.scale"])
    return torch.from_numpy(value)


def _expose_features(graph: onnx.GraphProto, width: int) -> int:
    """Make an output of the value that goes into the encoder's own projector; returns the number of regions."""
    made_by = {o: n for n in graph.node for o in n.output}
    first = next(n for n in graph.node if _PROJECTOR in n.input)
    product = first if first.op_type == "Gemm" else next(made_by[i] for i in first.input if i in made_by)
    value = product.input[0]
    graph.node.append(helper.make_node("Identity", [value], [FEATURES], name=FEATURES))
    regions = next(o for o in graph.output if o.name == "region_tokens").type.tensor_type.shape.dim[1].dim_value
    graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", regions, width]))
    return int(regions)


def pruned(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy with these outputs, in their order, and what they need.

    Raises:
        ValueError: an output is not there.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    known = {o.name: o for o in graph.output}
    if not set(outputs) <= known.keys():
        raise ValueError(f"a graph with outputs {', '.join(known)}; expected {', '.join(outputs)} among them")
    chosen = [known[name] for name in outputs]
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    nodes.reverse()
    weights = [w for w in graph.initializer if w.name in needed]
    inputs = [i for i in graph.input if i.name in needed]
    for field, items in (
        (graph.input, inputs),
        (graph.output, chosen),
        (graph.node, nodes),
        (graph.initializer, weights),
    ):
        values = copy.deepcopy(items)
        del field[:]
        field.extend(values)
    onnx.checker.check_model(model)
    return model
