"""CLIP vision tower and projector of a LLaVA-1.5, from a checkpoint's tensors to one ONNX file.

The graph is written layer by layer as the tensors are read, in the shapes that ONNX Runtime's and TensorRT's fusions
know: LayerNormalization as one node (decomposed, it overflows in half precision), attention as MatMul, Mul, Softmax,
MatMul. What it must compute is written a second time, in torch, in vision_reference.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..precisions import VISION_PRECISIONS
from .int8 import Dense, DenseWriter, add_bias, dynamic_dense, gate, smooth, static_dense
from .token_merging import TokenReduction, write_reduction
from .vision_reference import PROJECTOR, TOWER, Tensors, VisionReference, VisionShape
from .writer import FLOAT, HALF, OnnxWriter, onnx_file


def write_vision(
    source: Tensors,
    path: Path,
    *,
    precision: str = "fp32",
    tokens: int | None = None,
    method: str = "merge",
    batch: int | None = None,
    images: NDArray[np.float32] | None = None,
    min_cosine: float | None = None,
) -> VisionReference:
    """Write pixels (B,3,size,size) -> image_tokens (B,N,width), float32 both.

    Args:
        source: the checkpoint's tensors.
        path: the ONNX file; it must not exist.
        precision: one of VISION_PRECISIONS.
        tokens: a smaller number of image tokens (token_merging.py); None: all.
        method: how a smaller number is reached.
        batch: a fixed B; None: any.
        images: pixels (n,3,size,size) on which a reduced precision is judged. 8 bits take every other one, from the
            first, to calibrate, and are judged on the others.
        min_cosine: lowest mean cosine to float32 that is accepted; None: that of the precision.

    Returns:
        What the graph must compute, in torch.

    Raises:
        FileExistsError: `path` exists already.
        ValueError: the encoder cannot be written so.
        AccuracyError: a reduced precision is too far from float32; then no file is left.
    """
    if precision not in VISION_PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {', '.join(VISION_PRECISIONS)}")
    limits = VISION_PRECISIONS[precision]
    if precision != "fp32" and (images is None or len(images) < 1 + limits.calibrated):
        raise ValueError(
            f"{precision} is judged on images, and 8 bits calibrated on others: give at least {1 + limits.calibrated}"
        )
    shape = VisionShape.read(source.config)
    if tokens is not None and not shape.drop_class:
        raise ValueError("a smaller number of tokens needs a grid; this checkpoint keeps the class token")
    reduction = None if tokens is None else TokenReduction(shape.side, tokens, method)
    reference = VisionReference(source, shape, reduction)
    act_absmax = None
    if limits.calibrated and images is not None:
        act_absmax = reference.act_absmax(torch.from_numpy(images[::2]))
    with onnx_file(path, "vision") as graph:
        _Writer(graph, reference, precision, act_absmax).write("batch" if batch is None else batch)
    if images is not None and precision != "fp32":
        held_out = images[1::2] if limits.calibrated else images
        _check_accuracy(path, reference, held_out, limits.min_cosine if min_cosine is None else min_cosine, batch)
    return reference


def _check_accuracy(
    path: Path, reference: VisionReference, images: NDArray[np.float32], min_cosine: float, batch: int | None
) -> None:
    """Remove the file, and raise AccuracyError, where its tokens are too far from float32's."""
    try:
        gate(path, images, reference(torch.from_numpy(images)).numpy(), min_cosine, batch=batch or 1)
    except BaseException:
        path.unlink()
        raise


class _Writer:
    """One pass over the checkpoint's tensors, in the order of the computation."""

    def __init__(
        self,
        graph: OnnxWriter,
        reference: VisionReference,
        precision: str,
        act_absmax: Mapping[str, NDArray[np.float32]] | None,
    ) -> None:
        self._graph = graph
        self._source = reference.source
        self._shape = reference.shape
        self._reduction = reference.reduction
        self._fp16 = precision == "fp16"
        self._dtype = np.float16 if self._fp16 else np.float32
        self._act_absmax = act_absmax
        writers: dict[str, DenseWriter] = {"int8": dynamic_dense, "int8-static": static_dense}
        self._write_dense: DenseWriter = writers.get(precision, self._float_dense)

    def write(self, batch: int | str) -> None:
        """The whole graph."""
        graph, shape = self._graph, self._shape
        x = graph.input("pixels", FLOAT, [batch, 3, shape.size, shape.size])
        if self._fp16:
            x = graph.add("Cast", x, name="pixels.half", attributes={"to": HALF})
        states = {0: self._embed(x)}
        for number in range(max(shape.feature_layers)):
            states[number + 1] = self._layer(states[number], f"layers.{number}")
        selected = [self._drop_class(states[n], f"features.{n}") for n in shape.feature_layers]
        x = (
            selected[0]
            if len(selected) == 1
            else graph.add("Concat", *selected, name="features", attributes={"axis": 2})
        )
        if self._reduction is not None:
            x = write_reduction(graph, x, self._reduction, fp16=self._fp16)
        count = self._reduction.tokens if self._reduction else shape.side**2 + (not shape.drop_class)
        first, second = (self._dense(f"{PROJECTOR}.{n}", bias=shape.projector_bias) for n in ("linear_1", "linear_2"))
        x = self._activate(self._write_dense(graph, x, first), shape.projector_activation)
        x = self._write_dense(graph, x, second)
        graph.add("Cast", x, name="image_tokens", attributes={"to": FLOAT})
        graph.output("image_tokens", FLOAT, [batch, count, second.weight.shape[1]])

    def _embed(self, pixels: str) -> str:
        """Patches with the class token before them, placed and normalize: (B,side*side+1,width)."""
        graph, shape, at = self._graph, self._shape, f"{TOWER}.embeddings"
        weight = self._weight("patches.weight", self._tensor(f"{at}.patch_embedding.weight"))
        strides = {"strides": [shape.patch] * 2, "kernel_shape": [shape.patch] * 2}
        x = graph.add("Conv", pixels, weight, name="patches", attributes=strides)
        flat = graph.constant(np.array([0, shape.width, shape.side**2]))
        x = graph.add("Reshape", x, flat, name="patches.flat")
        x = graph.add("Transpose", x, name="patches.rows", attributes={"perm": [0, 2, 1]})
        # A row of zeros that becomes the class token when places are added: no need to know the batch.
        x = graph.add("Pad", x, graph.constant(np.array([0, 1, 0, 0, 0, 0])), name="patches.padded")
        places = self._tensor(f"{at}.position_embedding.weight").copy()
        if len(places) != shape.side**2 + 1:
            raise ValueError(
                f"{len(places)} position embeddings; an image of {shape.size} px in patches of {shape.patch} px needs "
                f"{shape.side**2 + 1}: config.json and the weights are of different models"
            )
        places[0] += self._tensor(f"{at}.class_embedding")
        x = graph.add("Add", x, self._weight("places", places[None]), name="placed")
        return self._norm(x, f"{TOWER}.pre_layrnorm", "layers", np.ones(shape.width, np.float32))

    def _layer(self, x: str, at: str) -> str:
        graph, shape, theirs = self._graph, self._shape, f"{TOWER}.encoder.{at}"
        head = shape.width // shape.heads
        split = graph.constant(np.array([0, -1, shape.heads, head]))
        linears = [f"{theirs}.self_attn.{p}_proj" for p in "qkv"]
        q, k, v = (
            graph.add(
                "Transpose",
                graph.add("Reshape", y, split, name=f"{at}.{p}.split"),
                name=f"{at}.{p}.heads",
                attributes={"perm": [0, 2, 3, 1] if p == "k" else [0, 2, 1, 3]},
            )
            for p, y in zip("qkv", self._normed(x, f"{theirs}.layer_norm1", linears), strict=True)
        )
        y = graph.add("MatMul", q, k, name=f"{at}.products")
        y = graph.add("Mul", y, self._number(head**-0.5), name=f"{at}.scaled")
        y = graph.add("Softmax", y, name=f"{at}.attention", attributes={"axis": -1})
        y = graph.add("MatMul", y, v, name=f"{at}.mixed")
        y = graph.add("Transpose", y, name=f"{at}.mixed.rows", attributes={"perm": [0, 2, 1, 3]})
        y = graph.add("Reshape", y, graph.constant(np.array([0, -1, shape.width])), name=f"{at}.mixed.joined")
        y = self._write_dense(graph, y, self._dense(f"{theirs}.self_attn.out_proj"))
        x = graph.add("Add", x, y, name=f"{at}.attended")
        (y,) = self._normed(x, f"{theirs}.layer_norm2", [f"{theirs}.mlp.fc1"])
        y = self._write_dense(graph, self._activate(y, shape.activation), self._dense(f"{theirs}.mlp.fc2"))
        return graph.add("Add", x, y, name=f"{at}.out")

    def _normed(self, x: str, norm: str, linears: list[str]) -> list[str]:
        """Linear layers behind a norm; 8 bits move scale from its output into their weights."""
        layers = [self._dense(name) for name in linears]
        factors = np.ones(self._shape.width, np.float32)
        if self._act_absmax is not None:
            factors, layers = smooth(layers)
        y = self._norm(x, norm, norm, factors)
        return [self._write_dense(self._graph, y, layer) for layer in layers]

    def _norm(self, x: str, theirs: str, name: str, factors: NDArray[np.float32]) -> str:
        weight = self._weight(f"{name}.weight", self._tensor(f"{theirs}.weight") / factors)
        bias = self._weight(f"{name}.bias", self._tensor(f"{theirs}.bias") / factors)
        # stash_type 1: mean and variance in float32 whatever the input; squares do not fit in half precision.
        attributes = {"axis": -1, "epsilon": self._shape.epsilon, "stash_type": 1}
        return self._graph.add("LayerNormalization", x, weight, bias, name=f"{name}.normed", attributes=attributes)

    def _activate(self, x: str, activation: str) -> str:
        """The patterns that ONNX Runtime and TensorRT fuse."""
        graph = self._graph
        if activation == "quick_gelu":
            y = graph.add("Mul", x, self._number(1.702), name=f"{x}.steep")
            return graph.add("Mul", x, graph.add("Sigmoid", y, name=f"{x}.gate"), name=f"{x}.active")
        y = graph.add("Div", x, self._number(2**0.5), name=f"{x}.scaled")
        y = graph.add("Add", graph.add("Erf", y, name=f"{x}.erf"), self._number(1.0), name=f"{x}.twice")
        return graph.add("Mul", graph.add("Mul", x, y, name=f"{x}.doubled"), self._number(0.5), name=f"{x}.active")

    def _drop_class(self, x: str, name: str) -> str:
        if not self._shape.drop_class:
            return x
        one, end, axis = (self._graph.constant(np.array([n])) for n in (1, np.iinfo(np.int64).max, 1))
        return self._graph.add("Slice", x, one, end, axis, name=name)

    def _dense(self, name: str, *, bias: bool = True) -> Dense:
        weight = np.ascontiguousarray(self._tensor(f"{name}.weight").T)
        act_absmax = None if self._act_absmax is None else self._act_absmax[name]
        return Dense(name, weight, self._tensor(f"{name}.bias") if bias else None, act_absmax)

    def _float_dense(self, graph: OnnxWriter, x: str, layer: Dense) -> str:
        weight = self._weight(f"{layer.name}.weight", layer.weight)
        return add_bias(graph, graph.add("MatMul", x, weight, name=f"{layer.name}.product"), layer, self._dtype)

    def _weight(self, name: str, value: NDArray[np.float32]) -> str:
        with np.errstate(over="ignore"):  # the file refuses what is not finite, by name
            value = value.astype(self._dtype)
        return self._graph.weight(name, value)

    def _number(self, value: float) -> str:
        return self._graph.constant(np.array(value, self._dtype))

    def _tensor(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._source.get(name), np.float32)
