"""Degraded views do to a face what they say, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import views
from readings import Reading

Picture = np.ndarray


@pytest.fixture
def noise() -> Picture:
    return np.random.default_rng(0).integers(0, 255, (160, 140, 3), dtype=np.uint8)


@pytest.fixture
def face(noise: Picture) -> views.Subject:
    marks = np.array([[45, 60], [85, 60], [65, 85], [50, 105], [80, 105]], float)
    return views.Subject(noise, (15.0, 20.0, 100.0, 120.0), marks)


def test_a_subject_has_the_stated_width(noise: Picture):
    marks = np.array([[10, 20], [40, 20], [25, 30], [15, 40], [35, 40]], np.float32)
    none = np.zeros(0)
    small = Reading((5, 5, 50, 60), marks, none, none, none, {}, none, None, None)
    made = views.subject(noise, small)
    assert made.box == (10, 10, 100, 120)
    assert made.image.shape == (320, 280, 3)
    assert np.allclose(made.landmarks, 2 * marks)


@pytest.mark.parametrize("make", views.SURROUNDINGS.values(), ids=views.SURROUNDINGS)
def test_surroundings_leave_the_picture_as_it_is(noise: Picture, make):
    out = make(noise, noise[::-1])
    assert out.shape == (288, 252, 3)
    assert (out[64:224, 56:196] == noise).all()
    # What lies around it is calmer than the picture itself.
    assert out[:60].std() < noise.std()


def test_turned_by_right_angles_is_exact(face: views.Subject):
    assert np.abs(views.turned(face, 90).astype(int) - np.rot90(face.image)).mean() < 3
    assert np.abs(views.turned(face, 180).astype(int) - np.rot90(face.image, 2)).mean() < 3
    assert views.turned(face, 45).shape[0] > face.image.shape[0]


def test_a_mask_covers_the_mouth_and_not_the_eyes(face: views.Subject):
    out = views.surgical_mask(face)
    changed = (out != face.image).any(2)
    for x, y in face.landmarks[3:].astype(int):
        assert changed[y, x]
    for x, y in face.landmarks[:2].astype(int):
        assert not changed[y - 8 : y + 8, x - 8 : x + 8].any()


@pytest.mark.parametrize(("make", "covered", "free"), [(views.mouth_hidden, (3, 4), (0, 1, 2)),
                                                       (views.eyes_hidden, (0, 1), (2, 3, 4))])  # fmt: skip
def test_bars_cover_what_they_are_named_after(face: views.Subject, make, covered, free):
    changed = (make(face) != face.image).any(2)
    x, y = face.landmarks.astype(int).T
    assert changed[y[list(covered)], x[list(covered)]].all()
    assert not changed[y[list(free)], x[list(free)]].any()


def test_a_bar_follows_a_tilted_face():
    image = np.full((200, 200, 3), 200, np.uint8)
    marks = np.array([[60, 80], [110, 110], [75, 115], [55, 120], [90, 141]], float)
    out = views.eyes_hidden(views.Subject(image, (20, 40, 100, 130), marks))
    assert (out[80, 60] == 20).all()
    assert (out[110, 110] == 20).all()
    assert (out[141, 90] == 200).all()


@pytest.mark.parametrize("width", [60, 20])
def test_a_face_far_away(face: views.Subject, width: int):
    out = views.far(face, width, None)
    assert out.shape == (480, 640, 3)
    rows, columns = np.nonzero((out != views.NEUTRAL).all(2))
    # 140 px of picture round a face of 100 px.
    assert np.ptp(columns) == pytest.approx(1.4 * width, abs=2)
    middle = (columns.min() + (15 + 50) * width / 100, rows.min() + (20 + 60) * width / 100)
    assert middle == pytest.approx((320, 240), abs=2)


def test_a_picture_larger_than_the_photo_loses_its_rim():
    image = np.full((2000, 2000, 3), 9, np.uint8)
    big = views.Subject(image, (950, 950, 100, 100), np.zeros((5, 2)))
    assert (views.far(big, 60, None) == 9).all()


def test_light_and_detail_go(face: views.Subject):
    assert views.dark(face, 0.08).max() <= 20
    assert views.blurred(face, 8).std() < views.blurred(face, 2).std() < face.image.std()
    assert len(np.unique(views.mosaic(face, 12)[0, :, 0])) <= 17
    assert all(make(face, face.image).dtype == np.uint8 for make in views.VIEWS.values())
