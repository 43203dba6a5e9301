"""Alignment: exact where it can be exact."""

from __future__ import annotations

import cv2
import numpy as np

from faceinsight.perception.alignment import BORDER, crop_matrix, similarity, warp


def test_similarity_recovers_a_known_transform():
    rng = np.random.default_rng(0)
    for _ in range(20):
        angle, scale = rng.uniform(-3, 3), rng.uniform(0.2, 5)
        rot = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = rng.normal(0, 50, 2)
        points = rng.normal(0, 30, (5, 2)).astype(np.float32)
        found = similarity(points, (points @ rot.T + shift).astype(np.float32))
        assert np.allclose(found, np.hstack([rot, shift[:, None]]), atol=1e-2)


def test_coinciding_points_do_not_blow_up():
    matrix = similarity(np.zeros((5, 2), np.float32), np.ones((5, 2), np.float32))
    assert np.isfinite(matrix).all()


def test_landmarks_land_on_the_template():
    template = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    landmarks = template * 200 + np.array([40, 25])
    matrix = crop_matrix(landmarks.astype(np.float32), template, 100)
    moved = landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(moved, template * 100 - 0.5, atol=1e-3)


def test_warp_of_a_large_face_is_area_sampled():
    """A checkerboard finer than the crop becomes grey, not moiré."""
    board = (np.indices((1600, 1600)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, 2)
    matrix = np.array([[0.08, 0, 0], [0, 0.08, 0]], np.float32)
    crop = warp(image, matrix, 128)
    assert np.abs(crop[4:-4, 4:-4].astype(int) - 127).max() < 6


def test_warp_scales_agree():
    """Shrinking first and warping directly put the same content in the same place."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (800, 800), interpolation=cv2.INTER_CUBIC)
    near = warp(image, np.array([[0.51, 0, -30], [0, 0.51, -20]], np.float32), 256)
    far = warp(image, np.array([[0.49, 0, -30], [0, 0.49, -20]], np.float32), 256)
    k = 0.51 / 0.49
    onto = np.array([[k, 0, 30 * (k - 1)], [0, k, 20 * (k - 1)]], np.float32)
    back = cv2.warpAffine(far, onto, (256, 256))
    assert np.abs(near[20:200, 20:200].astype(int) - back[20:200, 20:200]).mean() < 3


def test_outside_the_photo_is_the_border_colour():
    crop = warp(np.zeros((10, 10, 3), np.uint8), np.array([[1, 0, 50], [0, 1, 50]], np.float32), 64)
    assert (crop[0, 0] == BORDER).all()
    assert (crop[55, 55] == 0).all()
