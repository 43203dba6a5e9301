"""Step 1: fine-tunes the backbone on faces, with one linear classifier that is not used afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.augment import augment_face, to_pixels
from ..data.faces import Faces, Mixture
from ..nets.efficientnet import EfficientNetLite0
from ..recipe import Schedule
from .loop import decay_groups, train
from .tasks import TaskLoss, prior_bias


class BackboneClassifier(nn.Module):
    """An EfficientNet-Lite0 with one linear classifier over all characteristics."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        self.fc = nn.Linear(1280, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B,3,S,S) -> logits (B,classes)."""
        return self.fc(F.dropout(self.trunk(pixels)[32].mean((2, 3)), 0.2, self.training))


def train_backbone(
    faces: Faces, *, sampling_weights: Mapping[str, float], imagenet: Path, out: Path, size: int, schedule: Schedule
) -> BackboneClassifier:
    """Fine-tune the ImageNet trunk on all tasks; returns the classifier with averaged weights."""
    torch.manual_seed(schedule.seed)
    model = BackboneClassifier(faces.labels.shape[1]).to(memory_format=torch.channels_last)
    model.trunk.load_imagenet(imagenet)
    mixture, tasks = Mixture(faces, sampling_weights), TaskLoss()
    with torch.no_grad():
        model.fc.bias.copy_(prior_bias(torch.from_numpy(faces.labels[faces.rows("train")])))

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = mixture.draw(len(indices), rng)
        batch = np.stack([augment_face(rng, faces, r, size) for r in rows])
        pixels = torch.from_numpy(to_pixels(batch)).contiguous(memory_format=torch.channels_last)
        return pixels, torch.from_numpy(faces.labels[rows])

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return tasks(model(batch[0]), batch[1])

    heads = [g | {"lr": 3 * schedule.lr} for g in decay_groups(model.fc, schedule.weight_decay)]
    train(
        model,
        name="trunk",
        out=out,
        schedule=schedule,
        count=mixture.epoch,
        load=load,
        loss=loss,
        param_groups=[*decay_groups(model.trunk, schedule.weight_decay), *heads],
    )
    return model
