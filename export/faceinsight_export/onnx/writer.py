"""An ONNX file written while its weights are read: one tensor is in memory at a time, whatever the model's size.

A protobuf message may be written in parts: where a reader finds a message twice it merges the two and joins their lists
(https://protobuf.dev/programming-guides/encoding, "Last One Wins"). So each weight goes to the file as a model that
holds it alone, and the nodes follow at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from faceinsight_models.storage import IR_VERSION, OPSET

from ..atomic import new_file

#: protobuf reads no message beyond this many bytes.
MAX_BYTES = 2**31 - 1
#: Elements of a weight whose value is looked at when shapes are inferred.
MAX_INFERRED_ELEMENTS = 16
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@contextmanager
def onnx_file(path: Path, name: str) -> Iterator[OnnxWriter]:
    """Yield a writer of a new ONNX file, which is there when the context is left without an error.

    Raises:
        FileExistsError: `path` exists already.
    """
    with new_file(path) as partial, partial.open("wb") as file:
        graph = OnnxWriter(file, name)
        yield graph
        graph.finish()


class OnnxWriter:
    """Weights that are written at once, nodes that are written by `finish`. Values are known by name."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Begin a graph of this name in an empty file."""
        self._file = file
        self._graph = onnx.GraphProto(name=name)
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._weights: dict[str, onnx.ValueInfoProto] = {}
        self._inferred: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        # First of all: by these fields OpenVINO knows an ONNX file.
        self._write(onnx.ModelProto(ir_version=IR_VERSION, opset_import=[helper.make_opsetid("", OPSET)]))

    def input(self, name: str, elem_type: int, shape: Sequence[int | str]) -> str:
        """An input of the graph; a dimension may be a name."""
        self._graph.input.append(helper.make_tensor_value_info(name, elem_type, shape))
        return name

    def output(self, name: str, elem_type: int, shape: Sequence[int | str]) -> None:
        """An output of the graph: the node of that name."""
        self._graph.output.append(helper.make_tensor_value_info(name, elem_type, shape))

    def add(
        self,
        op: str,
        *inputs: str,
        name: str,
        more: Sequence[str] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> str:
        """A node whose first output bears its name; `more` are its further outputs.

        A node that is there already is not added again.

        Raises:
            ValueError: another node has its name.
        """
        node = helper.make_node(op, inputs, [name, *more], name=name, **(attributes or {}))
        if self._nodes.setdefault(name, node) != node:
            raise ValueError(f"two nodes are called {name!r}")
        return name

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """A constant; its bytes go to the file now.

        Raises:
            ValueError: the name is taken, numbers are not finite in their type, or the file grows too large.
        """
        if name in self._weights:
            raise ValueError(f"two weights are called {name!r}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{name} holds numbers that are not finite in {value.dtype}: choose a wider precision")
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._weights[name] = helper.make_tensor_value_info(name, tensor.data_type, value.shape)
        if value.size <= MAX_INFERRED_ELEMENTS:
            self._inferred.append(tensor)
        self._write(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """A small constant; equal ones are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant.{len(self._constants)}", value)
        return self._constants[key]

    def finish(self) -> None:
        """Write the nodes."""
        self._graph.node.extend(self._nodes.values())
        self._graph.value_info.extend(self._shapes())
        self._write(onnx.ModelProto(graph=self._graph))

    def _shapes(self) -> list[onnx.ValueInfoProto]:
        """Types and shapes of what the nodes make, so that the runtime can tell the memory it takes. They are inferred
        without the weights, of which only the small ones, such as shapes to reshape to, matter by value."""
        graph = onnx.GraphProto(name="outline")
        graph.CopyFrom(self._graph)
        small_names = {tensor.name for tensor in self._inferred}
        graph.initializer.extend(self._inferred)
        graph.input.extend(info for name, info in self._weights.items() if name not in small_names)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return list(onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info)

    def _write(self, part: onnx.ModelProto) -> None:
        data = part.SerializeToString()
        if self._file.tell() + len(data) > MAX_BYTES:
            raise ValueError("the model is larger than 2 GiB, which no ONNX file may be: choose a smaller precision")
        self._file.write(data)
