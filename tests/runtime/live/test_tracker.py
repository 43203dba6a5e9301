"""Faces over time, by position."""

from __future__ import annotations

import math
import random

import pytest

from faceinsight.live.tracker import CERTAIN, LOST, Tracker


def moving(x: float, y: float = 100.0, size: float = 100.0) -> tuple[float, float, float, float]:
    return x, y, size, size


def test_a_face_that_moves_is_one_track_and_leaves_once():
    tracker = Tracker()
    ids = set()
    for i in range(30):
        (track,), gone = tracker.update(i / 15, [moving(40 * i)])
        ids.add(track.id)
        assert gone == []
        assert track.is_certain is (i + 1 >= CERTAIN)
    assert len(ids) == 1
    assert tracker.update(30 / 15 + LOST / 2, []) == ([], [])
    _, (gone,) = tracker.update(30 / 15 + LOST + 0.1, [])
    assert {gone.id} == ids
    assert gone.last_time - gone.began == pytest.approx(29 / 15)
    assert tracker.update(9, []) == ([], [])


def test_who_comes_back_is_somebody_new():
    tracker = Tracker()
    for i in range(5):
        (before,), _ = tracker.update(i / 15, [moving(100)])
    tracker.update(3, [])
    (after,), _ = tracker.update(3.1, [moving(100)])
    assert after.id != before.id


def test_a_slip_of_the_detector_is_nobody():
    tracker = Tracker()
    tracker.update(0, [moving(100)])
    _, gone = tracker.update(LOST + 1, [])
    assert gone == []


def test_a_face_that_is_missed_for_some_frames_stays():
    tracker, rng = Tracker(), random.Random(1)
    ids = set()
    for i in range(150):
        if rng.random() < 0.6:
            (track,), _ = tracker.update(i / 15, [moving(100 + 6 * i + rng.uniform(-4, 4))])
            ids.add(track.id)
        else:
            tracker.update(i / 15, [])
    assert len(ids) == 1


def test_people_beside_and_past_each_other_keep_their_tracks():
    """Two stand still, one walks past in front of them and is nearer: three tracks to the end."""
    tracker = Tracker()
    names: dict[str, set[str]] = {"left": set(), "right": set(), "walker": set()}
    for i in range(120):
        boxes = {
            "left": moving(200 + 5 * math.sin(i / 7)),
            "right": moving(500 + 5 * math.cos(i / 9)),
            "walker": moving(10 * i - 200, 130, 220),
        }
        order = sorted(boxes, key=lambda name, i=i: (hash((name, i)) % 7, name))
        found, _ = tracker.update(i / 15, [boxes[name] for name in order])
        for name, track in zip(order, found, strict=True):
            names[name].add(track.id)
    assert all(len(ids) == 1 for ids in names.values())
    assert len(set.union(*names.values())) == 3


def test_a_box_of_another_size_or_place_is_another_face():
    tracker = Tracker()
    (first,), _ = tracker.update(0, [moving(100)])
    for i, box in enumerate((moving(300), moving(100, size=250), moving(100, y=400))):
        found, _ = tracker.update(0.05 * (i + 1), [box])
        assert found[0].id != first.id


def test_nothing_breaks_it():
    tracker, rng = Tracker(), random.Random(2)
    time = 0.0
    for _ in range(500):
        time += rng.choice((0.0, 0.01, 0.07, 5.0))
        boxes = [
            tuple(rng.uniform(-50, 2000) for _ in range(2)) + (rng.choice((0.0, 1e-9, 50.0, 900.0)),) * 2
            for _ in range(rng.randrange(5))
        ]
        found, _ = tracker.update(time, boxes)
        assert len({track.id for track in found}) == len(boxes)
