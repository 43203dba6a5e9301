"""Rows of the table of versions: what counts as a difference."""

from __future__ import annotations

import versions


def face(**labels: tuple[str, float]) -> dict:
    return {"answers": ["Yes."], "labels": labels}


def test_a_claim_at_its_bound_is_no_contradiction():
    """OpenCV 4 and 5 resize otherwise: 0.0533 is a bound of blond hair, and 0.05 and 0.0544 came out."""
    ours = {"photo": [face(hair=("no", 0.05), hat=("yes", 0.9), beard=("not visible", 0.0))]}
    theirs = {"photo": [face(hair=("unsure", 0.0544), hat=("no", 0.9), beard=("unsure", 0.0))]}
    found = versions.differences(ours, theirs)
    assert found == {"faces": 0, "labels": 3, "states": 2, "doubts": 1, "answers": 0, "probability": 0.0044}


def test_a_probability_that_moves_far_is_wrong_also_where_nothing_contradicts():
    row = {"doctor": {}, "fit": {"estimate": 1, "peak": 1}, "tests": {"which": []}}
    ours, theirs = ({"photo": [face(hair=(state, p))]} for state, p in (("no", 0.05), ("unsure", 0.09)))
    assert versions.judged(row | {"faces": theirs}, ours)["wrong"] == ["probabilities differ by 0.04"]
    assert versions.judged(row | {"faces": ours}, ours)["ok"]
