"""What a bundle takes where a GPU runs it: of the GPU's memory, and of the host's beside it. Not run on hardware yet.

Counted from the files' headers: weights in the precision that the GPU computes in, tensors of the largest shapes, the
LLM's layers and KV cache. Estimates, each with its source in its line: what CUDA and its libraries take by themselves,
and what llama.cpp computes in.

tests/runtime/diagnostics/test_gpu_fit.py holds weights against plans that TensorRT-RTX built, and what llama.cpp
computes in against what llama.cpp itself reserves for the same graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..backends.device import BATCH
from ..backends.llama_cpp.model import MAX_PARALLEL_SEQS, N_UBATCH_GPU
from ..backends.tensorrt.engines import chosen_precision
from ..backends.tensorrt.half import BETWEEN, PRODUCTS
from ..backends.tensorrt.shapes import AXES
from ..backends.tensorrt.workspace import BUILDER_GPU, BUILDER_HOST, limit_before_builder
from ..bundle.gguf_header import GgufHeader
from ..bundle.manifest import Manifest
from ..bundle.onnx_header import FLOAT, OnnxHeader
from ..errors import RequestError
from ..host.child import probe
from .sizes import FEED_FORWARDS, LLAMA, WIDTHS, Part, activations, kv_cache, loaded, mb

_MIB = 1 << 20
#: Of the GPU, by every process that uses CUDA: what Ollama sets aside for that (cudaMinimumMemory).
CONTEXT = 457 * _MIB
#: Of the host, by CUDA's libraries: "Init CUDA: CPU +229" (NVIDIA/TensorRT issue 2217).
HOST = 229 * _MIB
#: Of the GPU, by cuBLAS, which llama.cpp uses: "GPU +67" on an Orin Nano (NVIDIA/TensorRT issue 4220).
CUBLAS = 67 * _MIB
#: Of the GPU and of the host, by cuDNN, which ONNX Runtime uses: "CPU +240, GPU +241" (NVIDIA/TensorRT issue 2217).
CUDNN, CUDNN_HOST = 241 * _MIB, 240 * _MIB
#: Of a plan, by the kernels of one operator: 10 to 36 kB in those that TensorRT-RTX 1.7 built of nano.
KERNELS = 20_000


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU's memory. shared: it is the CPU's too, as on a Jetson; then `free` says nothing. free: bytes."""

    shared: bool
    free: int = 0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a device takes: of the GPU's memory, of the host's, and of both while TensorRT builds its plans."""

    gpu: tuple[Part, ...]
    host: tuple[Part, ...]
    building: Part | None


def find_gpu() -> GpuMemory:
    """This machine's, looked at in a child process. Raises RequestError where there is none."""
    tried = probe("cuda")
    if tried.found is None:
        raise RequestError(f"no GPU to ask: {tried.error}; give its memory: --gpu-memory 8GB, or shared for a Jetson")
    return GpuMemory(bool(tried.found["integrated"]), int(tried.found["free"]))


def needs(
    manifest: Manifest,
    graphs: Mapping[str, OnnxHeader],
    header: GgufHeader,
    *,
    device: str,
    gpu: GpuMemory,
    memory: int,
) -> Needs:
    """By component.

    Args:
        manifest: of the bundle.
        graphs: those that run on the GPU, by their files.
        header: the LLM's.
        device: "cuda" or "tensorrt".
        gpu: what it has.
        memory: bytes that may be taken of the host's memory.
    """
    native = device == "tensorrt"
    precision = chosen_precision(default="fp16" if gpu.shared else "fp32") if native else "fp32"
    batch = BATCH[device]
    axes = {"batch": batch, "count": len(manifest.characteristics), "length": manifest.llm.max_question}
    if native:
        # A plan's memory is taken once, for its largest shapes.
        axes = {name: largest for name, (_, _, largest) in AXES.items()}
    parts = [Part("CUDA context", CONTEXT, "estimate: what Ollama sets aside for it")]
    parts.append(Part("cuBLAS", CUBLAS, "estimate: on an Orin Nano, NVIDIA/TensorRT issue 4220"))
    host = [Part("CUDA's libraries", HOST, "estimate: NVIDIA/TensorRT issue 2217")]
    if not native:
        parts.append(Part("cuDNN", CUDNN, "estimate: NVIDIA/TensorRT issue 2217; its workspace is not counted"))
        host.append(Part("cuDNN's libraries", CUDNN_HOST, "estimate: NVIDIA/TensorRT issue 2217"))
    largest = pinned = 0
    for name, graph in graphs.items():
        weights, tensors = weights_on_gpu(graph, half=precision == "fp16"), activations(graph, axes)
        ends = sum(v.bytes(axes) for v in (*graph.inputs, *graph.outputs))
        how = f"weights {mb(weights)}, tensors of up to {axes['batch']} faces {mb(tensors)}"
        if native:
            kernels = kernels_of(graph)
            weights, tensors = weights + kernels, tensors + ends
            how = f"plan in {precision}: {how}, estimate: kernels {mb(kernels)}"
        parts.append(Part(name, weights + tensors, how))
        largest, pinned = max(largest, weights), pinned + ends
    of_llm, beside = _llm(manifest, header)
    host += beside
    if native and not gpu.shared:
        host.append(Part("pinned buffers", pinned, "inputs and outputs, which the GPU copies"))
    moment = max(0, largest - sum(p.bytes for p in beside))
    host.append(Part("loading", moment, "the largest graph or plan, for a moment"))
    return Needs((*parts, *of_llm), tuple(host), _building(gpu, memory) if native else None)


def weights_on_gpu(graph: OnnxHeader, *, half: bool) -> int:
    """Bytes of a graph's weights as float32, whatever they are stored in; half: in half precision where that is safe.

    Weights of types that the graph computes in (half precision, 8 bits) stay as they are.
    """
    total = 0
    for weight in loaded(graph):
        is_float = weight.scaled or weight.kind == FLOAT
        total += weight.bytes // (2 if half and is_float and weight.ops & (PRODUCTS | BETWEEN) else 1)
    return total


def kernels_of(graph: OnnxHeader) -> int:
    """Bytes of a plan's code. Nodes that only widen stored weights are none of its operators."""
    widening = {name for n in graph.narrow() for name in n.made}
    return KERNELS * sum(n.outputs[0] not in widening for n in graph.nodes)


def compute_buffer(header: GgufHeader, tokens: int) -> int:
    """Bytes that llama.cpp's GPU backend computes in: `fit.py`'s figure per token, without attention's scores, which
    flash attention does not hold."""
    width = header.number("embedding_length")
    per_token = 4 * (FEED_FORWARDS * header.number("feed_forward_length") + WIDTHS * width)
    return tokens * per_token


def _llm(manifest: Manifest, header: GgufHeader) -> tuple[list[Part], list[Part]]:
    """What of the LLM is on the GPU, and what stays with the host: token embeddings, and logits."""
    name, context = manifest.llm.file, manifest.llm.context
    tensors = {t.name: t for t in header.tensors}
    stored, embedding = sum(t.bytes for t in header.tensors), tensors["token_embd.weight"]
    # Embeddings that are the output too are there twice.
    tied = "output.weight" not in tensors
    on_gpu = stored if tied else stored - embedding.bytes
    tokens = min(context, N_UBATCH_GPU)
    width = header.number("embedding_length")
    logits = (1 + MAX_PARALLEL_SEQS) * embedding.shape[-1] * 4
    return [
        Part(
            name, on_gpu, "its layers" + (f" and, for the output, {mb(embedding.bytes)} of embeddings" if tied else "")
        ),
        Part(
            "KV cache", kv_cache(header, context), f"{header.number('block_count')} layers, {context} tokens, 16 bits"
        ),
        Part("compute buffer", compute_buffer(header, tokens), f"estimate: {tokens} tokens at once, flash attention"),
    ], [
        Part("token embeddings", embedding.bytes, f"of {name}: llama.cpp leaves them to the CPU"),
        Part("llama.cpp", LLAMA + logits + tokens * width * 4, "its tables, logits and inputs"),
    ]


def _building(gpu: GpuMemory, memory: int) -> Part:
    """What TensorRT's builder takes while plans are built: of the one memory, or of the GPU's."""
    workspace = limit_before_builder(memory if gpu.shared else gpu.free, shared=gpu.shared)
    taken = BUILDER_GPU + BUILDER_HOST * gpu.shared + workspace
    how = f"estimate: TensorRT's builder, NVIDIA/TensorRT issue 3657, and {mb(workspace)} of scratch memory"
    return Part("building plans, once", taken, how)
