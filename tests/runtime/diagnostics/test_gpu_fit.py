"""What a GPU's memory holds: estimates against plans that were built, and against what llama.cpp reserves."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from gpu_stubs import compile_stub
from paths import ROOT

from faceinsight import RequestError
from faceinsight.backends.llama_cpp import model as llama_model
from faceinsight.backends.llama_cpp.bindings import import_llama
from faceinsight.backends.tensorrt.workspace import BUILDER_GPU, BUILDER_HOST
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.gguf_header import GgufHeader
from faceinsight.bundle.onnx_header import OnnxHeader
from faceinsight.cli.main import main
from faceinsight.diagnostics.fit import Fit, estimate, kv_cache
from faceinsight.diagnostics.gpu_fit import GpuMemory, compute_buffer, find_gpu, kernels_of, weights_on_gpu
from faceinsight.host.child import probe

CARD, SHARED = GpuMemory(shared=False, free=8 << 30), GpuMemory(shared=True)
PLANS = json.loads((ROOT / "benchmarks/results/epyc-2026-11/plans.json").read_text())["graphs"]
OF_NANO = [(p["graph"].removeprefix("nano, "), p["precision"], p["plan MB"]) for p in PLANS if "nano" in p["graph"]]


def fit(**options: object) -> Fit:
    return estimate(Bundle.open("nano"), floor=75_000_000, memory=6_000_000_000, **options)


@pytest.mark.parametrize(("name", "precision", "plan"), [p for p in OF_NANO if p[2] > 1])
def test_a_plans_size_is_estimated_as_tensorrt_rtx_built_it(name: str, precision: str, plan: float):
    graph = OnnxHeader.read(Bundle.open("nano").file(name))
    size = weights_on_gpu(graph, half=precision == "fp16") + kernels_of(graph)
    assert size / 1e6 == pytest.approx(plan, rel=0.3)


class OneCore:
    threads, llm_on_gpu = 1, False


def write_llama(path: Path, *, width: int, feed_forward: int, heads: int, kv_heads: int, vocabulary: int) -> None:
    """A llama of two layers, all zeros, in 16 bits."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "context_length": 4096,
        "embedding_length": width,
        "block_count": 2,
        "feed_forward_length": feed_forward,
        "vocab_size": vocabulary,
    }.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model("no_vocab")
    shared = kv_heads * width // heads
    shapes = {"attn_q": (width, width), "attn_k": (shared, width), "attn_v": (shared, width)}
    shapes |= {"attn_output": (width, width), "ffn_gate": (feed_forward, width)}
    shapes |= {"ffn_up": (feed_forward, width), "ffn_down": (width, feed_forward)}
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", np.zeros((vocabulary, width), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(2):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, np.float16))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reserved(path: Path, width: int, context: int, monkeypatch) -> tuple[float, float]:
    """MiB that llama.cpp reserves for the graph of a GPU's batch, and for its KV cache, by its own log. On a CPU the
    graph is the same: flash attention, and as many tokens at once."""
    c, lines = import_llama(), []
    callback = c.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    monkeypatch.setattr(llama_model, "silence_log", lambda c: c.llama_log_set(callback, ctypes.c_void_p(0)))
    params = {"n_ubatch": min(context, llama_model.N_UBATCH_GPU), "flash_attn_type": c.LLAMA_FLASH_ATTN_TYPE_ENABLED}
    llm = llama_model.Llm(path, OneCore(), n_embd=width, n_ctx=context, parameters=params, repack=False)
    monkeypatch.undo()
    llama_model.silence_log(c)
    llm.close()
    text = "".join(lines)
    return tuple(float(re.search(rf"{kind} buffer size = +([\d.]+) MiB", text)[1]) for kind in ("compute", "KV"))


@pytest.mark.parametrize(
    ("width", "feed_forward", "heads", "kv_heads", "context"),
    [(576, 1536, 9, 3, 512), (1024, 2816, 16, 16, 2048), (1024, 4096, 16, 4, 1024), (1536, 4096, 12, 2, 256)],
)
def test_what_llama_computes_in_is_what_it_reserves(
    tmp_path: Path, monkeypatch, width: int, feed_forward: int, heads: int, kv_heads: int, context: int
):
    path = tmp_path / "m.gguf"
    write_llama(path, width=width, feed_forward=feed_forward, heads=heads, kv_heads=kv_heads, vocabulary=8000)
    compute, cache = reserved(path, width, context, monkeypatch)
    header = GgufHeader.read(path)
    assert compute_buffer(header, min(context, 512)) / 2**20 == pytest.approx(compute, rel=0.15)
    assert kv_cache(header, context) / 2**20 == pytest.approx(cache, rel=0.02)


def test_a_card_has_a_sum_of_its_own():
    found = fit(device="tensorrt", gpu=CARD)
    assert found.gpu.memory == 8 << 30
    assert found.gpu.total == sum(p.bytes for p in found.gpu.parts)
    assert found.total == sum(p.bytes for p in found.parts)
    names = [p.name for p in found.gpu.parts]
    assert names[:2] == ["CUDA context", "cuBLAS"]
    assert {"encoder.onnx", "llm.gguf", "KV cache", "compute buffer"} <= set(names)
    # The detector runs on the CPU, and token embeddings stay with the CPU.
    assert {"detector.onnx", "token embeddings", "pinned buffers"} <= {p.name for p in found.parts}
    assert "detector.onnx" not in names
    assert found.fits
    assert not fit(device="tensorrt", gpu=GpuMemory(shared=False, free=300_000_000)).fits


def test_shared_memory_has_one_sum():
    card, shared = fit(device="tensorrt", gpu=CARD), fit(device="tensorrt", gpu=SHARED)
    assert shared.gpu is None
    assert shared.total == sum(p.bytes for p in shared.parts) > card.total
    assert {f"GPU: {p.name}" for p in card.gpu.parts} <= {p.name for p in shared.parts}
    assert "pinned buffers" not in {p.name for p in shared.parts}, "the GPU works in the CPU's memory"
    tight = estimate(Bundle.open("nano"), floor=75_000_000, memory=shared.total - 1, device="tensorrt", gpu=SHARED)
    assert not tight.fits
    assert tight.advice


def test_weights_are_by_precision(monkeypatch):
    def encoder(**options: object) -> int:
        found = fit(device="tensorrt", gpu=CARD, **options)
        return next(p.bytes for p in found.gpu.parts if p.name == "encoder.onnx")

    monkeypatch.delenv("FACEINSIGHT_ENGINE_PRECISION", raising=False)
    single = encoder()
    monkeypatch.setenv("FACEINSIGHT_ENGINE_PRECISION", "fp16")
    half = encoder()
    weights = weights_on_gpu(OnnxHeader.read(Bundle.open("nano").file("encoder.onnx")), half=False)
    assert 0.4 * weights < single - half <= 0.5 * weights
    monkeypatch.delenv("FACEINSIGHT_ENGINE_PRECISION")
    (line,) = (p.how for p in fit(device="tensorrt", gpu=SHARED).parts if p.name == "GPU: encoder.onnx")
    assert line.startswith("plan in fp16")


def test_what_is_estimated_says_so_and_from_where():
    for device in ("cuda", "tensorrt"):
        found = fit(device=device, gpu=CARD)
        estimates = [p for p in (*found.gpu.parts, *found.parts, *found.beyond) if "estimate" in p.how]
        assert {"CUDA context", "cuBLAS", "CUDA's libraries", "compute buffer"} <= {p.name for p in estimates}
        libraries = [p for p in estimates if "CUDA" in p.name or "cu" in p.name[:2]]
        assert all("issue" in p.how or "Ollama" in p.how for p in libraries)
    assert "cuDNN" in {p.name for p in fit(device="cuda", gpu=CARD).gpu.parts}


def test_building_takes_the_builder_and_the_scratch_memory_that_it_is_allowed():
    (shared,) = (p for p in fit(device="tensorrt", gpu=SHARED).beyond if p.name.startswith("building"))
    assert shared.bytes == BUILDER_HOST + BUILDER_GPU + (1 << 30)
    small = estimate(Bundle.open("nano"), floor=0, memory=4 << 30, device="tensorrt", gpu=SHARED)
    (part,) = (p for p in small.beyond if p.name.startswith("building"))
    assert part.bytes == BUILDER_HOST + BUILDER_GPU + (512 << 20)
    assert not [p for p in fit(device="cuda", gpu=CARD).beyond if p.name.startswith("building")]


@pytest.fixture
def stub_gpu(tmp_path: Path, monkeypatch):
    """A libcudart that child processes find."""
    compile_stub(tmp_path, "libcudart.so.13")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("STUB_FREE", str(5 << 30))
    probe.cache_clear()
    yield monkeypatch
    probe.cache_clear()


def test_the_gpu_that_is_here_is_asked(stub_gpu, capsys):
    assert find_gpu() == GpuMemory(shared=False, free=5 << 30)
    assert main(["fit", "nano", "--device", "tensorrt", "--memory", "4GB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gpu"]["memory"] == 5 << 30
    assert found["device"] == "tensorrt"
    probe.cache_clear()
    stub_gpu.setenv("STUB_INTEGRATED", "1")
    assert find_gpu().shared
    assert main(["fit", "nano", "--device", "tensorrt", "--memory", "4GB"]) == 0
    out = capsys.readouterr().out
    assert "GPU: CUDA context" in out
    assert out.count("total") == 1


def test_without_a_gpu_its_memory_can_be_given(monkeypatch, capsys):
    monkeypatch.setattr("faceinsight.diagnostics.gpu_fit.probe", lambda name: probe("nothing of that name"))
    with pytest.raises(RequestError, match="--gpu-memory 8GB, or shared"):
        find_gpu()
    assert main(["fit", "nano", "--device", "cuda", "--memory", "4GB", "--gpu-memory", "2GB"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"total on the GPU +[\d,.]+ MB  of 2,000.0 MB: it fits", out)
    assert main(["fit", "nano", "--device", "tensorrt", "--memory", "500MB", "--gpu-memory", "shared"]) == 1
    assert "it does not fit" in capsys.readouterr().out
    assert main(["fit", "nano", "--gpu-memory", "2GB"]) == 1
    assert "--device cuda or tensorrt" in capsys.readouterr().err
