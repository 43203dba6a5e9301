"""Face detection: YuNet through OpenCV (Wu et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .align import BORDER
from .errors import BundleError

#: Longer side of the picture in the last look.
CLOSER = 192
#: Boxes that go into non-maximum suppression, the surest ones: a face has several, and a crowd has hundreds of faces.
BOXES = 5000


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in a photo.

    Attributes:
        box: x, y, width, height in photo pixels; may reach over the border.
        landmarks: (5,2) right eye, left eye, nose tip, right and left mouth corner of the person, photo pixels.
        score: detector confidence, 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float


class FaceDetector:
    """YuNet on an image pyramid: it finds faces of roughly 10 to 300 pixels, so a large photo is looked at
    small first (a face that fills it) and large only where the first look found nothing (a small face far away).
    The last look is closer and past the border: a thumbnail, or a face that the frame cuts.
    """

    def __init__(
        self, model: Path, *, score_threshold: float = 0.7, nms_threshold: float = 0.3, sides: tuple[int, ...] = (640,)
    ) -> None:
        try:
            with _no_warnings():
                self._net: Any = cv2.FaceDetectorYN.create(
                    str(model), "", (320, 320), score_threshold, nms_threshold, BOXES
                )
        except cv2.error as e:
            raise BundleError(f"{model} is not a detector OpenCV {cv2.__version__} can load: {e.err}") from e
        self._sides = sides

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Detection, ...]:
        """RGB (H,W,3) -> faces, the largest first."""
        bgr = image[:, :, ::-1]
        seen: set[tuple[int, int]] = set()
        for side in self._sides:
            size = _scaled(bgr, min(1.0, side / max(bgr.shape[:2])))
            if size in seen:
                continue
            seen.add(size)
            whole = size == bgr.shape[1::-1]
            small = np.ascontiguousarray(bgr) if whole else cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
            if found := self._look(small, bgr, size):
                return found
        return self._closer(bgr)

    def _closer(self, bgr: NDArray[np.uint8]) -> tuple[Detection, ...]:
        factor = CLOSER / max(bgr.shape[:2])
        size = _scaled(bgr, factor)
        shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        margin = CLOSER // 4
        inner = cv2.resize(bgr, size, interpolation=shrink)
        framed = cv2.copyMakeBorder(inner, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=BORDER)
        return self._look(framed, bgr, size, margin)

    def _look(
        self, image: NDArray[np.uint8], photo: NDArray[np.uint8], size: tuple[int, int], margin: int = 0
    ) -> tuple[Detection, ...]:
        """Faces in an image that shows the photo at `size` (width, height), inside a margin; in the photo's pixels."""
        self._net.setInputSize(image.shape[1::-1])
        rows = self._net.detect(image)[1]
        if rows is None:
            return ()
        # On strips OpenCV 4.13 finds boxes of infinite size.
        rows = rows[np.isfinite(rows).all(1)]
        rows[:, [0, 1, *range(4, 14)]] -= margin
        h, w = photo.shape[:2]
        faces = [_detection(r, w / size[0], h / size[1]) for r in rows]
        return tuple(sorted((f for f in faces if _touches(f.box, w, h)), key=lambda d: -d.box[2] * d.box[3]))


@contextmanager
def _no_warnings() -> Iterator[None]:
    """OpenCV 5 warns on stderr about a target nobody chose; errors still come as exceptions. Before 4.13 there is no
    such warning, and no such module."""
    log = getattr(cv2.utils, "logging", None)
    if log is None:
        yield
        return
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        log.setLogLevel(level)


def _scaled(image: NDArray[np.uint8], factor: float) -> tuple[int, int]:
    """Width and height, at least 8."""
    h, w = image.shape[:2]
    return max(8, round(w * factor)), max(8, round(h * factor))


def _touches(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Does it hold a pixel of the photo?"""
    x, y, w, h = box
    return w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0


def _detection(row: NDArray[np.float32], sx: float, sy: float) -> Detection:
    x, y, w, h = (float(v) for v in row[:4])
    landmarks = row[4:14].reshape(5, 2) * np.array([sx, sy], np.float32)
    return Detection((x * sx, y * sy, w * sx, h * sy), landmarks.astype(np.float32), float(row[14]))
