"""What callers pass that does not fit: one line that says what was found, never a raw error of what lies below."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from faceinsight import Face, FaceInsight, FaceInsightError, ImageError, QuestionError, RequestError

Q = "Is she smiling?"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bundle": None}, "bundle None"),
        ({"bundle": b"nano"}, "bundle b'nano'"),
        ({"bundle": 3}, "bundle 3"),
        ({"device": None}, "device None"),
        ({"threads": 1.5}, "threads 1.5"),
        ({"threads": "2"}, "threads '2'"),
        ({"threads": 513}, "at most 512"),
        ({"cache_mb": math.nan}, "cache_mb nan"),
        ({"cache_mb": math.inf}, "cache_mb inf"),
        ({"cache_mb": -1}, "cache_mb -1"),
        ({"cache_mb": None}, "cache_mb None"),
        ({"forget_after": math.nan}, "forget_after nan"),
        ({"forget_after": 0}, "forget_after 0"),
        ({"forget_after": "10"}, "forget_after '10'"),
        ({"allow": "gender"}, "allow 'gender'; expected a list"),
        ({"allow": [None]}, r"allow \[None\]"),
        ({"deny": None}, "deny None"),
    ],
)
def test_load(wrong: dict, message: str):
    with pytest.raises(FaceInsightError, match=message) as e:
        FaceInsight.load(**{"bundle": "nano", "device": "cpu", "threads": 1} | wrong)
    assert "\n" not in str(e.value)


def test_forget_after_may_be_very_long(face: Face, recwarn):
    for seconds in (math.inf, 1e12, None):
        with FaceInsight.load("nano", device="cpu", threads=1, forget_after=seconds) as fi:
            assert fi.ask(face, Q).text
            assert fi._expiry.is_running == (seconds == 1e12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fi, f: fi.ask(f, None), "the question is of type NoneType; expected str"),
        (lambda fi, f: fi.ask(f, Q.encode()), "bytes"),
        (lambda fi, f: fi.ask(f, 3), "int"),
        (lambda fi, f: fi.ask(f, [Q]), "list"),
        (lambda fi, f: fi.ask(f, Q, after=3), "int"),
        (lambda fi, f: fi.stream(f, [Q]), "list"),
        (lambda fi, f: fi.choose(f, Q), "expected a list of strings"),
        (lambda fi, f: fi.choose(f, None), "questions None"),
        (lambda fi, f: fi.choose(f, [None]), r"questions \[None\]"),
        (lambda fi, f: fi.choose(f, [Q], "Yes"), "answers 'Yes'"),
        (lambda fi, f: fi.choose(f, [Q], ["Yes", 1]), "answers"),
        (lambda fi, f: fi.ask(f, Q, max_tokens=2.5), "max_tokens 2.5"),
        (lambda fi, f: fi.ask(f, Q, max_tokens="5"), "max_tokens '5'"),
        (lambda fi, f: fi.ask((), Q), "found nothing"),
        (lambda fi, f: fi.ask((f, f, f), Q), "found Face, Face, Face"),
        (lambda fi, f: fi.prepare(None), "found NoneType"),
        (lambda fi, f: fi.report((f, f)), "expected one Face from perceive"),
        (lambda fi, f: fi.report(None), "found NoneType"),
        (lambda fi, f: fi.perceive(np.zeros((64, 64), np.uint8).view(np.matrix)), "np.matrix"),
        (lambda fi, f: fi.perceive(None), "NoneType"),
    ],
)
def test_calls(insight: FaceInsight, face: Face, call, message: str):
    with pytest.raises((QuestionError, RequestError, ImageError), match=message) as e:
        call(insight, face)
    assert "\n" not in str(e.value)


def test_whole_numbers_of_numpy_are_whole(insight: FaceInsight, face: Face):
    assert insight.ask(face, Q, max_tokens=np.int64(3)).finish_reason == "length"


def test_a_face_of_an_instance_with_other_switches_is_refused(insight: FaceInsight, face: Face, photo):
    """Places among its labels would mean others: "Is she smiling?" was answered about sideburns."""
    with FaceInsight.load("nano", device="cpu", threads=1, allow=["gender"]) as other:
        theirs = other.perceive(photo)[0]
        for fi, stranger in ((insight, theirs), (other, face)):
            for call in (
                lambda fi, f: fi.ask(f, Q),
                lambda fi, f: fi.ask((f, f), Q),
                lambda fi, f: fi.stream(f, Q),
                lambda fi, f: fi.choose(f, [Q]),
                lambda fi, f: fi.prepare(f),
                lambda fi, f: fi.report(f),
            ):
                with pytest.raises(RequestError, match=r"other switches, or another bundle: 3\d .*\(Male\)"):
                    call(fi, stranger)
    shuffled = dataclasses.replace(face, labels=face.labels[::-1])
    with pytest.raises(RequestError, match="their order"):
        insight.ask(shuffled, Q)
