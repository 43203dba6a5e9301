"""Augmentation of canonical crops, as a kiosk camera would change a face; cheap enough for two cores."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceinsight.perception.alignment import BORDER

from ..taxonomy import FLIP_CLASSES
from .faces import Faces

#: EfficientNet-Lite's own scaling of RGB; the exporter writes it into the manifest.
MEAN, STD = 127.0, 128.0

#: Swaps left and right classes; every other value (a pixel that teaches nothing) stays.
FLIP = np.arange(256, dtype=np.uint8)
FLIP[: len(FLIP_CLASSES)] = FLIP_CLASSES


def scaling(source: int, target: int) -> NDArray[np.float64]:
    """(3,3) from a picture of one size to another, pixel centers at +0.5."""
    s = target / source
    return np.array([[s, 0, 0.5 * s - 0.5], [0, s, 0.5 * s - 0.5], [0, 0, 1]])


def about_center(
    linear: NDArray[np.float64], shift: NDArray[np.float64], source: int, target: int
) -> NDArray[np.float64]:
    """(2,3): a linear map (2,2) about the center of a picture of size `source`, which comes to that of one of size
    `target`, moved by `shift` pixels."""
    center = np.full(2, (source - 1) / 2)
    return np.hstack([linear, (shift + (target - 1) / 2 - linear @ center)[:, None]])


def jitter_matrix(rng: np.random.Generator, source: int, target: int, *, strength: float = 1.0) -> NDArray[np.float64]:
    """(2,3) matrix: a small rotation, scale and shift about the center, then the resize source -> target."""
    angle = np.deg2rad(rng.normal(0, 5 * strength))
    scale = np.exp(rng.normal(0, 0.05 * strength)) * target / source
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    rot = np.array([[c, -s], [s, c]])
    return about_center(rot, rng.normal(0, 0.015 * strength, 2) * target, source, target)


def degrade(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Light, color, something before the face, blur, low resolution, noise, JPEG; each at random."""
    x = image
    if rng.random() < 0.7:
        gain = np.exp(rng.normal(0, 0.12)) * np.exp(rng.normal(0, 0.04, 3))
        table = np.clip((np.arange(256)[:, None] - 127) * gain + 127 + rng.normal(0, 12), 0, 255).astype(np.uint8)
        x = cv2.LUT(x, table[None])
    if rng.random() < 0.08:
        # Something before the face: a rectangle of one color, at most a seventh of the crop.
        side = x.shape[0]
        w, h = (int(side * rng.uniform(0.1, 0.38)) for _ in range(2))
        left, top = int(rng.uniform(0, side - w)), int(rng.uniform(0, side - h))
        x = x.copy()
        x[top : top + h, left : left + w] = rng.integers(0, 256, 3)
    if rng.random() < 0.1:
        x = np.repeat(x.mean(2, keepdims=True).astype(np.uint8), 3, 2)
    if rng.random() < 0.12:
        size = x.shape[0]
        low = int(size * rng.uniform(0.25, 0.8))
        x = cv2.resize(cv2.resize(x, (low, low), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < 0.08:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.6, 1.8))
    if rng.random() < 0.08:
        x = np.clip(x + rng.normal(0, rng.uniform(3, 12), x.shape), 0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        ok, code = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(25, 80))])
        x = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8) if ok else x
    return np.asarray(x, np.uint8)


def augment_face(rng: np.random.Generator, faces: Faces, row: int, size: int) -> NDArray[np.uint8]:
    """One training view (size,size,3) of a face, flipped half of the time (no attribute knows left from right)."""
    x = faces.crop(row, size, jitter_matrix(rng, size, size))
    if rng.random() < 0.5:
        x = x[:, ::-1]
    return degrade(rng, np.ascontiguousarray(x))


def augment_pair(
    rng: np.random.Generator, crop: NDArray[np.uint8], mask: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same for an image and its label map; left and right classes swap on a flip."""
    matrix = jitter_matrix(rng, crop.shape[0], size, strength=1.8)
    x = cv2.warpAffine(crop, matrix, (size, size), borderValue=BORDER)
    y = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    if rng.random() < 0.5:
        x, y = np.ascontiguousarray(x[:, ::-1]), FLIP[y[:, ::-1]]
    return degrade(rng, np.ascontiguousarray(x)), np.asarray(y, np.uint8)


def to_pixels(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B,H,W,3) uint8 -> (B,3,H,W) float32, (x - MEAN) / STD."""
    return np.ascontiguousarray(((batch.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2))
