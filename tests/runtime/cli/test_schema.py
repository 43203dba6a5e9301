"""The published JSON schema is that of what is written, and of nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import PHOTO

import faceinsight
from faceinsight import Answer, AnswerScores, Face, FaceInsightError, Label, Report
from faceinsight.cli.main import main
from faceinsight.cli.schema import FILE, build, read
from faceinsight.plain import to_json

jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")


def valid(document: str, text: str) -> object:
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    jsonschema.Draft202012Validator(read(document)).validate(value)
    return value


def test_the_published_file_is_up_to_date():
    assert json.loads(FILE.read_text()) == build(), "python -m faceinsight.cli.schema writes it anew"


def test_it_is_a_schema_and_says_no():
    for document in (None, "report", "ask", "bench"):
        jsonschema.Draft202012Validator.check_schema(read(document))
    for wrong in ([{}], {"photo": "a.jpg"}, [{"box": [1, 2, 3]}], 7):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(read("report")).validate(wrong)
    state = read()["$defs"]["Label"]["properties"]["state"]
    assert state["enum"] == ["no", "yes", "unsure", "not visible"]


@pytest.mark.parametrize(
    ("document", "args", "code"),
    [
        ("report", ["report", str(PHOTO), "--json", "--allow", "gender,age,race,subjective"], 0),
        ("ask", ["ask", str(PHOTO), "Is she smiling?", "Describe this face.", "--json"], 0),
        ("ask", ["describe", str(PHOTO), "--json"], 0),
        ("info", ["info", "--json"], 0),
        ("fit", ["fit", "--json", "--memory", "100MB"], 1),
    ],
)
def test_what_commands_write(document: str, args: list[str], code: int, capsys):
    assert main(args) == code
    assert valid(document, capsys.readouterr().out)


@pytest.mark.parametrize(("document", "command"), [("report-line", "report"), ("describe-line", "describe")])
def test_lines(document: str, command: str, tmp_path: Path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    (tmp_path / "b.png").write_bytes(PHOTO.read_bytes())
    assert main([command, str(tmp_path), "--json"]) == 1
    bad, good = (valid(document, line) for line in capsys.readouterr().out.splitlines())
    assert set(bad) == {"photo", "error"}
    assert "error" not in good


def test_doctor(capsys):
    main(["doctor", "--json"])
    assert valid("doctor", capsys.readouterr().out)["checks"]


def test_what_the_api_writes(insight, face: Face):
    report, answer = insight.report(face), insight.ask(face, "Is she smiling?")
    choices = insight.choose(face, ["Is she smiling?"])
    assert valid("face", to_json(face))["box"] == report.to_dict()["box"]
    # What only the LLM and a drawing need is no part of what is known of a face.
    assert not {"tokens", "label_map", "key", "picture"} & set(face.to_dict())
    valid("report", to_json([report]))
    valid("choices", to_json(choices))
    for value in (answer, *answer.labels, answer.timings, report.quality, *choices, *insight.stream(face, "Why?")):
        assert json.loads(to_json(value)) == value.to_dict()


def test_values_speak_for_themselves(insight, face: Face):
    answer, report = insight.ask(face, "Is she smiling?"), insight.report(face)
    assert str(answer) == f"{answer}" == answer.text
    assert report.label("Smiling") == face.label("Smiling")
    assert report.label("Soul") is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("-inf")])
def test_no_number_that_is_not_finite_leaves(insight, face: Face, number: float):
    spoilt: list[Callable[[], Report | Label | Face]] = [
        lambda: dataclasses.replace(insight.report(face), box=(0.0, 0.0, number, 1.0)),
        lambda: dataclasses.replace(insight.report(face), areas={"hair": number}),
        lambda: dataclasses.replace(face.labels[0], probability=number),
        lambda: dataclasses.replace(face, landmarks=np.full((5, 2), number, np.float32)),
    ]
    for make in spoilt:
        with pytest.raises(FaceInsightError, match=r"(box\[2\]|hair|probability|landmarks\[0\]\[0\]) is -?(nan|inf)"):
            make().to_dict()


def test_help_shows_what_the_package_offers():
    assert dir(faceinsight) == sorted(faceinsight.__all__)
    assert {"FaceInsight", "Answer", "Quality", "Age"} <= set(dir(faceinsight))
    assert {Answer, AnswerScores} <= {getattr(faceinsight, name) for name in dir(faceinsight)}
