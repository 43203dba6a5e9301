"""The command line as people use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from conftest import PHOTO

from faceinsight.cli import main


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "faceinsight.cli", *args], capture_output=True, text=True, check=False)


def test_ask(capsys):
    assert main(["ask", str(PHOTO), "Is she smiling?", "Is she wearing glasses?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "> Is she smiling?"
    assert lines[1].strip().startswith("Yes")
    assert lines[3].strip().startswith("No")


def test_ask_json(capsys):
    assert main(["ask", str(PHOTO), "Is she smiling?", "--json", "--device", "cpu"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["question"] == "Is she smiling?"
    assert answer["evidence"] == ["mouth"]
    assert answer["labels"][0]["state"] == "yes"


def test_ask_follow_ups_and_comparison(tmp_path: Path, capsys):
    assert main(["ask", str(PHOTO), "Is she smiling?", "Are you sure?", "--follow"]) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith("Yes")
    photo = cv2.imread(str(PHOTO))
    cv2.imwrite(str(tmp_path / "two.png"), cv2.hconcat([photo, photo]))
    assert main(["ask", str(tmp_path / "two.png"), "Who is smiling?", "--face", "1,2"]) == 0
    out = capsys.readouterr().out.strip()
    assert out in ("Each of them is smiling.", "The first person is smiling. The second person is smiling.")


def test_report(capsys):
    assert main(["report", str(PHOTO)]) == 0
    out = capsys.readouterr().out
    assert "Smiling" in out
    assert "Male" not in out
    assert main(["report", str(PHOTO), "--json", "--allow", "gender,age"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert {"Male", "Young", "Age_40_49", "Happiness"} <= {x["name"] for x in report["labels"]}
    assert main(["report", str(PHOTO), "--deny", "expression"]) == 0
    assert "Happiness" not in capsys.readouterr().out


def test_draw(tmp_path: Path, capsys):
    out = tmp_path / "out.png"
    assert main(["draw", str(PHOTO), "-o", str(out)]) == 0
    assert cv2.imread(str(out)).shape == (640, 1060, 3)
    assert main(["draw", str(PHOTO), "Is she smiling?", "Describe this face.", "-o", str(out)]) == 0
    assert cv2.imread(str(out)).shape[0] > 640


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["providers active"][0] in info["providers available"]
    assert info["bundle size MB"] < 60


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ask", "nowhere.jpg", "Is she smiling?"], 1, "nowhere.jpg: no such file"),
        (["ask", __file__, "Is she smiling?"], 1, "is not a JPEG, PNG or WebP"),
        (["ask", str(PHOTO), "Is she smiling?", "--face", "2"], 1, "has 1 face"),
        (["ask", str(PHOTO), "Who is smiling?", "--face", "1,2"], 1, "has 1 face"),
        (["ask", str(PHOTO), "Who is smiling?", "--face", "1,2,3"], 2, "expected a face's number"),
        (["report", str(PHOTO), "--allow", "age", "--deny", "age"], 1, "both allowed and denied"),
        (["ask", str(PHOTO), ""], 1, "the question is empty"),
        (["report", str(PHOTO), "--allow", "soul"], 1, "cannot switch 'soul'"),
        (["report", str(PHOTO), "--bundle", "pico"], 1, "no bundle 'pico'"),
        (["draw", str(PHOTO), "-o", "x.gif"], 1, "expected a name that ends in"),
        (["draw", str(PHOTO), "-o", "/nowhere/x.png"], 1, "cannot be written"),
        (["info", "--threads", "0"], 1, "threads 0"),
        (["ask", str(PHOTO)], 2, "required: question"),
        (["report", str(PHOTO), "--device", "npu"], 2, "invalid choice"),
    ],
)
def test_wrong_usage_is_one_clear_line(args, code, message):
    done = run(*args)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_photo_from_standard_input(tmp_path: Path):
    command = [sys.executable, "-m", "faceinsight.cli", "report", "-", "--json"]
    done = subprocess.run(command, input=PHOTO.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout)


def test_draw_does_not_overwrite_its_photo(tmp_path: Path, capsys):
    photo = tmp_path / "photo.png"
    photo.write_bytes(PHOTO.read_bytes())
    (tmp_path / "link.png").symlink_to(photo)
    for out in (photo, tmp_path / "link.png"):
        assert main(["draw", str(photo), "-o", str(out)]) == 1
        assert "is the photo itself" in capsys.readouterr().err
    assert photo.read_bytes() == PHOTO.read_bytes()


@pytest.mark.parametrize("threads", ["0", "513", "99999999999"])
def test_absurd_thread_counts_are_refused(threads: str, capsys):
    assert main(["ask", str(PHOTO), "Is she smiling?", "--threads", threads]) == 1
    assert f"threads {threads}" in capsys.readouterr().err
