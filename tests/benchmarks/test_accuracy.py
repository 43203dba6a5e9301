"""A whole run of the accuracy benchmark on a set made up for the purpose, its file, and the table made of it."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import accuracy_table
import cv2
import numpy as np
import pytest

import accuracy
from datasets import Sample
from described import against_labels
from faceinsight_models.taxonomy import CELEBA, NAMES
from ledger import Ledger

pytestmark = pytest.mark.slow

STRANGER = "x,y,glasses,hat,beard,smile,bald,hair,expression,gender,age_from,age_to"


@pytest.fixture
def data(tmp_path: Path, photo: np.ndarray) -> Path:
    """One person, labelled right by three sets; of CelebA-HQ's pictures one is damaged."""
    folder = tmp_path / "data"
    folder.mkdir()
    png = cv2.imencode(".png", photo[:300, 80:380, ::-1])[1].tobytes()
    on = ("Smiling", "No_Beard", "Young", "Wearing_Lipstick")
    celeba = ",".join(str(int(n in on)) for n in CELEBA)
    sets = {
        "celebahq": (f"file,hq_idx,split,{','.join(CELEBA)}", ("0,val," + celeba, "1,val," + celeba)),
        "fairface": ("file,split,age,gender,race", ("val,30-39,Female,White",)),
        "utkface": ("file,split,age,gender,race", ("val,41,Female,White",)),
        "strangers": (f"file,{STRANGER}", ("143,110,0,0,n,1,0,n,H,F,35,50", "2,2,0,0,n,1,0,n,H,F,35,50")),
    }
    for name, (head, rows) in sets.items():
        files = [f"{0 if name == 'strangers' else k}.png" for k in range(len(rows))]
        lines = [head, *(f"{f},{r}" for f, r in zip(files, rows, strict=True))]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for k, file in enumerate(dict.fromkeys(files)):
                archive.writestr(file, png[:200] if k else png)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *options: str) -> dict:
    arguments = ("accuracy.py", "--data", str(data), "--out", str(out), "--no-llm", *options)
    monkeypatch.setattr(sys, "argv", list(arguments))
    accuracy.main()
    return json.loads(out.read_text())


def test_a_run_is_survived_kept_and_continued(data: Path, tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "made" / "a.json"
    only = ("--only", "sets", "strangers", "contradictions")
    first = run(monkeypatch, data, out, *only)
    assert first["damaged"] == {"celeba": {"n": 1, "first": ["1.png"]}}
    assert {n: s["images"] for n, s in first["sets"].items()} == {"celeba": 1, "fairface": 1, "utkface": 1}
    smiling, hat = (first["sets"]["celeba"]["attributes"]["per characteristic"][n] for n in ("Smiling", "Wearing_Hat"))
    assert (smiling["accuracy"], smiling["prevalence"], hat["accuracy"], hat["prevalence"]) == (1, 1, 1, 0)
    assert (first["strangers"]["faces"], first["strangers"]["missed"]) == (2, 1)
    for column in ("smile", "glasses"):
        assert first["strangers"][column] == {"n": 1, "right": 1, "claimed": 1, "claimed and wrong": 0}
    assert set(first["contradictions"]["sets"]) == {"celeba", "fairface", "utkface", "strangers"}
    assert str(tmp_path) not in out.read_text()

    # What is there is not measured again; what is not, is.
    monkeypatch.setattr(accuracy.strangers, "strangers", lambda *_: pytest.fail("measured twice"))
    second = run(monkeypatch, data, out, *only, "age", "claims", "groups")
    assert {k: v for k, v in second.items() if k in first and k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }
    assert second["age in years"]["utkface"]["40-49"]["n"] == 1
    assert "they are kept" in capsys.readouterr().out

    # Other options are another run.
    third = run(monkeypatch, data, out, "--only", "age", "--images", "1")
    assert "strangers" not in third


def test_masks_and_strangers_need_no_set(data: Path, tmp_path: Path, monkeypatch):
    for name in ("celebahq", "fairface", "utkface"):
        (data / f"{name}.csv").unlink()
    found = run(monkeypatch, data, tmp_path / "a.json", "--only", "sets", "cross", "age", "strangers", "parsing")
    assert found["strangers"]["photos"] == 1
    assert "cross-set" not in found
    with pytest.raises(SystemExit):
        run(monkeypatch, data, tmp_path / "a.json", "--only", "everything")


def test_a_description_is_held_against_the_labels(insight, face, photo):
    """Labels that agree with the report deny nothing; labels that say the opposite deny every description."""
    agreed, opposite = np.full((2, len(NAMES)), np.nan, np.float32)
    for label in face.labels:
        if label.state in ("yes", "no"):
            agreed[NAMES.index(label.name)] = label.state == "yes"
            opposite[NAMES.index(label.name)] = label.state == "no"
    right, wrong = (against_labels(insight, [Sample(lambda: photo, y)]) for y in (agreed, opposite))
    assert (right["descriptions"], right["with a wrong claim"], right["positive claims wrong"]) == (1, 0, 0)
    assert (wrong["descriptions"], wrong["with a wrong claim"]) == (1, 1)
    assert wrong["positive claims"] == wrong["positive claims wrong"] == right["positive claims"] > 0


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path):
    out, head = tmp_path / "a.json", {"bundle sha256": "1"}
    ledger = Ledger(out, head)
    ledger.figure(lambda: {"n": np.int64(2), "share": np.float64("nan"), "mean": 1 / 3}, "sets", "celeba")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.figure(interrupted, "flicker")
    assert json.loads(out.read_text())["sets"] == {"celeba": {"n": 2, "share": None, "mean": 0.3333}}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    again = Ledger(out, head)
    again.figure(lambda: pytest.fail("measured twice"), "sets", "celeba")
    again.figure(lambda: 1, "flicker")
    assert json.loads(out.read_text())["flicker"] == 1
    assert not Ledger(out, {"bundle sha256": "2"}).has("flicker")
    assert not Ledger(out, head, fresh=True).has("flicker")


RESULT = {
    "split": "val", "bundle": "nano", "bundle sha256": "0123456789", "bundle MB": 40.0,
    "options": {"images": {"celeba": 2993}},
    "strangers": {"age": {"n": 67, "more than one bin off": 21, "more than one bin off, claimed": 1}},
    "sets": {"ferplus": {"expression": {"accuracy": 0.85, "macro F1": 0.63}}},
    "flicker": {"any state": {"worst label, per minute": 326.1}},
}  # fmt: skip


def test_the_table_has_the_worst_first():
    lines = accuracy_table.table({"after": RESULT}).splitlines()
    measured = [line for line in lines[2:-2] if "not measured" not in line]
    assert [line.split(" |")[0][2:9] for line in measured] == ["flicker", "strange", "FER+: e", "bundle,"]
    assert [line.rsplit("| ", 1)[1] for line in measured] == ["no |", "no |", "floor |", "target |"]
    assert "| 21 of 67 / 1 of 67 | 0.15 / 0.05 | 0.08 / 0.02 |" in measured[1]
    assert lines[-1].endswith("nano` 01234567; pictures: celeba 2,993.")
    both = accuracy_table.table({"before": RESULT | {"bundle MB": 57.5}, "after": RESULT})
    assert both.startswith("| | before | after | floor |")
    assert "| bundle, MB | 57.5 | 40.0 | 45 | 40 | target |" in both
