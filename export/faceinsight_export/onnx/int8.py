"""8-bit linear layers, written as such: the float32 model need never exist. Accepted past an accuracy gate only.

Only matrix products with constant weights are quantized: that is where the time goes, and quantizing attention,
softmax or norms as well is what makes 8-bit vision transformers collapse. Weights are symmetric, a scale per output.

dynamic: inputs are quantized as they come; what ONNX Runtime is fast at on a CPU.
static: inputs have a fixed symmetric scale from calibration images, as Q/DQ pairs; what TensorRT takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.host.machine import cores

from .writer import FLOAT, OnnxWriter

#: Values that an 8-bit number takes on each side of zero.
LEVELS = 127


class AccuracyError(RuntimeError):
    """A model of reduced precision is too far from float32."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer.

    Attributes:
        name: in the checkpoint.
        weight: (inputs,outputs) float32.
        bias: (outputs,) float32, or None.
        act_absmax: (inputs,) largest magnitude of each input on the calibration images, where there were any.
    """

    name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    act_absmax: NDArray[np.float32] | None = None


#: Writes a linear layer on the value of a name: (graph, input, layer) -> output.
DenseWriter = Callable[[OnnxWriter, str, Dense], str]


def smooth(layers: Sequence[Dense]) -> tuple[NDArray[np.float32], list[Dense]]:
    """Factors (inputs,) by which a norm's output must be divided, and the layers behind it that make up for it.

    Equal in exact arithmetic, but large inputs, of which CLIP has some, no longer take the 8 bits from the rest.
    Each input's range is balanced against its weights': SmoothQuant (Xiao et al. 2022, eq. 4) with alpha 0.5.
    """
    act_absmax = layers[0].act_absmax
    if act_absmax is None:
        raise ValueError(f"{layers[0].name}: no calibration was made")
    heaviest = np.max([np.abs(layer.weight).max(1) for layer in layers], axis=0)
    usable = (act_absmax > 0) & (heaviest > 0)
    factors = np.sqrt(np.where(usable, act_absmax, 1) / np.where(usable, heaviest, 1)).astype(np.float32)
    return factors, [replace(d, weight=d.weight * factors[:, None], act_absmax=act_absmax / factors) for d in layers]


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(inputs,outputs) -> int8 values and scales (outputs,): weight is about values * scales."""
    act_absmax = np.abs(weight).max(0)
    scale = (np.where(act_absmax > 0, act_absmax, 1) / LEVELS).astype(np.float32)
    return np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8), scale


def dynamic_dense(graph: OnnxWriter, x: str, layer: Dense) -> str:
    """The nodes of ONNX Runtime's dynamic quantizer, which it fuses into one; layers on one input share its int8."""
    values, scale = quantize_weight(layer.weight)
    x_scale, x_zero = f"{x}.scale", f"{x}.zero"
    x8 = graph.add("DynamicQuantizeLinear", x, name=f"{x}.uint8", more=(x_scale, x_zero))
    weight, zero = (
        graph.weight(f"{layer.name}.weight", values),
        graph.weight(f"{layer.name}.weight.zero", np.zeros(len(scale), np.int8)),
    )
    whole = graph.add("MatMulInteger", x8, weight, x_zero, zero, name=f"{layer.name}.int32")
    whole = graph.add("Cast", whole, name=f"{layer.name}.float", attributes={"to": FLOAT})
    scales = graph.add("Mul", x_scale, graph.weight(f"{layer.name}.scale", scale), name=f"{layer.name}.scales")
    return add_bias(graph, graph.add("Mul", whole, scales, name=f"{layer.name}.product"), layer, np.float32)


def static_dense(graph: OnnxWriter, x: str, layer: Dense) -> str:
    """Q/DQ pairs around a matrix product.

    Raises:
        ValueError: the layer was not calibrated.
    """
    if layer.act_absmax is None:
        raise ValueError(f"{layer.name}: no calibration was made")
    values, scale = quantize_weight(layer.weight)
    x_scale = graph.constant(np.float32(layer.act_absmax.max() / LEVELS or 1).reshape(()))
    zero, zeros = (
        graph.constant(np.zeros((), np.int8)),
        graph.weight(f"{layer.name}.weight.zero", np.zeros(len(scale), np.int8)),
    )
    x8 = graph.add("QuantizeLinear", x, x_scale, zero, name=f"{x}.int8")
    rough = graph.add("DequantizeLinear", x8, x_scale, zero, name=f"{x}.rough")
    weight, scales = graph.weight(f"{layer.name}.weight.int8", values), graph.weight(f"{layer.name}.scale", scale)
    weight = graph.add("DequantizeLinear", weight, scales, zeros, name=f"{layer.name}.weight", attributes={"axis": 1})
    return add_bias(graph, graph.add("MatMul", rough, weight, name=f"{layer.name}.product"), layer, np.float32)


def add_bias(graph: OnnxWriter, product: str, layer: Dense, dtype: Any) -> str:
    """The layer's output, of float type `dtype`, from its matrix product."""
    if layer.bias is None:
        return graph.add("Identity", product, name=layer.name)
    bias = graph.weight(f"{layer.name}.bias", layer.bias.astype(dtype))
    return graph.add("Add", product, bias, name=layer.name)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cosine of each token with its reference: the mean, and the worst."""

    mean: float
    worst: float


def agreement(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare tokens (B,N,width).

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != found.shape:
        raise ValueError(f"reference has shape {reference.shape}, found {found.shape}")
    a, b = reference.astype(np.float64), found.astype(np.float64)
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
    return Agreement(float(cosine.mean()), float(cosine.min()))


def gate(
    path: Path, pixels: NDArray[np.float32], reference: NDArray[np.float32], min_cosine: float, *, batch: int = 1
) -> Agreement:
    """Run the model on each image alone, as the runtime does: dynamic scales depend on what is in the batch.

    Args:
        path: the ONNX file.
        pixels: (B,3,size,size).
        reference: (B,N,width) tokens in float32.
        min_cosine: lowest mean cosine that is accepted.
        batch: how many copies of an image a graph of fixed batch must be given.

    Raises:
        AccuracyError: the mean cosine is below `min_cosine`; the message has the figures.
    """
    session = Device("cpu", False, cores()).session(path)
    found = np.concatenate([session.run(None, {"pixels": np.repeat(image[None], batch, 0)})[0][:1] for image in pixels])
    result = agreement(reference, found)
    if not result.mean >= min_cosine:
        raise AccuracyError(
            f"{path.name}: its tokens have a mean cosine of {result.mean:.5f} to float32's (worst {result.worst:.5f}), "
            f"expected at least {min_cosine}: choose fp16, or calibrate with more and more typical images"
        )
    return result
