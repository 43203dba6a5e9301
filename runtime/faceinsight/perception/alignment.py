"""Five landmarks -> one canonical crop, the same for training and for use."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: Colour outside the photo. Constant, so that the parser learns it as background.
BORDER = (127, 127, 127)


def similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """Least-squares similarity transform (Umeyama 1991, without reflection).

    Args:
        source: (K,2) points in pixels.
        target: (K,2) points where they should go.

    Returns:
        (2,3) matrix mapping source to target.
    """
    mu_s, mu_t = source.mean(0), target.mean(0)
    s, t = source - mu_s, target - mu_t
    # In the plane the optimum is closed form: complex least squares t = a * s, with a = scale * rotation.
    norm = float((s**2).sum())
    if norm < 1e-9:
        return np.array([[1, 0, mu_t[0] - mu_s[0]], [0, 1, mu_t[1] - mu_s[1]]], np.float32)
    re = float((s * t).sum()) / norm
    im = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / norm
    rot = np.array([[re, -im], [im, re]])
    return np.hstack([rot, (mu_t - rot @ mu_s)[:, None]]).astype(np.float32)


def crop_matrix(landmarks: NDArray[np.float32], template: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(2,3) matrix from photo pixels to the canonical crop.

    Args:
        landmarks: (5,2) right eye, left eye, nose tip, right and left mouth corner (of the person), photo pixels.
        template: (5,2) where they lie in the crop, as fractions of its side.
        size: side of the crop in pixels.
    """
    # Pixel centres are at +0.5: a fraction f of the side is pixel coordinate f * size - 0.5.
    return similarity(np.asarray(landmarks, np.float32), np.asarray(template, np.float32) * size - 0.5)


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Canonical crop (size,size,3) of an RGB image; shrinks without aliasing."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    matrix = matrix.astype(np.float64)
    if scale < 0.5:
        # Bilinear sampling reads four pixels: shrink by area first, down to at most twice the crop's resolution.
        factor = 2.0 * scale
        h, w = image.shape[:2]
        shrunk = cv2.resize(image, (max(1, round(w * factor)), max(1, round(h * factor))), interpolation=cv2.INTER_AREA)
        sx, sy = w / shrunk.shape[1], h / shrunk.shape[0]
        pre = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])
        matrix, image = matrix @ pre, shrunk
    out: Any = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=BORDER)
    return out  # type: ignore[no-any-return]


def normalize(
    crops: NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """(B,S,S,3) uint8 RGB -> (B,3,S,S) float32, (x - mean) / std."""
    scaled = (crops.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
