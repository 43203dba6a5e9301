"""TensorRT's side, without TensorRT: plans and their folder, the children that build and compare, the way there."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_stubs import FAKE, Stub, compile_stub, doubles, fake_tensorrt, plan_of
from onnx import TensorProto, helper
from paths import PHOTO

from faceinsight import DeviceError, FaceInsight
from faceinsight.backends.device import BATCH, Device
from faceinsight.backends.probes import tiny_model
from faceinsight.backends.tensorrt import engines, opening, target, workspace
from faceinsight.backends.tensorrt.cudart import Cuda
from faceinsight.backends.tensorrt.engines import EngineCache, WrongPlanError, key_of
from faceinsight.backends.tensorrt.opening import LazyEngineSession
from faceinsight.backends.tensorrt.rewrite import for_tensorrt, mapped, rewritten
from faceinsight.backends.tensorrt.session import PlanRefusedError, TensorRtSession
from faceinsight.backends.tensorrt.shapes import AXES
from faceinsight.backends.tensorrt.target import EngineTarget
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.onnx_header import OnnxHeader
from faceinsight.host.child import death, probe
from faceinsight_export.cli import main as export
from faceinsight_export.onnx.fp16_weights import store_fp16

ORIN = EngineTarget("10.3.0", 1000, "Orin", 8, 8, 87, 12060, integrated=False)
BOARD = dataclasses.replace(ORIN, integrated=True)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> tuple[Path, Path]:
    """The stub of CUDA for this process, and for its children."""
    folder = tmp_path_factory.mktemp("cuda")
    return compile_stub(folder), compile_stub(folder, "libcudart.so.13")


@pytest.fixture
def stub(libraries: tuple[Path, Path], tmp_path: Path) -> Stub:
    """A copy for each test: sessions of others may be closed late."""
    return Stub(Path(shutil.copy(libraries[0], tmp_path)))


@pytest.fixture
def trt(stub: Stub):
    fake = fake_tensorrt(stub)
    yield fake
    assert fake.VIOLATIONS == []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch, libraries: tuple[Path, Path], trt, stub: Stub):
    """The fake is `tensorrt` for child processes and for sessions here; plans go to a folder of their own."""
    (tmp_path / "site").mkdir()
    shutil.copyfile(FAKE, tmp_path / "site" / "tensorrt.py")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("FACEINSIGHT_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("FAKE_CUDART", str(libraries[1]))
    monkeypatch.delenv("FACEINSIGHT_ENGINE_PRECISION", raising=False)
    opens = functools.partial(TensorRtSession, trt=trt, cuda=Cuda(stub.library))
    monkeypatch.setattr(opening, "TensorRtSession", opens)
    monkeypatch.setattr(target, "target", lambda: ORIN)
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
            for x in (
                {"version": "10.3.1"},
                {"library": 1001},  # the wheel for another CUDA
                {"device": "Thor"},
                {"multiprocessors": 16},  # an AGX Orin, which has the same name
                {"memory": 16},
                {"sm": 110},
                {"driver": 13000},
            )
        ),
    ]
    assert len({k.digest for k in [key, *others]}) == 11
    assert key_of(model, ORIN).digest == key.digest
    assert AXES["batch"][2] == BATCH["tensorrt"]


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


def test_a_plan_is_built_once_strongly_typed_and_kept_to_ourselves(fake, trt, model: Path, tmp_path: Path):
    cache, key = EngineCache(), key_of(model, ORIN)
    lines: list[str] = []
    assert cache.load(key) is None
    plan = cache.build(key, model, lines.append)
    assert "build 100 %" in lines
    told = trt.told_of(plan.data)
    assert plan.deviation == 0
    assert told["flags"] == 1 << 1
    assert told["profile"] == {"x": [[1, 2], [1, 2], [8, 2]]}
    assert told["timings"] == ""
    assert cache.load(key) == plan
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in cache.folder.iterdir()} == {0o600}
    assert sorted(p.suffix for p in cache.folder.iterdir()) == [".cache", ".json", ".lock", ".plan"]
    # Another model starts from the timings of the first.
    other = dataclasses.replace(key, precision="other")
    assert trt.told_of(cache.build(other, model, lines.append).data)["timings"] == "timings"


@pytest.mark.parametrize(("free", "size"), [(24 << 30, 1 << 30), (900 << 20, 256 << 20), (100 << 20, 64 << 20)])
def test_a_build_takes_scratch_memory_by_what_is_free(fake, trt, model: Path, free: int, size: int):
    fake.setenv("STUB_FREE", str(free))
    lines = []
    plan = EngineCache().build(key_of(model, ORIN), model, lines.append)
    assert trt.told_of(plan.data)["workspace"] == size
    assert f"kernels may take {size >> 20} MiB of scratch memory" in lines


def test_where_memory_is_shared_what_linux_has_available_counts(stub: Stub, monkeypatch):
    cuda = Cuda(Stub(stub.path, integrated=True).library)
    monkeypatch.setattr(workspace, "available_memory", lambda: 300 << 20)
    assert workspace.free_memory(cuda) == (300 << 20, True)
    assert workspace.limit(300 << 20) == 128 << 20
    assert workspace.free_memory(Cuda(Stub(stub.path).library)) == (4 << 30, False)


def test_without_a_gpu_to_ask_the_limit_is_the_largest(monkeypatch):
    def none() -> None:
        raise DeviceError("no CUDA runtime found")

    monkeypatch.setattr(workspace, "Cuda", none)
    assert workspace.free_memory() == (None, False)
    assert workspace.limit(None) == 1 << 30


@pytest.mark.parametrize("part", ["plan", "json"])
def test_what_is_not_as_recorded_is_built_again(fake, trt, model: Path, part: str):
    cache, key = EngineCache(), key_of(model, ORIN)
    cache.build(key, model, lambda line: None)
    path = cache.folder / f"{key.digest}.{part}"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    assert cache.load(key) is None
    plan = cache.build(key, model, lambda line: None)
    assert trt.told_of(plan.data)["flags"] == 2
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
        ("refuse", r"parser says: Magic layer\.0: no such operator; and no weights$"),
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


class Doubling:
    """A fallback."""

    def get_inputs(self):
        return []

    get_outputs = get_inputs

    def get_providers(self):
        return ["CUDAExecutionProvider"]

    def run(self, names, feeds):
        return [2 * feeds["x"]]


def test_answers_come_from_the_fallback_until_the_plan_is_there(trt, stub: Stub, model: Path, caplog):
    caplog.set_level(logging.INFO)
    may_go = threading.Event()

    def make():
        may_go.wait(10)
        return plan_of(trt, model)

    opens = functools.partial(TensorRtSession, name="m", trt=trt, cuda=Cuda(stub.library))
    session = LazyEngineSession("m", Doubling(), make, open_engine=opens)
    x = np.ones((1, 2), np.float32)
    assert session.get_providers() == ["CUDAExecutionProvider"]
    assert (session.run(["y"], {"x": x})[0] == 2).all()
    may_go.set()
    session.wait()
    assert (session.run(["y"], {"x": x})[0] == 2).all()
    assert session.get_providers() == ["TensorRT 10.3.0"]
    assert "running on CUDAExecutionProvider meanwhile" in caplog.text
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


def test_a_device_that_cannot_work_names_the_cause(fake):
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has TensorRT")

    cannot = DeviceError("TensorRT cannot be used: crashed with SIGSEGV")
    fake.setattr(target, "target", functools.partial(_raise, cannot))
    fake.setattr("faceinsight.diagnostics.doctor.finding", lambda name: f"finding about {name}")
    with pytest.raises(DeviceError, match=r"crashed with SIGSEGV.*choose device='cpu'\. finding about tensorrt"):
        FaceInsight.load("nano", device="tensorrt")
    fake.setattr(target, "target", lambda: ORIN)
    llama = type("L", (), {"llama_supports_gpu_offload": lambda: True})
    fake.setattr("faceinsight.backends.device.import_llama", lambda: llama)
    assert Device.resolve("tensorrt").tensorrt == ORIN


def test_target_is_asked_in_a_child_and_must_be_new_enough(monkeypatch):
    from faceinsight.host.child import Probe

    asked = []
    found = dataclasses.asdict(ORIN)
    monkeypatch.setattr(target, "probe", lambda *arguments: asked.append(arguments) or Probe(found))
    assert target.target() == ORIN
    # A builder takes seconds and a gigabyte, and the plans may be there: only the runtime is tried.
    assert asked == [("tensorrt", "Runtime")]
    found["version"] = "8.6.1"
    with pytest.raises(DeviceError, match=r"8\.6\.1 is too old; expected 10\.3"):
        target.target()
    monkeypatch.setattr(target, "probe", lambda *arguments: Probe(error="crashed with SIGSEGV"))
    with pytest.raises(DeviceError, match="crashed with SIGSEGV"):
        target.target()


def test_the_probe_says_all_that_a_plan_depends_on(fake):
    """In a real child, over the stub: every field of the target, and no builder."""
    found = probe.__wrapped__("tensorrt", "Runtime").found
    assert EngineTarget(**found) == EngineTarget("10.3.0", 0, "Stub", 8, 8, 87, 13020, integrated=False)
    code = "import tensorrt; del tensorrt.Builder; from faceinsight.backends.probes import PROBES; "
    for wanted, starts in (("Runtime", True), ("Builder", False)):
        done = subprocess.run([sys.executable, "-c", f"{code}PROBES['tensorrt']({wanted!r})"], env=_environment())
        assert (done.returncode == 0) == starts


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_engine_command_builds_all_plans_of_a_bundle(fake, trt, stub: Stub, capsys):
    files = ["knowledge.onnx", "question.onnx"]
    fake.setattr(Bundle, "graph_files", files)
    assert export(["engine", "nano"]) == 0
    out = capsys.readouterr().out
    assert "question.onnx: build 100 %" in out
    assert out.count(" from ONNX Runtime's CPU  built") == 2
    assert export(["engine", "nano"]) == 0
    assert capsys.readouterr().out.count("there already") == 2
    assert export(["engine", "nano", "--again"]) == 0
    assert capsys.readouterr().out.count(" built") == 2
    # Plans that TensorRT refuses, as after an update that keeps its version.
    fake.setattr(trt.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    assert export(["engine", "nano"]) == 0
    assert capsys.readouterr().out.count(" built") == 2
    assert stub.live == 0
    fake.setattr(target, "target", functools.partial(_raise, DeviceError("TensorRT cannot be used")))
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
    folded = b"".join(rewritten(mapped(path)))
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
    assert rewritten(memoryview(folded)) is None
    # A half-precision graph computes in half precision and stays as it is.
    outline = OnnxHeader.read(path)
    assert [(n.name, n.stored) for n in outline.narrow()] == [("w", "w.half")]


@pytest.mark.parametrize("name", ["encoder.onnx", "parser.onnx", "question.onnx"])
def test_what_tensorrt_gets_computes_the_same(name: str):
    """Bytes only come in and go out: TensorRT has no operators on them."""
    import onnxruntime

    data = Bundle.open("nano").file(name).read_bytes()
    given = b"".join(rewritten(memoryview(data)))
    proto = onnx.load_from_string(given)
    onnx.checker.check_model(proto)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in OnnxHeader.read(Bundle.open("nano").file(name)).inputs:
        shape = [d if isinstance(d, int) else {"batch": 2, "count": 5, "length": 7}[d] for d in value.shape]
        kind = {1: np.float32, 2: np.uint8, 7: np.int64}[value.kind]
        feeds[value.name] = rng.integers(0, 19, shape).astype(kind)
    results = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feeds) for m in (data, given)
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


def test_a_model_that_stays_as_it_is_is_not_read_into_memory(tmp_path: Path):
    """A vision encoder has a gigabyte: on a small board its build was killed for copies of it. Where weights are
    rewritten, only these are held."""
    values = {"x": [64, 4096], "y": [64, 4096]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT16, values[n]) for n in "xy")
    weight = np.zeros((4096, 12800), np.float16)  # 100 MB
    weights = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(weight[:1, :1], "small")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    widened = [helper.make_node("Cast", ["small"], ["s"], to=1), helper.make_node("Relu", ["s"], ["z"])]
    for name, extra in (("plain", []), ("widened", widened)):
        graph = helper.make_graph([*nodes, *extra], "g", [x], [y], weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / f"{name}.onnx")
        tracemalloc.start()
        given = for_tensorrt(tmp_path / f"{name}.onnx", tmp_path / f"scratch-{name}.onnx")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert given.name == ("plain.onnx" if name == "plain" else "scratch-widened.onnx")
        assert peak < 5e6
    found = OnnxHeader.read(tmp_path / "scratch-widened.onnx")
    assert [n.op for n in found.nodes] == ["MatMul", "Relu", "Relu"]


def test_a_build_that_is_killed_names_memory():
    assert death(-9, "Init builder kernel library").startswith("crashed with SIGKILL (out of memory? close other pro")
    assert "memory" not in death(-11, "")


def test_int8_for_cpus_is_refused_before_it_is_built(fake, tmp_path: Path):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    graph = helper.make_graph([node, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "vision.onnx")
    with pytest.raises(DeviceError, match=r"DynamicQuantizeLinear.*--vision fp16 or int8-static"):
        Device("tensorrt", True, 1, tensorrt=ORIN).session(tmp_path / "vision.onnx")
    assert not list(EngineCache().folder.glob("*.lock"))


class Fallback:
    """Counts how often it is asked for."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Doubling:
        self.made += 1
        return Doubling()


def test_a_fallback_is_not_made_where_the_plan_is_there(fake, model: Path):
    """It would load every graph onto the GPU a second time."""
    fallback = Fallback()
    lazy = opening.open_session(model, ORIN, fallback)
    assert fallback.made == 1
    assert doubles(lazy, 3)
    lazy.wait()
    assert opening.open_session(model, ORIN, fallback).get_providers() == ["TensorRT 10.3.0"]
    assert fallback.made == 1
    calls = []
    fake.setattr(Device, "_meanwhile", lambda self, model: calls.append(self.name))
    Device("tensorrt", True, 1, tensorrt=ORIN).session(model)
    assert calls == []


def test_a_plan_that_tensorrt_refuses_is_built_again(fake, trt, model: Path, caplog):
    device = Device("tensorrt", True, 1, tensorrt=ORIN)
    assert doubles(device.session(model), 2)
    loads, refused = trt.Runtime.deserialize_cuda_engine, []

    def once(self, plan):
        return loads(self, plan) if refused else refused.append(plan)

    fake.setattr(trt.Runtime, "deserialize_cuda_engine", once)
    assert doubles(device.session(model), 2)
    assert refused
    assert "does not load its plan of 0 MB" in caplog.text
    # With a fallback, that answers meanwhile.
    refused.clear()
    lazy = opening.open_session(model, ORIN, Fallback())
    assert lazy.get_providers() == ["CUDAExecutionProvider"]
    lazy.run(["y"], {"x": np.ones((1, 2), np.float32)})
    lazy.wait()
    assert doubles(lazy, 2)
    assert lazy.get_providers() == ["TensorRT 10.3.0"]
    # One that was built just now and is refused is no reason to build for ever.
    fake.setattr(trt.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    with pytest.raises(PlanRefusedError, match="memory is short"):
        device.session(model)


def test_a_plan_that_computes_something_else_is_not_used(fake, model: Path, caplog):
    fake.setenv("FAKE_TENSORRT", "wrong")
    cache, key = EngineCache(), key_of(model, ORIN)
    with pytest.raises(WrongPlanError, match=r"are 2 from ONNX Runtime's on the CPU, at most 0\.1 is accepted"):
        cache.build(key, model, lambda line: None)
    assert json.loads((cache.folder / f"{key.digest}.json").read_text())["deviation"] == 2
    fake.delenv("FAKE_TENSORRT")
    # It is not built at every start: what was found is recorded.
    with pytest.raises(DeviceError, match=r"m\.onnx: this plan is not used"):
        Device("tensorrt", True, 1, tensorrt=ORIN).session(model)
    assert opening.open_session(model, ORIN, Fallback()).get_providers() == ["CUDAExecutionProvider"]
    assert "stays on CUDAExecutionProvider: this plan is not used" in caplog.text
    cache.discard(key)
    assert cache.build(key, model, lambda line: None).deviation == 0


def test_half_precision_is_a_boards_and_can_be_chosen(model: Path, monkeypatch):
    monkeypatch.delenv("FACEINSIGHT_ENGINE_PRECISION", raising=False)
    assert key_of(model, ORIN).precision == "fp32"
    assert key_of(model, BOARD).precision == "fp16"
    assert key_of(model, BOARD, precision="fp32").precision == "fp32"
    assert key_of(model, BOARD).digest != key_of(model, BOARD, precision="fp32").digest
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "fp16")
    assert key_of(model, ORIN).precision == "fp16"
    assert key_of(model, ORIN, precision="fp32").precision == "fp32"
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "int8")
    with pytest.raises(DeviceError, match=r"precision 'int8' of TensorRT plans; expected one of fp32, fp16"):
        key_of(model, ORIN)


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """x (batch,2) -> y = ((x i) i) 2i, whose first products may be half."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    nodes = [helper.make_node("MatMul", [*ends], [made]) for *ends, made in (("x", "i", "a"), ("a", "i", "b"))]
    nodes.append(helper.make_node("MatMul", ["b", "two"], ["y"]))
    square = np.eye(2, dtype=np.float32)
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in (("i", square), ("two", 2 * square))]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "p.onnx")
    return tmp_path / "p.onnx"


def halves(trt, plan: bytes) -> bool:
    """Was this plan built of a graph in half precision?"""
    proto = onnx.load_from_string(plan[8 + int.from_bytes(plan[4:8], "little") :])
    return any(t.data_type == TensorProto.FLOAT16 for t in proto.graph.initializer)


def test_a_board_is_given_a_graph_in_half_precision(fake, trt, products: Path):
    session = opening.open_session(products, BOARD, Fallback())
    assert doubles(session, 3)
    for precision in ("fp16", "fp32"):
        key = key_of(products, BOARD, precision=precision)
        plan = EngineCache().build(key, products, lambda line: None)
        assert halves(trt, plan.data) == (precision == "fp16")
    assert len(list(EngineCache().folder.glob("*.plan"))) == 2
    assert not list(EngineCache().folder.glob(".*"))


def test_a_plan_in_half_precision_that_is_wrong_is_built_in_float32(fake, trt, products: Path, caplog):
    """At once, and at the next start without trying it again."""
    fars = {"fp16": 0.3, "fp32": 0.0}
    fake.setattr(opening, "EngineCache", functools.partial(EngineCache, compare=lambda m, p, key: fars[key.precision]))
    fake.setenv("FAKE_TENSORRT_COUNT", str(products.with_name("count")))
    opening.prepare([products], BOARD)
    assert products.with_name("count").read_text() == "xx"
    assert "its outputs in fp16 are 0.3 from ONNX Runtime's on the CPU" in caplog.text
    assert "fp32 is used instead" in caplog.text
    cache = EngineCache()
    records = [json.loads(path.read_text()) for path in cache.folder.glob("*.json")]
    assert {r["key"]["precision"]: r["deviation"] for r in records} == fars
    key, plan = opening.find_plan(cache, key_of(products, BOARD), products)
    assert key.precision == "fp32"
    assert not halves(trt, plan.data)
    assert doubles(opening.open_session(products, BOARD, Fallback()), 3)
    opening.prepare([products], BOARD)
    assert products.with_name("count").read_text() == "xx"
    # Where fp32 is wrong too, nothing is left.
    fars["fp32"] = float("nan")
    cache.discard(key)
    with pytest.raises(DeviceError, match=r"its outputs in fp32 are nan .* device='cuda' or 'cpu'"):
        opening.open_plan(cache, key, products) or opening.build_plan(opening.EngineCache(), key, products)


def test_where_half_precision_cannot_be_built_float32_is(fake, trt, products: Path, caplog):
    """As where TensorRT has no kernel for it: recorded, so that not every start tries it for minutes."""
    tried, real = [], engines.build

    def build(*arguments, half):
        tried.append(half)
        if half:
            raise DeviceError("TensorRT could not build a plan of p.onnx: no implementation")
        real(*arguments, half=half)

    fake.setattr(engines, "build", build)
    for _ in range(2):
        opening.prepare([products], BOARD)
        assert doubles(opening.open_session(products, BOARD, Fallback()), 3)
    assert tried == [True, False]
    assert "there is no plan in fp16: TensorRT could not build a plan of p.onnx: no implem" in caplog.text
    # In fp32 it is an error: nothing is left.
    fake.setattr(engines, "build", lambda *a, half: _raise(DeviceError("no implementation")))
    with pytest.raises(DeviceError, match="no implementation"):
        EngineCache().build(key_of(products, ORIN), products, lambda line: None)


def test_the_engine_command_takes_a_precision(fake, capsys):
    fake.setattr(Bundle, "graph_files", ["question.onnx"])
    for precision in ("fp16", "fp32"):
        assert export(["engine", "nano", "--precision", precision]) == 0
        assert f"question.onnx    {precision} " in capsys.readouterr().out
    assert len(list(EngineCache().folder.glob("*.plan"))) == 2
    assert export(["engine", "nano", "--precision", "fp8"]) == 1
    assert "precision 'fp8' of TensorRT plans; expected one of fp32, fp16" in capsys.readouterr().err


def test_a_plan_that_does_not_run_is_an_error_message(fake, model: Path):
    fake.setenv("FAKE_TENSORRT", "refuse plan")
    cache = EngineCache()
    with pytest.raises(DeviceError, match="its new TensorRT plan does not run: PlanRefusedError"):
        cache.build(key_of(model, ORIN), model, lambda line: None)
    assert [p.suffix for p in cache.folder.iterdir()] == [".lock"]


def test_on_a_board_plans_are_built_before_anything_else(fake, model: Path):
    """CPU and GPU share memory there: a build beside a loaded LLM may not fit, and times kernels under load."""
    fallback = Fallback()
    assert opening.open_session(model, BOARD, fallback).get_providers() == ["TensorRT 10.3.0"]
    assert fallback.made == 0
    order = []
    fake.setattr(opening, "build_plan", lambda cache, key, model: order.append(model.name))
    fake.setattr("faceinsight.loading.load_llm", lambda *a, **k: order.append("llm") or _raise(DeviceError("no LLM")))
    fake.setattr("faceinsight.loading.Perception.load", lambda *a, **k: None)
    with pytest.raises(DeviceError, match="no LLM"):
        _load_parts(Device("tensorrt", True, 1, tensorrt=BOARD))
    assert order == [*Bundle.open("nano").graph_files, "llm"]
    order.clear()
    Device("tensorrt", True, 1, tensorrt=ORIN).prepare([model])
    Device("cpu", False, 1).prepare([model])
    assert order == []


def _load_parts(device: Device):
    from faceinsight.loading import load_parts

    return load_parts(Bundle.open("nano"), device, allow=(), deny=(), cache_bytes=1 << 20, forget_after=None)


@pytest.mark.slow
@pytest.mark.parametrize("precision", engines.PRECISIONS)
def test_nano_answers_through_plans_as_on_the_cpu(fake, insight: FaceInsight, stub: Stub, precision: str):
    """The whole way over the fakes: plans of all graphs, compared when they were built, run by the real session."""
    fake.setenv("FACEINSIGHT_ENGINE_PRECISION", precision)
    device = Device("tensorrt", False, 2, tensorrt=ORIN)
    fake.setattr(Device, "resolve", lambda name, threads: device)
    with FaceInsight.load("nano", device="tensorrt") as loaded:
        ((face,), (expected,)) = (each.perceive(PHOTO) for each in (loaded, insight))
        if precision == "fp32":
            assert face.labels == expected.labels
        assert [label.state for label in face.labels] == [label.state for label in expected.labels]
        texts = [each.ask(one, "Is she smiling?").text for each, one in ((loaded, face), (insight, expected))]
        assert texts[0] == texts[1]
    assert stub.violations == ""
    assert stub.calls.count("cudaStreamSynchronize") >= 5
    assert len(list(EngineCache().folder.glob("*.plan"))) == len(Bundle.open("nano").graph_files)
