"""What calibration is fitted on: views of held-out faces, covered ones among them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from faceinsight_models.recipe import Recipe
from faceinsight_models.taxonomy import NAMES
from faceinsight_models.train.calibration import Readings, fit_calibration
from faceinsight_models.train.readings import covering

HAT, SMILING = NAMES.index("Wearing_Hat"), NAMES.index("Smiling")
JUDGEMENT = Recipe.load("nano").judgement


def readings(rows: np.ndarray, logits: np.ndarray, covered: tuple[bool, bool]) -> Readings:
    count = len(rows)
    return Readings(rows, logits, np.ones(count, np.float32), np.tile(covered, (count, 1)))


def test_probabilities_are_of_whole_faces_and_bounds_of_covered_ones_too():
    """A covered face has lost what tells: probabilities learned from it would be off for all others."""
    rng = np.random.default_rng(0)
    rows = np.arange(4000)
    labels = np.full((4000, len(NAMES)), np.nan, np.float32)
    labels[:, HAT] = labels[:, SMILING] = rng.random(4000) < 0.5
    clear = np.zeros((4000, len(NAMES)), np.float32)
    clear[:, [HAT, SMILING]] = (labels[:, [HAT]] * 2 - 1) * 2 + rng.normal(0, 1.5, (4000, 2))
    whole = readings(rows, clear, (False, False))
    noise = np.zeros_like(clear)
    noise[:, [HAT, SMILING]] = rng.normal(0, 3, (4000, 2))
    both = whole.concatenated(readings(rows, noise, (True, False)))
    alone, together = (fit_calibration(good, whole, labels, JUDGEMENT) for good in (whole, both))
    assert np.array_equal(alone[:, :2], together[:, :2])
    # Half of what is read of a hat is noise now: hardly anything can be claimed.
    assert alone[HAT, 3] < 0.9 < together[HAT, 3]
    assert alone[HAT, 2] > 0.1 > together[HAT, 2]
    # A smile is behind what covers the mouth: its bounds are those of faces that show it.
    assert together[SMILING, 2:4] == pytest.approx(alone[SMILING, 2:4])


def test_what_covers_lies_in_the_closeup_alone():
    window = Recipe.load("nano").closeup
    size = Recipe.load("nano").crop.parser
    crop = np.full((size, size, 3), 90, np.uint8)
    faces = SimpleNamespace(crop=lambda row, side: np.full((side, side, 3), 10 + row, np.uint8))
    change = covering(faces, np.arange(3), window)  # type: ignore[arg-type]
    changed = []
    for seed in range(20):
        out = change(np.random.default_rng(seed), crop)
        rows, columns = np.nonzero((out != crop).any(2))
        assert rows.min() >= window.top
        assert rows.max() < window.top + window.size
        assert columns.min() >= window.left
        assert columns.max() < window.left + window.size
        changed.append((out != crop).any(2).mean())
    assert (crop == 90).all(), "the crop itself is not changed"
    assert 0.02 < np.mean(changed) < 0.35
