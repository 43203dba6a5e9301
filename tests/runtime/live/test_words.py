"""Words for a place."""

from __future__ import annotations

import pytest

from faceinsight.live.words import at, means_several, places


@pytest.mark.parametrize(
    ("question", "named", "rest"),
    [
        ("Is the person on the left smiling?", ["left"], "Is the person smiling?"),
        ("Is the woman at the far right wearing a hat?", ["right"], "Is the person wearing a hat?"),
        ("Describe the rightmost face.", ["right"], "Describe the person."),
        ("Has the one in the middle a beard?", ["middle"], "Has the person a beard?"),
        (
            "Is the man on the right or the man on the left smiling?",
            ["right", "left"],
            "Is the person or the person smiling?",
        ),
        ("Is the left eye open?", [], "Is the left eye open?"),
        ("What is left of the hair?", [], "What is left of the hair?"),
        ("Is the person all right?", [], "Is the person all right?"),
    ],
)
def test_places(question: str, named: list[str], rest: str):
    assert places(question) == (named, rest)


def test_who_stands_there():
    assert [at(place, "abc") for place in ("left", "middle", "right")] == ["a", "b", "c"]
    assert [at(place, "a") for place in ("left", "middle", "right")] == ["a", "a", "a"]


@pytest.mark.parametrize("question", ["Who is smiling?", "Are both wearing hats?", "Which of them has a beard?"])
def test_several(question: str):
    assert means_several(question)


@pytest.mark.parametrize("question", ["Is she smiling?", "What does the person who looks here wear?", "Describe her."])
def test_one(question: str):
    assert not means_several(question)
