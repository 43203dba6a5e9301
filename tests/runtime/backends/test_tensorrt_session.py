"""The runner of TensorRT plans over a CUDA that keeps its contracts: what it allocates, records, frees; every fault."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_stubs import Stub, compile_stub, doubles, fake_tensorrt, open_plan, plan_of
from onnx import TensorProto, helper

from faceinsight import DeviceError, RequestError
from faceinsight.backends.session import CheckedSession
from faceinsight.backends.tensorrt import session as module
from faceinsight.backends.tensorrt.cudart import Cuda
from faceinsight.backends.tensorrt.session import GRAPHS, RECORDED_AFTER, PlanRefusedError, TensorRtSession


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return compile_stub(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """x (batch,2) -> y = x + x."""
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(params=[False, True], ids=["desktop", "jetson"])
def stub(library: Path, request):
    """Nothing that CUDA forbids may have been done when the test is over."""
    stub = Stub(library, integrated=request.param)
    yield stub
    assert stub.violations == ""


@pytest.fixture
def trt(stub: Stub):
    fake = fake_tensorrt(stub)
    yield fake
    assert fake.VIOLATIONS == []


@pytest.fixture
def session(trt, stub: Stub, model: Path):
    session = open_plan(trt, stub, plan_of(trt, model))
    yield session
    session.close()
    assert stub.live == 0


def test_it_answers_in_any_shape_and_hands_out_copies(session: TensorRtSession, stub: Stub):
    graph = CheckedSession(session, "m.onnx", {"x": (None, 2)}, {"y": (None, 2)})
    for n in range(4):
        x = np.full((3, 2), n, np.float32)
        assert np.array_equal(graph(x=x)[0], 2 * x)
    assert all(doubles(session, rows) for rows in (1, 8, 2, 8, 3))
    assert session.get_providers() == ["TensorRT 10.3.0"]
    # What was handed out is the caller's: the next run does not write into it.
    (first,) = graph(x=np.ones((3, 2), np.float32))
    graph(x=np.zeros((3, 2), np.float32))
    assert (first == 2).all()
    session.close()
    assert stub.live == 0
    with pytest.raises(RequestError, match="closed"):
        session.run(None, {"x": x})


def test_new_shapes_cost_no_memory_and_no_context(session: TensorRtSession, stub: Stub):
    """A question has as many tokens as it has: nothing is allocated for it, and nothing waits for a free."""
    before, contexts = len(stub.calls), session._engine.contexts
    for rows in range(1, 9):
        assert doubles(session, rows)
    assert set(stub.calls[before:]) <= {"cudaMemcpyAsync", "cudaStreamSynchronize"}
    assert session._engine.contexts == contexts == 1


def test_buffers_are_of_the_largest_shape_once(session: TensorRtSession, stub: Stub):
    largest = 2 * 8 * 2 * 4  # x and y, 8 rows of 2 float32
    shared = session._cuda.integrated
    assert stub.bytes(device=True) == 1000 + (0 if shared else largest)
    assert stub.bytes(device=False) == largest
    # A board's CPU and GPU have the same memory: nothing is copied.
    doubles(session, 3)
    assert ("cudaMemcpyAsync" in stub.calls) != shared


def test_a_shape_is_recorded_when_it_has_come_three_times(session: TensorRtSession, stub: Stub):
    for _ in range(RECORDED_AFTER):
        assert doubles(session, 5)
    assert stub.launches == 0
    assert doubles(session, 5)
    assert doubles(session, 4)
    assert doubles(session, 5)
    assert stub.launches == 2


def test_recorded_shapes_are_few_and_may_come_back(session: TensorRtSession, stub: Stub):
    for rows in range(1, 9):
        for _ in range(RECORDED_AFTER + 1):
            assert doubles(session, rows)
    assert stub.launches == 8
    assert len(session._graphs) == GRAPHS
    for _ in range(RECORDED_AFTER + 1):
        assert doubles(session, 1)
    assert stub.launches == 9


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_a_shape_that_cannot_be_recorded_runs_plainly(session: TensorRtSession, stub: Stub, caplog, call: str):
    """Also where the recording cannot begin: no answer fails for it."""
    caplog.set_level(logging.INFO)
    broken = session._cuda._call

    def fails(name, *arguments):
        if name == call:
            if name == "cudaStreamEndCapture":
                broken(name, *arguments)
            raise DeviceError(f"{name} failed")
        broken(name, *arguments)

    session._cuda._call = fails
    assert all(doubles(session, 1) for _ in range(RECORDED_AFTER + 3))
    assert stub.launches == 0
    assert caplog.text.count("run without a CUDA graph") == 1
    session._cuda._call = broken
    if call == "cudaStreamEndCapture":
        stub.library.stub_reset(0)  # the recording that was taken away has no owner
        session._stream = None


def test_what_tensorrt_refuses_is_an_error(trt, stub: Stub, model: Path, monkeypatch):
    plan = plan_of(trt, model)
    with pytest.raises(PlanRefusedError, match="does not load its plan of 0 MB"):
        open_plan(trt, stub, b"broken")
    monkeypatch.setattr(trt.Context, "set_tensor_address", lambda self, name, address: False)
    with pytest.raises(DeviceError, match="does not take the memory of 'x'"):
        open_plan(trt, stub, plan)
    monkeypatch.undo()
    monkeypatch.setattr(trt.Context, "set_input_shape", lambda self, name, shape: False)
    with pytest.raises(DeviceError, match=r"does not take 'x' of shape \(8, 2\)"):
        open_plan(trt, stub, plan)
    monkeypatch.undo()
    monkeypatch.setattr(trt.Engine, "create_execution_context", lambda self, strategy: None)
    with pytest.raises(DeviceError, match="could not make an execution context"):
        open_plan(trt, stub, plan)
    assert stub.live == 0


def test_it_says_what_it_expected(session: TensorRtSession):
    for feeds, message in (
        ({}, "input 'x' is missing"),
        ({"x": np.ones((1, 2))}, "'x' is float64, expected float32"),
        ({"x": np.ones((9, 2), np.float32)}, r"shape \(9, 2\); built for \(1, 2\) to \(8, 2\)"),
        ({"x": np.ones(2, np.float32)}, "has shape"),
    ):
        with pytest.raises(RequestError, match=message):
            session.run(None, feeds)


#: Shapes that are new, recorded, replayed, evicted.
WALK = (1, 2, 1, 1, 1, 1, 3, 2, 2, 2, *(rows for rows in (4, 5, 6) for _ in range(RECORDED_AFTER)), 1, 7)


def walk(session: TensorRtSession) -> bool:
    return all(doubles(session, rows) for rows in WALK)


@pytest.mark.parametrize("error", [2, 700], ids=["once", "sticky"])
def test_every_call_may_fail(library: Path, model: Path, monkeypatch, error: int):
    """Out of memory once, or an error that only a new process clears: a DeviceError or the right answer, never another
    error, nor memory that is lost; after the first kind the session goes on."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    for integrated in (False, True):
        stub = Stub(library, integrated=integrated)
        trt = fake_tensorrt(stub)
        plan = plan_of(trt, model)
        session = open_plan(trt, stub, plan)
        assert walk(session)
        session.close()
        names = stub.calls
        assert stub.launches > 0
        failed = 0
        for call, name in enumerate(names, 1):
            stub = Stub(library, integrated=integrated)
            stub.fail(call, error)
            session = None
            try:
                session = open_plan(trt, stub, plan)
                assert walk(session), (call, name)
            except DeviceError:
                failed += 1
            if session is not None:
                closing = len(stub.calls) < call  # the fault comes while it closes
                assert error == 700 or closing or walk(session), (call, name)
                session.close()
            del session
            # What CUDA did not free when it was asked stays: a graph that is never run again, too.
            assert stub.violations == "" or name == "cudaGraphExecDestroy", (call, name)
            refused = name.startswith(("cudaFree", "cudaStreamDestroy", "cudaGraphExecDestroy", "cudaGraphDestroy"))
            assert error == 700 or stub.live <= refused, (call, name)
        assert failed > len(names) // 4
        assert trt.VIOLATIONS == []
    gc.collect()
    assert ignored == []


def test_closing_after_a_sticky_error_is_quiet(session: TensorRtSession, stub: Stub, caplog):
    caplog.set_level(logging.INFO)
    assert doubles(session, 1)
    stub.fail(1, 700)
    with pytest.raises(DeviceError, match="restart the process"):
        doubles(session, 1)
    session.close()
    assert caplog.text.count("not all of its memory could be freed") == 1
    # Every block was tried, not only the first.
    assert stub.calls.count("cudaFreeHost") == 2
    stub.library.stub_reset(0)


def test_tensorrt_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match="tensorrt is not installed"):
        module._import_tensorrt()


def test_cuda_says_what_there_is_and_what_failed(stub: Stub):
    gpu = Cuda(stub.library).gpu()
    assert (gpu.name, gpu.sm, gpu.multiprocessors, gpu.driver) == ("Stub", 87, 8, 13020)
    assert (gpu.free, gpu.total) == (4 << 30, 8 << 30)
    assert gpu.integrated == Cuda(stub.library).integrated
    stub.fail(2, 2)
    with pytest.raises(DeviceError, match=r"cudaMalloc failed: stub error 2 \(CUDA error 2\)"):
        Cuda(stub.library).malloc(10)
