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
