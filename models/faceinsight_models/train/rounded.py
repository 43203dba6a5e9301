"""Training on the weights that will be shipped: rounded to 4 bits on the way forward, exact on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Weights that share a scale in llama.cpp's q4_0.
BLOCK = 32


def q4_0(weight: Tensor) -> Tensor:
    """What llama.cpp makes of weights (rows,columns) in q4_0 and reads back: in each block of 32 the value that is
    largest in size becomes -8 times the scale, which is kept in half precision; all others are whole multiples of it.
    """
    blocks = weight.reshape(-1, BLOCK)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    whole = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8
    return (whole * scale.half().float()).reshape(weight.shape)


@contextmanager
def rounded(layers: nn.Module) -> Iterator[None]:
    """Inside, every linear layer below computes with rounded weights; gradients pass as if they were not."""
    changed = [m for m in layers.modules() if isinstance(m, nn.Linear) and m.in_features % BLOCK == 0]

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        weight = layer.weight
        return F.linear(x, weight + (q4_0(weight.detach()) - weight).detach(), layer.bias)

    for layer in changed:
        layer.forward = forward.__get__(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward
