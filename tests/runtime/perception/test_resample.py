"""Bicubic resizing and CLIP's pixels: equal in every bit to Pillow's and transformers', where these are installed."""

from __future__ import annotations

import hashlib
import importlib

import cv2
import numpy as np
import pytest
from paths import PHOTO

from faceinsight import ImageError
from faceinsight.bundle.json_decoder import FieldError
from faceinsight.bundle.specs import VisionSpec
from faceinsight.perception.clip_pixels import to_pixels, to_square
from faceinsight.perception.resample import resize

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def spec(*, size: int = 56, mean=MEAN, pad: str = "mean") -> VisionSpec:
    return VisionSpec("vision.onnx", size, mean, STD, pad, (size // 14) ** 2, 64)


def noise(height: int, width: int) -> np.ndarray:
    """Full contrast, so that sums leave 0..255 on both sides; the same with every numpy."""
    y, x, channel = np.ogrid[:height, :width, :3]
    return np.array([0, 37, 255], np.uint8)[(y * y * 31 + x * x * 17 + x * y * 7 + y // 5 + channel * 11) % 101 % 3]


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's result, the width first whatever its version."""
    Image = pytest.importorskip("PIL.Image", exc_type=ImportError)
    wide = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


STORED_SMALL = [[32, 38], [123, 129], [214, 220]]
#: (height, width, to height, to width): beginning of the SHA-256 of Pillow 13.0.0's result.
STORED = {
    (512, 512, 336, 336): "b25dedffd01c7382",
    (200, 200, 336, 336): "189892cd0750d472",
    (97, 31, 56, 40): "77cf3afe6e649acc",
    (31, 97, 40, 56): "69187e22f51ff16b",
    (5, 300, 224, 9): "f2b1520196638974",
    (336, 336, 336, 336): "18d111fc707c9784",
    (64, 50, 64, 20): "ff0aee0f93d61693",
    (64, 50, 20, 50): "9b15fd4f610addbc",
    (448, 336, 224, 168): "9eb4e67b80d1d3d9",
}


SIZES = [
    *STORED,
    (1, 1, 7, 7),
    (900, 17, 13, 1),
]


@pytest.mark.parametrize(("height", "width", "to_height", "to_width"), SIZES)
def test_equals_pillow(height, width, to_height, to_width):
    image = noise(height, width)
    assert np.array_equal(resize(image, to_height, to_width), pillow(image, to_height, to_width))


def test_a_square_equals_pillow_in_one_call():
    Image = pytest.importorskip("PIL.Image", exc_type=ImportError)
    for side, target in ((512, 336), (1000, 224), (50, 336)):
        whole = Image.fromarray(noise(side, side)).resize((target, target), Image.Resampling.BICUBIC)
        assert np.array_equal(resize(noise(side, side), target, target), np.asarray(whole))


def test_stored_results():
    """Made by Pillow: the same check where it is not installed."""
    ramp = (np.arange(7)[:, None, None] * 40 + np.arange(5)[None, :, None] * 3 + np.arange(3)).astype(np.uint8)
    assert resize(ramp, 3, 2)[:, :, 0].tolist() == STORED_SMALL
    for (height, width, to_height, to_width), digest in STORED.items():
        found = resize(noise(height, width), to_height, to_width)
        assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest, (height, width, to_height, to_width)


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (41, 90), (90, 41), (56, 30), (64, 64), (3, 200)])
@pytest.mark.parametrize("pad", ["mean", "none"])
def test_pads_and_crops_without_making_what_is_cut_off(height, width, pad):
    """The long way round: the whole padded square, or the whole resized image."""
    image = noise(height, width)
    if pad == "mean":
        long = max(height, width)
        square = np.empty((long, long, 3), np.uint8)
        square[:] = [int(m * 255) for m in MEAN]
        top, left = (long - height) // 2, (long - width) // 2
        square[top : top + height, left : left + width] = image
        expected = resize(square, 56, 56)
    else:
        short = min(height, width)
        to_height, to_width = (int(56 * side / short) for side in (height, width))
        top, left = (to_height - 56) // 2, (to_width - 56) // 2
        expected = resize(image, to_height, to_width)[top : top + 56, left : left + 56]
    assert np.array_equal(to_square(image, spec(pad=pad)), expected)


def pillow_processor(model):
    """transformers' image processor that works with Pillow: since 5.0 it has a name of its own, and the plain one needs
    torchvision."""
    package = f"transformers.models.{model}"
    name = {"clip": "CLIPImageProcessor", "llava": "LlavaImageProcessor"}[model]
    try:
        return getattr(importlib.import_module(f"{package}.image_processing_pil_{model}"), f"{name}Pil")
    except ModuleNotFoundError:
        return getattr(importlib.import_module(f"{package}.image_processing_{model}"), name)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (300, 180), (180, 300), (33, 40), (56, 56)])
def test_equals_transformers(height, width):
    pytest.importorskip("PIL", exc_type=ImportError)
    CLIPImageProcessor, LlavaImageProcessor = (pillow_processor(m) for m in ("clip", "llava"))
    image = cv2.resize(cv2.imread(str(PHOTO))[:, :, ::-1], (width, height))
    options = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "return_tensors": "np"}
    llava = LlavaImageProcessor(do_pad=True)(image, **options)["pixel_values"]
    assert np.array_equal(to_pixels([image], spec()), llava)
    if width >= height:  # Pillow 13 takes the height first in some tall ones
        clip = CLIPImageProcessor()(image, **options)["pixel_values"]
        assert np.array_equal(to_pixels([image], spec(pad="none")), clip)


def test_faults_are_seen(photo):
    """What the comparison above is there to catch is far beyond its tolerance."""
    right = to_pixels([photo], spec())
    assert np.abs(to_pixels([photo], spec(mean=(0.5, 0.5, 0.5))) - right).max() > 0.1
    bilinear = cv2.resize(photo, (56, 56), interpolation=cv2.INTER_LINEAR)
    assert np.abs(to_pixels([bilinear], spec()) - right).max() > 0.5
    cubic = cv2.resize(photo, (56, 56), interpolation=cv2.INTER_CUBIC)
    assert np.abs(to_pixels([cubic], spec()) - right).max() > 0.5


def test_several_images_of_any_size(photo):
    images = [photo, photo[:200], photo[:, :100]]
    together = to_pixels(images, spec())
    assert together.shape == (3, 3, 56, 56)
    assert together.dtype == np.float32
    for image, pixels in zip(images, together, strict=True):
        assert np.array_equal(to_pixels([image], spec())[0], pixels)


def test_what_is_no_image_is_refused():
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), noise(4, 4)[:0]):
        with pytest.raises(ImageError, match="expected RGB"):
            to_pixels([wrong], spec())
    with pytest.raises(ImageError, match="16,384"):
        to_pixels([np.zeros((1, 20_000, 3), np.uint8)], spec())
    with pytest.raises(FieldError, match="mean or none"):
        spec(pad="black")


@pytest.mark.parametrize("pad", ["mean", "none"])
@pytest.mark.parametrize(("height", "width"), [(1, 16_384), (16_384, 1)])
def test_a_very_long_image_costs_little(height, width, pad):
    """Padded to a square it would take 800 MB, and resized by its shorter side 5 GB."""
    import tracemalloc

    tracemalloc.start()
    to_square(noise(height, width), spec(size=336, pad=pad))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
