"""TensorRT's side, without TensorRT: plans and their folder, the child that builds, the runner, the way there."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from paths import ROOT

from faceinsight import DeviceError, FaceInsight, RequestError
from faceinsight.backends.device import BATCH, Device
from faceinsight.backends.probes import tiny_model
from faceinsight.backends.session import CheckedSession
from faceinsight.backends.tensorrt import engines
from faceinsight.backends.tensorrt.cudart import Cuda
from faceinsight.backends.tensorrt.engines import EngineCache, EngineTarget, LazyEngineSession, key_of
from faceinsight.backends.tensorrt.rewrite import for_tensorrt
from faceinsight.backends.tensorrt.session import SHAPES, TensorRtSession
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.onnx_header import OnnxHeader
from faceinsight.host.child import probe
from faceinsight_export.cli import main as export
from faceinsight_export.onnx.fp16_weights import store_fp16

FAKE = ROOT / "tests" / "support" / "fake_tensorrt.py"
ORIN = EngineTarget("10.3.0", 87, "Orin")


def load_fake():
    spec = importlib.util.spec_from_file_location("fake_tensorrt", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trt():
    return load_fake()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch):
    """The fake is `tensorrt` for child processes; plans go to a folder of their own."""
    (tmp_path / "site").mkdir()
    shutil.copyfile(FAKE, tmp_path / "site" / "tensorrt.py")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("FACEINSIGHT_ENGINES", str(tmp_path / "engines"))
    return monkeypatch


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x (batch,2) -> y = x + x."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_key_is_everything_a_plan_depends_on(model: Path):
    key = key_of(model, ORIN)
    assert key.profile == (("x", ((1, 2), (1, 2), (8, 2))),)
    others = [
        dataclasses.replace(key, onnx_sha256="0" * 64),
        dataclasses.replace(key, precision="other"),
        dataclasses.replace(key, profile=(("x", ((1, 2), (1, 2), (9, 2))),)),
        *(
            dataclasses.replace(key, target=dataclasses.replace(ORIN, **x))
            for x in ({"tensorrt": "10.3.1"}, {"sm": 110}, {"device": "Thor"})
        ),
    ]
    assert len({k.digest for k in [key, *others]}) == 7
    assert key_of(model, ORIN).digest == key.digest
    assert engines.AXES["batch"][2] == BATCH["tensorrt"]


def test_every_graph_of_nano_has_a_profile():
    bundle = Bundle.open("nano")
    assert bundle.graph_files == ["closeup.onnx", "encoder.onnx", "knowledge.onnx", "parser.onnx", "question.onnx"]
    for name in bundle.graph_files:
        for tensor, shapes in key_of(bundle.file(name), ORIN).profile:
            assert len(shapes) == 3, tensor
    question = key_of(bundle.file("question.onnx"), ORIN).profile
    assert question[0][1][2][1] >= bundle.manifest.llm.max_question


def test_an_unknown_free_axis_is_named(model: Path, tmp_path: Path):
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "frames"
    onnx.save(proto, tmp_path / "f.onnx")
    with pytest.raises(DeviceError, match=r"dynamic axis 'frames'; expected one of batch, count, length"):
        key_of(tmp_path / "f.onnx", ORIN)


def test_a_plan_is_built_once_strongly_typed_and_kept_to_ourselves(fake, model: Path, tmp_path: Path):
    cache, key = EngineCache(), key_of(model, ORIN)
    lines: list[str] = []
    assert cache.load(key) is None
    plan = cache.build(key, model, lines.append)
    assert "build 100 %" in lines
    told = json.loads(plan)
    assert told["flags"] == 1 << 1
    assert told["profile"] == {"x": [[1, 2], [1, 2], [8, 2]]}
    assert told["timings"] == ""
    assert cache.load(key) == plan
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in cache.folder.iterdir()} == {0o600}
    assert sorted(p.suffix for p in cache.folder.iterdir()) == [".cache", ".json", ".lock", ".plan"]
    # Another model starts from the timings of the first.
    other = dataclasses.replace(key, precision="other")
    assert json.loads(cache.build(other, model, lines.append))["timings"] == "timings"


@pytest.mark.parametrize("part", ["plan", "json"])
def test_what_is_not_as_recorded_is_built_again(fake, model: Path, part: str):
    cache, key = EngineCache(), key_of(model, ORIN)
    cache.build(key, model, lambda line: None)
    path = cache.folder / f"{key.digest}.{part}"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    assert cache.load(key) is None
    plan = cache.build(key, model, lambda line: None)
    assert json.loads(plan)["flags"] == 2
    assert cache.load(key) == plan
    path.chmod(0o666)
    assert cache.load(key) is None


def test_a_folder_that_others_could_write_is_refused(tmp_path: Path, monkeypatch):
    EngineCache(tmp_path / "a" / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "mine")
    with pytest.raises(DeviceError, match="is a link"):
        EngineCache(tmp_path / "link")
    (tmp_path / "a" / "mine").chmod(0o770)
    with pytest.raises(DeviceError, match=r"can be written by others \(mode 770\): chmod 700"):
        EngineCache(tmp_path / "a" / "mine")
    (tmp_path / "a" / "mine").chmod(0o700)
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(DeviceError, match="can be written by anyone"):
        EngineCache(tmp_path / "a" / "mine")
    (tmp_path / "a").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(DeviceError, match="belongs to user"):
        EngineCache(tmp_path / "a" / "mine")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "crashed with SIGSEGV after: about to fail"),
        ("refuse", "no such operator"),
        ("crash on import", "crashed with SIGSEGV"),
    ],
)
def test_a_build_that_dies_is_an_error_message(fake, model: Path, fault: str, message: str):
    fake.setenv("FAKE_TENSORRT", fault)
    cache = EngineCache()
    with pytest.raises(DeviceError, match=message):
        cache.build(key_of(model, ORIN), model, lambda line: None)
    assert [p.suffix for p in cache.folder.iterdir()] == [".lock"]


def test_a_probe_that_dies_is_a_finding(fake):
    fake.setenv("FAKE_TENSORRT", "crash on import")
    assert probe.__wrapped__("tensorrt").error == "crashed with SIGSEGV"


def test_a_model_that_changed_is_not_built(fake, model: Path):
    key = key_of(model, ORIN)
    model.write_bytes(tiny_model())
    with pytest.raises(DeviceError, match="changed meanwhile"):
        EngineCache().build(key, model, lambda line: None)


def test_two_builders_of_one_plan_build_it_once(fake, model: Path, tmp_path: Path):
    fake.setenv("FAKE_TENSORRT", "slow")
    fake.setenv("FAKE_TENSORRT_COUNT", str(tmp_path / "count"))
    caches, key, lines = [EngineCache(), EngineCache()], key_of(model, ORIN), []
    # As in two processes: only the lock on the file is common.
    for cache in caches:
        cache._building = threading.Lock()
    threads = [threading.Thread(target=c.build, args=(key, model, lines.append)) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "count").read_text() == "x"
    assert any("another process is building it" in line for line in lines)


def test_the_runner_captures_the_second_run_and_replays_it(trt):
    cuda = trt.FakeCuda()
    session = TensorRtSession(b"plan", name="m.onnx", trt=trt, cuda=cuda)
    graph = CheckedSession(session, "m.onnx", {"x": (None, 2)}, {"y": (None, 2)})
    for n in range(4):
        x = np.full((3, 2), n, np.float32)
        assert np.array_equal(graph(x=x)[0], 2 * x)
    assert cuda.launched == 3
    assert session.get_providers() == ["TensorRT 10.3.0"]
    # What was handed out is the caller's: the next run does not write into it.
    (first,) = graph(x=np.ones((3, 2), np.float32))
    graph(x=np.zeros((3, 2), np.float32))
    assert (first == 2).all()
    session.close()
    assert not cuda.live
    with pytest.raises(RequestError, match="closed"):
        session.run(None, {"x": x})


def test_the_runner_keeps_a_bounded_number_of_shapes(trt):
    cuda = trt.FakeCuda()
    session = TensorRtSession(b"plan", name="m.onnx", trt=trt, cuda=cuda)
    for _ in range(2):
        for batch in range(1, 13):
            x = np.random.default_rng(batch).normal(size=(batch, 2)).astype(np.float32)
            assert np.array_equal(session.run(["y"], {"x": x})[0], 2 * x)
    assert len(cuda.live) == 1 + 4 * SHAPES
    session.close()
    assert not cuda.live


def test_a_plan_that_cannot_be_captured_runs_plainly(trt, caplog):
    caplog.set_level(logging.INFO)
    cuda = trt.FakeCuda()
    session = TensorRtSession(b"plan", name="m.onnx", trt=trt, cuda=cuda)
    trt.STREAM.refuse = True
    x = np.ones((1, 2), np.float32)
    for _ in range(3):
        assert (session.run(None, {"x": x})[0] == 2).all()
    assert cuda.launched == 0
    assert caplog.text.count("runs without a CUDA graph") == 1


def test_the_runner_says_what_it_expected(trt):
    with pytest.raises(DeviceError, match="does not load its plan"):
        TensorRtSession(b"broken", name="m.onnx", trt=trt, cuda=trt.FakeCuda())
    session = TensorRtSession(b"plan", name="m.onnx", trt=trt, cuda=trt.FakeCuda())
    for feeds, message in (
        ({}, "input 'x' is missing"),
        ({"x": np.ones((1, 2))}, "'x' is float64, expected float32"),
        ({"x": np.ones((17, 2), np.float32)}, r"shape \(17, 2\); built for \(1, 2\) to \(16, 2\)"),
        ({"x": np.ones(2, np.float32)}, "has shape"),
    ):
        with pytest.raises(RequestError, match=message):
            session.run(None, feeds)


class Doubling:
    """A fallback."""

    def get_inputs(self):
        return []

    get_outputs = get_inputs

    def get_providers(self):
        return ["CUDAExecutionProvider"]

    def run(self, names, feeds):
        return [2 * feeds["x"]]


def test_answers_come_from_the_fallback_until_the_plan_is_there(trt, caplog):
    caplog.set_level(logging.INFO)
    may_go = threading.Event()

    def make():
        may_go.wait(10)
        return b"plan"

    opens = functools.partial(TensorRtSession, name="m", trt=trt, cuda=trt.FakeCuda())
    session = LazyEngineSession("m", Doubling(), make, open_engine=opens)
    x = np.ones((1, 2), np.float32)
    assert session.get_providers() == ["CUDAExecutionProvider"]
    assert (session.run(["y"], {"x": x})[0] == 2).all()
    may_go.set()
    session.wait()
    assert (session.run(["y"], {"x": x})[0] == 2).all()
    assert session.get_providers() == ["TensorRT 10.3.0"]
    assert "running on CUDAExecutionProvider" in caplog.text
    assert "runs on TensorRT 10.3.0 now" in caplog.text


def test_a_failed_background_build_stays_on_the_fallback_and_says_why(caplog):
    def make():
        raise DeviceError("no such operator")

    session = LazyEngineSession("m", Doubling(), make)
    x = np.ones((1, 2), np.float32)
    session.run(["y"], {"x": x})
    session.wait()
    assert (session.run(["y"], {"x": x})[0] == 2).all()
    assert caplog.text.count("stays on CUDAExecutionProvider: no such operator") == 1


def test_without_a_gpu_fallback_the_plan_is_built_before_the_first_answer(fake, model: Path, trt):
    opens = functools.partial(TensorRtSession, trt=trt, cuda=trt.FakeCuda())
    fake.setattr(engines, "TensorRtSession", opens)
    device = Device("tensorrt", True, 1, tensorrt=ORIN)
    x = np.ones((2, 2), np.float32)
    assert (device.session(model).run(["y"], {"x": x})[0] == 2).all()
    fake.setenv("FAKE_TENSORRT", "crash")
    assert device.session(model).get_providers() == ["TensorRT 10.3.0"]


def test_a_device_that_cannot_work_names_the_cause(fake):
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has TensorRT")

    def target():
        raise DeviceError("TensorRT cannot be used: crashed with SIGSEGV")

    fake.setattr(engines, "target", target)
    fake.setattr("faceinsight.diagnostics.doctor.finding", lambda name: f"finding about {name}")
    with pytest.raises(DeviceError, match=r"crashed with SIGSEGV.*choose device='cpu'\. finding about tensorrt"):
        FaceInsight.load("nano", device="tensorrt")
    fake.setattr(engines, "target", lambda: ORIN)
    llama = type("L", (), {"llama_supports_gpu_offload": lambda: True})
    fake.setattr("faceinsight.backends.device.import_llama", lambda: llama)
    assert Device.resolve("tensorrt").tensorrt == ORIN


def test_target_is_asked_in_a_child_and_must_be_new_enough(monkeypatch):
    from faceinsight.host.child import Probe

    found = {"version": "10.3.0", "sm": 87, "device": "Orin", "integrated": True}
    monkeypatch.setattr(engines, "probe", lambda name: Probe(found))
    assert engines.target() == ORIN
    found["version"] = "8.6.1"
    with pytest.raises(DeviceError, match=r"8\.6\.1 is too old; expected 10\.3"):
        engines.target()
    monkeypatch.setattr(engines, "probe", lambda name: Probe(error="crashed with SIGSEGV"))
    with pytest.raises(DeviceError, match="crashed with SIGSEGV"):
        engines.target()


def test_the_engine_command_builds_all_plans_of_a_bundle(fake, capsys):
    fake.setattr(engines, "target", lambda: ORIN)
    assert export(["engine", "nano"]) == 0
    out = capsys.readouterr().out
    assert "encoder.onnx: build 100 %" in out
    assert out.count(" built") == 5
    assert export(["engine", "nano"]) == 0
    assert capsys.readouterr().out.count("there already") == 5
    fake.setattr(engines, "target", functools.partial(_raise, DeviceError("TensorRT cannot be used")))
    assert export(["engine", "nano"]) == 1
    assert "faceinsight-export: TensorRT cannot be used" in capsys.readouterr().err


def _raise(error):
    raise error


def test_half_stored_weights_are_constants_again(tmp_path: Path):
    import onnxruntime

    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 64]) for n in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    path = tmp_path / "half.onnx"
    onnx.save(proto, path)
    store_fp16(path)
    folded = for_tensorrt(path.read_bytes())
    again = onnx.load_from_string(folded)
    onnx.checker.check_model(again)
    assert [n.op_type for n in again.graph.node] == ["MatMul", "Relu"]
    assert [t.data_type for t in again.graph.initializer] == [TensorProto.FLOAT]
    feeds = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    results = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for m in (path.read_bytes(), folded)
    ]
    assert np.array_equal(*results)
    assert for_tensorrt(folded) == folded
    # A half-precision graph computes in half precision and stays as it is.
    outline = OnnxHeader.read(path)
    assert [(n.name, n.stored) for n in outline.narrow()] == [("w", "w.half")]


@pytest.mark.parametrize("name", ["encoder.onnx", "parser.onnx", "question.onnx"])
def test_what_tensorrt_gets_computes_the_same(name: str):
    """Bytes only come in and go out: TensorRT has no operators on them."""
    import onnxruntime

    data = Bundle.open("nano").file(name).read_bytes()
    rewritten = for_tensorrt(data)
    proto = onnx.load_from_string(rewritten)
    onnx.checker.check_model(proto)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in OnnxHeader.read(Bundle.open("nano").file(name)).inputs:
        shape = [d if isinstance(d, int) else {"batch": 2, "count": 5, "length": 7}[d] for d in value.shape]
        kind = {1: np.float32, 2: np.uint8, 7: np.int64}[value.kind]
        feeds[value.name] = rng.integers(0, 19, shape).astype(kind)
    results = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feeds) for m in (data, rewritten)
    ]
    for expected, found in zip(*results, strict=True):
        assert expected.dtype == found.dtype
        assert np.abs(expected.astype(float) - found).max() <= 1e-5 * np.abs(expected).max()
    inputs = {i.name for i in proto.graph.input if i.type.tensor_type.elem_type == TensorProto.UINT8}
    readers = [n.op_type for n in proto.graph.node if inputs & set(n.input)]
    assert readers == ["Cast"] * len(inputs)
    makers = {o: n for n in proto.graph.node for o in n.output}
    for cast in (n for n in proto.graph.node if n.op_type == "Cast" and n.attribute[0].i == TensorProto.UINT8):
        assert makers[cast.input[0]].attribute[0].i == TensorProto.FLOAT


class FakeCudart:
    """A libcudart with one Jetson Orin; `broken` calls fail with error 2."""

    broken = ""
    devices = 1

    def __getattr__(self, name):
        if name == "cudaGetDeviceProperties_v2":
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name, *arguments):
        if name == self.broken:
            return 2
        if name == "cudaGetDeviceCount":
            arguments[0]._obj.value = self.devices
        elif name == "cudaGetDeviceProperties":
            arguments[0].value = b"Orin"
        elif name == "cudaDeviceGetAttribute":
            arguments[0]._obj.value = {18: 1, 75: 8, 76: 7}[arguments[1].value]
        elif name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion"):
            arguments[0]._obj.value = 12060
        elif name == "cudaMemGetInfo":
            arguments[0]._obj.value, arguments[1]._obj.value = 4, 8
        return 0

    class _Say:
        def __call__(self, status):
            return b"out of memory"

    cudaGetErrorString = _Say()


def test_cuda_says_what_there_is_and_what_failed():
    library = FakeCudart()
    gpu = Cuda(library).gpu()
    assert (gpu.name, gpu.sm, gpu.integrated, gpu.driver, gpu.free, gpu.total) == ("Orin", 87, True, 12060, 4, 8)
    library.broken = "cudaMalloc"
    with pytest.raises(DeviceError, match=r"cudaMalloc failed: out of memory \(CUDA error 2\)"):
        Cuda(library).malloc(10)
    library.devices = 0
    with pytest.raises(DeviceError, match="CUDA sees no GPU"):
        Cuda(library)
