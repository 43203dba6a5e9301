"""What the detector looks at, and how large: pieces of a strip, tiles of a level, and which of them show something."""

from __future__ import annotations

from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
#: x, y, width, height in whole pixels.
Window = tuple[int, int, int, int]

#: Longest side of a tile, and how far two overlap; a face that is wider was large enough in the look before.
TILE, OVERLAP = 384, 64
#: A photo is looked at whole up to this shape; a longer one in pieces.
SHAPE = 3
#: Narrower strips hold no face that could be read.
NARROW = 24
#: Mean difference to half the resolution, in grey levels, of 8x8 pixels in which there is something to see.
DETAIL = 4


def pieces(width: int, height: int, side: int) -> list[Window]:
    """A photo, or a strip cut along its longer side; each piece shares the length of the shorter side with the next, so
    that the largest face is whole in one."""
    short = min(width, height)
    if short < NARROW:
        return [(0, 0, width, height)]
    span = max(SHAPE * short, side)
    return [
        (x, y, w, h)
        for y, h in _cuts(height, span if height > width else height, short)
        for x, w in _cuts(width, span if width > height else width, short)
    ]


def tiles(width: int, height: int) -> list[Window]:
    """Tiles that cover a picture of this size, about as large as each other."""
    return [(x, y, w, h) for y, h in _cuts(height, TILE, OVERLAP) for x, w in _cuts(width, TILE, OVERLAP)]


def _cuts(length: int, span: int, overlap: int) -> list[tuple[int, int]]:
    """Begin and length of the fewest stretches of at most `span` that overlap by at least `overlap`."""
    if length <= span:
        return [(0, length)]
    count = ceil((length - overlap) / (span - overlap))
    span = ceil((length + (count - 1) * overlap) / count)
    return [(round(i * (length - span) / (count - 1)), span) for i in range(count)]


def shrunk(image: Image, width: int, height: int) -> Image:
    """The whole of an image in fewer pixels; by halves first, which is many times faster than all at once."""
    last = cv2.INTER_AREA
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        h, w = image.shape[0] // 2, image.shape[1] // 2
        image = np.asarray(cv2.resize(image[: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA), np.uint8)
        last = cv2.INTER_LINEAR
    if image.shape[1::-1] != (width, height):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=last), np.uint8)
    return image


def cut(image: Image, window: Window) -> Image:
    """The part of an image (H,W,3) in a window (x, y, width, height)."""
    x, y, w, h = window
    return image[y : y + h, x : x + w]


def plain(tile: Image, boxes: NDArray[np.float32]) -> bool:
    """Is a tile (H,W,3) smooth all over: a wall, the sky, what is out of focus?

    boxes: (N,4) x, y, width, height in it of faces that are known. A near person hides what is behind head and body, so
    these do not count.
    """
    h, w = tile.shape[:2]
    half = cv2.resize(tile, (max(1, w // 2), max(1, h // 2)), interpolation=cv2.INTER_AREA)
    difference = cv2.absdiff(tile, cv2.resize(half, (w, h), interpolation=cv2.INTER_LINEAR))
    cells = cv2.resize(difference, (max(1, w // 8), max(1, h // 8)), interpolation=cv2.INTER_AREA)
    for x, y, w, h in boxes[boxes[:, 2] > OVERLAP] / 8:
        left, right, top = (max(0, round(v)) for v in (x - w, x + 2 * w, y - 0.75 * h))
        cells[top:, left:right] = 0
    return bool(cells.max() < DETAIL)
