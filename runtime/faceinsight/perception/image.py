"""The one place where images are decoded. Everything that comes from outside is checked before a decoder sees it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, ImageNotFoundError, MemoryShortError
from ..host.memory import room
from .alignment import BORDER
from .image_header import Header, read_header

#: Of what is decoded. A larger JPEG is decoded at half, a quarter or an eighth of its width.
MAX_PIXELS = 16_000_000
MAX_BYTES = 128_000_000
#: Bytes that a pixel takes while it is decoded.
_DECODING = 4
#: What OpenCV is told, by how much libjpeg reduces a picture's width and height on the way.
_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

#: Also a file that is open for reading bytes, and what lends its pixels as Pillow's images do.
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | BinaryIO


def load_image(source: ImageSource | Any, *, bgr: bool = False) -> NDArray[np.uint8]:
    """A path, the bytes of a JPEG, PNG or WebP, an open file, an array or Pillow's image -> RGB (H,W,3) uint8.

    Upright: EXIF is applied to what is decoded here. What is transparent becomes grey, so that nothing is seen that a
    person would not see. A JPEG of more than 16 megapixels is decoded at half, a quarter or an eighth of its width.
    Arrays are RGB (H,W,3), RGBA (H,W,4) or grey (H,W); of uint8, or of floats from 0 to 1 or from 0 to 255.
    bgr: an array's channels are BGR or BGRA, as cv2.VideoCapture and cv2.imread give them.
    Raises ImageError (ImageNotFoundError for a missing file) with what was found and what is expected.
    """
    return load_scaled(source, bgr=bgr)[0]


def load_scaled(source: ImageSource | Any, *, bgr: bool = False) -> tuple[NDArray[np.uint8], int]:
    """As load_image, and how many times as wide the photo itself is: 1, or 2, 4, 8 for a JPEG that is so large."""
    if isinstance(source, np.ndarray):
        return _from_array(source, bgr=bgr), 1
    if bgr:
        raise ImageError(f"bgr=True with {type(source).__name__}; it is for arrays; a file says what it holds")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "image bytes")
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read(source), str(source))
    if hasattr(source, "read"):
        return _decode(_read_open(source), str(getattr(source, "name", "open file")))
    if hasattr(source, "__array_interface__") and hasattr(source, "convert"):
        seen_through = "transparency" in getattr(source, "info", ()) or "A" in getattr(source, "mode", "")
        return _from_array(np.asarray(source.convert("RGBA" if seen_through else "RGB"))), 1
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
        kind = path.stat().st_mode
        # A device may never end; a pipe ends when its writer does.
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise ImageError(f"{path} is not a file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,}")
        # A pipe says nothing of its size, and a file may grow: what is too long is noticed by one byte more.
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        if isinstance(e, ImageError):
            raise
        raise ImageError(f"{path} cannot be read: {e}") from e


def _from_array(array: NDArray[Any], *, bgr: bool = False) -> NDArray[np.uint8]:
    if isinstance(array, np.matrix):
        raise ImageError("np.matrix; expected a plain array: np.asarray() makes one of it")
    array = np.asarray(array)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, 2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageError(f"array of shape {array.shape}; expected (H,W,3) RGB, (H,W,4) RGBA or (H,W) grey")
    _check_size(array.shape[1], array.shape[0], "array")
    if array.dtype.kind == "f":
        array = _from_floats(array)
    if array.dtype != np.uint8:
        raise ImageError(f"array of {array.dtype}; expected uint8 from 0 to 255, or floats from 0 to 1 or 0 to 255")
    colour = np.ascontiguousarray(array[:, :, 2::-1] if bgr else array[:, :, :3])
    return colour if array.shape[2] == 3 else _over_grey(colour, array[:, :, 3], "array")


def _from_floats(array: NDArray[Any]) -> NDArray[np.uint8]:
    """0 to 1, or 0 to 255 where anything is above 1."""
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise ImageError(
            f"array of {array.dtype} from {low:g} to {high:g}; expected 0 to 1 or 0 to 255: undo its normalisation"
        )
    return np.asarray(np.rint(array * (255 if high <= 1 else 1)), np.uint8)


def _over_grey(colour: NDArray[np.uint8], alpha: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Colours (H,W,3) over grey, as far as they can be seen: alpha (H,W) from 0 to 255."""
    if (alpha == 255).all():
        return colour
    if not alpha.any():
        raise ImageError(f"{name} is transparent all over: nothing can be seen in it; drop its alpha if that is wrong")
    share = alpha[:, :, None] / np.float32(255)
    return np.asarray(np.rint(colour * share + np.array(BORDER, np.float32) * (1 - share)), np.uint8)


def _decode(data: bytes, name: str) -> tuple[NDArray[np.uint8], int]:
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes; at most {MAX_BYTES:,}")
    header = read_header(data, name)
    scale = _scale(header)
    width, height = -(-header.width // scale), -(-header.height // scale)
    _check_size(width, height, name)
    bgr = _pixels(data, _FLAGS[scale], name, width * height)
    if bgr.shape[0] * bgr.shape[1] != width * height:
        raise ImageError(f"{name}: expected {width}x{height} by its header, decoded {bgr.shape[1]}x{bgr.shape[0]}")
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    return (_over_grey(rgb, _alpha(data, bgr, name), name) if header.alpha else rgb), scale


def _alpha(data: bytes, bgr: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """0 to 255 (H,W), upright as the decoded colours (H,W,3) are."""
    size = bgr.shape[0] * bgr.shape[1]
    layers = _pixels(data, cv2.IMREAD_UNCHANGED, name, size)
    if layers.ndim != 3 or layers.shape[2] != 4:
        return np.full(bgr.shape[:2], 255, np.uint8)
    alpha = np.asarray(layers[:, :, 3] >> 8 * (layers.itemsize - 1), np.uint8)
    if (alpha == 255).all():
        return np.full(bgr.shape[:2], 255, np.uint8)
    # OpenCV turns colours as EXIF says, but not alpha: the turn is the one that the colours made.
    lying = _pixels(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, name, size)
    for turns in range(4):
        for pair in ((lying, alpha), (lying.swapaxes(0, 1), alpha.T)):
            colours, veil = (np.rot90(x, turns) for x in pair)
            if np.array_equal(colours, bgr):
                return veil
    raise ImageError(f"{name}: its alpha does not fit its colours; save it without")


def _pixels(data: bytes, flags: int, name: str, size: int) -> NDArray[Any]:
    """Decode. size: pixels that the header promises; where there is no room for them, the picture is not to blame."""
    decoded: Any = None
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        fault = "the data is damaged"
    except cv2.error as e:
        fault = e.err
    if decoded is None:
        # OpenCV's decoders answer a lack of memory as they do damaged data.
        if not room(_DECODING * size):
            raise MemoryShortError(f"memory is short: {name} needs {_DECODING * size / 1e6:,.0f} MB to be decoded")
        raise ImageError(f"{name} does not decode: {fault}")
    return decoded  # type: ignore[no-any-return]


def _scale(header: Header) -> int:
    """By how much a JPEG is reduced so that at most MAX_PIXELS are left, if that can be."""
    pixels = header.width * header.height
    fits = [s for s in _FLAGS if pixels <= MAX_PIXELS * s * s]
    return fits[0] if fits and header.reducible else 1


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels; the image is empty")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height / 1e6:.1f} megapixels; at most {MAX_PIXELS / 1e6:.0f}: "
            "make it smaller, or save it as a baseline JPEG, which is decoded at a reduced size"
        )
