"""A TensorRT plan as a session: buffers of the largest shape, one context, CUDA graphs of the shapes that come often.

Not run on hardware yet.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, RequestError
from ..session import TensorInfo
from .buffers import TensorBuffer
from .cudart import Cuda

log = logging.getLogger(__name__)

#: A combination of input shapes becomes a CUDA graph when it has come this often: questions have a length each, and
#: most lengths come once.
RECORDED_AFTER = 3
#: CUDA graphs that are held; the one unused for longest goes first.
GRAPHS = 4

Shapes = tuple[tuple[int, ...], ...]


class PlanRefusedError(DeviceError):
    """TensorRT does not load a plan: it was built by or for another one, or memory is short."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An execution context that is set to one combination of input shapes. shapes: of all inputs and outputs."""

    context: Any
    shapes: dict[str, tuple[int, ...]]


class TensorRtSession:
    """Runs a plan; the interface of an ONNX Runtime session as `CheckedSession` uses it. Not thread-safe."""

    # What close() looks at, also where __init__ failed early.
    _stream: int | None = None

    def __init__(self, plan: bytes, *, name: str, trt: Any = None, cuda: Cuda | None = None) -> None:
        """Load a plan.

        Args:
            plan: built on this very device (see engines).
            name: of its model, for errors.
            trt: the module tensorrt, for tests.
            cuda: for tests.

        Raises:
            PlanRefusedError: TensorRT does not load it.
            DeviceError: TensorRT or CUDA is missing, or memory is short.
        """
        self._trt = trt or _import_tensorrt()
        self._cuda = cuda or Cuda()
        self._name = name
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanRefusedError(
                f"{name}: TensorRT {self._trt.__version__} does not load its plan of {len(plan) / 1e6:.0f} MB; it was "
                "built by another TensorRT or for another GPU, or memory is short (TensorRT's messages are on stderr)"
            )
        self._inputs: list[TensorInfo] = []
        self._outputs: list[TensorInfo] = []
        self._types: dict[str, np.dtype[Any]] = {}
        self._ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._read_tensors()
        self._runs: Counter[Shapes] = Counter()
        self._graphs: OrderedDict[Shapes, tuple[int, _Prepared]] = OrderedDict()
        with ExitStack() as owned:
            stream = self._cuda.stream()
            owned.callback(self._cuda.destroy_stream, stream)
            self._allocate(owned)
            owned.callback(self._destroy_graphs)
            self._owned = owned.pop_all()
        self._stream = stream

    def _read_tensors(self) -> None:
        engine = self._engine
        for tensor in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            if engine.get_tensor_location(tensor) != self._trt.TensorLocation.DEVICE:
                raise DeviceError(f"{self._name}: tensor {tensor!r} is expected in host memory, which is not supported")
            shape = tuple(None if d < 0 else int(d) for d in engine.get_tensor_shape(tensor))
            self._types[tensor] = np.dtype(self._trt.nptype(engine.get_tensor_dtype(tensor)))
            enters = engine.get_tensor_mode(tensor) == self._trt.TensorIOMode.INPUT
            (self._inputs if enters else self._outputs).append(TensorInfo(tensor, shape))
            if enters:
                low, _, high = (tuple(map(int, s)) for s in engine.get_tensor_profile_shape(tensor, 0))
                self._ranges[tensor] = low, high

    def _allocate(self, owned: ExitStack) -> None:
        """The scratch memory that all contexts share, and a buffer per tensor at its largest."""
        self._scratch_size = max(1, int(self._engine.device_memory_size_v2))
        self._scratch = self._cuda.malloc(self._scratch_size)
        owned.callback(self._cuda.free, self._scratch)
        self._buffers: dict[str, TensorBuffer] = {}
        self._context = self._new_context()
        largest = self._prepare(self._context, tuple(self._ranges[node.name][1] for node in self._inputs))
        for tensor, shape in largest.shapes.items():
            self._buffers[tensor] = TensorBuffer(self._cuda, math.prod(shape) * self._types[tensor].itemsize)
            owned.callback(self._buffers[tensor].free)
        self._bind(self._context)

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
        shapes = tuple(array.shape for array in arrays.values())
        for name, array in arrays.items():
            np.copyto(self._buffers[name].array(array.shape, array.dtype), array)
        prepared = self._execute(shapes, self._stream)
        chosen = [n.name for n in self._outputs] if names is None else names
        outputs = [self._buffers[n].array(prepared.shapes[n], self._types[n]).copy() for n in chosen]
        self._runs[shapes] += 1
        if self._runs[shapes] == RECORDED_AFTER:
            self._record(shapes, self._stream)
        return outputs

    def _checked(self, node: TensorInfo, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        if node.name not in feeds:
            raise RequestError(f"{self._name}: input {node.name!r} is missing; given: {', '.join(feeds) or 'nothing'}")
        array = feeds[node.name]
        if array.dtype != self._types[node.name]:
            raise RequestError(f"{self._name}: {node.name!r} is {array.dtype}, expected {self._types[node.name]}")
        low, high = self._ranges[node.name]
        fits = len(array.shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, array.shape, high, strict=True))
        if not fits:
            raise RequestError(f"{self._name}: {node.name!r} has shape {array.shape}; built for {low} to {high}")
        return array

    def _execute(self, shapes: Shapes, stream: int) -> _Prepared:
        """Run what lies in the input buffers, by its graph if it has one, and wait for the outputs."""
        if shapes in self._graphs:
            self._graphs.move_to_end(shapes)
            graph, prepared = self._graphs[shapes]
            self._cuda.launch(graph, stream)
            self._cuda.synchronize(stream)
        else:
            prepared = self._prepare(self._context, shapes)
            self._run_plainly(prepared, stream)
        return prepared

    def _record(self, shapes: Shapes, stream: int) -> None:
        """Capture a CUDA graph of these shapes; where that fails, they run without.

        A graph has an execution context of its own, as it is bound to the state of the one it was captured from. The
        context runs once before, as TensorRT asks: its first run of a shape does more than enqueue.
        """
        try:
            while len(self._graphs) >= GRAPHS:
                # Used no more, so they may be recorded again when they come again.
                oldest, (graph, _) = self._graphs.popitem(last=False)
                del self._runs[oldest]
                self._cuda.destroy_graph(graph)
            context = self._new_context()
            self._bind(context)
            prepared = self._prepare(context, shapes)
            self._run_plainly(prepared, stream)
            graph = self._cuda.capture(stream, partial(self._enqueue, prepared, stream))
            self._graphs[shapes] = graph, prepared
        except DeviceError as e:
            log.info("%s: %s run without a CUDA graph: %s", self._name, shapes, e)

    def _new_context(self) -> Any:
        # Contexts run one after another on one stream, so they may share their scratch memory.
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise DeviceError(f"{self._name}: TensorRT could not make an execution context; is memory short?")
        context.set_device_memory(self._scratch, self._scratch_size)
        return context

    def _bind(self, context: Any) -> None:
        for tensor, buffer in self._buffers.items():
            if not context.set_tensor_address(tensor, buffer.device):
                raise DeviceError(f"{self._name}: TensorRT does not take the memory of {tensor!r}")

    def _prepare(self, context: Any, shapes: Shapes) -> _Prepared:
        """Set the shapes of the inputs; those of the outputs follow."""
        known: dict[str, tuple[int, ...]] = {}
        for node, shape in zip(self._inputs, shapes, strict=True):
            if not context.set_input_shape(node.name, shape):
                raise DeviceError(f"{self._name}: TensorRT does not take {node.name!r} of shape {shape}")
            known[node.name] = shape
        for node in self._outputs:
            known[node.name] = tuple(int(d) for d in context.get_tensor_shape(node.name))
            if min(known[node.name], default=0) < 0:
                raise DeviceError(f"{self._name}: the size of {node.name!r} depends on data: not supported")
        return _Prepared(context, known)

    def _run_plainly(self, prepared: _Prepared, stream: int) -> None:
        try:
            self._enqueue(prepared, stream)
        except DeviceError:
            # What is on the stream already must not meet the inputs and the shapes of the next run.
            with suppress(DeviceError):
                self._cuda.synchronize(stream)
            raise
        self._cuda.synchronize(stream)

    def _enqueue(self, prepared: _Prepared, stream: int) -> None:
        for node in self._inputs:
            self._buffers[node.name].to_device(prepared.shapes[node.name], self._types[node.name], stream)
        if not prepared.context.execute_async_v3(stream):
            raise DeviceError(f"{self._name}: TensorRT could not run the plan; its messages are on stderr")
        for node in self._outputs:
            self._buffers[node.name].to_host(prepared.shapes[node.name], self._types[node.name], stream)

    def _destroy_graphs(self) -> None:
        with ExitStack() as all_of_them:
            for graph, _ in self._graphs.values():
                all_of_them.callback(self._cuda.destroy_graph, graph)
            self._graphs.clear()

    def close(self) -> None:
        """Free everything; what CUDA refuses to free, after an error that only a new process clears, is logged."""
        if self._stream is None:
            return
        self._stream = None
        try:
            self._owned.close()
        except DeviceError as e:
            log.info("%s: not all of its memory could be freed: %s", self._name, e)
        self._context = self._engine = None

    def __del__(self) -> None:
        self.close()


def _import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as e:
        raise DeviceError("tensorrt is not installed: on a Jetson it comes with JetPack, else extra [tensorrt]") from e
    return tensorrt
