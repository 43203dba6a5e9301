"""Parsing of CelebAMask-HQ pairs: F1 per class over all pixels.

Pairs are read from `celebamask.csv` with its zip (docs/train.md), or from CelebAMask-HQ as published: pictures in
`CelebA-HQ-img/`, one PNG per part in `CelebAMask-HQ-mask-anno/`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import datasets
from faceinsight.perception.image import load_image
from faceinsight_models.data.files import read_image, read_mask, read_rows
from faceinsight_models.taxonomy import MASK_CLASSES
from readings import Picture

Figures = dict[str, Any]
#: Name, and how to read picture and mask.
Pair = tuple[str, Callable[[], tuple[Picture, NDArray[np.uint8]]]]

#: The ten classes of CelebAMask-HQ that nearly every mask has.
FREQUENT = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "hair")
#: Pictures per folder of the published masks.
FOLDER = 2000


def pairs(folder: Path, split: str) -> list[Pair]:
    """The pairs that a folder holds of a split."""
    if (folder / "celebamask.csv").is_file():
        archive = zipfile.ZipFile(folder / "celebamask.zip")
        rows = [r for r in read_rows(folder / "celebamask.csv") if r["split"] == split]
        return [(r["file"], partial(_zipped, archive, r["file"], r["mask"])) for r in rows]
    found = datasets.maskhq_indices(folder, split)
    if found is None or not (found[0] / "CelebAMask-HQ-mask-anno").is_dir():
        return []
    home, numbers = found
    return [(f"{i}.jpg", partial(_published, home, i)) for i in numbers]


def _zipped(archive: zipfile.ZipFile, image: str, mask: str) -> tuple[Picture, NDArray[np.uint8]]:
    return read_image(archive, image), read_mask(archive, mask)


def _published(home: Path, number: int) -> tuple[Picture, NDArray[np.uint8]]:
    """Parts are laid over each other in the order of the classes; raises ValueError where a picture has none."""
    image = load_image(home / "CelebA-HQ-img" / f"{number}.jpg")
    place = home / "CelebAMask-HQ-mask-anno" / str(number // FOLDER)
    mask: NDArray[np.uint8] | None = None
    for value, part in enumerate(MASK_CLASSES):
        path = place / f"{number:05d}_{part}.png"
        if not path.is_file():
            continue
        inside = load_image(path)[:, :, 0] > 0
        mask = np.zeros(inside.shape, np.uint8) if mask is None else mask
        mask[inside] = value
    if mask is None:
        raise ValueError(f"{place} has no part of picture {number}")
    return image, mask


def parsing(parse: Callable[[Picture], NDArray[np.uint8]], classes: Sequence[str], found: Sequence[Pair]) -> Figures:
    """The parser alone, on the pairs as they are: `parse` takes a picture as the canonical crop."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    damaged: list[str] = []
    for name, read in tqdm(found, desc="parsing", mininterval=5):
        try:
            image, mask = read()
        except datasets.UNREADABLE:
            damaged.append(name)
            continue
        labels = parse(image)
        # The published masks have half the pictures' side, and neither need be the parser's.
        if mask.shape != labels.shape:
            mask = np.asarray(cv2.resize(mask, labels.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        both = mask.reshape(-1).astype(np.int64) * len(classes) + labels.reshape(-1)
        confusion += np.bincount(both, minlength=len(classes) ** 2).reshape(confusion.shape)
    f1 = 2 * np.diag(confusion) / np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    frequent = [list(classes).index(n) for n in FREQUENT]
    out: Figures = {
        "pairs": len(found) - len(damaged),
        "mean F1, 18 foreground classes": float(f1[1:].mean()),
        "mean F1, 10 frequent classes": float(f1[frequent].mean()),
        "F1": dict(zip(classes, f1.tolist(), strict=True)),
    }
    return out | ({"damaged": {"n": len(damaged), "first": damaged[:5]}} if damaged else {})
