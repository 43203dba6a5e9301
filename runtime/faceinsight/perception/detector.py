"""Face detection: YuNet on an image pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..backends.session import Session
from ..bundle.specs import DetectorSpec
from .alignment import BORDER
from .tiles import OVERLAP, SPOT, Image, brightened, cut, pieces, plain, shrunk, spot, tiles
from .yunet import NO_ROWS, Rows, YuNet

#: Longer side of the picture in the last look.
CLOSER = 192
#: Width in photo pixels of the smallest faces that are looked for: little can be read of smaller ones.
SMALLEST = 24
#: A face of 8 pixels, as looked at, leaves a trace (a score of 0.05); one of 14 is mostly found.
TRACE, TRACE_SCORE, CLEAR = 8, 0.05, 14
#: A face that is wider, as looked at, gains nothing from more pixels.
SMALL_FACE = 24
#: A closer look must be surer of a face: more of the photo is looked at, and texture is all that most of it shows.
CLOSER_SCORE = 0.7
#: From this score on what is not sure is looked at by itself: so many, the surest ones, unless they are narrower in
#: photo pixels.
LIKELY, SPOTS, SPOT_WIDTH = 0.15, 16, 16
#: So many of them also turned. Turned, or smaller than what is looked for, they must be surer: print looks like these.
TURNED_SPOTS, SURE = 4, 0.8
#: Boxes that share more than this of the smaller one are of one face.
SHARED = 0.5

Floats = NDArray[np.float32]
_ONE: Floats = np.ones(2, np.float32)


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
    """YuNet on an image pyramid: it finds faces of roughly 10 to 300 pixels, so a large photo is looked at small first
    (a face that fills it), then closer, in tiles, where a small face has left a trace. In a photo so large that it
    leaves none, all that is not plain is looked at closer once. Strips are cut into pieces. What then is nearly a face
    is looked at by itself, past the border and turned.
    If nothing was found, the last look goes past the border of the whole (a thumbnail, or a face that the frame cuts),
    and a dark photo is brightened.
    """

    def __init__(self, spec: DetectorSpec, session: Session) -> None:
        """Of a bundle's detector and what runs it. Raises BundleError if the graph is another one."""
        least = min(TRACE_SCORE, spec.score_threshold)
        self.network = YuNet(session, spec.file, score_threshold=least, nms_threshold=spec.nms_threshold)
        self._score, self._sides = spec.score_threshold, spec.sides

    def detect(self, image: Image, *, enough: int | None = None) -> tuple[Detection, ...]:
        """RGB (H,W,3) -> faces, the largest first.

        Args:
            image: the photo.
            enough: where so many are found in the first look, no closer ones are taken. None: they always are.
        """
        found = self._search(image, enough)
        if not found and enough is None and (bright := brightened(image)) is not None:
            found = self._search(bright, enough)
        return found

    def _search(self, image: Image, enough: int | None) -> tuple[Detection, ...]:
        """Faces in a photo as light as it is."""
        h, w = image.shape[:2]
        parts = pieces(w, h, self._sides[0])
        rows = np.concatenate([_whole(_moved(self._find_in(cut(image, p), enough), p), p, w, h) for p in parts])
        if len(parts) > 1:
            rows = _added(NO_ROWS, rows)
        elif not len(rows):
            rows = self._past_border(image)
        return tuple(_detection(r) for r in sorted(rows, key=lambda r: -r[2] * r[3]) if _touches(r, w, h))

    def _find_in(self, photo: Image, enough: int | None) -> Rows:
        """Faces in a photo, or in a piece of a strip."""
        longer, reached, traces, faces, every = max(photo.shape[:2]), 0, NO_ROWS, NO_ROWS, NO_ROWS
        for side in dict.fromkeys(min(s, longer) for s in self._sides):
            size = _size(photo, side)
            rows = self._detect(shrunk(photo, *size), _step(photo, size))
            faces = rows[rows[:, 14] >= self._score]
            every = np.concatenate([every, rows])
            if side > reached:
                reached, traces = side, rows
            if len(faces):
                break
        if enough is not None and len(faces) >= enough:
            return faces
        faces, closer = self._nearer(photo, faces, traces, reached)
        return self._alone(photo, faces, np.concatenate([every, closer]))

    def _nearer(self, photo: Image, faces: Rows, traces: Rows, side: int) -> tuple[Rows, Rows]:
        """The faces, with those that more pixels show, and all traces of the closer looks; side: the longer one of the
        look that saw the traces."""
        h, w = photo.shape[:2]
        longer, first, closer = max(h, w), side, NO_ROWS
        while SMALLEST * side < CLEAR * longer and side < longer:
            # Once only: where the smallest leave no trace.
            anywhere = SMALLEST * side < TRACE * longer and side == first
            unsure = (traces[:, 14] < self._score) & (traces[:, 2] * side < SMALL_FACE * longer)
            candidates = traces[unsure & ~_shared(traces, faces)]
            if not anywhere and not len(candidates):
                break
            side = min(2 * side, longer)
            size = _size(photo, side)
            level, step = shrunk(photo, *size), _step(photo, size)
            traces = NO_ROWS
            for tile in tiles(*size):
                part, x, y = cut(level, tile), *(tile[:2] * step)
                spot = (x, y, *(tile[2:] * step))
                traced = _centred(candidates, spot).any()
                known = _moved(faces, (-x, -y), 1 / step)[:, :4]
                if not traced and (not anywhere or plain(part, known)):
                    continue
                rows = _whole(self._detect(part, step, tile), spot, w, h)
                rows = rows[rows[:, 2] < OVERLAP * step[0]]
                traces = np.concatenate([traces, rows])
                faces = _added(faces, rows[rows[:, 14] >= max(self._score, CLOSER_SCORE)])
            closer = np.concatenate([closer, traces])
        return faces, closer

    def _alone(self, photo: Image, faces: Rows, traces: Rows) -> Rows:
        """The faces, with what is one where it is looked at by itself."""
        likely = traces[(traces[:, 14] >= LIKELY) & (traces[:, 2] >= SPOT_WIDTH)]
        for number, row in enumerate(_added(NO_ROWS, likely[~_shared(likely, faces)])[:SPOTS]):
            if _shared(row[None], faces)[0]:
                continue
            picture, corner, step = spot(photo, row[:4])
            narrow = row[2] < SMALLEST
            for turns in (0, 1, 3, 2) if number < TURNED_SPOTS and not narrow else (0,):
                least = max(self._score, SURE if turns or narrow else CLOSER_SCORE)
                rows = self._detect(np.ascontiguousarray(np.rot90(picture, turns)), _ONE)
                rows = _moved(_unturned(rows[rows[:, 14] >= least], turns), corner, step)
                rows = rows[_shared(rows, row[None])]
                if len(rows):
                    faces = _added(faces, rows)
                    break
        return faces

    def _past_border(self, photo: Image) -> Rows:
        """A picture so small that it must grow, or a face that the frame cuts."""
        size, margin = _size(photo, CLOSER), CLOSER // 4
        grows = max(photo.shape[:2]) < CLOSER
        inner = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
        framed = cv2.copyMakeBorder(inner, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=BORDER)
        rows = self._detect(np.asarray(framed, np.uint8), _step(photo, size), (-margin, -margin))
        return rows[rows[:, 14] >= self._score]

    def _detect(self, picture: Image, step: Floats, corner: Sequence[float] = (0, 0)) -> Rows:
        """What may be a face in a picture (H,W,3), in the photo's pixels; step: how many of those one of the picture's
        is wide and high, corner: where it begins among them."""
        return _moved(self.network.detect(picture), corner, step)


def _size(image: Image, side: int) -> tuple[int, int]:
    """Width and height, at least 8, of an image whose longer side becomes `side`."""
    h, w = image.shape[:2]
    factor = side / max(h, w)
    return max(8, round(w * factor)), max(8, round(h * factor))


def _step(photo: Image, size: tuple[int, int]) -> Floats:
    return np.array([photo.shape[1] / size[0], photo.shape[0] / size[1]], np.float32)


def _moved(rows: Rows, corner: Sequence[float] | Floats, step: NDArray[Any] = _ONE) -> Rows:
    """Rows of a window that begins at corner (x, y), in pixels of what it is cut from, times step."""
    pairs = rows[:, :14].reshape(-1, 7, 2).copy()
    pairs[:, [0, 2, 3, 4, 5, 6]] += np.asarray(corner[:2], np.float32)
    return np.hstack([np.float32(pairs * step).reshape(-1, 14), rows[:, 14:]])


def _unturned(rows: Rows, turns: int) -> Rows:
    """Rows of a spot that np.rot90 turned, as they lie in it before."""
    rows = rows.copy()
    for _ in range(turns):
        points = rows[:, 4:14].reshape(-1, 5, 2)
        rows[:, 4:14] = np.stack([SPOT - points[:, :, 1], points[:, :, 0]], 2).reshape(-1, 10)
        rows[:, :4] = np.stack([SPOT - rows[:, 1] - rows[:, 3], rows[:, 0], rows[:, 3], rows[:, 2]], 1)
    return rows


def _whole(rows: Rows, window: Sequence[float], width: int, height: int) -> Rows:
    """Without those that touch an edge of the window inside of the photo: the next window holds them whole."""
    x, y, w, h = window
    left, top = rows[:, 0], rows[:, 1]
    right, bottom = left + rows[:, 2], top + rows[:, 3]
    cut_off = (left <= x) & (x > 0) | (top <= y) & (y > 0)
    cut_off |= (right >= x + w) & (x + w < width) | (bottom >= y + h) & (y + h < height)
    return rows[~cut_off]


def _centred(rows: Rows, window: Sequence[float]) -> NDArray[np.bool_]:
    """Which of them have their middle in a window?"""
    inside = rows[:, :2] + rows[:, 2:4] / 2 - window[:2]
    return np.asarray(((inside >= 0) & (inside < window[2:])).all(1))


def _shared(rows: Rows, others: Rows) -> NDArray[np.bool_]:
    """Which of them are of the same face as one of the others?"""
    low, high = rows[:, None, :2], rows[:, None, :2] + rows[:, None, 2:4]
    sides = np.minimum(high, others[:, :2] + others[:, 2:4]) - np.maximum(low, others[:, :2])
    smaller = np.minimum(rows[:, 2:4].prod(1)[:, None], others[:, 2:4].prod(1))
    return np.asarray((np.maximum(sides, 0).prod(2) > SHARED * smaller).any(1))


def _added(faces: Rows, rows: Rows) -> Rows:
    """The faces and those of the rows that are none of them, the surest first."""
    for row in sorted(rows, key=lambda r: -r[14]):
        if not _shared(row[None], faces)[0]:
            faces = np.vstack([faces, row])
    return faces


def _touches(row: Floats, width: int, height: int) -> bool:
    """Does it hold a pixel of the photo?"""
    x, y, w, h = row[:4]
    return bool(w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0)


def _detection(row: Floats) -> Detection:
    x, y, w, h = (float(v) for v in row[:4])
    return Detection((x, y, w, h), row[4:14].reshape(5, 2).copy(), float(row[14]))
