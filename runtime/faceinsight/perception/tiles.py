"""What the detector looks at, and how large: pieces of a strip, tiles of a level, and which of them show something;
one spot by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from .alignment import BORDER

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
#: Side of the picture of one spot, and how wide the face in it shall be.
SPOT, SPOT_FACE = 192, 48
#: A photo whose lightest pixels are darker, in grey levels, is too dark for the network; below BLACK there is nothing.
DARK, BLACK = 64, 6


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


def spot(photo: Image, box: Sequence[float]) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
    """A square around a box (x, y, width, height), enlarged or shrunk; grey where it reaches past the photo.

    Returns:
        The picture (SPOT,SPOT,3); where it begins (x, y) in its pixels from the photo's corner; how many photo pixels
        one of its is wide and high.
    """
    # A face that the frame cuts at the side is narrower than it is.
    step = max(box[2], 0.75 * box[3]) / SPOT_FACE
    (left, w, before, width), (top, h, above, height) = (
        _stretch(box[k] + box[k + 2] / 2 - SPOT / 2 * step, step, limit) for k, limit in enumerate(photo.shape[1::-1])
    )
    part = cut(photo, (left, top, w, h))
    if w < width or h < height:
        part = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    edges = above, SPOT - above - height, before, SPOT - before - width
    picture = cv2.copyMakeBorder(shrunk(part, width, height), *edges, cv2.BORDER_CONSTANT, value=BORDER)
    steps = np.array([w / width, h / height], np.float32)
    corner = np.array([left, top], np.float32) / steps - np.array([before, above], np.float32)
    return np.asarray(picture, np.uint8), corner, steps


def _stretch(begin: float, step: float, limit: int) -> tuple[int, int, int, int]:
    """What a photo of `limit` pixels has of SPOT steps from `begin` on: where it begins and its length in photo pixels;
    pixels of the picture before it and of it."""
    first = min(max(0, int(begin)), limit - 1)
    length = min(max(first + 1, int(begin + SPOT * step) + 1), limit) - first
    size = min(SPOT, max(1, round(length / step)))
    return first, length, min(SPOT - size, max(0, round((first - begin) / step))), size


def brightened(photo: Image) -> Image | None:
    """A dark photo with the contrast that a display has; None where it is not dark, or nothing but black."""
    h, w = photo.shape[:2]
    white = float(np.percentile(photo[:: max(1, h // 256), :: max(1, w // 256)], 99.5))
    if not BLACK <= white < DARK:
        return None
    levels = np.minimum(np.arange(256) * (255 / white), 255).astype(np.uint8)
    return np.asarray(cv2.LUT(photo, levels), np.uint8)
