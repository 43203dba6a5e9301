"""Batch statistics for weights read back from a bundle, where each batch norm is folded into its convolution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def count_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set every batch norm's statistics to those of its inputs in these batches, and its scale and shift so that the
    model computes the same as before. In place.

    Folded weights come with norms of mean 0 and variance 1: in training mode such a model computes something else, and
    training from it would begin anew.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    moments: dict[nn.Module, list[Tensor]] = {m: [] for m in norms}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        moments[module].append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))

    hooks = [m.register_forward_pre_hook(record) for m in norms]
    model.eval()
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if not moments[norm]:
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, square = torch.stack(moments[norm]).mean(0)
        variance = (square - mean.square()).clamp(min=1e-6)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
