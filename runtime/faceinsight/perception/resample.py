"""Pillow's bicubic resize, bit for bit: CLIP was trained on pixels that Pillow made.

OpenCV's bicubic is another one: it does not widen the kernel when it shrinks, and its kernel has a = -0.75.

Source: Pillow, src/libImaging/Resample.c. Weights are rounded to 22 bits after the point, each sum of products to 8
bits; the width is resized first, then the height (Pillow 13 takes the height first where it shrinks much more than the
width: never for a square that becomes a square). Here the products are float64 matrix products of whole numbers below
2**53, hence exact in any order; only the band of inputs that a few outputs need is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: Longest side taken, in pixels: the work per output grows with it.
MAX_SIDE = 16_384
#: Reach of the cubic kernel, and its parameter.
SUPPORT, A = 2.0, -0.5
#: Weights are whole multiples of this.
STEP = 2.0**-22
#: Outputs made at a time, and numbers per line made at a time: a block of float64 stays within tens of megabytes.
OUTPUTS, COLUMNS = 16, 3072


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a resize, in pixels: `length` becomes `target`, of which `count` from `first` on are made.

    The image begins at `start`; before and behind it lies the padding colour.
    """

    length: int
    target: int
    start: int
    first: int
    count: int


def plain(length: int, target: int) -> Axis:
    """All of an axis, without padding or crop."""
    return Axis(length, target, 0, 0, target)


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H,W,C) uint8 -> (height,width,C) uint8, as Pillow's Image.resize((width, height), BICUBIC)."""
    return resample(image, plain(image.shape[0], height), plain(image.shape[1], width), (0,) * image.shape[2])


def resample(image: NDArray[np.uint8], y: Axis, x: Axis, colour: Sequence[int]) -> NDArray[np.uint8]:
    """(H,W,C) uint8 -> (y.count,x.count,C) uint8: pad with `colour`, resize, crop, without making what is cut off.

    Padding above and below needs no columns of its own: a line of one colour keeps it, for weights sum to 1 within a
    few of 2**-22.
    """
    columns: Any = cv2.transpose(image)
    lines = _lines(np.asarray(columns), x, colour)
    rows: Any = cv2.transpose(lines)
    return _lines(np.asarray(rows), y, colour)


def _lines(image: NDArray[np.uint8], axis: Axis, colour: Sequence[int]) -> NDArray[np.uint8]:
    """(L,M,C) -> (axis.count,M,C): each line of the result is a weighted sum of lines."""
    if axis.length == axis.target:
        # Pillow leaves this pass out.
        return _window(image, axis, axis.first, axis.first + axis.count, colour)
    _, width, channels = image.shape
    out = np.empty((axis.count, width * channels), np.uint8)
    step = max(1, COLUMNS // channels)
    for left in range(0, width, step):
        part = image[:, left : left + step]
        at = slice(left * channels, left * channels + part.shape[1] * channels)
        for first, low, weights in _bands(axis.length, axis.target, axis.first, axis.count):
            high = low + weights.shape[1]
            if low >= axis.start + len(image) or high <= axis.start:
                out[first : first + len(weights), at] = np.resize(np.asarray(colour, np.uint8), at.stop - at.start)
                continue
            lines = _window(part, axis, low, high, colour)
            sums = weights @ lines.reshape(len(lines), -1).astype(np.float64)
            sums += 0.5
            np.clip(sums, 0, 255, out=sums)
            out[first : first + len(weights), at] = sums  # cut off, as Pillow shifts its sum
    return out.reshape(axis.count, width, channels)


def _window(image: NDArray[np.uint8], axis: Axis, low: int, high: int, colour: Sequence[int]) -> NDArray[np.uint8]:
    """Lines low..high of the padded axis."""
    start, end = axis.start, axis.start + len(image)
    if low >= start and high <= end:
        return image[low - start : high - start]
    out = np.empty((high - low, *image.shape[1:]), np.uint8)
    out[:] = np.asarray(colour, np.uint8)
    if max(low, start) < min(high, end):
        out[max(low, start) - low : min(high, end) - low] = image[max(low, start) - start : min(high, end) - start]
    return out


@lru_cache(maxsize=16)
def _bands(length: int, target: int, first: int, count: int) -> tuple[tuple[int, int, NDArray[np.float64]], ...]:
    """Outputs first..first+count in groups: (number of the first, first input they need, weights (outputs,inputs))."""
    low, weights = _weights(length, target, first, count)
    high = low + (weights != 0).cumsum(1).argmax(1) + 1
    bands = []
    for at in range(0, count, OUTPUTS):
        rows = slice(at, min(at + OUTPUTS, count))
        begin, end = int(low[rows].min()), int(high[rows].max())
        band = np.zeros((rows.stop - at, end - begin))
        for i, row in enumerate(range(at, rows.stop)):
            taps = weights[row, : high[row] - low[row]]
            band[i, low[row] - begin : low[row] - begin + len(taps)] = taps
        band.setflags(write=False)
        bands.append((at, begin, band))
    return tuple(bands)


def _weights(length: int, target: int, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First input (count,) and weights (count,taps) of each output; whole multiples of STEP."""
    scale = length / target
    widen = max(scale, 1.0)
    reach = SUPPORT * widen
    centre = (np.arange(first, first + count) + 0.5) * scale
    low = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    taps = np.arange(math.ceil(reach) * 2 + 1)
    x = np.abs((taps + low[:, None] - centre[:, None] + 0.5) * (1.0 / widen))
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * A
    cubic = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    cubic[taps >= (high - low)[:, None]] = 0
    cubic /= np.cumsum(cubic, 1)[:, -1:]  # summed one by one, as Pillow does
    return low, np.trunc(cubic / STEP + np.copysign(0.5, cubic)) * STEP
