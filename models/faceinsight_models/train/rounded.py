"""Quantization-aware training: weights are rounded to q4_0 in the forward pass, with straight-through gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Weights that share a scale in llama.cpp's q4_0.
BLOCK = 32


def q4_0(weight: Tensor) -> Tensor:
    """Weights (rows,columns) as llama.cpp stores them in q4_0 and reads them back.

    In each block of 32 the value of the largest magnitude becomes -8 times the scale, which is stored in half
    precision; all others are whole multiples of it.
    """
    blocks = weight.reshape(-1, BLOCK)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    whole = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8
    return (whole * scale.half().float()).reshape(weight.shape)


@contextmanager
def rounded(layers: nn.Module) -> Iterator[None]:
    """Inside the context every linear layer computes with rounded weights; gradients ignore the rounding."""
    linears = [m for m in layers.modules() if isinstance(m, nn.Linear) and m.in_features % BLOCK == 0]

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        weight = layer.weight
        return F.linear(x, weight + (q4_0(weight.detach()) - weight).detach(), layer.bias)

    for layer in linears:
        layer.forward = forward.__get__(layer)
    try:
        yield
    finally:
        for layer in linears:
            del layer.forward
