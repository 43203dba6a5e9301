"""Stands in for the module tensorrt at our boundary to it: what was built runs on ONNX Runtime, over cudart_stub.c.

A plan is JSON of what the builder was given, and the model. $FAKE_TENSORRT plants faults: "crash", "crash on import",
"refuse" (the model), "refuse plan", "slow", "wrong" (outputs). $FAKE_CUDART is the stub's path, for child processes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from enum import Enum
from types import SimpleNamespace

import numpy as np

__version__ = "10.3.0"
FAULT = os.environ.get("FAKE_TENSORRT", "")
if FAULT == "crash on import":
    os.kill(os.getpid(), signal.SIGSEGV)
#: The stub. Loaded by its full path, it is found by its name too by who asks for libcudart.so.13 afterwards.
CUDART = ctypes.CDLL(os.environ["FAKE_CUDART"]) if "FAKE_CUDART" in os.environ else None
#: What was done that TensorRT forbids, or does not define.
VIOLATIONS = []
_MAGIC = b"FAKE"
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
}
_kernels = []


class NetworkDefinitionCreationFlag(Enum):
    STRONGLY_TYPED = 1

    def __int__(self) -> int:
        return self.value


class Logger:
    WARNING = ERROR = 1

    def __init__(self, level):
        self.level = level


class IProgressMonitor:
    pass


MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
TensorLocation = SimpleNamespace(DEVICE=0, HOST=1)
TensorIOMode = SimpleNamespace(INPUT=1, OUTPUT=2)
ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
nptype = np.dtype


class Builder:
    def __init__(self, logger):
        self.told = {"version": __version__}

    def create_network(self, flags):
        self.told["flags"] = flags
        return self.told

    def create_builder_config(self):
        return Config(self.told)

    def create_optimization_profile(self):
        shapes = self.told.setdefault("profile", {})
        return SimpleNamespace(set_shape=lambda name, *s: shapes.update({name: s}))

    def build_serialized_network(self, network, config):
        config.progress_monitor.phase_start("build", None, 10)
        for step in range(10):
            config.progress_monitor.step_complete("build", step)
        config.progress_monitor.phase_finish("build")
        if FAULT == "crash":
            sys.stderr.write("about to fail\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if FAULT == "slow":
            time.sleep(1)
        if count := os.environ.get("FAKE_TENSORRT_COUNT"):
            with open(count, "a") as f:
                f.write("x")
        return plan_of(network.pop("onnx"), network)


def plan_of(onnx, told):
    """A plan of a model's bytes, as if it had been built."""
    head = json.dumps({"version": __version__} | told).encode()
    return _MAGIC + len(head).to_bytes(4, "little") + head + onnx


def told_of(plan):
    """What the builder of a plan was given."""
    return json.loads(plan[8 : 8 + int.from_bytes(plan[4:8], "little")])


class OnnxParser:
    def __init__(self, network, logger):
        self.told = network
        self.errors = [("Magic", f"layer.{n}", "no such operator") for n in range(12)] + [("", "", "and no weights")]
        self.num_errors = len(self.errors)

    def parse(self, data):
        self.told["onnx"] = bytes(data)
        return FAULT != "refuse"

    def get_error(self, i):
        operator, name, text = self.errors[i]
        return SimpleNamespace(node_operator=lambda: operator, node_name=lambda: name, desc=lambda: text)


class Config:
    def __init__(self, told):
        self.told = told
        self.progress_monitor = None

    def __setattr__(self, name, value):
        if name == "flags":
            raise AssertionError("precision flags are gone in TensorRT 11")
        object.__setattr__(self, name, value)

    def set_memory_pool_limit(self, pool, size):
        self.told["workspace"] = size

    def add_optimization_profile(self, profile):
        return 0

    def create_timing_cache(self, data):
        self.told["timings"] = data.decode()
        return SimpleNamespace(serialize=lambda: b"timings")

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        refused = FAULT == "refuse plan" or plan[:4] != _MAGIC or told_of(plan)["version"] != __version__
        return None if refused else Engine(plan)


class Engine:
    """Of any ONNX model whose dynamic axes have names."""

    device_memory_size_v2 = 1000

    def __init__(self, plan):
        import onnxruntime

        self.told = told_of(plan)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = plan[8 + int.from_bytes(plan[4:8], "little") :]
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [v.name for v in self.session.get_inputs()]
        self.nodes = {v.name: v for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.nodes)
        self.contexts = 0

    def get_tensor_name(self, i):
        return list(self.nodes)[i]

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(d, str) else d for d in self.nodes[name].shape)

    def get_tensor_dtype(self, name):
        return _DTYPES[self.nodes[name].type]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile):
        return tuple(tuple(s) for s in self.told["profile"][name])

    def create_execution_context(self, strategy):
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            VIOLATIONS.append("a context that allocates for itself")
        self.contexts += 1
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine = engine
        self.shapes, self.addresses, self.memory = {}, {}, (0, 0)

    def set_device_memory(self, address, size):
        self.memory = address, size

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return False
        self.shapes = self.shapes | {name: tuple(shape)}
        return True

    def get_tensor_shape(self, name):
        nodes = self.engine.nodes
        sizes = {d: n for i in self.engine.inputs for d, n in zip(nodes[i].shape, self.shapes[i], strict=True)}
        return tuple(sizes[d] if isinstance(d, str) else d for d in nodes[name].shape)

    def set_tensor_address(self, name, address):
        self.addresses = self.addresses | {name: address}
        return True

    def execute_async_v3(self, stream):
        shapes, addresses, memory = self.shapes, self.addresses, self.memory

        def work(_):
            if (shapes, addresses) != (self.shapes, self.addresses):
                VIOLATIONS.append("a graph runs whose context was changed")
            if not CUDART.stub_is_device(ctypes.c_void_p(memory[0]), ctypes.c_size_t(memory[1])) or memory[1] < 1000:
                VIOLATIONS.append("scratch memory is missing")
            feeds = {n: self._tensor(n, shapes[n], addresses[n]) for n in self.engine.inputs}
            outputs = [n for n in self.engine.nodes if n not in feeds]
            for name, value in zip(outputs, self.engine.session.run(outputs, feeds), strict=True):
                place = self._tensor(name, value.shape, addresses[name])
                place[...] = -value if FAULT == "wrong" else value

        _kernels.append(_KERNEL(work))
        return CUDART.stub_launch(ctypes.c_void_p(stream), _kernels[-1], None) == 0

    def _tensor(self, name, shape, address):
        dtype = np.dtype(self.engine.get_tensor_dtype(name))
        size = int(np.prod(shape)) * dtype.itemsize
        if not CUDART.stub_is_device(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            raise MemoryError(f"{name} is not the GPU's")
        return np.ndarray(shape, dtype, (ctypes.c_char * max(1, size)).from_address(address))
