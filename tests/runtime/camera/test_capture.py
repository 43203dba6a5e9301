"""Cameras that work, and all the ways in which they do not: by programs that stand in for them, and by ffmpeg."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import PHOTO

from faceinsight import FaceInsight, RequestError
from faceinsight.camera import Camera
from faceinsight.camera.source import parse, scrubbed
from faceinsight.errors import DependencyError

#: A program that writes frames: arguments say how many of which kind.
WRITER = """
import os, sys, time
out = sys.stdout.buffer
W, H = 64, 48
def header(w=W, h=H): out.write(b"YUV4MPEG2 W%d H%d F50:1 C420jpeg\\n" % (w, h))
def frame(value, w=W, h=H, y=None):
    out.write(b"FRAME\\n" + (y or bytes([value % 200 + 50]) * (w * h)) + bytes([128]) * (w * h // 2))
    out.flush()
    time.sleep(0.02)
n = 0
header()
for word in sys.argv[1:]:
    kind, _, count = word.partition("=")
    for _ in range(int(count or 1)):
        n += 1
        if kind == "frames": frame(n)
        elif kind == "still": frame(7)
        elif kind == "dark": frame(0, y=bytes([16]) * (W * H - 1) + bytes([n % 9]))
        elif kind == "half": out.write(b"FRAME\\n" + bytes(100)); out.flush()
        elif kind == "rubbish": out.write(os.urandom(500)); out.flush()
        elif kind == "larger": header(96, 64); [frame(i, 96, 64) for i in range(10)]
        elif kind == "hang": out.flush(); time.sleep(600)
        elif kind == "words": sys.stderr.write("rtsp://anna:secret@cam/1: no route\\n"); sys.stderr.flush()
        elif kind == "child":
            if os.fork() == 0: time.sleep(600)
        elif kind == "fail": sys.exit(3)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Callable[..., Camera]:
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    made: list[Camera] = []

    def make(*words: str, **options: object) -> Camera:
        source = f"cmd:{sys.executable} {script} {' '.join(words)}"
        made.append(Camera(source, **{"stall": 0.6, "frozen": 1.0, **options}))
        return made[-1]

    yield make
    for camera in made:
        camera.close()
    assert children() == []


def children() -> list[int]:
    """Processes below this one that a camera started; zombies too."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [
        int(pid) for task in tasks for pid in _text(task).split() if "writer.py" in _text(Path(f"/proc/{pid}/cmdline"))
    ]


def wait(condition: Callable[[], bool], seconds: float = 10) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds
        time.sleep(0.01)
    return time.monotonic() - began


def test_frames_come_in_order_the_newest_each_time(writer):
    camera = writer("frames=1000")
    assert camera.read(5).number >= 1
    time.sleep(0.3)
    first, second = camera.read(5), camera.read(5)
    assert second.number > first.number
    assert time.monotonic() - second.time < 0.2
    assert (second.width, second.height) == (64, 48)
    assert second.image.shape == (48, 64, 3)
    status = camera.status
    assert (status.state, status.reason, status.reconnects) == ("up", "", 0)
    assert status.dropped > 5
    assert status.age < 0.5
    camera.close()
    assert camera.status.state == "off"
    assert camera.read(0) is None


def test_files_of_the_working_directory_are_not_run(writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "ctypes.py").write_text("raise SystemExit('a file of the working directory was run')\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    camera = writer("frames=1000")
    assert camera.read(5).number >= 1
    assert camera.status.reason == ""


@pytest.mark.parametrize(
    ("words", "state", "reason"),
    [
        (("frames=5", "fail"), "down", "exit code 3"),
        (("frames=5",), "down", "it ended"),
        (("frames=5", "words", "fail"), "down", "rtsp://cam/1: no route"),
        (("frames=5", "hang"), "down", "no frame came in time"),
        (("frames=5", "half", "hang"), "down", "no frame came in time"),
        (("frames=5", "rubbish", "hang"), "down", "expected"),
        (("frames=5", "still=900"), "frozen", "the same picture for 1 s"),
        (("frames=5", "child", "fail"), "down", "exit code 3"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_and_mended(writer, words: tuple[str, ...], state: str, reason: str):
    """Again and again: frames come after each reconnection."""
    camera = writer(*words)
    camera.read(5)
    wait(lambda: camera.status.state == state and reason in camera.status.reason)
    assert "secret" not in camera.status.reason
    before = camera.status.frames
    wait(lambda: camera.status.frames > before and camera.status.reconnects > 0)
    wait(lambda: camera.status.reconnects > 1)


def test_nothing_that_was_started_stays(writer, tmp_path: Path):
    camera = writer("frames=5", "child", "child", "hang")
    camera.read(5)
    wait(lambda: camera.status.reconnects > 0)
    camera.close()
    everything = (_text(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    left = [text for text in everything if str(tmp_path) in text and "child child" in text]
    assert left == []


def _text(path: Path) -> str:
    try:
        return path.read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_covered_lens_is_said_and_frames_go_on(writer):
    camera = writer("dark=200", "frames=500")
    wait(lambda: camera.status.state == "dark")
    assert camera.status.reason.startswith("dark for")
    assert camera.read(5)
    wait(lambda: camera.status.state == "up")
    assert camera.status.reconnects == 0


def test_a_size_that_changes(writer):
    camera = writer("frames=5", "larger", "frames=0", "hang")
    wait(lambda: (frame := camera.read(1)) is not None and frame.width == 96)


def test_a_child_that_is_stopped_is_replaced(writer):
    camera = writer("frames=9000")
    camera.read(5)
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    assert 0.4 < wait(lambda: camera.status.state == "down") < 3
    before = camera.status.frames
    assert wait(lambda: camera.status.frames > before) < 5
    assert children() != [pid]


def test_a_device_that_is_unplugged_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ffmpeg is stood in for; the device is a file."""
    device, program = tmp_path / "video0", tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    program.write_text(f"#!/bin/sh\n[ -e {device} ] || exit 1\nexec {sys.executable} {script} frames=20 fail\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with Camera(f"v4l2:{device}", stall=0.6) as camera:
        wait(lambda: camera.status.reason == f"{device} is not there")
        device.touch()
        assert wait(lambda: camera.status.state == "up") < 6
        device.unlink()
        wait(lambda: camera.status.reason == f"{device} is not there")
        device.touch()
        assert wait(lambda: camera.status.state == "up") < 6


def test_a_camera_that_nobody_reads_holds_one_frame(writer):
    camera = writer("frames=1000")
    wait(lambda: camera.status.frames > 30)
    assert camera.status.dropped >= camera.status.frames - 2
    assert camera.read(1).number >= 30


def test_close_ends_a_read_and_an_iteration(writer):
    camera = writer("frames=3", "hang", stall=60)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(f.number for f in camera))
    thread.start()
    wait(lambda: camera.status.frames == 3)
    began = time.monotonic()
    camera.close()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - began < 1
    assert seen[-1] == 3
    camera.close()


def test_a_photo_and_a_video_play(tmp_path: Path, tiny: FaceInsight):
    with Camera(f"file:{PHOTO}", size=(640, 480), fps=30, frozen=0.3) as camera:
        frames = [camera.read(20) for _ in range(3)]
        time.sleep(1)
        # The same picture for long is no fault of a photo.
        assert camera.status.state == "up"
        (face,) = tiny.perceive(frames[-1].image)
        assert face.label("Smiling")
    video = tmp_path / "video.avi"
    out = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 20, (64, 48))
    for i in range(20):
        out.write(np.full((48, 64, 3), 60 + 9 * i, np.uint8))
    out.release()
    with Camera(f"file:{video}", size=(64, 48), fps=20, loop=False) as camera:
        levels = [frame.image.mean() for frame in camera]
        assert levels == sorted(levels)
        assert levels[-1] > 200
        assert camera.status.state == "ended"
        assert 15 <= camera.status.frames <= 21
    with Camera(f"file:{video}", size=(64, 48), fps=60) as camera:
        wait(lambda: camera.status.frames > 150)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_ffmpeg_writes_what_is_read(tmp_path: Path):
    """The arguments that follow an input, with a test picture in the camera's place."""
    command = list(parse("rtsp://cam/1", size=(320, 240), fps=10).command)
    at = command.index("rtsp://cam/1")
    before = command[: command.index("-rtsp_transport")]
    command = [*before, "-f", "lavfi", "-i", "testsrc=size=640x480:rate=25", *command[at + 1 :]]
    with Camera("cmd:" + " ".join(command)) as camera:
        frame = camera.read(20)
        assert (frame.width, frame.height) == (320, 240)
        assert frame.image.std() > 30


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "expected v4l2:"),
        ("webcam", "expected v4l2:"),
        ("v4l2:", "expected v4l2:"),
        ("http://anna:secret@cam/1", "'http://cam/1'"),
        ("file:/nothing.mp4", "no such file"),
        ("cmd:no-such-program x", "no such program"),
    ],
)
def test_what_is_no_camera_is_named(source: str, words: str):
    with pytest.raises(RequestError, match=words) as error:
        Camera(source)
    assert "secret" not in str(error.value)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nothing")
    for source, words in (("v4l2:0", "apt-get install ffmpeg"), ("csi:0", "JetPack")):
        with pytest.raises(DependencyError, match=words):
            Camera(source)
    for options in ({"size": (641, 480)}, {"size": (0, 0)}, {"fps": 0}):
        with pytest.raises(RequestError, match="expected even numbers"):
            Camera("v4l2:0", **options)


def test_names_have_no_password():
    assert scrubbed("rtsp://anna:se@cret@cam:554/1") == "rtsp://cam:554/1"
    assert (
        scrubbed("[rtsp @ 0x1] rtsp://a:b@c: timed out, rtsp://d/e") == "[rtsp @ 0x1] rtsp://c: timed out, rtsp://d/e"
    )


@pytest.mark.slow
def test_two_hundred_faults_in_a_row(writer):
    """Each is seen, frames come again, no process and no descriptor stays."""
    kinds = (("fail",), ("hang",), ("half", "hang"), ("rubbish", "hang"), ("child", "fail"), ("larger", "fail"))
    descriptors = len([*Path("/proc/self/fd").iterdir()])
    for i in range(200):
        camera = writer("frames=2", *kinds[i % len(kinds)], stall=0.15)
        assert camera.read(10)
        wait(lambda camera=camera: camera.status.state == "down" and bool(camera.status.reason))
        camera.close()
    assert len([*Path("/proc/self/fd").iterdir()]) <= descriptors + 2
    assert children() == []
