"""Will it fit? What a bundle takes in memory, from its files' headers, before anything heavy is loaded.

The estimate is of the peak resident memory of a process that answers about one face. On the CPU (a GPU: `gpu_fit`):

    libraries    Python and what it imports, measured in a child process on this machine
    graphs       weights as their kernels want them + activations
    loading      what loading a graph takes for a moment, if that is more than all that comes behind it
    detector     activations of its first look
    LLM          tensors, KV cache, what decoding the longest part of a prompt touches

The constants were measured with ONNX Runtime 1.32, OpenCV 5.0 and llama.cpp of llama-cpp-python 0.3.36 on x86-64:
resident memory around one graph or one model at a time, of 1 to 300 MB, before and after malloc_trim. What stays was
measured with twelve versions of ONNX Runtime from 1.18 on. Loading convolutions takes less than is said before 1.24 (a
quarter less) and on Arm (half). tests/runtime/diagnostics/test_fit.py holds the sum against VmHWM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..backends.device import BATCH
from ..backends.llama_cpp.model import N_UBATCH
from ..bundle.bundle import Bundle
from ..bundle.gguf_header import GgufHeader
from ..bundle.onnx_header import OnnxHeader
from ..cache import CACHE_MB
from ..errors import RequestError
from ..host.child import probe
from ..host.machine import available_memory
from ..plain import Plain
from .gpu_fit import GpuMemory, find_gpu, needs
from .sizes import FEED_FORWARDS, LLAMA, WIDTHS, Part, activations, kv_cache, mb, weights
from .versions import onnxruntime_version

#: Activations: peak of the live tensors times this, for the arena grows by doubling. 1.5-2.0, the least for 8 faces.
ARENA = 1.8
#: Of the detector, bytes per pixel: 45-53 for one look of 0.1 to 4 megapixels, 49-79 once it had seen a hundred sizes.
DETECTOR_PIXEL = 75
#: What Python and the libraries take where it cannot be measured.
FLOOR = 80_000_000
#: ggml types whose matrices are repacked for the CPU (Q4_0, Q4_K, IQ4_NL): token embeddings that are the output too are
#: then there twice.
REPACKED = (2, 12, 20)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class GpuFit(Plain):
    """The part of it that a card with memory of its own takes: `parts` add up to `total`; memory: free on it, bytes."""

    parts: tuple[Part, ...]
    total: int
    memory: int


@dataclass(frozen=True, slots=True)
class Fit(Plain):
    """The answer.

    Attributes:
        bundle: its name.
        device: that it was asked for.
        parts: what adds up to `total`.
        total: estimated peak resident memory, bytes, for a photo of one face of up to a megapixel. Where CPU and GPU
            share memory, the GPU's part is in it.
        memory: what it may use, bytes.
        gpu: what is taken of a GPU's own memory; None where none is.
        beyond: what other photos add.
        advice: what to change if it does not fit, the largest saving first.
    """

    bundle: str
    device: str
    parts: tuple[Part, ...]
    total: int
    memory: int
    gpu: GpuFit | None
    beyond: tuple[Part, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Within the memory given, of the host and of the GPU?"""
        return self.total <= self.memory and (self.gpu is None or self.gpu.total <= self.gpu.memory)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, as `faceinsight schema fit` describes it."""
        return Plain.to_dict(self) | {"fits": self.fits}


def estimate(
    bundle: Bundle,
    *,
    memory: int | None = None,
    floor: int | None = None,
    device: str = "cpu",
    gpu: GpuMemory | None = None,
) -> Fit:
    """Peak memory of a bundle by component.

    Args:
        bundle: a verified bundle; of its files only headers are read.
        memory: bytes it may use; by default what is available on this machine now.
        floor: bytes of Python and the libraries; by default measured in a child process.
        device: "cpu", "cuda" or "tensorrt".
        gpu: by default this machine's, if the device needs one.

    Raises:
        RequestError: there is no GPU here, and none was given.
    """
    m = bundle.manifest
    floor = measure_floor() if floor is None else floor
    memory = available_memory() if memory is None else memory
    graphs = {name: OnnxHeader.read(bundle.file(name)) for name in m.files if name.endswith(".onnx")}
    resident, _ = weights(graphs.pop(m.detector.file), onnxruntime=onnxruntime_version())
    passes = [resident + DETECTOR_PIXEL * side**2 for side in m.detector.sides]
    parts = [
        Part("libraries", floor, "Python, numpy, OpenCV, ONNX Runtime, llama.cpp"),
        Part(m.detector.file, passes[0], f"first pass, {m.detector.sides[0]} px"),
    ]
    header = GgufHeader.read(bundle.file(m.llm.file))
    face = kv_cache(header, m.face_tokens)
    beyond = [
        Part("earlier faces", CACHE_MB * 10**6, f"at most (cache_mb); one that was asked about is {mb(face)}"),
        Part(
            "no face at first", max(passes) - passes[0], f"the detector looks again at up to {max(m.detector.sides)} px"
        ),
        Part("each further megapixel", 6_000_000, "the photo and a copy of it, 3 bytes a pixel"),
    ]
    card = None
    if device == "cpu":
        parts += _on_cpu(bundle, graphs, header, detector=passes[0])
        beyond.insert(1, _more_faces(bundle, graphs))
    else:
        gpu = gpu or find_gpu()
        found = needs(m, graphs, header, device=device, gpu=gpu, memory=memory)
        parts += [*found.host, *(Part(f"GPU: {p.name}", p.bytes, p.how) for p in found.gpu if gpu.shared)]
        card = None if gpu.shared else GpuFit(found.gpu, sum(p.bytes for p in found.gpu), gpu.free)
        beyond += [found.building] if found.building else []
    total = sum(p.bytes for p in parts)
    short = max(total - memory, card.total - card.memory if card else 0)
    return Fit(m.name, device, tuple(parts), total, memory, card, tuple(beyond), _advice(bundle, header, short))


def _on_cpu(bundle: Bundle, graphs: dict[str, OnnxHeader], header: GgufHeader, *, detector: int) -> list[Part]:
    """Graphs and LLM, and what loading takes for a moment beyond them and the detector, which comes behind it."""
    m = bundle.manifest
    axes = _one_face(bundle)
    parts, held, heap = [], 0, 0
    onnxruntime = onnxruntime_version()
    for name, graph in graphs.items():
        resident, loading = weights(graph, onnxruntime=onnxruntime)
        arena = round(ARENA * activations(graph, axes))
        parts.append(Part(name, resident + arena, f"weights {mb(resident)} as loaded, activations {mb(arena)}"))
        held += resident
        heap = max(heap, held + loading)
    chunk = min(N_UBATCH, max(m.face_tokens, m.llm.max_question))
    parts += _llm(m.llm.file, header, context=m.llm.context, chunk=chunk)
    behind = detector + sum(p.bytes for p in parts)
    return [*parts, Part("loading", max(0, heap - behind), "a graph, for a moment")]


def _one_face(bundle: Bundle) -> dict[str, int]:
    m = bundle.manifest
    return {"batch": 1, "count": len(m.characteristics), "length": m.llm.max_question}


def _more_faces(bundle: Bundle, graphs: dict[str, OnnxHeader]) -> Part:
    axes, vision = _one_face(bundle), bundle.manifest.vision
    crowd = axes | {"batch": BATCH["cpu"]}
    # A vision encoder looks at the face that is asked about.
    several = [g for name, g in graphs.items() if not vision or name != vision.file]
    more = sum(round(ARENA * (activations(g, crowd) - activations(g, axes))) for g in several)
    return Part(f"{BATCH['cpu']} faces or more", more, "the encoders run on this many faces at a time")


def measure_floor() -> int:
    """Bytes that Python and the libraries take, in a child process that imports them; FLOOR where that says nothing."""
    return int((probe("memory").found or {}).get("peak", FLOOR))


def parse_memory(text: str) -> int:
    """Bytes of a size such as "8GB", "7.4 GiB" or "512MB". Raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS:
        raise RequestError(f"memory {text!r}; expected a number and a unit, e.g. 8GB, 7.4GiB or 512MB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _llm(name: str, header: GgufHeader, *, context: int, chunk: int) -> list[Part]:
    layers, width = header.number("block_count"), header.number("embedding_length")
    stored = sum(t.bytes for t in header.tensors)
    tensors = {t.name: t for t in header.tensors}
    embedding = tensors["token_embd.weight"]
    tied = embedding.bytes if "output.weight" not in tensors and embedding.kind in REPACKED else 0
    cache = kv_cache(header, context)
    # Attention scores of each head against the whole context: there is no flash attention on a CPU (llm.py).
    scores = header.number("attention.head_count") * context
    per_token = 4 * (FEED_FORWARDS * header.number("feed_forward_length") + WIDTHS * width + scores)
    bits = 8 * stored / header.parameters
    copied = f", {mb(tied)} once more for the output" if tied else ""
    return [
        Part(name, stored + tied, f"{header.parameters / 1e6:,.0f} M weights of {bits:.1f} bits{copied}"),
        Part("KV cache", cache, f"{layers} layers, {context} tokens, 16 bits"),
        Part("decoding", chunk * per_token + LLAMA, f"{chunk} tokens at once, {mb(LLAMA)} for llama.cpp itself"),
    ]


def _advice(bundle: Bundle, header: GgufHeader, short: int) -> tuple[str, ...]:
    """What saves how much; empty if it fits."""
    if short <= 0:
        return ()
    m = bundle.manifest
    stored = sum(t.bytes for t in header.tensors)
    savings = []
    for kind, bits in (("q8_0", 8.5), ("q5_0", 5.5), ("q4_0", 4.5)):
        if (saved := stored - round(header.parameters * bits / 8)) > stored * 0.1:
            savings.append((saved, f"quantise the LLM to {kind}"))
    savings.append((kv_cache(header, m.llm.context // 2), f"export with a context of {m.llm.context // 2} tokens"))
    per_token = kv_cache(header, 1) + 4 * WIDTHS * header.number("embedding_length")
    fewer = m.image_tokens // 2
    savings.append((fewer * per_token, f"halve the image tokens ({m.image_tokens}) and the context with them"))
    lines = [f"{text}: saves {mb(saved)}" for saved, text in sorted(savings, reverse=True)]
    if short > max(saved for saved, _ in savings):
        lines.append("none of these is enough alone: choose a smaller LLM")
    return tuple(lines)
