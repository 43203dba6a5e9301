"""The choice of a device where ONNX Runtime lists CUDA: whether it computes, and with which options it is started."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from faceinsight import DeviceError
from faceinsight.backends import cuda_trial, device, ort, probes
from faceinsight.backends.device import Device
from faceinsight.backends.ort import CUDA_OPTIONS, import_onnxruntime, open_session, preload
from faceinsight.backends.tensorrt import provider
from faceinsight.bundle.bundle import Bundle
from faceinsight.host.child import NO_PYTHON, Probe

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
WORKS = Probe({"version": "1.31.1", "providers": [CUDA, CPU], "library": "ok", "run": "ok"})
NO_CUDNN = Probe(WORKS.found | {"run": "cuDNN is not available. Install cuDNN 9"})
NO_LIBRARY = Probe(WORKS.found | {"library": "libcublasLt.so.13: cannot open shared object file"})


class FakeSession:
    """Some calls compare sessions by weak references, which not every object has."""

    def __init__(self, provider: str) -> None:
        self.get_providers = lambda: [provider]


class FakeOnnxRuntime:
    """A GPU build: sessions note with which providers they were started; those in `refused` do not start."""

    __version__ = "1.31.1"

    def __init__(self, folder: Path, providers: list[str]) -> None:
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self._providers = providers
        self.started: list[list[Any]] = []
        self.given: list[str | bytes] = []
        self.refused: list[str] = []
        self.preloaded = 0
        self.computes, self.fault = False, ""

    def get_available_providers(self) -> list[str]:
        return self._providers

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, model: str | bytes, options: Any, *, providers: list[Any]) -> Any:
        self.started.append(providers)
        self.given.append(model)
        if any(word in str(providers) for word in self.refused):
            raise RuntimeError(f"refused: {self.refused}")
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        found = FakeSession(first)
        if self.computes:
            real = import_onnxruntime().InferenceSession(model, providers=[CPU])
            found.run = real.run if first == CPU else lambda names, feeds: self.faulty(real.run(names, feeds))
        return found

    def faulty(self, outputs: list[Any]) -> list[Any]:
        """What the GPU makes of it."""
        if self.fault == "raises":
            raise RuntimeError("no kernel")
        return [-y if self.fault == "wrong" else y for y in outputs]


@pytest.fixture
def gpu_build(tmp_path: Path, monkeypatch) -> FakeOnnxRuntime:
    """A GPU build of ONNX Runtime beside a llama.cpp that sees a GPU; findings go to a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake = FakeOnnxRuntime(tmp_path, [TENSORRT, CUDA, CPU])
    llama = SimpleNamespace(llama_supports_gpu_offload=lambda: True)
    monkeypatch.setattr(device, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(device, "import_llama", lambda: llama)
    # A stub of CUDA that another test has loaded stays in this process.
    monkeypatch.setattr(provider, "free_memory", lambda: (None, False))
    return fake


# The probe


def test_the_probe_convolves_and_multiplies():
    """Both are what our graphs consist of, and what a build without cuDNN, or without kernels for a GPU, lacks."""
    model = onnx.load_from_string(probes.tiny_model())
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["Conv", "MatMul"]
    session = import_onnxruntime().InferenceSession(probes.tiny_model(), providers=[CPU])
    feeds = {v.name: np.ones(v.shape, np.float32) for v in session.get_inputs()}
    assert (session.run(None, feeds)[0] == probes.TINY_RESULT).all()


def test_what_the_probe_finds(monkeypatch):
    real = import_onnxruntime()

    def run(answer: Any) -> str:
        def session(model: bytes, options: Any, providers: list[Any]) -> Any:
            assert providers == [(CUDA, CUDA_OPTIONS)]
            return SimpleNamespace(run=lambda names, feeds: answer())

        return probes._run_on_cuda(SimpleNamespace(SessionOptions=real.SessionOptions, InferenceSession=session))

    def without_cudnn() -> Any:
        raise RuntimeError("NOT_IMPLEMENTED: cuDNN is not available. Install cuDNN 9\nat conv.cc")

    right = np.full((1, 1, 2, 2), probes.TINY_RESULT, np.float32)
    assert run(lambda: [right]) == "ok"
    assert run(lambda: [right - 1]).startswith("a convolution and a product of ones give [161.0")
    assert run(without_cudnn) == "NOT_IMPLEMENTED: cuDNN is not available. Install cuDNN 9"


# The choice


@pytest.mark.parametrize(
    ("tried", "chosen", "said"),
    [
        (WORKS, "cuda", ""),
        (NO_CUDNN, "cpu", "cuDNN is not available"),
        (NO_LIBRARY, "cpu", "libcublasLt.so.13"),
        (Probe(error="crashed with SIGSEGV", crashed=True), "cpu", "SIGSEGV"),
        (Probe(error=NO_PYTHON), "cuda", ""),
    ],
)
def test_auto_believes_what_ran_and_not_what_was_compiled(
    gpu_build, monkeypatch, caplog, tried: Probe, chosen: str, said: str
):
    monkeypatch.setattr(cuda_trial, "probe", lambda name: tried)
    caplog.set_level(logging.WARNING)
    assert Device.resolve("auto").name == chosen
    assert said in caplog.text
    assert bool(said) == ("see `faceinsight doctor`" in caplog.text)
    if said:
        with pytest.raises(DeviceError, match=said):
            Device.resolve("cuda")
    else:
        assert Device.resolve("cuda").name == "cuda"


def test_a_cpu_build_is_not_tried(gpu_build, monkeypatch):
    gpu_build._providers = [CPU]
    monkeypatch.setattr(cuda_trial, "probe", None)
    assert Device.resolve("auto").name == "cpu"


def test_that_it_works_is_remembered_for_this_build_and_driver(gpu_build, monkeypatch, tmp_path: Path):
    tried: list[str] = []
    outcome = NO_CUDNN
    monkeypatch.setattr(cuda_trial, "probe", lambda name: tried.append(name) or outcome)
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("580.82")

    def failure() -> str | None:
        return cuda_trial.failure(gpu_build, root=tmp_path)

    # That it fails is not remembered: cuDNN may be installed before the next start.
    assert failure()
    assert failure()
    outcome = WORKS
    assert failure() is None
    assert failure() is None
    assert len(tried) == 3
    version.write_text("581.00")
    assert failure() is None
    assert len(tried) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert failure() is None
    assert len(tried) == 5


def test_a_cache_that_cannot_be_written_is_no_error(gpu_build, monkeypatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cuda_trial, "probe", lambda name: WORKS)
    assert cuda_trial.failure(gpu_build, root=tmp_path) is None


# The session


def test_cuda_is_started_with_options_for_shapes_that_vary(gpu_build):
    model = Bundle.open("nano").file("question.onnx")
    for _ in range(4):
        open_session(model, "cuda", threads=1, strict=True)
    assert gpu_build.started == [[(CUDA, CUDA_OPTIONS), CPU]] * 4
    assert CUDA_OPTIONS["cudnn_conv_algo_search"] == "HEURISTIC"
    assert gpu_build.preloaded == 1


def test_tensorrt_is_given_the_range_of_every_axis(gpu_build, tmp_path: Path):
    model = Bundle.open("nano").file("encoder.onnx")
    open_session(model, "tensorrt", threads=1, strict=True, engine_cache=tmp_path)
    ((first, options), cuda, cpu) = gpu_build.started[0]
    assert (first, cuda, cpu) == (TENSORRT, (CUDA, CUDA_OPTIONS), CPU)
    shapes = {bound: options[f"trt_profile_{bound}_shapes"] for bound in ("min", "opt", "max")}
    assert shapes["min"].startswith("pixels:1x3x128x128,label_map:1x256x256,characteristics:1")
    assert shapes["max"].startswith("pixels:8x3x128x128,label_map:8x256x256,characteristics:")
    assert options["trt_timing_cache_path"] == str(tmp_path)
    assert not [name for name in options if "fp16" in name], "it would make TensorRT choose the types"


def test_plans_of_models_that_differ_in_weights_only_do_not_meet(gpu_build, tmp_path: Path):
    folders = []
    for weight in (1.0, 2.0, 1.0):
        save_product(tmp_path / "m.onnx", weight)
        open_session(tmp_path / "m.onnx", "tensorrt", threads=1, strict=True, engine_cache=tmp_path)
        folders.append(Path(gpu_build.started[-1][0][1]["trt_engine_cache_path"]))
    assert folders[0] == folders[2] != folders[1]
    assert all(f.parent == tmp_path and f.stat().st_mode & 0o777 == 0o700 for f in folders)


@pytest.mark.parametrize(
    ("free", "shared", "size"),
    [
        (None, False, 1 << 30),
        (24 << 30, False, 1 << 30),
        # 3 GiB less the builder's 1,310 MiB, halved, down to a power of two.
        (3 << 30, False, 512 << 20),
        (4 << 30, True, 512 << 20),
        (3 << 30, True, 256 << 20),
        (1 << 30, True, 64 << 20),
    ],
)
def test_kernels_get_scratch_memory_by_what_is_free(
    gpu_build, monkeypatch, tmp_path: Path, free: int | None, shared: bool, size: int
):
    monkeypatch.setattr(provider, "free_memory", lambda: (free, shared))
    open_session(Bundle.open("nano").file("question.onnx"), "tensorrt", threads=1, strict=True, engine_cache=tmp_path)
    assert gpu_build.started[0][0][1]["trt_max_workspace_size"] == str(size)


def save_product(path: Path, weight: float) -> None:
    """x (batch,2) -> y = relu(x @ w) @ w."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy")
    w = numpy_helper.from_array(np.full((2, 2), weight, np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture
def on_provider(gpu_build, monkeypatch, tmp_path: Path) -> FakeOnnxRuntime:
    """Sessions compute, on the CPU; TensorRT itself is missing, so the provider runs the graphs."""
    monkeypatch.setenv("FACEINSIGHT_ENGINES", str(tmp_path / "engines"))
    gpu_build.computes = True
    return gpu_build


def test_in_fp16_the_provider_is_given_the_graph_in_half_precision(on_provider, monkeypatch, tmp_path: Path, caplog):
    save_product(tmp_path / "m.onnx", 0.5)
    wanted = Device("tensorrt", True, 1)
    monkeypatch.delenv("FACEINSIGHT_ENGINE_PRECISION", raising=False)
    wanted.session(tmp_path / "m.onnx")
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "fp16")
    session = wanted.session(tmp_path / "m.onnx")
    assert session.get_providers() == [TENSORRT]
    plain, half = (given for given, p in zip(on_provider.given, on_provider.started, strict=True) if p[0] != CPU)
    assert plain == str(tmp_path / "m.onnx")
    kinds = {w.data_type for w in onnx.load_from_string(half).graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    folders = {Path(p[0][1]["trt_engine_cache_path"]) for p in on_provider.started if p[0] != CPU}
    assert len(folders) == 2, "plans of both precisions have places of their own"
    assert not caplog.records
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "fp8")
    with pytest.raises(DeviceError, match=r"precision 'fp8' .*expected one of fp32, fp16"):
        wanted.session(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("fault", "why"), [("wrong", "from those on the CPU, at most 0.1"), ("raises", "it does not run: no kernel")]
)
def test_in_fp16_what_computes_something_else_is_not_used(
    on_provider, monkeypatch, tmp_path: Path, caplog, fault: str, why: str
):
    save_product(tmp_path / "m.onnx", 0.5)
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "fp16")
    on_provider.fault = fault
    Device("tensorrt", True, 1).session(tmp_path / "m.onnx")
    assert on_provider.given[-1] == str(tmp_path / "m.onnx"), "the graph as it is"
    assert why in caplog.text
    assert "fp32 is used instead" in caplog.text


def test_where_tensorrt_takes_a_graph_in_parts_it_goes_without_profiles(gpu_build, tmp_path: Path):
    gpu_build.refused = ["trt_profile_min_shapes"]
    model = Bundle.open("nano").file("question.onnx")
    session = open_session(model, "tensorrt", threads=1, strict=True, engine_cache=tmp_path)
    assert session.get_providers() == [TENSORRT]
    assert ["trt_profile_min_shapes" in providers[0][1] for providers in gpu_build.started] == [True, False]
    gpu_build.refused = [TENSORRT]
    with pytest.raises(DeviceError, match=r"question\.onnx does not start on TensorrtExecutionProvider: refused"):
        open_session(model, "tensorrt", threads=1, strict=True, engine_cache=tmp_path)


def test_an_axis_that_is_not_known_has_no_profile(gpu_build, tmp_path: Path):
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["frames", 2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    open_session(tmp_path / "m.onnx", "tensorrt", threads=1, strict=True, engine_cache=tmp_path)
    assert len(gpu_build.started) == 1
    assert not [option for option in gpu_build.started[0][0][1] if "profile" in option]


def test_libraries_are_looked_for_once(tmp_path: Path):
    fake = FakeOnnxRuntime(tmp_path, [CUDA])
    preload(fake)
    preload(fake)
    assert fake.preloaded == 1
