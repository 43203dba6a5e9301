"""The one place where images are decoded. Everything that comes from outside is checked before a decoder sees it."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, ImageNotFoundError

MAX_PIXELS = 16_000_000
MAX_BYTES = 64_000_000
#: A progressive JPEG costs one pass over all pixels per scan; real files have about ten.
MAX_SCANS = 64
#: A JPEG marker; inside of a scan, FF 00 is a byte and FF D0 to FF D7 are no segments.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
#: Brands in the first box of files of the ISO base media format.
_BRANDS = {
    b"heic": "HEIC, as iPhones save it", b"heix": "HEIC, as iPhones save it", b"mif1": "HEIF", b"msf1": "HEIF",
    b"avif": "AVIF", b"avis": "AVIF",
}  # fmt: skip

#: Also a file that is open for reading bytes, and what lends its pixels as Pillow's images do.
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | BinaryIO


def load_image(source: ImageSource | Any) -> NDArray[np.uint8]:
    """A path, the bytes of a JPEG, PNG or WebP, an open file, an array or Pillow's image -> RGB (H,W,3) uint8.

    Upright: EXIF is applied to what is decoded here. Arrays are taken as RGB (H,W,3), RGBA (H,W,4; alpha is dropped) or
    grey (H,W).
    Raises ImageError (ImageNotFoundError for a missing file) with what was found and what is expected.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "image bytes")
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read(source), str(source))
    if hasattr(source, "read"):
        return _decode(_read_open(source), str(getattr(source, "name", "open file")))
    if hasattr(source, "__array_interface__") and hasattr(source, "convert"):
        return _from_array(np.asarray(source.convert("RGB")))
    raise ImageError(f"cannot read an image from {type(source).__name__}; expected a path, bytes or a uint8 array")


def _read_open(file: Any) -> bytes:
    try:
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        raise ImageError(f"the open file cannot be read: {e}") from e
    if not isinstance(data, bytes):
        raise ImageError(f"the open file gives {type(data).__name__}; expected bytes: open it with 'rb'")
    return data


def _read(source: str | os.PathLike[str]) -> bytes:
    text = os.fsdecode(source)
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        raise ImageError(f"{text} is a URL; only files are read here: fetch it first")
    path = Path(text)
    try:
        if not path.exists():
            hint = "; ~ is not expanded here (os.path.expanduser does it)" if text.startswith("~") else ""
            raise ImageNotFoundError(f"{path}: no such file{hint}")
        if not path.is_file():
            raise ImageError(f"{path} is not a file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as e:
        if isinstance(e, ImageError):
            raise
        raise ImageError(f"{path} cannot be read: {e}") from e


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if isinstance(array, np.matrix):
        raise ImageError("np.matrix; expected a plain array: np.asarray() makes one of it")
    if array.dtype != np.uint8:
        raise ImageError(f"array of {array.dtype}; expected uint8, RGB, 0..255")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, 2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageError(f"array of shape {array.shape}; expected (H,W,3) RGB, (H,W,4) RGBA or (H,W) grey")
    _check_size(array.shape[1], array.shape[0], "array")
    return np.ascontiguousarray(array[:, :, :3])


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes; at most {MAX_BYTES:,}")
    try:
        width, height = _dimensions(data, name)
    except (struct.error, IndexError):
        raise ImageError(f"{name}: the header is cut off") from None
    _check_size(width, height, name)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:
        raise ImageError(f"{name} does not decode: {e.err}") from None
    if bgr is None:
        raise ImageError(f"{name} does not decode: the data is damaged")
    if bgr.shape[0] * bgr.shape[1] != width * height:
        raise ImageError(f"{name}: the header says {width}x{height}, decoded {bgr.shape[1]}x{bgr.shape[0]}")
    rgb: Any = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb  # type: ignore[no-any-return]


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels; the image is empty")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height / 1e6:.1f} megapixels; at most {MAX_PIXELS / 1e6:.0f}"
        )


def _dimensions(data: bytes, name: str) -> tuple[int, int]:
    """Width and height from the header, by the file's own magic bytes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data, name)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, name)
    if data[4:8] == b"ftyp" and (kind := _BRANDS.get(data[8:12])):
        raise ImageError(f"{name} is {kind}; expected JPEG, PNG or WebP: convert it to one of them")
    found = data[:8].hex(" ") or "nothing"
    raise ImageError(f"{name} is not a JPEG, PNG or WebP (it begins with {found}); convert it to one of them")


def _png(data: bytes, name: str) -> tuple[int, int]:
    """Walk the chunks: a length beyond the file makes libpng allocate gigabytes before it notices."""
    at, width, height, ended = 8, 0, 0, False
    while at < len(data) and not ended:
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ImageError(
                f"{name}: PNG chunk {kind!r} claims {length:,} bytes, {max(0, len(data) - at - 12):,} remain"
            )
        if at == 8:
            if kind != b"IHDR" or length != 13:
                raise ImageError(f"{name}: the first PNG chunk is {kind!r} of {length} bytes, expected IHDR of 13")
            width, height = struct.unpack_from(">II", data, at + 8)
        if kind == b"acTL":
            raise ImageError(f"{name} is an animated PNG; give one still picture")
        ended = kind == b"IEND"
        at += 12 + length
    if not ended:
        raise ImageError(f"{name}: the PNG is cut off (no IEND)")
    return width, height


def _jpeg(data: bytes, name: str) -> tuple[int, int]:
    """Walk the segments to the end of the picture; a phone may have put a video behind it."""
    at, scans, size = 2, 0, None
    while found := _MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        if marker == 0xDA:
            scans += 1
        if scans > MAX_SCANS:
            raise ImageError(f"{name}: more than {MAX_SCANS} JPEG scans")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = width, height
        at += int.from_bytes(data[at : at + 2], "big")
    if size is None:
        raise ImageError(f"{name}: no JPEG frame header")
    return size


def _webp(data: bytes, name: str) -> tuple[int, int]:
    kind = data[12:16]
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ImageError(f"{name}: the WebP is cut off ({len(data):,} bytes)")
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise ImageError(f"{name} is an animated WebP; give one still picture")
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ImageError(f"{name}: unknown WebP chunk {kind!r}")
