"""Pictures of the same bits everywhere, and what counts as another answer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import parity_table
import pytest
import tables

import platform_parity
import variants

RESULT = tables.SERVED / "arm64-parity.json"


def test_pictures_are_the_same_bits_on_every_machine(photo: np.ndarray):
    """As on the machines that were compared. A JPEG depends on OpenCV's encoder too."""
    stored = json.loads(RESULT.read_text())["pictures"]
    made = {
        kind: {name: hashlib.sha256(np.ascontiguousarray(make(photo))).hexdigest() for name, make in group.items()}
        for kind, group in variants.VARIANTS.items()
        if kind != "JPEG"
    }
    assert made == {kind: names for kind, names in stored.items() if kind != "JPEG"}
    hashes = [sha for names in made.values() for sha in names.values()]
    assert len(set(hashes)) == len(hashes)


def test_sampling_is_exact_where_it_can_be(photo: np.ndarray):
    size = photo.shape[1], photo.shape[0]
    assert (variants.sampled(photo, (1, 0, 0, 0, 1, 0), 1, size) == photo).all()
    assert (variants.sampled(photo, (0, 1, 0, 1, 0, 0), 1, size) == photo.transpose(1, 0, 2)).all()
    half = photo.astype(int).reshape(256, 2, 256, 2, 3).sum((1, 3))
    assert (variants.scaled(photo, (1, 2), (1, 2)) == (half + 2) // 4).all()
    larger = variants.scaled(photo[:9, :12], (5, 3), (4, 3))
    assert larger.shape == (12, 20, 3)


def test_a_turn_keeps_the_face_in_its_place_and_turns_the_rest():
    x, y = variants.FACE
    dot = np.zeros((512, 512, 3), np.uint8)
    dot[y - 2 : y + 3, x + 98 : x + 103] = 255
    rows, columns = np.nonzero(variants.turned(dot, 53)[:, :, 0] > 127)
    # Anticlockwise, and y points down: 100 pixels to the right become 60 to the right and 80 up.
    assert (columns.mean(), rows.mean()) == pytest.approx((x + 60, y - 80), abs=0.5)
    assert (variants.turned(dot, 53) != variants.turned(dot, -53)).any()


def test_light_blur_and_noise(photo: np.ndarray):
    gray = np.full((20, 30, 3), 100, np.uint8)
    assert (variants.blurred(gray, 3) == 100).all()
    assert variants.blurred(photo, 5).std() < variants.blurred(photo, 2).std() < photo.std()
    assert tuple(variants.lit(gray, (50, 100, 300), 10)[0, 0]) == (60, 110, 255)
    assert np.abs(variants.noisy(gray, 30).astype(int) - 100).max() == 30
    assert (variants.gray(photo)[..., 0] == variants.gray(photo)[..., 2]).all()


def test_a_record_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two = {"light": {name: variants.VARIANTS["light"][name] for name in ("dark", "bright")}}
    monkeypatch.setattr(platform_parity, "VARIANTS", two)
    monkeypatch.setattr(platform_parity, "QUESTIONS", ("Is she smiling?",))
    out = tmp_path / "here.json"
    platform_parity.record(out, "a note")
    first = json.loads(out.read_text())
    assert first["machine"].endswith(" (a note)")
    (face,) = first["pictures"]["light"]["dark"]["faces"]
    assert platform_parity.text(face["answers"]["Is she smiling?"]) == "Yes, the person is smiling."
    assert face["labels"]["Smiling"][0] == "yes"
    changed = json.loads(out.read_text())
    changed["pictures"]["light"]["dark"]["faces"] = "what was recorded before"
    del changed["pictures"]["light"]["bright"]
    out.write_text(json.dumps(changed))
    platform_parity.record(out, "a note")
    second = json.loads(out.read_text())["pictures"]["light"]
    assert second["dark"]["faces"] == "what was recorded before"
    assert second["bright"] == first["pictures"]["light"]["bright"]
    # What another version said is not taken over.
    monkeypatch.setattr(platform_parity, "code", lambda: "another")
    platform_parity.record(out, "a note")
    assert json.loads(out.read_text())["pictures"] == first["pictures"]


def recorded() -> dict[str, Any]:
    face = {
        "box": [1.0, 2.0, 3.0, 4.0],
        "labels": {"Smiling": ["yes", 0.9], "Bald": ["not visible", None]},
        "answers": {"Is she smiling?": {"chunks": [["The", 0.5], [" hair.", 0.9]], "finish_reason": "stop"}},
    }
    pictures = {"turned": {"a": {"sha256": "1", "faces": [face]}, "b": {"sha256": "2", "faces": [face, face]}}}
    machine = {
        "machine": "Linux x86_64",
        "threads": 2,
        "versions": {},
        "bundle sha256": "0",
        "code sha256": "0",
        "questions": [],
    }
    return json.loads(json.dumps(machine | {"pictures": pictures}))


def test_the_same_is_the_same():
    result = platform_parity.compare(recorded(), recorded())
    assert result["wrong"] == []
    assert result["kinds"]["turned"] == {
        "pictures": 2, "faces": 3, "labels": 6, "states that differ": 0, "answers": 3, "answers that differ": 0,
        "probability": 0.0, "box px": 0.0,
    }  # fmt: skip
    head, rows = parity_table.table(result)
    assert [len(row) for row in rows] == [len(head)] * 2
    assert rows[1] == ("all", "2", "3", "6", "0", "3", "0", "0.0000")


def said(word: str, p: float, finish: str = "stop") -> dict[str, Any]:
    return {"chunks": [[word, p], [" hair.", 0.9]], "finish_reason": finish}


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        (("labels", "Smiling"), ["unsure", 0.9], "Smiling is yes"),
        (("labels", "Smiling"), ["yes", 0.879], "probabilities 0.9 and 0.879"),
        (("labels", "Bald"), ["not visible", 0.1], "Bald is not visible"),
        (("answers", "Is she smiling?"), said("I", 0.53), "'The hair.' (0.5) and 'I hair.' (0.53)"),
        (("answers", "Is she smiling?"), said("The", 0.5, "length"), "'The hair.'"),
    ],
)
def test_what_is_not_the_same_is_named(path: tuple[str, str], value: Any, wrong: str):
    other = recorded()
    other["pictures"]["turned"]["b"]["faces"][1][path[0]][path[1]] = value
    (found,) = platform_parity.compare(recorded(), other)["wrong"]
    assert found.startswith("turned, b: ")
    assert wrong in found


def test_small_differences_are_reported_and_allowed():
    other = recorded()
    other["pictures"]["turned"]["a"]["faces"][0]["labels"]["Smiling"][1] = 0.885
    other["pictures"]["turned"]["a"]["faces"][0]["box"][2] = 3.25
    result = platform_parity.compare(recorded(), other)
    assert result["wrong"] == []
    assert result["kinds"]["turned"]["probability"] == 0.015
    assert result["kinds"]["turned"]["box px"] == 0.25


def test_another_wording_of_equal_likelihood_is_a_tie():
    other = recorded()
    other["pictures"]["turned"]["a"]["faces"][0]["answers"]["Is she smiling?"] = said("I", 0.515)
    result = platform_parity.compare(recorded(), other)
    assert result["wrong"] == []
    assert result["ties"] == ["turned, a: Is she smiling? 'The hair.' (0.5) and 'I hair.' (0.515)"]
    assert result["kinds"]["turned"]["answers that differ"] == 1


def test_a_face_that_is_not_found_is_wrong_and_not_compared():
    other = recorded()
    other["pictures"]["turned"]["b"]["faces"].pop()
    assert platform_parity.compare(recorded(), other)["wrong"] == ["turned, b: 2 and 1 faces"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update({"bundle sha256": "1"}), "the same on both machines"),
        (lambda r: r.update({"code sha256": "1"}), "the same on both machines"),
        (lambda r: r["pictures"].update({"light": {}}), "was one of the two stopped"),
        (lambda r: r["pictures"]["turned"]["a"].update(sha256="3"), "the picture itself differs"),
        (lambda r: r["pictures"]["turned"].pop("a"), "the same pictures in both"),
        (lambda r: r["pictures"]["turned"]["a"]["faces"][0]["labels"].pop("Bald"), "the same labels and questions"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, words: str):
    other = recorded()
    change(other)
    with pytest.raises(ValueError, match=words):
        platform_parity.compare(recorded(), other)
