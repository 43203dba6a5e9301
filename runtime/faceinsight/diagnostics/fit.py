"""Will it fit? What a bundle takes in memory, from its files' headers, before anything heavy is loaded.

The estimate is of the peak resident memory of a process that answers on the CPU about one face:

    libraries    Python and what it imports, measured in a child process on this machine
    graphs       weights as their kernels want them + activations
    loading      what loading a graph takes for a moment, if that is more than all that comes behind it
    detector     activations of OpenCV's first look
    LLM          tensors, KV cache, what decoding the longest part of a prompt touches

The constants were measured with ONNX Runtime 1.32, OpenCV 5.0 and llama.cpp of llama-cpp-python 0.3.36 on x86-64:
resident memory around one graph or one model at a time, of 1 to 300 MB, before and after malloc_trim. What stays was
measured with twelve versions of ONNX Runtime from 1.18 on. Loading convolutions takes less than is said before 1.24 (a
quarter less) and on Arm (half). tests/runtime/diagnostics/test_fit.py holds the sum against VmHWM.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ..backends.device import BATCH
from ..backends.llama_cpp.model import N_UBATCH
from ..bundle.bundle import Bundle
from ..bundle.gguf_header import GgufHeader
from ..bundle.onnx_header import BITS, FLOAT, FLOAT16, INT8, UINT8, OnnxHeader
from ..cache import CACHE_MB
from ..errors import RequestError
from ..host.child import probe
from ..host.machine import available_memory
from ..plain import Plain
from .versions import onnxruntime_version

#: While it loads, ONNX Runtime holds a weight as it is stored, as read and as its kernel wants it; one stored as int8
#: also before it is scaled. Beyond the float32 weight itself that was, in its sizes, by how it is stored: matrices
#: 0.04-0.7 (from run to run), 0.6-1.2 and 1.3-2.0, convolutions (laid out anew) 2.0-2.8, 2.0-3.1 and 2.5-3.0.
LOADING_MATRIX = {FLOAT: 0.35, FLOAT16: 0.85, INT8: 1.75}
LOADING_CONVOLUTION = {FLOAT: 2.4, FLOAT16: 2.4, INT8: 2.8}
#: The same of 8-bit weights that are computed with, which stay packed (a ViT-L/14 of 303 MB: 547 MB, then 297 MB).
LOADING_PACKED = 0.83
#: What ONNX Runtime used to keep beside a weight as its kernel wants it, in its sizes, before a version: a matrix as it
#: was stored, and up to a quarter of a convolution.
SECOND_COPY = dict.fromkeys(("MatMul", "Gemm", "MatMulInteger"), ((1, 23), 1.0)) | {"Conv": ((1, 24), 0.25)}
#: Activations: peak of the live tensors times this, for the arena grows by doubling. 1.5-2.0, the least for 8 faces.
ARENA = 1.8
#: The same of OpenCV's network.
DETECTOR_ARENA = 1.5
#: Vocabulary, tables and graphs of llama.cpp, whatever the model.
LLAMA = 10_000_000
#: Bytes per token that decoding touches: 4 x (2 x feed-forward + 8 x width). Found for widths 576, 768, 1024.
FEED_FORWARDS, WIDTHS = 2, 8
#: What Python and the libraries take where it cannot be measured.
FLOOR = 80_000_000
#: ggml types whose matrices are repacked for the CPU (Q4_0, Q4_K, IQ4_NL): token embeddings that are the output too are
#: then there twice.
REPACKED = (2, 12, 20)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class Part:
    """One component: bytes in memory, and how they come about."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Fit(Plain):
    """The answer.

    Attributes:
        bundle: its name.
        parts: what adds up to `total`.
        total: estimated peak resident memory, bytes, for a photo of one face of up to a megapixel.
        memory: what it may use, bytes.
        beyond: what other photos add.
        advice: what to change if it does not fit, the largest saving first.
    """

    bundle: str
    parts: tuple[Part, ...]
    total: int
    memory: int
    beyond: tuple[Part, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Within the memory given?"""
        return self.total <= self.memory

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, as `faceinsight schema fit` describes it."""
        return Plain.to_dict(self) | {"fits": self.fits}


def estimate(bundle: Bundle, *, memory: int | None = None, floor: int | None = None) -> Fit:
    """Peak memory of a bundle by component.

    Args:
        bundle: a verified bundle; of its files only headers are read.
        memory: bytes it may use; by default what is available on this machine now.
        floor: bytes of Python and the libraries; by default measured in a child process.
    """
    m = bundle.manifest
    axes = {"batch": 1, "count": len(m.characteristics), "length": m.llm.max_question}
    floor = measure_floor() if floor is None else floor
    parts = [Part("libraries", floor, "Python, numpy, OpenCV, ONNX Runtime, llama.cpp")]
    graphs = {name: OnnxHeader.read(bundle.file(name)) for name in m.files if name.endswith(".onnx")}
    detector = graphs.pop(m.detector.file)
    passes = [_detector(detector, side) for side in m.detector.sides]
    parts.append(Part(m.detector.file, passes[0], f"first pass, {m.detector.sides[0]} px"))
    held = heap = 0
    onnxruntime = onnxruntime_version()
    for name, graph in graphs.items():
        resident, loading = weights(graph, onnxruntime=onnxruntime)
        arena = round(ARENA * activations(graph, axes))
        parts.append(Part(name, resident + arena, f"weights {_mb(resident)} as loaded, activations {_mb(arena)}"))
        held += resident
        heap = max(heap, floor + held + loading)
    chunk = min(N_UBATCH, max(m.face_tokens, m.llm.max_question))
    header = GgufHeader.read(bundle.file(m.llm.file))
    parts += _llm(m.llm.file, header, context=m.llm.context, chunk=chunk)
    parts.append(Part("loading", max(0, heap - sum(p.bytes for p in parts)), "a graph, for a moment"))
    crowd = axes | {"batch": BATCH["cpu"]}
    if m.vision:
        del graphs[m.vision.file]  # looks at the face that is asked about
    more = sum(round(ARENA * (activations(g, crowd) - activations(g, axes))) for g in graphs.values())
    face = kv_cache(header, m.face_tokens)
    beyond = (
        Part("earlier faces", CACHE_MB * 10**6, f"at most (cache_mb); one that was asked about is {_mb(face)}"),
        Part(f"{BATCH['cpu']} faces or more", more, "the encoders run on this many faces at a time"),
        Part(
            "no face at first", max(passes) - passes[0], f"the detector looks again at up to {max(m.detector.sides)} px"
        ),
        Part("each further megapixel", 6_000_000, "the photo and a copy of it, 3 bytes a pixel"),
    )
    total = sum(p.bytes for p in parts)
    memory = available_memory() if memory is None else memory
    return Fit(m.name, tuple(parts), total, memory, beyond, _advice(bundle, header, total - memory))


def weights(graph: OnnxHeader, *, onnxruntime: tuple[int, ...] = ()) -> tuple[int, int]:
    """Bytes that a graph's weights take once ONNX Runtime has loaded them, and beyond that while it loads.

    onnxruntime: its version; not known, it is taken to be an old one, which takes more.
    """
    users: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        for name in node.inputs:
            users[name].add(node.op)
    narrow = {n.stored: n for n in graph.narrow()}
    scales = {n.scale for n in narrow.values()}
    resident = loading = 0.0
    for name, weight in graph.weights.items():
        if name in scales:
            continue
        scaled = narrow.get(name)
        size = weight.bytes({}) * (BITS[FLOAT] // BITS[weight.kind] if scaled else 1)
        ops = users[scaled.name if scaled else name]
        copies = [SECOND_COPY[op] for op in ops & SECOND_COPY.keys()]
        second = max((share for before, share in copies if onnxruntime < before), default=0.0)
        if weight.kind in (UINT8, INT8) and not scaled:
            beyond = LOADING_PACKED
        else:
            beyond = (LOADING_CONVOLUTION if "Conv" in ops else LOADING_MATRIX)[weight.kind if scaled else FLOAT]
        resident += size * (1 + second)
        loading += size * max(0.0, beyond - second)
    return round(resident), round(loading)


def activations(graph: OnnxHeader, axes: dict[str, int]) -> int:
    """Peak bytes of the tensors alive at once, run in the file's order, with these lengths of the dynamic axes."""
    folded = {name for n in graph.narrow() for name in n.made}
    sizes = {name: v.bytes(axes) for name, v in graph.values.items() if name not in folded}
    last = {name: at for at, node in enumerate(graph.nodes) for name in node.inputs}
    resident = {v.name for v in graph.outputs}
    live = peak = sum(sizes[v.name] for v in graph.inputs)
    for at, node in enumerate(graph.nodes):
        live += sum(sizes.get(name, 0) for name in node.outputs)
        peak = max(peak, live)
        live -= sum(sizes.get(n, 0) for n in set(node.inputs) if last[n] == at and n not in resident)
    return peak


def measure_floor() -> int:
    """Bytes that Python and the libraries take, in a child process that imports them; FLOOR where that says nothing."""
    return int((probe("memory").found or {}).get("peak", FLOOR))


def parse_memory(text: str) -> int:
    """Bytes of a size such as "8GB", "7.4 GiB" or "512MB". Raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS:
        raise RequestError(f"memory {text!r}; expected a number and a unit, e.g. 8GB, 7.4GiB or 512MB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _detector(graph: OnnxHeader, side: int) -> int:
    """OpenCV's network on a square photo of this side; the file's own shapes say how much one pixel takes."""
    _, _, height, width = (int(n) for n in graph.inputs[0].shape)
    return round(DETECTOR_ARENA * activations(graph, {}) * side * side / (height * width)) + 5_000_000


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
    copied = f", {_mb(tied)} once more for the output" if tied else ""
    return [
        Part(name, stored + tied, f"{header.parameters / 1e6:,.0f} M weights of {bits:.1f} bits{copied}"),
        Part("KV cache", cache, f"{layers} layers, {context} tokens, 16 bits"),
        Part("decoding", chunk * per_token + LLAMA, f"{chunk} tokens at once, {_mb(LLAMA)} for llama.cpp itself"),
    ]


def kv_cache(header: GgufHeader, context: int) -> int:
    """Bytes: layers x tokens x KV heads x (key + value width of a head) x 2."""
    heads = header.number("attention.head_count")
    prefix = header.values["general.architecture"]
    shared = header.values.get(f"{prefix}.attention.head_count_kv", heads)
    head = header.number("embedding_length") // heads
    key, value = (int(header.values.get(f"{prefix}.attention.{k}_length", head)) for k in ("key", "value"))
    return header.number("block_count") * context * int(shared) * (key + value) * 2


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
    lines = [f"{text}: saves {_mb(saved)}" for saved, text in sorted(savings, reverse=True)]
    if short > max(saved for saved, _ in savings):
        lines.append("none of these is enough alone: choose a smaller LLM")
    return tuple(lines)


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
