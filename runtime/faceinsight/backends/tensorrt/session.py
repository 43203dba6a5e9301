"""A TensorRT plan as a session: device buffers and a CUDA graph per input shape. Not run on hardware yet."""

from __future__ import annotations

import ctypes
import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, RequestError
from ..session import TensorInfo
from .cudart import Cuda

log = logging.getLogger(__name__)

#: Input shapes whose buffers are kept; the one unused for longest goes first. A batch has 1 to 8 faces.
SHAPES = 8

Shapes = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _Buffer:
    """A tensor in pinned host memory (seen as `array`) and on the device."""

    host: int
    device: int
    array: NDArray[Any]


@dataclass(slots=True)
class _Shaped:
    """What runs one combination of input shapes. A captured graph is bound to its execution context and its buffers."""

    context: Any
    inputs: dict[str, _Buffer] = field(default_factory=dict)
    outputs: dict[str, _Buffer] = field(default_factory=dict)
    runs: int = 0
    graph: int | None = None
    capturable: bool = True


class TensorRtSession:
    """Runs a plan; the interface of an ONNX Runtime session as `CheckedSession` uses it. Not thread-safe."""

    # What close() looks at, also where __init__ failed early.
    _stream: int | None = None

    def __init__(self, plan: bytes, *, name: str, trt: Any = None, cuda: Cuda | None = None) -> None:
        """plan: built on this very device (see engines). trt, cuda: for tests. Raises DeviceError."""
        self._trt = trt or _import_tensorrt()
        self._cuda = cuda or Cuda()
        self._name = name
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise DeviceError(f"{name}: TensorRT {self._trt.__version__} does not load its plan; build it again")
        self._shaped: OrderedDict[Shapes, _Shaped] = OrderedDict()
        self._inputs: list[TensorInfo] = []
        self._outputs: list[TensorInfo] = []
        self._types: dict[str, np.dtype[Any]] = {}
        for i in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(i)
            if self._engine.get_tensor_location(tensor) != self._trt.TensorLocation.DEVICE:
                raise DeviceError(f"{name}: tensor {tensor!r} is expected in host memory, which is not supported")
            shape = tuple(None if d < 0 else int(d) for d in self._engine.get_tensor_shape(tensor))
            self._types[tensor] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(tensor)))
            enters = self._engine.get_tensor_mode(tensor) == self._trt.TensorIOMode.INPUT
            (self._inputs if enters else self._outputs).append(TensorInfo(tensor, shape))
        self._stream = self._cuda.stream()

    def get_inputs(self) -> list[TensorInfo]:
        """Names and shapes; None for a dynamic axis."""
        return self._inputs

    def get_outputs(self) -> list[TensorInfo]:
        """Names and shapes; None for a dynamic axis."""
        return self._outputs

    def get_providers(self) -> list[str]:
        """What runs it, as ONNX Runtime would say."""
        return [f"TensorRT {self._trt.__version__}"]

    def run(self, names: Sequence[str] | None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by name (all if None) for inputs of any shape the plan was built for. Raises RequestError."""
        if self._stream is None:
            raise RequestError(f"{self._name}: this session is closed")
        arrays = {node.name: self._checked(node, feeds) for node in self._inputs}
        shaped = self._of_shape(tuple(a.shape for a in arrays.values()))
        for name, array in arrays.items():
            np.copyto(shaped.inputs[name].array, array)
        self._execute(shaped, self._stream)
        chosen = [n.name for n in self._outputs] if names is None else names
        return [shaped.outputs[n].array.copy() for n in chosen]

    def _checked(self, node: TensorInfo, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        if node.name not in feeds:
            raise RequestError(f"{self._name}: input {node.name!r} is missing; given: {', '.join(feeds) or 'nothing'}")
        array = feeds[node.name]
        if array.dtype != self._types[node.name]:
            raise RequestError(f"{self._name}: {node.name!r} is {array.dtype}, expected {self._types[node.name]}")
        low, _, high = (tuple(s) for s in self._engine.get_tensor_profile_shape(node.name, 0))
        fits = len(array.shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, array.shape, high, strict=True))
        if not fits:
            raise RequestError(f"{self._name}: {node.name!r} has shape {array.shape}; built for {low} to {high}")
        return array

    def _of_shape(self, shapes: Shapes) -> _Shaped:
        if shapes in self._shaped:
            self._shaped.move_to_end(shapes)
            return self._shaped[shapes]
        while len(self._shaped) >= SHAPES:
            self._free(self._shaped.popitem(last=False)[1])
        shaped = _Shaped(self._engine.create_execution_context())
        if shaped.context is None:
            raise DeviceError(f"{self._name}: TensorRT could not make an execution context; is memory short?")
        try:
            for node, shape in zip(self._inputs, shapes, strict=True):
                shaped.context.set_input_shape(node.name, shape)
                shaped.inputs[node.name] = self._buffer(shaped, node.name, shape)
            for node in self._outputs:
                shape = tuple(int(d) for d in shaped.context.get_tensor_shape(node.name))
                if min(shape, default=0) < 0:
                    raise DeviceError(f"{self._name}: the size of {node.name!r} depends on data: not supported")
                shaped.outputs[node.name] = self._buffer(shaped, node.name, shape)
        except BaseException:
            self._free(shaped)
            raise
        self._shaped[shapes] = shaped
        return shaped

    def _buffer(self, shaped: _Shaped, name: str, shape: tuple[int, ...]) -> _Buffer:
        dtype = self._types[name]
        size = math.prod(shape) * dtype.itemsize
        host = self._cuda.malloc_host(size)
        try:
            device = self._cuda.malloc(size)
        except DeviceError:
            self._cuda.free_host(host)
            raise
        memory = memoryview((ctypes.c_char * max(1, size)).from_address(host))
        array = np.ndarray(shape, dtype, memory)
        shaped.context.set_tensor_address(name, device)
        return _Buffer(host, device, array)

    def _execute(self, shaped: _Shaped, stream: int) -> None:
        """The first run of a shape goes plainly, as TensorRT asks; the second is captured; later ones are replayed."""
        if shaped.runs == 1 and shaped.capturable:
            self._capture(shaped, stream)
        if shaped.graph is None:
            self._enqueue(shaped, stream)
        else:
            self._cuda.launch(shaped.graph, stream)
        self._cuda.synchronize(stream)
        shaped.runs += 1

    def _capture(self, shaped: _Shaped, stream: int) -> None:
        self._cuda.begin_capture(stream)
        failure: DeviceError | None = None
        try:
            self._enqueue(shaped, stream)
        except DeviceError as e:
            failure = e
        try:
            graph = self._cuda.end_capture(stream)
            if failure is None:
                shaped.graph = graph
            else:
                self._cuda.destroy_graph(graph)
        except DeviceError as e:
            failure = failure or e
        if failure is not None:
            shaped.capturable = False
            log.info("%s: runs without a CUDA graph: %s", self._name, failure)

    def _enqueue(self, shaped: _Shaped, stream: int) -> None:
        for b in shaped.inputs.values():
            self._cuda.to_device(b.device, b.host, b.array.nbytes, stream)
        if not shaped.context.execute_async_v3(stream):
            raise DeviceError(f"{self._name}: TensorRT could not run the plan; its messages are on stderr")
        for b in shaped.outputs.values():
            self._cuda.to_host(b.host, b.device, b.array.nbytes, stream)

    def _free(self, shaped: _Shaped) -> None:
        if shaped.graph is not None:
            self._cuda.destroy_graph(shaped.graph)
            shaped.graph = None
        for b in (*shaped.inputs.values(), *shaped.outputs.values()):
            self._cuda.free(b.device)
            self._cuda.free_host(b.host)
        shaped.inputs.clear()
        shaped.outputs.clear()
        shaped.context = None

    def close(self) -> None:
        """Free all buffers, then the stream."""
        if self._stream is not None:
            while self._shaped:
                self._free(self._shaped.popitem()[1])
            self._cuda.destroy_stream(self._stream)
            self._stream = None

    def __del__(self) -> None:
        self.close()


def _import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as e:
        raise DeviceError("tensorrt is not installed: on a Jetson it comes with JetPack, else extra [tensorrt]") from e
    return tensorrt
