"""Decoding: what is allowed comes out right, everything else is an ImageError."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PHOTO
from numpy.typing import NDArray

from faceinsight import ImageError, ImageNotFoundError
from faceinsight.imaging import load_image


def encode(image: NDArray[np.uint8], suffix: str, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image[:, :, ::-1], list(options))[1])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_formats_decode_to_rgb(photo, suffix):
    decoded = load_image(encode(photo, suffix))
    assert decoded.shape == photo.shape
    assert np.abs(decoded.astype(int) - photo).mean() < 6
    assert decoded.dtype == np.uint8


def test_path_and_bytes_agree():
    assert (load_image(PHOTO) == load_image(PHOTO.read_bytes())).all()
    assert (load_image(str(PHOTO)) == load_image(PHOTO)).all()


def test_exif_orientation_is_applied():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = 255
    jpeg = encode(image, ".jpg")
    # Orientation 6: the camera was turned, the picture is to be rotated by 90 degrees clockwise.
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = load_image(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    assert turned.shape == (60, 40, 3)
    assert turned[:20].mean() > 200
    assert turned[-20:].mean() < 50


def test_grey_alpha_and_16_bit_become_rgb(photo):
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    assert load_image(bytes(cv2.imencode(".png", grey)[1])).shape == photo.shape
    rgba = np.dstack([photo[:, :, ::-1], np.full(photo.shape[:2], 128, np.uint8)])
    assert (load_image(bytes(cv2.imencode(".png", rgba)[1])) == photo).all()
    deep = (photo[:, :, ::-1].astype(np.uint16)) * 257
    assert (load_image(bytes(cv2.imencode(".png", deep)[1])) == photo).all()
    assert load_image(grey).shape == photo.shape
    assert load_image(np.dstack([photo, grey])).shape == photo.shape


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "not a JPEG"),
        (b"GIF89a" + b"\0" * 64, "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (b"\xff\xd8\xff", "no JPEG frame"),
        (np.zeros((4, 4, 3), np.float32), "expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "expected \\(H,W,3\\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (12, "cannot read"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 64, "is HEIC, as iPhones save it"),
        (b"\0\0\0\x18ftypavif" + b"\0" * 64, "is AVIF"),
        ("https://example.org/a.jpg", "is a URL"),
        ("file:///tmp/a.jpg", "is a URL"),
        ("~/nowhere/a.jpg", "~ is not expanded"),
        ("~" + "a" * 5000, "cannot be read|no such file"),
        (io.StringIO("text"), "gives str; expected bytes"),
    ],
)
def test_errors_say_what_was_found(source, message):
    with pytest.raises(ImageError, match=message):
        load_image(source)


def test_missing_file_is_also_a_file_not_found_error(tmp_path: Path):
    with pytest.raises(ImageNotFoundError):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path)
    with pytest.raises(ImageError):
        load_image("a\0b.png")


def test_png_chunk_bomb_is_refused_at_once():
    # 73 bytes that cost cv2.imdecode gigabytes: an IDAT that claims 4 GB.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + b"\0" * 24
    began = time.perf_counter()
    with pytest.raises(ImageError, match="claims"):
        load_image(bomb)
    assert time.perf_counter() - began < 0.1


def test_too_many_pixels_are_refused_before_decoding():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="megapixels"):
        load_image(png)


def test_animated_png_is_refused(photo):
    png = encode(photo[:8, :8], ".png")
    with pytest.raises(ImageError, match="animated"):
        load_image(png[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + png[33:])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_thousand_mutations_neither_crash_nor_hang(photo, suffix):
    rng = np.random.default_rng(3)
    clean = encode(cv2.resize(photo, (96, 96)), suffix)
    refused = 0
    for _ in range(1000):
        data = bytearray(clean)
        for _ in range(rng.integers(1, 12)):
            data[rng.integers(len(data))] = rng.integers(256)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        began = time.perf_counter()
        try:
            image = load_image(bytes(data))
            assert image.ndim == 3
            assert image.shape[2] == 3
        except ImageError:
            refused += 1
        assert time.perf_counter() - began < 2
    assert refused > 50


def test_open_files_and_pillow_images(photo):
    image = pytest.importorskip("PIL.Image")
    with PHOTO.open("rb") as file:
        assert (load_image(file) == photo).all()
    assert (load_image(io.BytesIO(PHOTO.read_bytes())) == photo).all()
    assert (load_image(image.open(PHOTO)) == photo).all()


def test_a_video_behind_a_jpeg_is_no_scan(photo):
    """Motion Photos: in the video behind the picture, the bytes of a scan's marker come by chance."""
    picture = encode(photo, ".jpg")
    assert (load_image(picture + b"\xff\xda\x00\x04" * 500) == load_image(picture)).all()
    hidden = picture[:-2] + b"\xff\xfe\x00\x04\xff\xd9" + b"\xff\xda\x00\x02" * 500 + picture[-2:]
    with pytest.raises(ImageError, match="scans"):  # an end in a comment is no end
        load_image(hidden)
