"""The command line as people use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from paths import PHOTO, ROOT

from faceinsight.cli.main import main


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
    assert "is smiling" in out
    assert "man" not in out.replace("woman", "man").split()
    assert main(["report", str(PHOTO), "--json", "--allow", "gender,age"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert {"Male", "Young", "Age_40_49", "Happiness"} <= {x["name"] for x in report["labels"]}
    assert main(["report", str(PHOTO), "--deny", "expression", "--all"]) == 0
    assert "Happiness" not in capsys.readouterr().out


def test_report_can_be_read_without_knowing_the_bands(capsys):
    """What is so comes first, with a percentage; what is unsure or absent has no number that could be taken for one."""
    assert main(["report", str(PHOTO), "--allow", "gender"]) == 0
    text = capsys.readouterr().out
    order = [text.index(f"\n  {state} ") for state in ("yes", "unsure", "no")]
    assert order == sorted(order)
    yes, rest = text[order[0] : order[1]], text[order[1] :]
    assert "100%  is smiling" in yes
    assert "%" not in rest
    # Absent, in whichever direction the name points: the beard is not among what is so.
    # Under "no" stands what is absent, not that it is: "no: has no beard" would say that there is one.
    assert "has no beard" not in rest
    assert "beard" in [x.strip() for x in " ".join(rest.split("\n  no ")[1].split()).split(";")]
    assert main(["report", str(PHOTO), "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[0] for x in lines[2:]] == sorted((x.split()[0] for x in lines[2:]), key="yes unsure no".index)
    assert any(x.split()[:3] == ["no", "0.01", "Bald:"] for x in lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos, one of them of two people, a damaged one between them, and others that are passed over."""
    photo, at = cv2.imread(str(PHOTO)), tmp_path / "photos"
    (at / "more").mkdir(parents=True)
    (at / ".hidden").mkdir()
    cv2.imwrite(str(at / "a.PNG.png"), photo)
    (at / "b.jpg").write_bytes(b"no photo")
    cv2.imwrite(str(at / "more" / "two.jpg"), cv2.hconcat([photo, photo]))
    (at / ".hidden" / "c.png").write_bytes(b"")
    (at / "._a.png").write_bytes(b"")
    (at / "notes.txt").write_text("")
    return at


def test_a_damaged_photo_does_not_end_the_run(folder: Path, capsys):
    """One load, one line of JSON a photo, and an exit code that says that not all is well."""
    assert main(["report", str(folder), str(PHOTO), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [str(folder / "a.PNG.png"), str(folder / "b.jpg"), str(folder / "more" / "two.jpg"), str(PHOTO)]
    assert [x["photo"] for x in lines] == names
    assert [len(x.get("faces", ())) for x in lines] == [1, 0, 2, 1]
    assert "is not a JPEG, PNG or WebP" in lines[1]["error"]
    assert main(["report", str(folder)]) == 1
    captured = capsys.readouterr()
    assert f"{names[0]}: 1 face\n" in captured.out
    assert f"{names[2]}: 2 faces\n" in captured.out
    assert len(captured.err.splitlines()) == 1


def test_json_lines_for_one_photo_and_a_folder_without_one(tmp_path: Path, capsys):
    assert main(["report", str(PHOTO), "--jsonl"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["photo"] == str(PHOTO)
    assert main(["report", str(tmp_path), str(PHOTO)]) == 1
    captured = capsys.readouterr()
    assert "holds no photo" in captured.err
    assert "is smiling" in captured.out


def test_describe(folder: Path, capsys):
    assert main(["describe", str(PHOTO)]) == 0
    assert capsys.readouterr().out.startswith("The person ")
    two = str(folder / "more" / "two.jpg")
    assert main(["describe", two]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("face 1, on the ")
    assert second.startswith("face 2, on the ")
    assert main(["describe", two, "--face", "2", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["faces"], answer["faces_found"]) == ([2], 2)
    assert main(["describe", two, "--face", "3"]) == 1
    assert "has 2 faces" in capsys.readouterr().err


def test_ask_says_which_of_several_faces_it_is_about(folder: Path, capsys):
    two = str(folder / "more" / "two.jpg")
    assert main(["ask", two, "Is she smiling?"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Yes, the person is smiling.\n"
    assert "2 faces, asked about face 1, the largest" in captured.err
    assert {x.split(", ")[-1] for x in captured.err.splitlines()[1:]} == {"on the left", "on the right"}
    assert main(["ask", two, "Is she smiling?", "--face", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["ask", two, "Is she smiling?", "--face", "all"]) == 0
    assert capsys.readouterr().out.count("Yes, the person is smiling.") == 2
    assert main(["ask", two, "Is she smiling?", "Is she bald?", "--face", "all", "--json"]) == 0
    assert [x["faces"] for x in json.loads(capsys.readouterr().out)] == [[1], [1], [2], [2]]


def test_output_that_cannot_be_written_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "faceinsight.cli", "report", str(PHOTO)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "faceinsight: the output cannot be written: No space left on device\n"


def test_a_console_of_few_characters_gets_the_others_escaped():
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "faceinsight.cli", "ask", str(PHOTO), "Lächelt sie?", "Is she smiling?", *extra],
            capture_output=True, text=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        asked = json.loads(done.stdout)[0]["question"] if extra else done.stdout.splitlines()[0]
        assert asked == ("Lächelt sie?" if extra else "> L\\xe4chelt sie?")


def test_exit_codes_are_documented(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    described = capsys.readouterr().out
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    for code in ("0", "1", "2", "3", "130"):
        assert f"\n  {code} " in described
        assert f"| {code} |" in page


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
        (["draw", str(PHOTO), "Is she smiling?", "--face", "all", "-o", "x.png"], 1, "name one"),
        (["draw", "nowhere.jpg", "-o", __file__.replace(".py", ".png")], 1, "nowhere.jpg: no such file"),
        (["draw", str(PHOTO), "-o", f"{'x' * 5000}.png"], 1, "File name too long"),
        (["report", "x" * 5000], 1, "File name too long"),
        (["schema", "poem"], 1, "no schema of 'poem'"),
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
