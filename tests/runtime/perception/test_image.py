"""Decoding: what is allowed comes out right, everything else is an ImageError."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from paths import PHOTO

from faceinsight import ImageError, ImageNotFoundError
from faceinsight.perception import image as imaging
from faceinsight.perception.image import load_image, load_scaled


def encode(image: NDArray[np.uint8], suffix: str, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image[:, :, ::-1], list(options))[1])


def blank(width: int, height: int, suffix: str = ".jpg", *options: int) -> bytes:
    return encode(np.zeros((height, width, 3), np.uint8), suffix, *options)


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
    rgba = np.dstack([photo[:, :, ::-1], np.full(photo.shape[:2], 255, np.uint8)])
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
        (np.full((4, 4, 3), -1, np.float32), "from -1 to -1; expected 0 to 1"),
        (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (np.zeros((4, 4, 3), np.int64), "expected uint8"),
        (np.zeros((4, 4, 4), np.uint8), "transparent all over"),
        (blank(5000, 4000, ".png"), "save it as a baseline JPEG"),
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


def test_a_pipe_is_read_to_its_end(tmp_path: Path, photo, monkeypatch):
    """A shell's <(cat photo.jpg) is the path of a pipe."""
    pipe = tmp_path / "photo.png"
    os.mkfifo(pipe)

    def loaded(path: Path) -> NDArray[np.uint8]:
        writer = threading.Thread(target=lambda: _write(pipe), daemon=True)
        writer.start()
        try:
            return load_image(path)
        finally:
            writer.join(10)
            assert not writer.is_alive()

    assert (loaded(pipe) == photo).all()
    monkeypatch.setattr(imaging, "MAX_BYTES", 100_000)
    with pytest.raises(ImageError, match="at most 100,000"):
        loaded(pipe)


def _write(pipe: Path) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.write_bytes(PHOTO.read_bytes())


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system names no open files")
def test_a_descriptor_of_a_pipe_is_read(photo):
    with subprocess.Popen(["cat", str(PHOTO)], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        assert (load_image(f"/dev/fd/{cat.stdout.fileno()}") == photo).all()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device):
    with pytest.raises(ImageError, match="is not a file"):
        load_image(device)


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


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 5])
def test_what_is_transparent_is_not_seen(photo, suffix, orientation):
    """The colours are still in the file; a person does not see them. Turned by EXIF, alpha turns along."""
    image = pytest.importorskip("PIL.Image")
    ops = pytest.importorskip("PIL.ImageOps")
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[40:200, 130:320] = 0
    exif, file = image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored = image.fromarray(np.dstack([photo, alpha]))
    stored.save(file, suffix[1:].upper(), lossless=True, exact=True, exif=exif.tobytes())
    upright = np.array(ops.exif_transpose(image.open(io.BytesIO(file.getvalue()))).convert("RGBA"))
    loaded = load_image(file.getvalue())
    seen = upright[:, :, 3] == 255
    assert (loaded[seen] == upright[seen][:, :3]).all()
    assert (loaded[~seen] == 127).all()
    assert (load_image(np.dstack([photo, alpha]))[40:200, 130:320] == 127).all()
    assert (load_image(stored)[40:200, 130:320] == 127).all()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_OPTIMIZE, 1)])
@pytest.mark.parametrize("lost", [0x00, 0xFF])
def test_a_jpeg_with_a_hole_is_refused(photo, options, lost):
    """libjpeg warns on stderr, decodes noise and goes on."""
    data = bytearray(encode(photo, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 92, *options))
    load_image(bytes(data))
    # Not among the bits with which a progressive file refines what is there: any may be zero.
    begin = len(data) // 8
    data[begin : begin + 4000] = bytes([lost]) * 4000
    with pytest.raises(ImageError, match="lost"):
        load_image(bytes(data))


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_OPTIMIZE, 1)])
@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_smooth_jpeg_has_no_hole(options, grey):
    """With tables made for it, a smooth picture is nothing but zeros."""
    smooth = np.full((1600, 1600, 3), grey, np.uint8)
    assert np.abs(load_image(encode(smooth, ".jpg", *options)).astype(int) - grey).max() <= 1


def test_a_large_jpeg_is_decoded_at_a_reduced_size(monkeypatch, photo):
    pixels, scale = load_scaled(encode(photo, ".jpg"))
    assert (pixels.shape, scale) == ((512, 512, 3), 1)
    monkeypatch.setattr(imaging, "MAX_PIXELS", 200 * 200)
    pixels, scale = load_scaled(encode(photo[:, :510], ".jpg"))
    assert (pixels.shape, scale) == ((128, 128, 3), 4)
    half = cv2.resize(photo, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(load_image(encode(photo, ".jpg")).astype(int) - half).mean() < 6
    for refused in (encode(photo, ".png"), encode(photo, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        with pytest.raises(ImageError, match="baseline JPEG"):
            load_image(refused)


def test_arrays_of_floats_and_of_bgr(photo):
    assert (load_image(photo / 255) == photo).all()
    assert (load_image(photo.astype(np.float32)) == photo).all()
    assert (load_image(photo[:, :, ::-1], bgr=True) == photo).all()
    bgra = np.dstack([photo[:, :, ::-1], np.full(photo.shape[:2], 255, np.uint8)])
    assert (load_image(bgra, bgr=True) == photo).all()
    with pytest.raises(ImageError, match="it is for arrays"):
        load_image(PHOTO, bgr=True)


def test_a_lack_of_memory_is_not_the_pictures_fault(tmp_path: Path):
    """OpenCV's decoders say of both that there is no picture. A process of its own: this one may have freed room."""
    pytest.importorskip("resource", reason="not on Windows")
    photo = tmp_path / "large.jpg"
    photo.write_bytes(cv2.imencode(".jpg", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes())
    code = f"""
import resource
from pathlib import Path
from faceinsight.perception.image import load_image
data = Path({str(photo)!r}).read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10_000_000, resource.RLIM_INFINITY))
try:
    load_image(data)
except Exception as e:
    print(type(e).__name__, e, sep=": ")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "MemoryShortError: memory is short: image bytes needs 64 MB to be decoded"
    assert load_image(photo).shape == (4000, 4000, 3)
