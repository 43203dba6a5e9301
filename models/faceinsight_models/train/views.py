"""Training views of the close-up: one look for all sets, and everything that makes a face hard to read.

The sets that label age, race and expression are cut to the face, gray or small; a user's photo is none of it. So every
set is shown cut like every other (`frame`), gray and small at times, and what is outside a picture is filled in many
ways: how a picture looks must not tell which labels it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from faceinsight.perception.alignment import crop_matrix, warp

from ..data.augment import about_center, degrade
from ..data.faces import Faces
from ..nets.closeup import FAULTS
from .spoil import Another, Drawn, Image, shrunk, spoil

#: Sets whose pictures end at the face, and the one that is 48 px and gray.
TIGHT, GRAY = ("fairface", "ferplus", "utkface"), "ferplus"


@dataclass
class Views:
    """Draws training views of faces.

    Attributes:
        faces: faces of all sets.
        template: (5,2) where the landmarks lie in the close-up, as fractions of its side.
        size: of the close-up, pixels.
        sizes: set -> (width, height) of its pictures.
        gray: number of the set that is 48 px and gray; -1: none.
        cut: rows of pictures that end at the face.
        known: rows to train on.
    """

    faces: Faces
    template: NDArray[np.float32]
    size: int
    sizes: Mapping[int, tuple[int, int]]
    gray: int
    cut: NDArray[np.int64]
    known: NDArray[np.int64]
    #: Decoded pictures: 6 GB for 100,000 of 160 px, and a third of the time of a step.
    _pictures: dict[int, Image] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, faces: Faces, template: NDArray[np.float32], size: int) -> Views:
        """Views of all sets; every set is cut at times like those whose pictures end at the face."""
        names = [a.stem for a in faces.archives]
        sizes = {i: faces.picture(int(faces.rows("train", i)[0])).shape[1::-1] for i in range(len(names))}
        tight = [faces.rows("train", names.index(n)) for n in TIGHT if n in names]
        gray = names.index(GRAY) if GRAY in names else -1
        cut = np.concatenate(tight) if tight else np.empty(0, np.int64)
        return cls(faces, template, size, sizes, gray, cut, faces.rows("train"))

    def picture(self, row: int) -> Image:
        """RGB, decoded once."""
        if row not in self._pictures:
            self._pictures[row] = self.faces.picture(row)
        return self._pictures[row]

    def matrix(self, row: int) -> NDArray[np.float32]:
        """(2,3) from picture pixels to the close-up."""
        return crop_matrix(self.faces.landmarks[row], self.template, self.size)

    def clean(self, row: int) -> Image:
        """As the runtime sees it."""
        return warp(self.picture(row), self.matrix(row), self.size)

    def gray_small(self, row: int) -> Image:
        """As the set that labels expression would show it."""
        return shrunk(as_gray(self.clean(row)), 46)

    def __call__(self, row: int, rng: np.random.Generator) -> Drawn:
        """Draw a view of a face."""
        size = self.size

        def another() -> Image:
            return self.clean(int(rng.choice(self.known)))

        motion = _motion(rng, size)
        matrix = motion @ np.vstack([self.matrix(row), [0, 0, 1]])
        picture = self.picture(row)
        inside = self._outline(matrix, picture.shape[1::-1])
        x = warp(picture, matrix.astype(np.float32), size)
        if len(self.cut) and rng.random() < 0.5:
            donor = int(rng.choice(self.cut))
            donated = _motion(rng, size) @ np.vstack([self.matrix(donor), [0, 0, 1]])
            inside &= self._outline(donated, self.sizes[int(self.faces.source[donor])])
        x = frame(rng, x, inside, another)
        if rng.random() < 0.5:
            x = np.ascontiguousarray(x[:, ::-1])
        faults = np.zeros(len(FAULTS), np.float32)
        is_small = self.faces.source[row] == self.gray
        if is_small and rng.random() < 0.5:
            x = tinted(rng, x)
        elif not is_small and rng.random() < 0.25:
            x = as_gray(x)
        if not is_small and rng.random() < 0.25:
            x = shrunk(x, int(rng.uniform(28, 80)))
        x = degrade(rng, x)
        drawn = Drawn(x, faults)
        return spoil(rng, drawn, another, is_small=bool(is_small))

    def _outline(self, matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
        """(S,S): what of the close-up a picture of this size (width, height) fills."""
        w, h = size
        corners = np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], np.float64)
        points = np.rint(corners @ matrix[:, :2].T + matrix[:, 2]).astype(np.int32)
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillConvexPoly(mask, points, 1)
        return mask.astype(bool)


def _motion(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """(2,3): rotation, scale and shift about the center, as far as a detector's landmarks are off."""
    angle, scale = np.deg2rad(rng.normal(0, 6)), np.exp(rng.normal(0, 0.07))
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return about_center(np.array([[c, -s], [s, c]]), rng.normal(0, 0.025, 2) * size, size, size)


def frame(rng: np.random.Generator, x: Image, inside: NDArray[np.bool_], another: Another) -> Image:
    """Fill what is outside the picture: one color, the edge drawn out or mirrored, sharp or blurred, noise, another
    picture."""
    if inside.all() or not inside.any():
        return x
    kind = rng.random()
    if kind < 0.3:
        color = np.full(3, 127) if rng.random() < 0.4 else rng.integers(0, 256, 3)
        if rng.random() < 0.3:
            color = np.full(3, rng.integers(0, 256))
        fill = np.broadcast_to(color.astype(np.uint8), x.shape)
    elif kind < 0.4:
        fill = rng.integers(0, 256, x.shape, dtype=np.uint8)
    elif kind < 0.5:
        fill = another()
    else:
        ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        top, bottom, left, right = ys[0], ys[-1], xs[0], xs[-1]
        border = cv2.BORDER_REPLICATE if rng.random() < 0.35 else cv2.BORDER_REFLECT
        inner = x[top : bottom + 1, left : right + 1]
        fill = cv2.copyMakeBorder(inner, top, x.shape[0] - 1 - bottom, left, x.shape[1] - 1 - right, border)
        if rng.random() < 0.5:
            fill = cv2.GaussianBlur(fill, (0, 0), rng.uniform(1, 12))
    return np.where(inside[..., None], x, fill).astype(np.uint8)


def as_gray(x: Image) -> Image:
    """Gray, three channels."""
    return np.repeat(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def tinted(rng: np.random.Generator, x: Image) -> Image:
    """A gray picture in the colors of skin and light, so that gray does not tell the set."""
    gain = np.array([1.0, rng.uniform(0.65, 0.95), rng.uniform(0.5, 0.95)])
    ramp = np.arange(256)[:, None] / 255
    return np.asarray(cv2.LUT(x, (255 * ramp ** (1 / gain) * 1.0).clip(0, 255).astype(np.uint8)[None]), np.uint8)
