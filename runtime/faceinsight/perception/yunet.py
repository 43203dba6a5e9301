"""YuNet (Wu et al., 2023), the network that finds faces: one look at a picture of any size."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..backends.session import CheckedSession, Session
from ..errors import BundleError

#: Pixels per cell of its three output grids; a picture grows to a multiple of the last, in black.
STRIDES = (8, 16, 32)
#: Outputs of each grid, and how many numbers each has for a cell: is it a face, is it an object, box, landmarks.
PARTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
#: Boxes that go into non-maximum suppression, the surest ones: a face has several, and a crowd has hundreds of faces.
BOXES = 5000

#: (N,15): x, y, width, height, five landmarks (x, y) and score.
Rows = NDArray[np.float32]
NO_ROWS: Rows = np.zeros((0, 15), np.float32)


class YuNet:
    """What it finds in a picture; scores and boxes are decoded as OpenCV's FaceDetectorYN does it."""

    def __init__(self, session: Session, name: str, *, score_threshold: float, nms_threshold: float) -> None:
        """Check the graph.

        Args:
            session: what runs it.
            name: of its file, for errors.
            score_threshold: least confidence of a row, 0..1.
            nms_threshold: overlap (IoU) above which two boxes are one face.

        Raises:
            BundleError: it is another graph, or one for pictures of one size.
        """
        outputs = {f"{part}_{stride}": (1, None, width) for part, width in PARTS.items() for stride in STRIDES}
        self.graph = CheckedSession(session, name, {"input": (1, 3, None, None)}, outputs)
        fixed = [n for n in session.get_inputs()[0].shape[2:] if isinstance(n, int)]
        if fixed:
            raise BundleError(
                f"{name} takes pictures of {' x '.join(map(str, fixed))} px only, expected any size: the bundle was "
                "made by an earlier version of faceinsight-export; make it again"
            )
        self._score, self._overlap = score_threshold, nms_threshold

    def detect(self, picture: NDArray[np.uint8]) -> Rows:
        """RGB (H,W,3) -> what may be a face (N,15), the surest first, in its pixels."""
        height, width = picture.shape[:2]
        below, beside = (-n % STRIDES[-1] for n in (height, width))
        if below or beside:
            grown = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(0, 0, 0))
            picture = np.asarray(grown, np.uint8)
        outputs = self.graph(input=np.asarray(cv2.dnn.blobFromImage(picture, swapRB=True)))
        rows: Rows = np.concatenate(list(self._decoded(outputs, columns=picture.shape[1])))
        # A box that is hardly one may be of infinite size.
        rows = rows[np.isfinite(rows).all(1)]
        if not len(rows):
            return NO_ROWS
        # Whole pixels, as in OpenCV: of two small boxes that overlap by less, both stay.
        boxes = np.trunc(rows[:, :4]).tolist()
        chosen = cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), self._score, self._overlap, top_k=BOXES)
        return rows[np.asarray(chosen, np.int64).reshape(-1)]

    def _decoded(self, outputs: list[NDArray[np.float32]], *, columns: int) -> Iterator[Rows]:
        """Rows of each grid; columns: the picture's width in pixels."""
        for number, stride in enumerate(STRIDES):
            face, thing, box, points = (output[0] for output in outputs[number :: len(STRIDES)])
            score = np.sqrt(np.clip(face, 0, 1) * np.clip(thing, 0, 1))
            at = np.flatnonzero(score > self._score)
            cell = np.stack([at % (columns // stride), at // (columns // stride)], 1)
            with np.errstate(over="ignore"):
                size = np.exp(box[at, 2:]) * stride
            corner = (cell + box[at, :2]) * stride - size / 2
            landmarks = (cell[:, None] + points[at].reshape(-1, 5, 2)) * stride
            yield np.hstack([corner, size, landmarks.reshape(-1, 10), score[at]]).astype(np.float32)
