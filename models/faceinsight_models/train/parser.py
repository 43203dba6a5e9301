"""The parser learns from image-mask pairs; rare classes are drawn more often and weigh more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..augment import augment_pair, to_pixels
from ..data import Masks
from ..efficientnet import EfficientNetLite0
from ..parser import FaceParser
from ..recipe import Schedule
from ..vocabulary import MASK_CLASSES
from .loop import groups, train

#: Glasses, hat, earring and necklace: few pixels in few images.
RARE = tuple(MASK_CLASSES.index(n) for n in ("eye_g", "hat", "ear_r", "neck_l"))


def class_weights(masks: NDArray[np.uint8], classes: int) -> Tensor:
    """Square root of the inverse pixel frequency, mean 1 over the classes, at most 4."""
    frequency = np.bincount(masks.reshape(-1), minlength=classes) / masks.size
    weight = 1 / np.sqrt(frequency + 1e-5)
    return torch.from_numpy(np.minimum(weight / weight.mean(), 4)).float()


def dice_loss(logits: Tensor, target: Tensor, classes: int) -> Tensor:
    """1 - mean soft Dice over the classes present in the batch (Milletari et al. 2016)."""
    p = logits.softmax(1)
    onehot = F.one_hot(target, classes).movedim(-1, 1).to(p.dtype)
    overlap, total = (p * onehot).sum((0, 2, 3)), (p + onehot).sum((0, 2, 3))
    present = onehot.sum((0, 2, 3)) > 0
    return 1 - (2 * overlap[present] / (total[present] + 1)).mean()


def train_parser(masks: Masks, *, trunk: EfficientNetLite0, out: Path, size: int, schedule: Schedule) -> FaceParser:
    """Fine-tune from a trunk that has seen faces; returns the parser with averaged weights."""
    torch.manual_seed(schedule.seed)
    classes = len(MASK_CLASSES)
    model = FaceParser(classes)
    own = model.trunk.state_dict()
    model.trunk.load_state_dict({k: v for k, v in trunk.state_dict().items() if k in own})
    model = model.to(memory_format=torch.channels_last)
    rows = np.flatnonzero(masks.train)
    rare = [r for r in rows if np.isin(masks.masks[r], RARE).any()]
    chosen = np.concatenate([rows, np.array(rare, rows.dtype)])
    weight = class_weights(np.asarray(masks.masks[rows]), classes)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pairs = [augment_pair(rng, masks.crops[r], masks.masks[r], size) for r in chosen[indices]]
        pixels = torch.from_numpy(to_pixels(np.stack([p for p, _ in pairs])))
        return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(
            np.stack([m for _, m in pairs])
        ).long()

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        # At half resolution: full-size logits cost as much as the network.
        target = batch[1][:, ::2, ::2]
        logits = model(batch[0])
        entropy = F.cross_entropy(logits, target, weight)
        dice = dice_loss(logits, target, classes)
        return entropy + dice, {"entropy": round(entropy.item(), 4), "dice": round(dice.item(), 4)}

    decoder = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
    train(
        model, name="parser", out=out, schedule=schedule, count=len(chosen), load=load, loss=loss,
        param_groups=[*groups(model.trunk, schedule.weight_decay), {"params": decoder, "lr": 3 * schedule.lr}],
    )  # fmt: skip
    return model
