"""Sizes of a bundle's parts, from its files' headers: weights, activations, KV cache.

The constants were measured; `fit` says how.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..bundle.gguf_header import GgufHeader
from ..bundle.onnx_header import BITS, FLOAT, FLOAT16, INT8, UINT8, OnnxHeader

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

#: Vocabulary, tables and graphs of llama.cpp, whatever the model.
LLAMA = 10_000_000
#: Bytes per token that decoding touches: 4 x (2 x feed-forward + 8 x width). Found for widths 576, 768, 1024.
FEED_FORWARDS, WIDTHS = 2, 8


@dataclass(frozen=True, slots=True)
class Part:
    """One component: bytes in memory, and how they come about."""

    name: str
    bytes: int
    how: str


def weights(graph: OnnxHeader, *, onnxruntime: tuple[int, ...] = ()) -> tuple[int, int]:
    """Bytes that a graph's weights take once ONNX Runtime has loaded them, and beyond that while it loads.

    onnxruntime: its version; not known, it is taken to be an old one, which takes more.
    """
    resident = loading = 0.0
    for weight in loaded(graph):
        copies = [SECOND_COPY[op] for op in weight.ops & SECOND_COPY.keys()]
        second = max((share for before, share in copies if onnxruntime < before), default=0.0)
        if weight.kind in (UINT8, INT8) and not weight.scaled:
            beyond = LOADING_PACKED
        else:
            table = LOADING_CONVOLUTION if "Conv" in weight.ops else LOADING_MATRIX
            beyond = table[weight.kind if weight.scaled else FLOAT]
        resident += weight.bytes * (1 + second)
        loading += weight.bytes * max(0.0, beyond - second)
    return round(resident), round(loading)


class Loaded(NamedTuple):
    """A weight as a graph computes with it.

    Attributes:
        kind: type in which it is stored.
        scaled: is it stored in fewer bits, and widened to float32 before it is read?
        bytes: widened, if it is.
        ops: operators that read it.
    """

    kind: int
    scaled: bool
    bytes: int
    ops: set[str]


def loaded(graph: OnnxHeader) -> Iterator[Loaded]:
    """A graph's weights; the scales of those that are widened are none."""
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].add(node.op)
    narrow = {n.stored: n for n in graph.narrow()}
    scales = {n.scale for n in narrow.values()}
    for name, weight in graph.weights.items():
        if name not in scales:
            scaled = narrow.get(name)
            size = weight.bytes({}) * (BITS[FLOAT] // BITS[weight.kind] if scaled else 1)
            yield Loaded(weight.kind, scaled is not None, size, readers[scaled.name if scaled else name])


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


def kv_cache(header: GgufHeader, context: int) -> int:
    """Bytes: layers x tokens x KV heads x (key + value width of a head) x 2."""
    heads = header.number("attention.head_count")
    prefix = header.values["general.architecture"]
    shared = header.values.get(f"{prefix}.attention.head_count_kv", heads)
    head = header.number("embedding_length") // heads
    key, value = (int(header.values.get(f"{prefix}.attention.{k}_length", head)) for k in ("key", "value"))
    return header.number("block_count") * context * int(shared) * (key + value) * 2


def mb(size: float) -> str:
    """As it is shown."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
