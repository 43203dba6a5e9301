"""One loss for three tasks: attributes, choices (age, race, expression), each only where a face is labelled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..taxonomy import EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS, NAMES


class TaskLoss(nn.Module):
    """L_bce over the attributes, the same of gender where a set says no other attribute (among forty it would drown),
    plus `weight` times the loss of each choice: age, race, expression.

    A choice's cross-entropy is -log P(label | exactly one of it holds) under independent outputs; together with the
    constraint module's semantic loss, -log P(exactly one holds), it is the paper's L_bce on the choice.
    """

    def __init__(self, *, weight: float = 0.3) -> None:
        super().__init__()
        self.weight = weight
        self.attributes = [i for i, n in enumerate(NAMES) if n not in EXCLUSIVE_MEMBERS]
        self.choices = {task: [NAMES.index(n) for n in names] for task, names in EXCLUSIVE_GROUPS.items()}

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Logits (B,N); labels (B,N) with NaN where unknown -> loss and figures to log."""
        z, y = logits[:, self.attributes], labels[:, self.attributes]
        known = ~y.isnan()
        alone = known.sum(1, keepdim=True) == 1
        total = logits.sum() * 0
        figures: dict[str, float] = {}
        for task, chosen in (("attributes", known & ~alone), ("gender", known & alone)):
            if chosen.any():
                total = total + F.binary_cross_entropy_with_logits(z[chosen], y[chosen])
                figures[task] = round(((z > 0) == (y > 0.5))[chosen].float().mean().item(), 4)
        for task, columns in self.choices.items():
            rows = ~labels[:, columns[0]].isnan()
            if rows.any():
                z, y = logits[rows][:, columns], labels[rows][:, columns]
                total = total + self.weight * F.cross_entropy(z, y)
                figures[task] = round((z.argmax(1) == y.argmax(1)).float().mean().item(), 4)
        return total, figures


def prior_bias(labels: Tensor) -> Tensor:
    """(images,N) labels with NaN -> (N,) logit of each one's frequency, where outputs start."""
    return torch.logit(labels.nanmean(0).nan_to_num(0.5).clamp(1e-3, 1 - 1e-3))
