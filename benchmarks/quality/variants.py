"""Pictures made of one photo, the same bits on every machine: turned, scaled, dark, blurred, noisy, covered, in pairs.

OpenCV's resizing and blurring round differently on other processors, which would change what is asked. Here everything
is computed in whole numbers, and noise is drawn from a seeded generator. Photos are RGB (H, W, 3) uint8; places are
those of tests/data/astronaut.png, 512 by 512 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
#: Middle of the face in the photo, x and y.
FACE = 224, 118
#: Cosine and sine as fractions of the third: 16, 23, 37 and 53 degrees.
TURNS = {16: (24, 7, 25), 23: (12, 5, 13), 37: (4, 3, 5), 53: (3, 4, 5)}
SEED = 7
DARK, CLOTH, RED = (12, 12, 12), (196, 214, 224), (160, 30, 34)


def _picture(values: NDArray[np.int64]) -> Picture:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def sampled(
    photo: Picture, matrix: tuple[int, int, int, int, int, int], divisor: int, size: tuple[int, int]
) -> Picture:
    """Bilinear sampling in whole numbers.

    Args:
        photo: its edge goes on outside of it.
        matrix: a, b, c, d, e, f: pixel (x, y) of the result shows ((ax + by + c) / divisor, (dx + ey + f) / divisor).
        divisor: above 0.
        size: width and height of the result.
    """
    a, b, c, d, e, f = matrix
    y, x = np.mgrid[: size[1], : size[0]].astype(np.int64)
    (column, right), (row, below) = (np.divmod(n, divisor) for n in (a * x + b * y + c, d * x + e * y + f))

    def at(down: int, along: int) -> NDArray[np.int64]:
        rows, columns = np.clip(row + down, 0, photo.shape[0] - 1), np.clip(column + along, 0, photo.shape[1] - 1)
        return np.asarray(photo[rows, columns], np.int64)

    right, below = right[..., None], below[..., None]
    upper, lower = ((divisor - right) * at(i, 0) + right * at(i, 1) for i in (0, 1))
    total = (divisor - below) * upper + below * lower
    return _picture((total + divisor**2 // 2) // divisor**2)


def turned(photo: Picture, degrees: int) -> Picture:
    """Turned around the face, anticlockwise where `degrees` is positive; one of TURNS."""
    cos, sin, whole = TURNS[abs(degrees)]
    sin = sin if degrees > 0 else -sin
    x, y = FACE
    matrix = (cos, -sin, (whole - cos) * x + sin * y, sin, cos, (whole - cos) * y - sin * x)
    return sampled(photo, matrix, whole, (photo.shape[1], photo.shape[0]))


def scaled(photo: Picture, along: tuple[int, int], down: tuple[int, int]) -> Picture:
    """Width and height times these fractions."""
    (p, q), (r, s) = along, down
    # The middle of pixel x is at x + 1/2.
    matrix = (2 * q * r, 0, (q - p) * r, 0, 2 * s * p, (s - r) * p)
    return sampled(photo, matrix, 2 * p * r, (photo.shape[1] * p // q, photo.shape[0] * r // s))


def blurred(photo: Picture, radius: int) -> Picture:
    """Three means over 2 * radius + 1 pixels each way, which is nearly a Gaussian."""
    out = photo.astype(np.int64)
    width = 2 * radius + 1
    for axis in (0, 1) * 3:
        pad = [(radius + 1, radius) if i == axis else (0, 0) for i in range(3)]
        sums = np.cumsum(np.pad(out, pad, mode="edge"), axis)
        count = out.shape[axis]
        over = np.take(sums, range(width, count + width), axis) - np.take(sums, range(count), axis)
        out = (over + width // 2) // width
    return _picture(out)


def noisy(photo: Picture, most: int) -> Picture:
    """With up to `most` added to, or taken from, each value."""
    noise = np.random.default_rng(SEED).integers(-most, most, photo.shape, endpoint=True)
    return _picture(photo + noise)


def lit(photo: Picture, percent: tuple[int, int, int], more: int = 0) -> Picture:
    """Red, green and blue times these percents, and `more`."""
    return _picture(photo.astype(np.int64) * percent // 100 + more)


def gray(photo: Picture) -> Picture:
    """Luma of BT.601 in all three channels."""
    luma = (photo.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
    return _picture(np.repeat(luma[..., None], 3, axis=2))


def ellipses(photo: Picture, color: tuple[int, int, int], *shapes: tuple[int, int, int, int]) -> Picture:
    """Filled ellipses on it: x and y of the middle, and both half axes."""
    out: Picture = photo.copy()
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]].astype(np.int64)
    for middle, line, wide, high in shapes:
        out[((x - middle) * high) ** 2 + ((y - line) * wide) ** 2 <= (wide * high) ** 2] = color
    return out


def shades(photo: Picture) -> Picture:
    """Dark glasses and their bridge."""
    return ellipses(photo, DARK, (204, 112, 19, 13), (246, 112, 19, 13), (225, 109, 8, 2))


def hat(photo: Picture) -> Picture:
    """A crown and a brim."""
    return ellipses(photo, RED, (226, 48, 64, 34), (226, 72, 92, 14))


def mask(photo: Picture) -> Picture:
    """Cloth over nose and mouth."""
    return ellipses(photo, CLOTH, (225, 162, 42, 28))


def jpeg(photo: Picture, quality: int) -> bytes:
    """The file's bytes, so that decoding is compared too."""
    return bytes(cv2.imencode(".jpg", photo[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def beside(*photos: Picture) -> Picture:
    """Next to each other."""
    return np.concatenate(photos, axis=1)


#: Kind -> name -> what makes the picture of a photo; bytes are those of a file.
VARIANTS: Mapping[str, Mapping[str, Callable[[Picture], Picture | bytes]]] = {
    "as it is": {
        "plain": lambda p: p,
        "mirrored": lambda p: p[:, ::-1],
    },
    "turned": {
        "16 degrees": lambda p: turned(p, 16),
        "-23 degrees": lambda p: turned(p, -23),
        "37 degrees": lambda p: turned(p, 37),
        "-53 degrees": lambda p: turned(p, -53),
        "on its side": lambda p: np.rot90(p),
        "upside down": lambda p: np.rot90(p, 2),
    },
    "scaled": {
        "half": lambda p: scaled(p, (1, 2), (1, 2)),
        "three quarters": lambda p: scaled(p, (3, 4), (3, 4)),
        "five thirds": lambda p: scaled(p, (5, 3), (5, 3)),
        "narrower": lambda p: scaled(p, (3, 4), (1, 1)),
        "cropped": lambda p: p[40:200, 140:310],
    },
    "light": {
        "dark": lambda p: lit(p, (35, 35, 35)),
        "very dark": lambda p: lit(p, (12, 12, 12)),
        "bright": lambda p: lit(p, (150, 150, 150), 30),
        "contrast": lambda p: lit(p, (180, 180, 180), -102),
        "blue": lambda p: lit(p, (75, 100, 135)),
        "gray": gray,
    },
    "blur and noise": {
        "blur of 5": lambda p: blurred(p, 2),
        "blur of 11": lambda p: blurred(p, 5),
        "noise of 30": lambda p: noisy(p, 30),
        "noise of 70": lambda p: noisy(p, 70),
    },
    "JPEG": {
        "quality 75": lambda p: jpeg(p, 75),
        "quality 8": lambda p: jpeg(p, 8),
    },
    "covered": {
        "shades": shades,
        "hat": hat,
        "mask": mask,
    },
    "several faces": {
        "two": lambda p: beside(p, p[:, ::-1]),
        "three": lambda p: beside(lit(p, (60, 60, 60)), turned(p, 16), shades(p)),
    },
}
