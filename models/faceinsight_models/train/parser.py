"""The parser learns from image-mask pairs, then from its own labels on faces without masks.

Of the pairs, those with rare classes are drawn more often, and rare classes weigh more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..augment import augment_pair, to_pixels
from ..data import Faces, Masks
from ..efficientnet import EfficientNetLite0
from ..parser import FaceParser
from ..recipe import Schedule
from ..vocabulary import FLIP_CLASSES, MASK_CLASSES
from .loop import device, groups, train

#: Label of a pixel that teaches nothing.
IGNORED = 255
#: Glasses, hat, earring and necklace: few pixels in few images.
RARE = tuple(MASK_CLASSES.index(n) for n in ("eye_g", "hat", "ear_r", "neck_l"))


def class_weights(masks: NDArray[np.uint8], classes: int) -> Tensor:
    """Square root of the inverse pixel frequency, mean 1 over the classes, at most 4."""
    frequency = np.bincount(masks.reshape(-1), minlength=classes) / masks.size
    weight = 1 / np.sqrt(frequency + 1e-5)
    return torch.from_numpy(np.minimum(weight / weight.mean(), 4)).float()


def halved(target: Tensor, classes: int) -> Tensor:
    """Label maps (B,S,S) -> shares of the classes (B,classes,S/2,S/2): what each cell of the parser's output covers.

    Half resolution, because full-size logits cost as much as the network; shares and not every other pixel, because
    that would shift the map by half a pixel, which is a good part of a lip.
    """
    known = torch.arange(classes, device=target.device)[:, None, None]
    return F.avg_pool2d((target[:, None] == known).float(), 2)


def entropy_loss(logits: Tensor, share: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy with shares (B,classes,H,W), which may sum to less than 1 where pixels teach nothing."""
    own = share if weight is None else share * weight[:, None, None]
    return -(own * logits.log_softmax(1)).sum() / own.sum().clamp(min=1)


def dice_loss(logits: Tensor, share: Tensor) -> Tensor:
    """1 - mean soft Dice over the classes present in the batch (Milletari et al. 2016)."""
    p = logits.softmax(1)
    overlap, total = torch.minimum(p, share).sum((0, 2, 3)), (p + share).sum((0, 2, 3))
    present = share.sum((0, 2, 3)) > 0
    return 1 - (2 * overlap[present] / (total[present] + 1)).mean()


def draw_pairs(
    rng: np.random.Generator, images: NDArray[np.uint8], masks: NDArray[np.uint8], rows: NDArray[np.int64], size: int
) -> tuple[Tensor, Tensor]:
    """Augmented pixels (B,3,size,size) and label maps (B,size,size) of these rows."""
    pairs = [augment_pair(rng, images[r], masks[r], size) for r in rows]
    pixels = torch.from_numpy(to_pixels(np.stack([p for p, _ in pairs])))
    target = torch.from_numpy(np.stack([m for _, m in pairs])).long()
    return pixels.contiguous(memory_format=torch.channels_last), target


def pair_rows(masks: Masks) -> NDArray[np.int64]:
    """Training rows; those with a rare class stand twice."""
    rows = np.flatnonzero(masks.train)
    rare = [r for r in rows if np.isin(masks.masks[r], RARE).any()]
    return np.concatenate([rows, np.array(rare, rows.dtype)])


def train_teacher(masks: Masks, *, trunk: EfficientNetLite0, out: Path, size: int, schedule: Schedule) -> FaceParser:
    """Learn from the pairs alone, from a trunk that has seen faces; returns the parser with averaged weights."""
    torch.manual_seed(schedule.seed)
    classes = len(MASK_CLASSES)
    model = FaceParser(classes)
    own = model.trunk.state_dict()
    model.trunk.load_state_dict({k: v for k, v in trunk.state_dict().items() if k in own})
    model = model.to(memory_format=torch.channels_last)
    chosen = pair_rows(masks)
    weight = class_weights(np.asarray(masks.masks[np.flatnonzero(masks.train)]), classes).to(device())

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return draw_pairs(rng, masks.crops, masks.masks, chosen[indices], size)

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        share, logits = halved(batch[1], classes), model(batch[0])
        entropy, dice = entropy_loss(logits, share, weight), dice_loss(logits, share)
        return entropy + dice, {"entropy": round(entropy.item(), 4), "dice": round(dice.item(), 4)}

    decoder = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
    train(
        model, name="teacher", out=out, schedule=schedule, count=len(chosen), load=load, loss=loss,
        param_groups=[*groups(model.trunk, schedule.weight_decay), {"params": decoder, "lr": 3 * schedule.lr}],
    )  # fmt: skip
    return model


@torch.no_grad()
def pseudo_labels(
    teacher: FaceParser, faces: Faces, rows: NDArray[np.int64], size: int, *, sure: float = 0.7, batch: int = 8
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Crops (M,size,size,3) and what the teacher makes of them (M,size,size), the crop and its mirror image averaged;
    IGNORED where it is not sure."""
    teacher.eval()
    flip = torch.tensor(FLIP_CLASSES)
    crops, maps = np.zeros((len(rows), size, size, 3), np.uint8), np.zeros((len(rows), size, size), np.uint8)
    for start in tqdm(range(0, len(rows), batch), desc="pseudo-labels", unit="batch", mininterval=5):
        chosen = rows[start : start + batch]
        own = np.stack([faces.crop(r, size) for r in chosen])
        pixels = torch.from_numpy(to_pixels(own)).contiguous(memory_format=torch.channels_last)
        p = (teacher(pixels).softmax(1) + teacher(pixels.flip(3)).softmax(1).flip(3)[:, flip]) / 2
        confidence, label = F.interpolate(p, size=(size, size), mode="bilinear").max(1)
        crops[start : start + batch] = own
        maps[start : start + batch] = torch.where(confidence >= sure, label, IGNORED).to(torch.uint8).numpy()
    return crops, maps


def train_parser(
    teacher: FaceParser, masks: Masks, faces: Faces, *, out: Path, size: int, schedule: Schedule, unlabelled: int
) -> FaceParser:
    """Self-training: go on from the teacher with half of each batch from its own labels on unlabelled training faces of
    all sets, under the same strong augmentation; returns the parser with averaged weights."""
    rows = np.random.default_rng(3).permutation(faces.rows("train"))[:unlabelled]
    model = FaceParser(len(MASK_CLASSES)).to(memory_format=torch.channels_last)
    model.load_state_dict(teacher.state_dict())
    crops, maps = pseudo_labels(teacher, faces, np.sort(rows), size)
    chosen, classes = pair_rows(masks), len(MASK_CLASSES)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        half = len(indices) // 2
        real = draw_pairs(rng, masks.crops, masks.masks, chosen[indices[half:] % len(chosen)], size)
        own = draw_pairs(rng, crops, maps, rng.integers(len(crops), size=half), size)
        return torch.cat([real[0], own[0]]), torch.cat([real[1], own[1]])

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        share, logits = halved(batch[1], classes), model(batch[0])
        # Overlap is judged on the pairs only: a teacher that misses a class must not teach that it is not there.
        real = len(share) - len(share) // 2
        entropy, dice = entropy_loss(logits, share), dice_loss(logits[:real], share[:real])
        return entropy + dice, {"entropy": round(entropy.item(), 4), "dice": round(dice.item(), 4)}

    train(model, name="parser", out=out, schedule=schedule, count=len(chosen), load=load, loss=loss)
    return model
