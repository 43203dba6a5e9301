"""Step 2: trains the parser on image-mask pairs, then on its own labels of faces without masks (self-training).

Few pairs have hats, glasses, earrings or necklaces. These are drawn more often, what is worn in one is pasted onto
another, and faces without masks are chosen by what their labels say is worn: where nothing is worn no pixel may show
it, and where something is the teacher need not be so sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..data.augment import augment_pair, to_pixels
from ..data.faces import Faces, Masks
from ..nets.parser import FaceParser
from ..recipe import Schedule
from ..taxonomy import FLIP_CLASSES, MASK_CLASSES, NAMES
from .hats import DYED, HAT, dyed
from .loop import decay_groups, device, train
from .statistics import count_statistics

#: Label of a pixel that teaches nothing.
IGNORED = 255
#: What is worn: few pixels in few pairs. The characteristic that says so, how often such a pair is drawn, and which
#: share of the faces without masks is drawn for it.
WORN = {
    "eye_g": ("Eyeglasses", 3, 0.1),
    "hat": ("Wearing_Hat", 4, 0.15),
    "ear_r": ("Wearing_Earrings", 2, 0.15),
    "neck_l": ("Wearing_Necklace", 6, 0.25),
}
#: How probable a teacher's label must be to teach; and that of something that the face is known to wear.
SURE, SURE_WORN = 0.7, 0.35
#: How often something worn is pasted onto a pair.
PASTED = 0.15
#: How much more a cell beside another class weighs.
EDGE = 1.0


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


def edges(share: Tensor) -> Tensor:
    """(B,classes,H,W) -> (B,1,H,W): 1 where a cell and its neighbours hold more than one class."""
    most, least = F.max_pool2d(share, 3, 1, 1), -F.max_pool2d(-share, 3, 1, 1)
    return ((most - least).amax(1, keepdim=True) > 0.5).to(share.dtype)


def parser_loss(
    logits: Tensor, share: Tensor, pairs: int, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy plus 1 - soft Dice, and both to log.

    Boundaries weigh more: there parsers err, and a thin part is all boundary.

    Args:
        logits: (B,classes,H,W).
        share: (B,classes,H,W) of each cell; they may sum to less than 1 where pixels teach nothing.
        pairs: the Dice loss is of the first so many: a teacher that misses a class must not teach that it is absent.
        weight: (classes,) in the cross-entropy.
    """
    weighted = share * (1 + EDGE * edges(share))
    if weight is not None:
        weighted = weighted * weight[:, None, None]
    entropy = -(weighted * logits.log_softmax(1)).sum() / weighted.sum().clamp(min=1)
    dice = dice_loss(logits[:pairs], share[:pairs])
    return entropy + dice, {"entropy": round(entropy.item(), 4), "dice": round(dice.item(), 4)}


def dice_loss(logits: Tensor, share: Tensor) -> Tensor:
    """1 - mean soft Dice over the classes present in the batch (Milletari et al. 2016)."""
    p = logits.softmax(1)
    overlap, total = torch.minimum(p, share).sum((0, 2, 3)), (p + share).sum((0, 2, 3))
    present = share.sum((0, 2, 3)) > 0
    return 1 - (2 * overlap[present] / (total[present] + 1)).mean()


#: Crop (S,S,3) and label map (S,S) of somebody who wears something.
Donor = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass
class Pairs:
    """Image-mask pairs to draw from.

    Attributes:
        crops: (N,S,S,3) uint8.
        maps: (N,S,S) uint8 label maps.
        chosen: rows to draw; the wanted ones several times.
        donors: class -> those who wear it.
    """

    crops: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    chosen: NDArray[np.int64]
    donors: dict[int, list[Donor]]

    @classmethod
    def of(cls, masks: Masks) -> Pairs:
        """The training pairs."""
        rows = np.flatnonzero(masks.train)
        chosen: list[int] = rows.tolist()
        donors: dict[int, list[Donor]] = {}
        for name, (_, often, _) in WORN.items():
            number = MASK_CLASSES.index(name)
            wearing = [int(r) for r in rows if (masks.masks[r] == number).any()]
            chosen += wearing * (often - 1)
            if wearing:
                donors[number] = [(masks.crops[r], masks.masks[r]) for r in wearing]
        return cls(masks.crops, masks.masks, np.array(chosen), donors)

    def draw(self, rng: np.random.Generator, rows: NDArray[np.int64], size: int) -> tuple[Tensor, Tensor]:
        """Augmented pixels (B,3,size,size) and label maps (B,size,size) of these rows."""
        pairs = [augment_pair(rng, *self._worn(rng, self.crops[r], self.maps[r]), size) for r in rows]
        pixels = torch.from_numpy(to_pixels(np.stack([p for p, _ in pairs])))
        target = torch.from_numpy(np.stack([m for _, m in pairs])).long()
        return pixels.contiguous(memory_format=torch.channels_last), target

    def _worn(
        self, rng: np.random.Generator, crop: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Now and then with something upon it that somebody else wears (copy-paste, Ghiasi et al. 2021). Crops are
        canonical: glasses meet eyes, a necklace the neck."""
        if not self.donors or rng.random() >= PASTED:
            return crop, labels
        number = int(rng.choice(list(self.donors)))
        donor, worn = self.donors[number][rng.integers(len(self.donors[number]))]
        inside = worn == number
        if number != HAT:
            inside = inside & (labels != MASK_CLASSES.index("hair"))
        elif rng.random() < DYED:
            donor = dyed(rng, donor, inside)
        crop, labels = np.array(crop), np.array(labels)
        crop[inside], labels[inside] = donor[inside], number
        return crop, labels


def train_teacher(masks: Masks, start: FaceParser, *, out: Path, size: int, schedule: Schedule) -> FaceParser:
    """Learn from the pairs alone; returns the parser, trained on from `start`, with averaged weights."""
    torch.manual_seed(schedule.seed)
    classes, model = len(MASK_CLASSES), start.to(memory_format=torch.channels_last)
    pairs = Pairs.of(masks)
    weight = class_weights(np.asarray(masks.masks[np.flatnonzero(masks.train)]), classes).to(device())

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return pairs.draw(rng, pairs.chosen[indices], size)

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(batch[0].device.type, torch.bfloat16):
            logits = model(batch[0]).float()
        return parser_loss(logits, halved(batch[1], classes), len(logits), weight)

    decoder = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
    train(
        model,
        name="teacher",
        out=out,
        schedule=schedule,
        count=len(pairs.chosen),
        load=load,
        loss=loss,
        param_groups=[*decay_groups(model.trunk, schedule.weight_decay), {"params": decoder, "lr": 3 * schedule.lr}],
    )
    return model


def unlabelled_rows(faces: Faces, count: int) -> NDArray[np.int64]:
    """Training faces of all sets to label: a share of those who wear something (WORN), the rest at random."""
    rows = np.random.default_rng(3).permutation(faces.rows("train"))
    taken = [rows[faces.labels[rows, NAMES.index(a)] == 1][: int(share * count)] for a, _, share in WORN.values()]
    wearing = np.unique(np.concatenate(taken))
    rest = rows[~np.isin(rows, wearing)][: max(0, count - len(wearing))]
    return np.sort(np.concatenate([wearing, rest]))


@torch.no_grad()
def pseudo_labels(teacher: FaceParser, faces: Faces, rows: NDArray[np.int64], size: int, *, batch: int = 8) -> Pairs:
    """Crops and what the teacher makes of them, the crop and its mirror image averaged; IGNORED where it is not sure.

    What a face is known not to wear no pixel shows.
    """
    teacher.eval()
    flip = torch.tensor(FLIP_CLASSES)
    crops, maps = np.zeros((len(rows), size, size, 3), np.uint8), np.zeros((len(rows), size, size), np.uint8)
    numbers = [MASK_CLASSES.index(n) for n in WORN]
    worn_labels = torch.from_numpy(faces.labels[rows][:, [NAMES.index(a) for a, _, _ in WORN.values()]])
    for start in tqdm(range(0, len(rows), batch), desc="pseudo-labels", unit="batch", mininterval=5):
        part = slice(start, start + batch)
        crops[part] = np.stack([faces.crop(r, size) for r in rows[part]])
        pixels = torch.from_numpy(to_pixels(crops[part])).contiguous(memory_format=torch.channels_last)
        p = (teacher(pixels).softmax(1) + teacher(pixels.flip(3)).softmax(1).flip(3)[:, flip]) / 2
        maps[part] = taught(F.interpolate(p, size=(size, size), mode="bilinear"), worn_labels[part], numbers).numpy()
    return Pairs(crops, maps, np.arange(len(rows)), {})


def lent(pairs: Pairs, guessed: Pairs) -> dict[int, list[Donor]]:
    """Donors of both: the pairs, and the faces that the teacher labelled, where more than a few pixels show it. These
    are ten times as many hats."""
    out = {number: [*donors] for number, donors in pairs.donors.items()}
    for number, donors in out.items():
        sizes = (guessed.maps == number).mean((1, 2))
        least = np.median([(labels == number).mean() for _, labels in donors]) / 3
        donors += [(guessed.crops[i], guessed.maps[i]) for i in np.flatnonzero(sizes >= least)]
    return out


def taught(p: Tensor, worn_labels: Tensor, numbers: list[int]) -> Tensor:
    """Probabilities (B,classes,H,W) -> labels (B,H,W) uint8.

    worn_labels (B,K): is a thing of class numbers[k] worn? 1, 0 or NaN.
    """
    p = p.clone()
    p[:, numbers] *= (worn_labels != 0).float()[:, :, None, None]
    p /= p.sum(1, keepdim=True)
    confidence, label = p.max(1)
    label = torch.where(confidence >= SURE, label, IGNORED)
    worn, which = (p[:, numbers] * (worn_labels == 1).float()[:, :, None, None]).max(1)
    return torch.where(worn >= SURE_WORN, torch.tensor(numbers)[which], label).to(torch.uint8)


def train_parser(
    teacher: FaceParser, masks: Masks, faces: Faces, *, out: Path, size: int, schedule: Schedule, unlabelled: int
) -> FaceParser:
    """Self-training: go on from the teacher with half of each batch from its own labels on unlabelled training faces of
    all sets, under the same strong augmentation; returns the parser with averaged weights.

    The trunk up to stride 8 stays as it is, which nearly halves the cost of a step.
    """
    model = FaceParser(len(MASK_CLASSES)).to(memory_format=torch.channels_last)
    model.load_state_dict(teacher.state_dict())
    model.trunk.lower(8).requires_grad_(False)
    guessed = pseudo_labels(teacher, faces, unlabelled_rows(faces, unlabelled), size)
    pairs, classes = Pairs.of(masks), len(MASK_CLASSES)
    pairs.donors = guessed.donors = lent(pairs, guessed)
    rng = np.random.default_rng(schedule.seed)
    count_statistics(model, (pairs.draw(rng, rng.choice(pairs.chosen, 16), size)[0] for _ in range(8)))

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        half = len(indices) // 2
        real = pairs.draw(rng, pairs.chosen[indices[half:]], size)
        pseudo = guessed.draw(rng, rng.choice(guessed.chosen, half), size)
        return torch.cat([real[0], pseudo[0]]), torch.cat([real[1], pseudo[1]])

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(batch[0].device.type, torch.bfloat16):
            logits = model(batch[0]).float()
        return parser_loss(logits, halved(batch[1], classes), len(logits) - len(logits) // 2)

    train(model, name="parser", out=out, schedule=schedule, count=len(pairs.chosen), load=load, loss=loss)
    return model
