"""Training on 4-bit weights: the rounding is llama.cpp's, and gradients pass."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from torch import nn

from faceinsight_models.train.rounded import q4_0, rounded


def test_rounding_is_that_of_the_shipped_file():
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    weight[3, :32] = 0
    packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0)
    assert np.allclose(q4_0(weight).numpy(), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_0), atol=1e-7)


def test_layers_compute_with_rounded_weights_and_learn_exact_ones():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 64, bias=False), nn.Linear(64, 5), nn.Linear(5, 3))
    x = torch.randn(2, 32)
    plain = layers(x)
    with rounded(layers):
        inside = layers(x)
        inside.sum().backward()
    assert not torch.allclose(plain, inside, atol=1e-3)
    assert torch.equal(layers(x), plain)
    expected = layers[2](layers[1].forward(nn.functional.linear(x, q4_0(layers[0].weight))))
    assert expected.shape == inside.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layers.parameters())
    assert "weight" in dict(layers[0].named_parameters())
