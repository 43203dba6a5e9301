"""llama.cpp and the GPU, without one: builds that do not load or see no GPU, and what it takes of a GPU's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from paths import PHOTO
from stubs import library, library_that_wants, needs_cc

from faceinsight import DeviceError, MemoryShortError
from faceinsight.backends import device
from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp import gpu
from faceinsight.backends.llama_cpp.bindings import built_for_cuda, import_llama
from faceinsight.backends.llama_cpp.model import MAX_PARALLEL_SEQS, N_UBATCH_GPU, Llm
from faceinsight.backends.tensorrt.cudart import NO_DRIVER
from faceinsight.bundle.bundle import Bundle
from faceinsight.errors import BundleError
from faceinsight.host.child import Probe

ORIN = Probe({"name": "Orin", "sm": 87})
NO_GPU = Probe(error="DeviceError: CUDA sees no GPU: libcudart.so.13: no driver (CUDA error 35)")


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def command(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command line, with llama.cpp's libraries from that folder."""
    run = [sys.executable, "-m", "faceinsight.cli", *args]
    environment = os.environ | {"LLAMA_CPP_LIB_PATH": str(folder)}
    return subprocess.run(run, capture_output=True, text=True, env=environment, check=False)


# A build that does not load


@needs_cc
@pytest.mark.skipif(has_driver(), reason="NVIDIA's driver is here")
def test_a_cuda_build_without_a_driver_is_one_line_and_the_doctor_says_what_is_missing(tmp_path: Path):
    library_that_wants(tmp_path / "libllama.so", "libcuda.so.1")
    done = command(tmp_path, "report", str(PHOTO), "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "llama-cpp-python is installed but does not load" in done.stderr
    assert "libcuda.so.1: cannot open shared object file" in done.stderr
    done = command(tmp_path, "doctor")
    assert done.returncode == 1
    lines = done.stdout[done.stdout.index("fail  llama.cpp") :]
    assert NO_DRIVER in lines
    assert "pip install --force-reinstall" in lines


@needs_cc
def test_a_libllama_that_lacks_a_function_is_one_line_too(tmp_path: Path):
    library(tmp_path / "libllama.so", "int llama_nothing(void) { return 0; }")
    done = command(tmp_path, "report", str(PHOTO), "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "llama-cpp-python is installed but does not load" in done.stderr
    assert "undefined symbol" in done.stderr


# A build that sees no GPU


def llama_of(folder: Path, *, info: bytes, libraries: tuple[str, ...] = ()) -> Any:
    (folder / "lib").mkdir(exist_ok=True)
    for name in libraries:
        (folder / "lib" / name).touch()
    return SimpleNamespace(
        __file__=str(folder / "llama_cpp.py"),
        llama_print_system_info=lambda: info,
        llama_supports_gpu_offload=lambda: False,
    )


def test_what_a_build_was_compiled_for(tmp_path: Path):
    assert not built_for_cuda(import_llama()) or (Path(import_llama().__file__).parent / "lib/libggml-cuda.so").exists()
    assert not built_for_cuda(llama_of(tmp_path, info=b"CPU : AVX2 = 1 | "))
    assert built_for_cuda(llama_of(tmp_path, info=b"CUDA : ARCHS = 870 | CPU : NEON = 1 | "))
    # Where the backend is a file that did not load, llama.cpp does not mention it.
    assert built_for_cuda(llama_of(tmp_path, info=b"CPU : NEON = 1 | ", libraries=("libggml-cuda.so",)))


@pytest.mark.parametrize(
    ("seen", "info", "said", "not_said"),
    [
        (NO_GPU, b"CPU : AVX2 = 1 | ", "device 'cuda': CUDA sees no GPU", "CPU build"),
        (NO_GPU, b"CUDA : ARCHS = 870 | ", "device 'cuda': CUDA sees no GPU", "CPU build"),
        (ORIN, b"CUDA : ARCHS = 870 | ", "is a CUDA build that does not see Orin", "CPU build"),
        (ORIN, b"CPU : NEON = 1 | ", 'is a CPU build: reinstall it with CMAKE_ARGS="-DGGML_CUDA=on"', "does not see"),
    ],
)
def test_a_gpu_that_the_llm_does_not_get_is_named_before_the_build(
    monkeypatch, tmp_path: Path, seen: Probe, info: bytes, said: str, not_said: str
):
    monkeypatch.setattr(gpu, "probe", lambda name: seen)
    monkeypatch.setattr(device, "import_llama", lambda: llama_of(tmp_path, info=info))
    monkeypatch.setattr(device, "_require_gpu", lambda name, ort: None)
    with pytest.raises(DeviceError) as raised:
        Device.resolve("cuda")
    assert said in str(raised.value)
    assert not_said not in str(raised.value)


# Memory


class OnGpu(NamedTuple):
    threads: int = 1
    llm_on_gpu: bool = True


@pytest.mark.parametrize(("on_gpu", "context", "at_once"), [(True, 2048, N_UBATCH_GPU), (True, 64, 64)])
def test_logits_are_only_made_room_for_where_they_are_wanted(monkeypatch, on_gpu: bool, context: int, at_once: int):
    """Room for the logits of 1,536 tokens would be 197 MB for a LLaVA of 32,000 words."""
    llama, made = import_llama(), []
    new_context = llama.llama_init_from_model

    def remember(model, parameters):
        made.append(parameters)
        return new_context(model, parameters)

    monkeypatch.setattr(llama, "llama_init_from_model", remember)
    bundle = Bundle.open("nano")
    spec = bundle.manifest.llm
    llm = Llm(bundle.file(spec.file), OnGpu(llm_on_gpu=on_gpu), n_embd=spec.width, n_ctx=context)
    assert (made[0].n_ctx, made[0].n_ubatch) == (context, at_once)
    assert made[0].n_outputs_max == 1 + MAX_PARALLEL_SEQS
    # As many as are asked for at most do come.
    position = llm.decode([list(range(100, 110))], 0)
    logits = llm.decode_parallel([[n] for n in range(100, 100 + MAX_PARALLEL_SEQS)], position)
    assert len({float(row.sum()) for row in logits}) == MAX_PARALLEL_SEQS
    llm.close()


@pytest.mark.parametrize(("readable", "error"), [(True, MemoryShortError), (False, BundleError)])
def test_a_model_that_does_not_fit_the_gpu_is_not_called_broken(monkeypatch, readable: bool, error: type[Exception]):
    llama = import_llama()
    load = llama.llama_model_load_from_file

    def fails_on_the_gpu(path, parameters):
        return load(path, parameters) if readable and parameters.vocab_only else None

    monkeypatch.setattr(llama, "llama_model_load_from_file", fails_on_the_gpu)
    spec = Bundle.open("nano").manifest.llm
    path = Bundle.open("nano").file(spec.file)
    with pytest.raises(error, match="could not put it on the GPU" if readable else "does not load in llama.cpp"):
        Llm(path, OnGpu(), n_embd=spec.width, n_ctx=64)
    with pytest.raises(BundleError, match=r"does not load in llama\.cpp"):
        Llm(path, OnGpu(llm_on_gpu=False), n_embd=spec.width, n_ctx=64)
