"""Hats cut out of image-mask pairs, put on other heads.

Posed portraits show few hats, of few kinds and colors: a white cap on a head half turned away was none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.augment import about_center, scaling
from ..data.faces import Masks
from ..taxonomy import MASK_CLASSES

HAT = MASK_CLASSES.index("hat")
#: A hat has at least this share of its crop; less is a brim's edge or a mistake.
LEAST = 0.05
#: How often a hat is dyed.
DYED = 0.6


@dataclass(frozen=True)
class Hats:
    """crops (M,S,S,3) uint8 in the canonical crop, inside (M,S,S): the pixels that are hat."""

    crops: NDArray[np.uint8]
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, masks: Masks) -> Hats | None:
        """Those of the training pairs; None where nobody wears one."""
        rows = [r for r in np.flatnonzero(masks.train) if (masks.masks[r] == HAT).mean() >= LEAST]
        return cls(np.asarray(masks.crops[rows]), np.asarray(masks.masks[rows]) == HAT) if rows else None

    def put(
        self,
        rng: np.random.Generator,
        face: NDArray[np.uint8],
        label_map: NDArray[np.uint8],
        motion: NDArray[np.float64],
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A crop (S,S,3) and its label map (M,M) with a hat on, both moved by `motion` (2,3) in the crop's pixels.

        In half of the cases the map does not know of it: parsers miss hats, and then the picture must tell.
        """
        which = rng.integers(len(self.crops))
        hat, inside, size = self.crops[which], self.inside[which].astype(np.float32), face.shape[0]
        if rng.random() < DYED:
            hat = dyed(rng, hat, self.inside[which])
        placed = np.vstack([_sways(rng, size), [0, 0, 1]]) @ scaling(hat.shape[0], size)
        matrix = (motion @ placed).astype(np.float32)
        cover = cv2.warpAffine(inside, matrix, (size, size))[..., None]
        worn = cv2.warpAffine(hat, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
        mixed = np.rint(face * (1 - cover) + worn * cover).astype(np.uint8)
        if rng.random() < 0.5:
            cells = label_map.shape[0]
            map_matrix = (scaling(size, cells) @ np.vstack([matrix, [0, 0, 1]]))[:2].astype(np.float32)
            over = cv2.warpAffine(inside, map_matrix, (cells, cells)) > 0.5
            label_map = np.where(over, HAT, label_map).astype(np.uint8)
        return mixed, label_map


def dyed(rng: np.random.Generator, hat: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The same hat in another color; half of the time gray, from black to white."""
    light = cv2.cvtColor(hat, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    folds = (light - light[inside].mean()) * rng.uniform(0.5, 1.0)
    gray = rng.random() < 0.5
    color = np.full(3, rng.uniform(20, 240)) if gray else rng.uniform(15, 240, 3)
    return np.asarray(np.clip(folds + color, 0, 255), np.uint8)


def _sways(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """(2,3): a hat sits a little otherwise on every head, and on its other side as often."""
    scale, angle = np.exp(rng.normal(0.03, 0.06)), np.deg2rad(rng.normal(0, 5))
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    return about_center(turn, rng.normal(0, 0.02, 2) * size, size, size)
