"""Faces are found whoever else is in the photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from faceinsight import FaceInsight


@pytest.mark.parametrize("side", [8, 12, 15])
def test_a_crowd_is_found_whole(insight: FaceInsight, photo, side: int):
    """With 200 boxes before the suppression of those that overlap, 109 of 225 faces had been found."""
    (face,) = insight.perception.detector(photo)
    x, y, w, h = (round(v) for v in face.box)
    alone = photo[y - h // 4 : y + h + h // 4, x - w // 3 : x + w + w // 3]
    tile = cv2.resize(alone, (640 // side, 640 // side), interpolation=cv2.INTER_AREA)
    assert len(insight.perception.detector(np.tile(tile, (side, side, 1)))) == side**2


def test_boxes_without_size_or_off_the_photo_are_dropped(insight: FaceInsight, photo, monkeypatch):
    detector = insight.perception.detector
    rows = np.tile(np.float32([10, 10, 40, 50, *[30, 30] * 5, 0.9]), (5, 1))
    rows[1, 2], rows[2, 4], rows[3, 0], rows[4, 3] = np.inf, np.nan, 2000, -3

    class Net:
        def setInputSize(self, size): ...

        def detect(self, image):
            return 1, rows.copy()

    monkeypatch.setattr(detector, "_net", Net())
    (found,) = detector(photo)
    assert found.box == (10, 10, 40, 50)
