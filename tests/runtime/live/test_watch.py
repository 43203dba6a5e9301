"""People in front of a camera: a portrait that comes, stays, and leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from paths import PHOTO

from faceinsight import FaceInsight
from faceinsight.live import Watcher
from faceinsight.live.watch import MOST, is_facing

FPS = 10


def scene(
    *places: tuple[int, int], noise: float = 4.0, seed: int = 0, size: tuple[int, int] = (480, 1000)
) -> NDArray[np.uint8]:
    """The portrait, half as large, with its corner at each of these places."""
    portrait = cv2.resize(cv2.imread(str(PHOTO))[:, :, ::-1], (256, 256), interpolation=cv2.INTER_AREA)
    out = np.full((*size, 3), 90, np.int16)
    for x, y in places:
        left, right = max(0, x), min(size[1], x + 256)
        if left < right:
            out[y : y + 256, left:right] = portrait[:, left - x : right - x]
    out = out + np.random.default_rng(seed).normal(0, noise, out.shape)
    return np.clip(out, 0, 255).astype(np.uint8)


def watched(insight: FaceInsight, frames: list[NDArray[np.uint8]]) -> tuple[Watcher, list]:
    watcher, events = Watcher(insight), []
    for i, frame in enumerate(frames):
        events += watcher.update(frame, i / FPS)
    return watcher, events + watcher.end(len(frames) / FPS)


@pytest.mark.slow
def test_somebody_comes_stays_and_leaves(insight: FaceInsight):
    nobody = [scene(seed=i) for i in range(5)]
    stays = [scene((200 + int(30 * np.sin(i / 9)), 100), seed=i) for i in range(60)]
    watcher, events = watched(insight, [*nobody, *stays, *[scene(seed=i) for i in range(15)]])
    assert [e.kind for e in events if e.kind != "labels"] == ["appeared", "left"]
    assert len({e.track for e in events}) == 1
    appeared, left = events[0], events[-1]
    assert 0.5 <= appeared.time <= 1.0
    assert appeared.values["labels"]["Smiling"][0] == "yes"
    assert left.values["labels"]["Smiling"][0] == "yes"
    assert left.values["labels"]["Eyeglasses"][0] == "no"
    assert left.values["dwell_s"] == pytest.approx(5.9, abs=0.2)
    assert left.values["attention_s"] == pytest.approx(5.9, abs=0.5)
    assert left.values["glances"] >= 1
    # Looked at now and then, not in every frame; and a state hardly changes.
    assert 10 <= watcher.looks <= 25
    assert sum(len(e.values["labels"]) for e in events if e.kind == "labels") <= 2
    assert watcher.people == []


@pytest.mark.slow
def test_labels_are_those_of_the_photo(insight: FaceInsight):
    """What single noisy frames are certain of, the average shows, or doubts; it never says the opposite."""
    watcher, pairs = Watcher(insight), []
    for i in range(40):
        frame = scene((200, 100), seed=i, noise=6)
        watcher.update(frame, i / FPS)
        if i >= 20 and i % 2:
            (face,) = insight.perceive(frame)
            shown = {x.name: x.state for x in watcher.people[0].labels}
            pairs += [(x.state, shown[x.name]) for x in face.labels if x.state in ("yes", "no")]
    assert len(pairs) > 200
    assert sum(a == b for a, b in pairs) >= 0.96 * len(pairs)
    assert not {("yes", "no"), ("no", "yes")} & set(pairs)
    (person,) = watcher.people
    answer = insight.ask(person.face, "Is she smiling?")
    assert answer.text.startswith("Yes")


@pytest.mark.slow
def test_two_people_are_told_apart(insight: FaceInsight):
    frames = [scene((20 + 2 * i, 60), (560, 180), seed=i) for i in range(40)]
    _, events = watched(insight, frames)
    assert [e.kind for e in events].count("appeared") == 2
    assert [e.kind for e in events].count("left") == 2
    assert len({e.track for e in events}) == 2


@pytest.mark.slow
def test_a_slow_machine_looks_less_often(insight: FaceInsight):
    """Looks take half a second by this clock: fewer of them, and every frame is still searched."""
    ticks = iter(np.arange(0, 1e6, 0.5))
    watcher = Watcher(insight, clock=lambda: float(next(ticks)))
    for i in range(60):
        watcher.update(scene((200, 100), seed=i), i / FPS)
    assert 3 <= watcher.looks <= 8
    assert watcher.people[0].track.hits == 60


def test_a_face_is_turned_to_the_camera_or_not():
    facing = np.array([[0, 0], [40, 0], [20, 25], [5, 45], [35, 45]], np.float32)
    assert is_facing(facing)
    turned = facing.copy()
    turned[2, 0] = 40
    assert not is_facing(turned)
    assert not is_facing(np.zeros((5, 2), np.float32))
    angle = np.deg2rad(30)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    assert is_facing(facing @ rotation.T)
    assert MOST >= 4


@pytest.mark.slow
def test_the_command_prints_json_lines(tmp_path: Path):
    video = tmp_path / "visit.avi"
    out = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (1000, 480))
    for i in range(45):
        out.write(np.ascontiguousarray(scene(*([(200, 100)] if 8 <= i < 30 else []), seed=i)[:, :, ::-1]))
    out.release()
    command = [sys.executable, "-m", "faceinsight", "watch", f"file:{video}", "--once", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--size", "1000x480", "--fps", str(FPS)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [e["event"] for e in events if e["event"] != "labels"]
    assert kinds == ["camera", "appeared", "left", "camera", "end"]
    assert [e["state"] for e in events if e["event"] == "camera"] == ["up", "ended"]
    end = events[-1]
    assert end["watched"] >= 40
    assert end["reconnects"] == 0


def test_what_is_no_camera_is_one_line(capsys: pytest.CaptureFixture[str]):
    from faceinsight.cli.main import main

    assert main(["watch", "webcam"]) == 1
    assert "expected v4l2:" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["watch", "v4l2:0", "--size", "large"])
    assert error.value.code == 2


@pytest.mark.slow
def test_where_heat_holds_the_machine_back_faces_are_read_less_often(insight: FaceInsight):
    frames = [scene((200, 100), seed=i) for i in range(60)]
    usual, hot = Watcher(insight), Watcher(insight)
    hot.pace = 3.0
    for i, frame in enumerate(frames):
        usual.update(frame, i / FPS)
        hot.update(frame, i / FPS)
    assert 1 <= hot.looks <= usual.looks / 2
    assert len(hot.people) == len(usual.people) == 1


@pytest.mark.slow
def test_closer_looks_are_taken_now_and_then_and_when_somebody_is_missed(
    insight: FaceInsight, monkeypatch: pytest.MonkeyPatch
):
    wanted: list[int | None] = []
    detector = insight.perception.detector
    detect = type(detector).detect

    def counted(self: object, image: np.ndarray, *, enough: int | None = None) -> object:
        wanted.append(enough)
        return detect(self, image, enough=enough)

    monkeypatch.setattr(type(detector), "detect", counted)
    watcher = Watcher(insight)
    for i in range(2 * FPS):
        watcher.update(scene((200, 100), seed=i), i / FPS)
    # Two a second; all others are content with the one who was there before.
    assert wanted.count(None) == 4
    assert set(wanted) == {None, 1}
