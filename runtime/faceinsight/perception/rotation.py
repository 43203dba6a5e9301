"""Geometry of faces that lie on their side or stand on their head: a part of the photo, turned, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .detector import Detection

Box = tuple[float, float, float, float]


def around(image: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The photo around a face, three times as wide as it, and where that begins (x, y)."""
    x, y, reach = box[0] + box[2] / 2, box[1] + box[3] / 2, 1.5 * max(box[2:])
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    return image[top : int(y + reach) + 1, left : int(x + reach) + 1], (left, top)


def unturn(width: int, height: int, turns: int, corner: tuple[int, int]) -> NDArray[np.float64]:
    """(2,3): from pixels of np.rot90(window, turns) to the photo's; width and height of the window before."""
    x, y = corner
    right, bottom = width - 1 + x, height - 1 + y
    matrices = {
        1: [[0, -1, right], [1, 0, y]],
        2: [[-1, 0, right], [0, -1, bottom]],
        3: [[0, 1, x], [-1, 0, bottom]],
    }
    return np.array(matrices[turns], np.float64)


def points(given: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points (N,2) after a quarter turn (2,3)."""
    return np.asarray(given @ matrix[:, :2].T + matrix[:, 2], np.float32)


def moved(box: Box, matrix: NDArray[np.float64]) -> Box:
    """A box (x, y, width, height) after a quarter turn."""
    x, y, w, h = box
    corners = points(np.array([[x, y], [x + w, y + h]], np.float32), matrix)
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return float(left), float(top), float(right - left), float(bottom - top)


def nearest(found: Sequence[Detection], back: NDArray[np.float64], box: Box) -> Detection | None:
    """The one that is the face of that box, if any is."""
    x, y, w, h = box

    def off(d: Detection) -> float:
        left, top, width, height = moved(d.box, back)
        return float(np.hypot(left + width / 2 - x - w / 2, top + height / 2 - y - h / 2))

    best = min(found, key=off, default=None)
    return best if best is not None and off(best) <= 0.5 * max(w, h) else None
