"""Images -> the pixels a CLIP vision tower was trained on, equal in every bit to transformers' image processors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..bundle.specs import VisionSpec
from ..errors import ImageError
from .resample import MAX_SIDE, Axis, plain, resample


def to_pixels(images: Sequence[NDArray[np.uint8]], spec: VisionSpec) -> NDArray[np.float32]:
    """RGB images (H,W,3) uint8, of any sizes -> (B,3,size,size) float32, rescaled and normalize.

    pad "mean": LLaVA-1.5's way; a square around the image in the mean colour, resized.
    pad "none": CLIPImageProcessor's way; the shorter side is resized to `size`, and the centre cut out.
    Raises ImageError for another shape or type, or a side beyond 16,384 pixels.
    """
    out = np.empty((len(images), 3, spec.size, spec.size), np.float32)
    table = _table(spec.mean, spec.std)
    for image, pixels in zip(images, out, strict=True):
        square = to_square(image, spec)
        for channel in range(3):
            np.take(table[channel], square[:, :, channel], out=pixels[channel])
    return out


def to_square(image: NDArray[np.uint8], spec: VisionSpec) -> NDArray[np.uint8]:
    """RGB (H,W,3) uint8 -> (size,size,3) uint8: padded or cropped, and resized."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(f"array of {image.dtype}, shape {image.shape}; expected RGB (H,W,3) uint8")
    height, width = image.shape[:2]
    long, short = max(height, width), min(height, width)
    if long > MAX_SIDE:
        raise ImageError(f"{width}x{height} pixels; a side may have {MAX_SIDE:,}: crop or shrink the image first")
    if spec.pad == "mean":
        y, x = (Axis(long, spec.size, (long - side) // 2, 0, spec.size) for side in (height, width))
        return resample(image, y, x, tuple(int(m * 255) for m in spec.mean))
    target = int(spec.size * long / short)
    whole, cut = plain(short, spec.size), Axis(long, target, 0, (target - spec.size) // 2, spec.size)
    return resample(image, whole, cut, (0, 0, 0)) if width > height else resample(image, cut, whole, (0, 0, 0))


@lru_cache(maxsize=8)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(3,256): what each of 256 values becomes, rounded to float32 after each step as transformers does."""
    rescaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    means, deviations = (np.array(x, np.float32)[:, None] for x in (mean, std))
    table: NDArray[np.float32] = (rescaled - means) / deviations
    table.setflags(write=False)
    return table
