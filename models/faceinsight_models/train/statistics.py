"""Batch statistics for weights read back from a bundle, where each batch norm is folded into its convolution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def count_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give every batch norm the statistics of what it sees in these batches, and the scale and shift with which the
    model computes what it did. In place.

    Folded weights stand behind norms of mean 0 and variance 1 that never saw a batch: in training mode such a model is
    another one, and training from it begins anew.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = {m: [] for m in norms}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        seen[module].append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))

    hooks = [m.register_forward_pre_hook(look) for m in norms]
    model.eval()
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if not seen[norm]:
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, square = torch.stack(seen[norm]).mean(0)
        variance = (square - mean.square()).clamp(min=1e-6)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
