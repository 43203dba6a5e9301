"""The choice of a device where ONNX Runtime lists CUDA: whether it computes, and with which options it is started."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from faceinsight import DeviceError
from faceinsight.backends import cuda_trial, device, ort, probes
from faceinsight.backends.device import Device
from faceinsight.backends.ort import CUDA_OPTIONS, import_onnxruntime, open_session, preload
from faceinsight.bundle.bundle import Bundle
from faceinsight.host.child import NO_PYTHON, Probe

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
WORKS = Probe({"version": "1.31.1", "providers": [CUDA, CPU], "library": "ok", "run": "ok"})
NO_CUDNN = Probe(WORKS.found | {"run": "cuDNN is not available. Install cuDNN 9"})
NO_LIBRARY = Probe(WORKS.found | {"library": "libcublasLt.so.13: cannot open shared object file"})


class FakeOnnxRuntime:
    """A GPU build: sessions note with which providers they were started; those in `refused` do not start."""

    __version__ = "1.31.1"

    def __init__(self, folder: Path, providers: list[str]) -> None:
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self._providers = providers
        self.started: list[list[Any]] = []
        self.refused: list[str] = []
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return self._providers

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, model: str, options: Any, *, providers: list[Any]) -> Any:
        self.started.append(providers)
        if any(word in str(providers) for word in self.refused):
            raise RuntimeError(f"refused: {self.refused}")
        first = providers[0]
        return SimpleNamespace(get_providers=lambda: [first if isinstance(first, str) else first[0]])


@pytest.fixture
def gpu_build(tmp_path: Path, monkeypatch) -> FakeOnnxRuntime:
    """A GPU build of ONNX Runtime beside a llama.cpp that sees a GPU; findings go to a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake = FakeOnnxRuntime(tmp_path, [TENSORRT, CUDA, CPU])
    llama = SimpleNamespace(llama_supports_gpu_offload=lambda: True)
    monkeypatch.setattr(device, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(device, "import_llama", lambda: llama)
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
    assert {options[f"trt_{cache}_cache_path"] for cache in ("engine", "timing")} == {str(tmp_path)}


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
