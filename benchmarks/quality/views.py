"""Pictures as users take them: inside larger photos, turned, blurred, dark, covered, far away.

Each view is made of a whole picture and goes through the detector again. Lengths are fractions of the face, so a view
means the same on every set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from readings import Picture, Reading

#: Width of a face, px, at which views are made.
SCALE = 100.0
#: The larger photo has this many times each side.
LARGER = 1.8
#: Width and height of the photo in which a face is far away, and its neutral color.
FRAME, NEUTRAL = (640, 480), 127


@dataclass(frozen=True)
class Subject:
    """A picture with a face SCALE px wide: box x, y, width, height and landmarks (5,2) in its pixels."""

    image: Picture
    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64]


def subject(image: Picture, face: Reading) -> Subject:
    """Resize a picture so that its face is SCALE px wide."""
    factor = SCALE / face.box[2]
    x, y, w, h = (v * factor for v in face.box)
    return Subject(resized(image, factor), (x, y, w, h), np.asarray(face.landmarks, float) * factor)


def resized(image: Picture, factor: float) -> Picture:
    h, w = image.shape[:2]
    size = max(1, round(w * factor)), max(1, round(h * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def smeared(image: Picture, share: float = 0.12) -> Picture:
    """So blurred that no face is left for the detector (at 0.04 it finds most): sigma is a share of the longer side."""
    # At a quarter of the size the same blur is sixteen times as fast.
    resized_image = resized(image, 0.25)
    soft = cv2.GaussianBlur(resized_image, (0, 0), share * max(resized_image.shape[:2]))
    return np.asarray(cv2.resize(soft, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def margins(image: Picture) -> tuple[int, int]:
    """Pixels above and below, left and right, that make a picture LARGER."""
    h, w = image.shape[:2]
    return round(h * (LARGER - 1) / 2), round(w * (LARGER - 1) / 2)


def replicated(image: Picture, other: Picture) -> Picture:
    """The edge goes on."""
    v, h = margins(image)
    return np.asarray(cv2.copyMakeBorder(image, v, v, h, h, cv2.BORDER_REPLICATE), np.uint8)


def reflected(image: Picture, other: Picture) -> Picture:
    """The picture mirrored at its edges, heavily blurred."""
    v, h = margins(image)
    around = smeared(np.asarray(cv2.copyMakeBorder(image, v, v, h, h, cv2.BORDER_REFLECT), np.uint8))
    return _pasted(around, image, h, v)


def elsewhere(image: Picture, other: Picture) -> Picture:
    """Another picture, blurred, behind it."""
    v, h = margins(image)
    size = image.shape[1] + 2 * h, image.shape[0] + 2 * v
    return _pasted(smeared(np.asarray(cv2.resize(other, size), np.uint8)), image, h, v)


def _pasted(background: Picture, image: Picture, left: int, top: int) -> Picture:
    """Lay a picture over another; what lies outside is cut off."""
    out: Picture = background.copy()
    h, w = image.shape[:2]
    y, x = max(0, top), max(0, left)
    part = out[y : max(y, top + h), x : max(x, left + w)]
    part[:] = image[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]]
    return out


SURROUNDINGS: dict[str, Callable[[Picture, Picture], Picture]] = {
    "reflected and blurred": reflected,
    "another picture, blurred": elsewhere,
    "edge replicated": replicated,
}


def turned(s: Subject, degrees: float) -> Picture:
    """The whole picture, turned; nothing of it is cut off, and its mirror image fills the corners."""
    h, w = s.image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = round(h * sin + w * cos), round(h * cos + w * sin)
    matrix[:, 2] += (size[0] - w) / 2, (size[1] - h) / 2
    return np.asarray(cv2.warpAffine(s.image, matrix, size, borderMode=cv2.BORDER_REFLECT), np.uint8)


def blurred(s: Subject, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(s.image, (0, 0), sigma), np.uint8)


def dark(s: Subject, factor: float) -> Picture:
    """Less light, in the 8 bits of a photo: what falls below one step is gone."""
    return np.asarray(s.image * factor, np.uint8)


def mosaic(s: Subject, cells: float) -> Picture:
    """As if anonymised: so many cells across the face."""
    resized_image = resized(s.image, cells / s.box[2])
    return np.asarray(cv2.resize(resized_image, s.image.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def _frame(s: Subject) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Directions of the face: across (right eye to left eye), down (eyes to mouth); pixels between the eyes."""
    right, left, _, *mouth = s.landmarks
    across = left - right
    apart = max(float(np.hypot(*across)), 1.0)
    across = across / apart
    down = np.array([-across[1], across[0]])
    return across, down if down @ (np.mean(mouth, 0) - (right + left) / 2) > 0 else -down, apart


def _painted(s: Subject, points: NDArray[np.float64], color: tuple[int, int, int]) -> Picture:
    out: Picture = s.image.copy()
    cv2.fillPoly(out, [np.rint(points).astype(np.int32)], color, cv2.LINE_AA)
    return out


def surgical_mask(s: Subject) -> Picture:
    """Pale blue cloth from the bridge of the nose to under the chin, with pleats and straps."""
    across, down, eyes = _frame(s)
    nose, mouth = s.landmarks[2], s.landmarks[3:].mean(0)
    middle = (nose + mouth) / 2
    outline = np.array(
        [
            nose - 0.35 * eyes * down,
            nose - 0.1 * eyes * down + 0.85 * eyes * across,
            middle + 0.95 * eyes * across,
            mouth + 0.55 * eyes * down + 0.7 * eyes * across,
            mouth + 0.95 * eyes * down,
            mouth + 0.55 * eyes * down - 0.7 * eyes * across,
            middle - 0.95 * eyes * across,
            nose - 0.1 * eyes * down - 0.85 * eyes * across,
        ]
    )
    out = _painted(s, outline, (178, 206, 220))
    brow = s.landmarks[:2].mean(0)
    pleats = [[middle + eyes * (step * down + x * across) for x in (-0.75, 0.75)] for step in (0.0, 0.25, 0.5)]
    straps = [[middle + side * 0.9 * eyes * across, brow + side * 1.25 * eyes * across] for side in (-1, 1)]
    for lines, color in ((pleats, (140, 170, 188)), (straps, (235, 238, 240))):
        points = np.rint(lines).astype(np.int32)
        cv2.polylines(out, list(points), False, color, max(1, round(eyes / 30)), cv2.LINE_AA)
    return out


def _bar(s: Subject, middle: NDArray[np.float64], half_width: float, above: float, below: float) -> Picture:
    """A black bar along the face's own directions; lengths in distances between the eyes."""
    across, down, eyes = _frame(s)
    rim = (-half_width, -above), (half_width, -above), (half_width, below), (-half_width, below)
    corners = [middle + eyes * (x * across + y * down) for x, y in rim]
    return _painted(s, np.array(corners), (20, 20, 20))


def mouth_hidden(s: Subject) -> Picture:
    """Everything from under the nose to the chin."""
    return _bar(s, s.landmarks[3:].mean(0), 0.8, 0.42, 0.75)


def eyes_hidden(s: Subject) -> Picture:
    """The eyes and what lies round them; the brows, too."""
    return _bar(s, s.landmarks[:2].mean(0), 1.1, 0.42, 0.42)


def far(s: Subject, width: float, background: Picture | None) -> Picture:
    """The picture small, in the middle of a photo: its face `width` px wide, neutral around it or a blurred picture."""
    resized_image = resized(s.image, width / s.box[2])
    if background is None:
        around = np.full((FRAME[1], FRAME[0], 3), NEUTRAL, np.uint8)
    else:
        around = smeared(np.asarray(cv2.resize(background, FRAME, interpolation=cv2.INTER_LINEAR), np.uint8))
    # The face's middle lies in the photo's: a picture larger than the photo loses its rim.
    scale = width / s.box[2]
    x, y = (s.box[0] + s.box[2] / 2) * scale, (s.box[1] + s.box[3] / 2) * scale
    return _pasted(around, resized_image, round(FRAME[0] / 2 - x), round(FRAME[1] / 2 - y))


def _alone(make: Callable[..., Picture], *options: float) -> Callable[[Subject, Picture], Picture]:
    """A view that needs no other picture."""
    return lambda s, other: make(s, *options)


def _far(width: float, *, blurred_photo: bool) -> Callable[[Subject, Picture], Picture]:
    return lambda s, other: far(s, width, other if blurred_photo else None)


#: View -> what makes it of a subject and another picture of the set.
VIEWS: dict[str, Callable[[Subject, Picture], Picture]] = {
    "plain": lambda s, other: s.image,
    **{f"turned {degrees}": _alone(turned, degrees) for degrees in (15, 30, 45, 90, 180)},
    **{f"blur, sigma {sigma}": _alone(blurred, sigma) for sigma in (2, 4, 8)},
    **{f"dark, x{factor}": _alone(dark, factor) for factor in (0.25, 0.08)},
    "mosaic, 12 cells": _alone(mosaic, 12),
    "surgical mask": _alone(surgical_mask),
    "mouth hidden": _alone(mouth_hidden),
    "eyes hidden": _alone(eyes_hidden),
    **{f"{w} px, neutral background": _far(w, blurred_photo=False) for w in (60, 40, 28, 20)},
    **{f"{w} px, blurred photo": _far(w, blurred_photo=True) for w in (60, 40, 28, 20)},
}
