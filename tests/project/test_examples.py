"""Every example runs, as its docstring says, on the one test photo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import ROOT

EXAMPLES = ROOT / "examples"
PHOTO = ROOT / "tests" / "data" / "astronaut.png"


def run(name: str, *arguments: object) -> str:
    """What it prints. Fails where it ends with an error."""
    paths = [str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames without anybody, five with one person, two without, as a Motion JPEG."""
    path = tmp_path_factory.mktemp("video") / "visit.avi"
    photo = cv2.imread(str(PHOTO))
    empty = np.full_like(photo, 90)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, photo.shape[1::-1])
    assert writer.isOpened()
    for frame in (empty, empty, *[photo] * 5, empty, empty):
        writer.write(frame)
    writer.release()
    return path


def test_photo():
    said = run("photo.py", PHOTO)
    assert said.startswith("1 faces\n")
    assert "is smiling" in said
    assert "(answered, confidence" in said


def test_a_damaged_photo_does_not_end_a_folder(tmp_path: Path):
    shutil.copy(PHOTO, tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    good, bad = map(json.loads, run("folder.py", tmp_path).splitlines())
    assert len(good["faces"]) == 1
    assert "b.jpg" in bad["error"]


def test_webcam_tells_who_comes_and_goes(video: Path):
    said = run("webcam.py", video, "--question", "Is she smiling?").splitlines()
    assert said[0].startswith("frame 2: Yes")
    assert "is smiling" in said[1], "labels are shown when three frames agree"
    assert said[1].startswith("frame 4: ")
    assert said[2] == "frame 7: nobody"
    assert len(said) == 3


def test_webcam_takes_a_folder_and_an_end(tmp_path: Path):
    for i in range(3):
        shutil.copy(PHOTO, tmp_path / f"{i}.png")
    said = run("webcam.py", tmp_path, "--frames", 1, "--question", "Is she smiling?")
    assert said == "frame 0: Yes, the person is smiling.\n"


def test_webcam_says_what_does_not_open(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "webcam.py"), str(tmp_path / "nothing.avi")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "does not open" in done.stderr


def test_two_faces(tmp_path: Path):
    flipped = tmp_path / "other.png"
    cv2.imwrite(str(flipped), cv2.imread(str(PHOTO))[:, ::-1])
    said = run("two_faces.py", PHOTO, flipped, "Who is smiling?")
    assert "smiling" in said.splitlines()[0]
    assert said.count("person 1: smiling") == said.count("person 2: smiling") == 1


def test_your_own_bundle(tmp_path: Path):
    bundle = tmp_path / "mine"
    shutil.copytree(ROOT / "models" / "faceinsight_models" / "bundles" / "nano", bundle)
    said = run("your_own_bundle.py", bundle, PHOTO, "Is she wearing glasses?")
    assert re.search(r"^looks \d+ years old \(\d+ to \d+\)$", said, re.MULTILINE)
    assert said.endswith("No, the person is not wearing glasses.\n")
    (bundle / "words.txt").write_text("damaged")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "your_own_bundle.py"), str(bundle), str(PHOTO)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "words.txt" in done.stderr


def test_the_swaying_portrait_is_a_camera():
    from faceinsight.camera import Camera

    program = EXAMPLES / "swaying_portrait.py"
    command = f"{sys.executable} {program} {PHOTO} --people 2 --frames 5 --fps 10"
    with Camera(f"cmd:{command}", loop=False) as camera:
        pictures = [frame.image for frame in camera]
    assert {picture.shape for picture in pictures} == {(720, 1280, 3)}
    assert 2 <= len(pictures) <= 5
    assert not np.array_equal(pictures[0], pictures[-1])


@pytest.fixture
def gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gst-launch-1.0 whose camera is the swaying portrait; it keeps the words that it was started with."""
    program, words = tmp_path / "bin" / "gst-launch-1.0", tmp_path / "words.txt"
    program.parent.mkdir()
    portrait = f"{sys.executable} {EXAMPLES / 'swaying_portrait.py'} {PHOTO} --fps 10"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {words}\nexec {portrait}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return words


def test_a_csi_camera_is_watched_through_gstreamer(gstreamer: Path):
    said = run("csi_camera.py", "--sensor", 1, "--size", "1280x720", "--fps", 10, "--frames", 6, "--device", "cpu")
    lines = said.splitlines()
    assert "camera: up" in lines
    assert any(re.search(r" appeared: .*Smiling", line) for line in lines), said
    assert re.fullmatch(r"6 of \d+ frames were looked at, [\d.]+ a second", lines[-1])
    words = gstreamer.read_text().split()
    assert words[:3] == ["-q", "nvarguscamerasrc", "sensor-id=1"]
    assert "video/x-raw(memory:NVMM),width=1280,height=720,framerate=10/1" in words
    assert words[-2:] == ["fdsink", "fd=1"]


def test_a_csi_camera_without_gstreamer_says_what_is_missing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "csi_camera.py"), "--device", "cpu"],
        capture_output=True, text=True, env=os.environ | {"PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "gst-launch-1.0 is not installed" in done.stderr
    assert "JetPack" in done.stderr


def test_all_are_listed_and_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    listed, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    assert {n for n in names if f"({n})" not in listed or f'"{n}"' not in tests} == set()
