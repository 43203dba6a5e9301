"""Stands in for the module tensorrt at our boundary to it: doubles what comes in, and remembers how it was asked.

A plan is JSON of what the builder was told. $FAKE_TENSORRT plants faults: "crash", "refuse", "slow".
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import time
from enum import Enum
from types import SimpleNamespace

import numpy as np

__version__ = "10.3.0"
FAULT = os.environ.get("FAKE_TENSORRT", "")
if FAULT == "crash on import":
    os.kill(os.getpid(), signal.SIGSEGV)


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
nptype = np.dtype


class Builder:
    def __init__(self, logger):
        self.told = {}

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
            print("about to fail", file=__import__("sys").stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if FAULT == "slow":
            time.sleep(1)
        if count := os.environ.get("FAKE_TENSORRT_COUNT"):
            with open(count, "a") as f:
                f.write("x")
        return json.dumps(self.told).encode()


class OnnxParser:
    def __init__(self, network, logger):
        self.told = network
        self.num_errors = 1

    def parse(self, data):
        self.told["onnx"] = hashlib.sha256(data).hexdigest()
        return FAULT != "refuse"

    def get_error(self, i):
        return SimpleNamespace(desc=lambda: "no such operator")


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
        pass

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
        return None if plan == b"broken" else Engine()


class Engine:
    """x (batch,2) float32 -> y (batch,2) float32."""

    num_io_tensors = 2

    def get_tensor_name(self, i):
        return "xy"[i]

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name):
        return (-1, 2)

    def get_tensor_dtype(self, name):
        return np.float32

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile):
        return (1, 2), (1, 2), (16, 2)

    def create_execution_context(self):
        return Context()


class Context:
    def __init__(self):
        self.shape, self.addresses = None, {}

    def set_input_shape(self, name, shape):
        self.shape = shape

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        def work():
            count = int(np.prod(self.shape))
            x, y = ((ctypes.c_float * count).from_address(self.addresses[n]) for n in "xy")
            for i in range(count):
                y[i] = 2 * x[i]

        return STREAM.put(work)


class Stream:
    """What was put on the stream: done at once, or recorded."""

    def __init__(self):
        self.recording = None
        self.refuse = False

    def put(self, work):
        if self.recording is None:
            work()
        elif self.refuse:
            return False
        else:
            self.recording.append(work)
        return True


STREAM = Stream()


class FakeCuda:
    """cuda.Cuda over host memory; `live` holds what was not freed, `launched` counts graph launches."""

    def __init__(self):
        self.live, self.graphs, self.launched = {}, {}, 0

    def malloc(self, size):
        memory = ctypes.create_string_buffer(max(1, size))
        self.live[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def free(self, pointer):
        del self.live[pointer]

    malloc_host, free_host = malloc, free

    def stream(self):
        self.live["stream"] = True
        return 1

    def destroy_stream(self, stream):
        del self.live["stream"]

    def synchronize(self, stream):
        if STREAM.recording is not None:
            raise AssertionError("a stream cannot be waited for while it records")

    def to_device(self, to, source, size, stream):
        STREAM.put(lambda: ctypes.memmove(to, source, size))

    to_host = to_device

    def begin_capture(self, stream):
        STREAM.recording = []

    def end_capture(self, stream):
        work, STREAM.recording = STREAM.recording, None
        self.graphs[len(self.graphs) + 1] = work
        return len(self.graphs)

    def launch(self, graph, stream):
        self.launched += 1
        for work in self.graphs[graph]:
            work()

    def destroy_graph(self, graph):
        self.graphs[graph] = None
