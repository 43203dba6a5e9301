"""Composed scenes: where their faces are, and what counts as found."""

from __future__ import annotations

import numpy as np
import pytest

import scenes
from compositions import KINDS, Painter, inside
from faceinsight import FaceInsight
from faceinsight.perception.detector import Detection

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(insight: FaceInsight, photo):
    (face,) = insight.perception.detector.detect(photo)
    x, y, w, h = face.box
    left, top = round(x - 0.6 * w), round(y - 0.5 * h)
    return [(photo[top : round(y + 1.3 * h), left : round(x + 1.6 * w)], (x - left, y - top, w, h))]


@pytest.mark.parametrize("kind", ["one person", "eight people", "a third off, at the side", "upside down"])
def test_faces_lie_where_a_scene_says(insight: FaceInsight, people, kind: str):
    found = scenes.recall(insight.perception.detector, KINDS[kind], people, np.random.default_rng(3), 4)
    assert found["found"] == found["faces"] == 4 * (8 if kind == "eight people" else 1)
    assert found["right"] == 4


def test_what_is_outside_of_the_photo_does_not_count(people):
    painter = Painter(people, np.random.default_rng(0), (300, 200))
    painter.face(0, 100, 80)
    ((x, y, w, h),) = painter.scene().boxes
    assert (x, w) == (0, 40)
    assert 0 < y < y + h < 200
    assert inside((-5, 190, 10, 20), (300, 200)) == (0, 190, 5, 10)


def test_a_box_counts_for_one_face(people):
    painter = Painter(people, np.random.default_rng(0), (600, 400))
    painter.face(150, 200, 80)
    painter.face(450, 200, 80)
    scene = painter.scene()
    boxes = [scene.boxes[0], scene.boxes[0], (10, 10, 30, 30)]

    class Fixed:
        def detect(self, photo):
            return tuple(Detection(box, np.zeros((5, 2), np.float32), 1.0) for box in boxes)

    assert scenes.judged(Fixed(), scene) == (1, 2)


def test_runs_and_pixels_are_counted(insight: FaceInsight, photo):
    detector = insight.perception.detector
    network = detector.network
    detector.network = counted = scenes.CountedNetwork(network)
    try:
        detector.detect(photo)
    finally:
        detector.network = network
    assert (counted.runs, counted.pixels) == (1, 512 * 512)
