"""YUV4MPEG2: frames with their size and a marker each on a pipe, as ffmpeg, GStreamer and mplayer write them.

A header line ("YUV4MPEG2 W640 H480 F15:1 C420jpeg"), then for each frame a line "FRAME" and the planes Y, U and V. The
marker is why it is used: a frame that is cut short, or a size that changes, is seen and not shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bytes of a line; pixels of a frame.
MAX_LINE, MAX_PIXELS = 256, 64_000_000
_HEADER = re.compile(rb"YUV4MPEG2((?: [A-Z][^ ]*)+)")


class Y4mError(ValueError):
    """What came is not YUV4MPEG2 with 4:2:0 planes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of a camera.

    Attributes:
        number: counts from 1, also over reconnections.
        time: when its marker came, in seconds of `time.monotonic`.
        width, height: in pixels.
        data: the planes Y (height, width), U and V (half as high and wide each), one byte a value.
    """

    number: int
    time: float
    width: int
    height: int
    data: bytes

    @property
    def image(self) -> NDArray[np.uint8]:
        """RGB (height, width, 3) uint8, as `FaceInsight.perceive` takes it; made anew each time."""
        import cv2
        import numpy as np

        rows, columns = _even(self.height), _even(self.width)
        planes = np.frombuffer(self.data, np.uint8)
        if (rows, columns) != (self.height, self.width):
            planes = _padded(planes, self.width, self.height)
        rgb = cv2.cvtColor(planes.reshape(rows * 3 // 2, columns), cv2.COLOR_YUV2RGB_I420)
        return np.ascontiguousarray(rgb[: self.height, : self.width])

    def luma(self, count: int = 2304) -> bytes:
        """About so many values of Y, evenly spread: enough to tell dark and still pictures."""
        size = self.width * self.height
        # A step that has no factor in common with the width runs over all columns.
        step = max(1, size // count) | 1
        return self.data[:size:step]


def _even(n: int) -> int:
    return n + n % 2


def _padded(planes: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """With one more column or row of Y where their number is odd, which cvtColor cannot read."""
    import numpy as np

    size = width * height
    y = planes[:size].reshape(height, width)
    y = np.pad(y, ((0, height % 2), (0, width % 2)), mode="edge")
    return np.concatenate([y.ravel(), planes[size:]])


def parse_header(line: bytes) -> tuple[int, int]:
    """Width and height of a header line. Raises Y4mError."""
    match = _HEADER.fullmatch(line)
    if not match:
        raise Y4mError(f"expected a header YUV4MPEG2, found {line[:24]!r}")
    found = {part[:1]: part[1:].decode("ascii", "replace") for part in match[1].split()}
    chroma, sizes = found.get(b"C", "420jpeg"), [found.get(name, "") for name in (b"W", b"H")]
    if not chroma.startswith("420") or chroma.startswith("420p"):
        raise Y4mError(f"expected 4:2:0 with 8 bits, found C{chroma}")
    if not all(re.fullmatch(r"\d{1,5}", size) and int(size) for size in sizes):
        raise Y4mError(f"a size of {'x'.join(sizes)}")
    width, height = map(int, sizes)
    if width * height > MAX_PIXELS:
        raise Y4mError(f"a size of {width}x{height}; at most {MAX_PIXELS:,} pixels")
    return width, height


class Y4mReader:
    """Reads frames.

    Attributes:
        size: width and height, once the header was read. It may change: writers begin anew with a header.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """read: gives exactly so many bytes, or raises; what it raises passes."""
        self.size: tuple[int, int] | None = None
        self._read = read

    def next(self, clock: Callable[[], float]) -> tuple[float, bytes]:
        """When the next frame's marker came, and its planes. Raises Y4mError."""
        while True:
            line = self._line()
            if line.split(b" ")[0] == b"FRAME" and self.size:
                time = clock()
                width, height = self.size
                return time, self._read(width * height + 2 * (_even(width) // 2) * (_even(height) // 2))
            self.size = parse_header(line)

    def _line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) == MAX_LINE:
                raise Y4mError(f"expected a line, found {bytes(line[:24])!r}")
            line += self._read(1)
        return bytes(line[:-1])
