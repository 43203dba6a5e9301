"""The server's camera: a portrait that comes, stays and leaves, again and again."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO
from serving import BODY, Serving

pytestmark = pytest.mark.slow
FPS, SIZE = 10, (640, 512)
#: Seconds that nobody is there, and that somebody is.
EMPTY, THERE = 2, 5
Q = "Is she wearing glasses?"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "visit.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, SIZE)
    photo, rng = cv2.imread(str(PHOTO)), np.random.default_rng(17)
    for i in range((EMPTY + THERE) * FPS):
        frame = np.full((SIZE[1], SIZE[0], 3), 90, np.int16)
        if i >= EMPTY * FPS:
            frame[:, 64:576] = photo
        out.write(np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8))
    out.release()
    return path


def options(video: Path) -> tuple[str, ...]:
    return "--camera", f"file:{video}", "--camera-size", f"{SIZE[0]}x{SIZE[1]}", "--camera-fps", str(FPS)


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, *options(video)) as serving:
        serving.wait_ready()
        yield serving


def listen(server: Serving, seconds: float, preview: int = 0) -> list[dict[str, Any]]:
    """The events of so many seconds: kind, number and values."""
    found: list[dict[str, Any]] = []
    until = time.monotonic() + seconds
    with httpx.stream("GET", f"{server.url}/v1/camera/events", params={"preview": preview}, timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event |= json.loads(value)
            elif not line and "event" in event:
                found.append(event)
                event = {}
            if time.monotonic() > until:
                break
    return found


def somebody(server: Serving) -> dict[str, Any]:
    """Wait for people who have labels."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        people = [p for e in listen(server, 0.5) if e["event"] == "people" for p in e["people"] if p["labels"]]
        found.extend(people)
        return bool(people)

    server.wait(there, 2 * (EMPTY + THERE))
    return found[-1]


def test_who_comes_and_leaves(server: Serving):
    events = listen(server, 2 * (EMPTY + THERE))
    assert events[0]["event"] == "state"
    kinds = {e["event"] for e in events}
    assert {"state", "people", "appeared", "left"} <= kinds
    people = [e for e in events if e["event"] == "people"]
    numbers = [int(e["id"]) for e in people]
    assert numbers == sorted(numbers)
    assert len(people) > 0.5 * FPS * (EMPTY + THERE)
    assert all(0 <= e["age_ms"] < 1500 for e in people)
    there = [e for e in people if e["people"]]
    assert there
    assert len(there) < len(people)
    x, y, width, height = there[-1]["people"][0]["box"]
    assert 0.3 < x + width / 2 < 0.6
    assert 0.1 < y + height / 2 < 0.4
    assert "jpeg" not in there[-1]
    left = [e for e in events if e["event"] == "left"]
    assert all(e["dwell_s"] == pytest.approx(THERE, abs=1) for e in left[1:])
    assert len({e["track"] for e in events if e["event"] == "appeared"}) >= 1
    assert "Smiling" in left[-1]["labels"]


def test_a_preview_is_of_the_same_frame(server: Serving):
    (*_, last) = [e for e in listen(server, 1, preview=320) if e["event"] == "people"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(last["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (256, 320, 3)


def test_a_question_is_about_now(server: Serving):
    person = somebody(server)
    done = server.post("/v1/camera/ask", json={"question": Q, "track": person["track"]})
    assert done.status_code == 200, done.text
    answer = done.json()
    assert answer["tracks"] == [person["track"]]
    assert answer["age_ms"] < 1500
    assert [x["name"] for x in answer["labels"]] == ["Eyeglasses"]
    somebody(server)
    streamed = server.post("/v1/camera/ask", json={"question": Q, "stream": True}).text.split("\n\n")
    assert json.loads(streamed[-2].removeprefix("data: "))["answer"]["tracks"]
    somebody(server)
    for body in ({"track": "nobody"}, {"max_age_ms": 1}):
        refused = server.post("/v1/camera/ask", json={"question": Q, **body})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "camera_not_ready")
        assert refused.headers["x-should-retry"] == "false"
    assert server.post("/v1/camera/ask", json={"question": ""}).status_code == 400
    assert server.post("/v1/camera/ask", json={"question": Q, "max_age_ms": 0}).status_code == 400


def test_others_are_answered_meanwhile(server: Serving):
    expected = server.chat(*BODY["messages"]).json()["choices"][0]["message"]["content"]
    before = server.metric("camera_frames_total")
    for _ in range(10):
        done = server.chat(*BODY["messages"])
        assert done.json()["choices"][0]["message"]["content"] == expected
    assert server.metric("camera_up") == 1
    server.wait(lambda: server.metric("camera_frames_total") > before + FPS)
    assert server.metric("camera_frame_age_seconds") < 2
    assert server.metric("requests_rejected_total", reason="queue_full") == 0


def test_off_is_off_and_on_is_on(server: Serving):
    somebody(server)
    off = server.post("/v1/camera", json={"enabled": False}).json()
    assert (off["state"], off["age_ms"]) == ("off", None)
    frames = server.metric("camera_frames_total")
    refused = server.post("/v1/camera/ask", json={"question": Q})
    assert refused.status_code == 409
    time.sleep(0.5)
    assert server.metric("camera_frames_total") == frames
    assert server.metric("camera_up") == 0
    assert server.get("/readyz").status_code == 200
    server.post("/v1/camera", json={"enabled": True})
    server.wait(lambda: server.get("/v1/camera").json()["state"] == "up")
    assert somebody(server)["track"]
    assert server.post("/v1/camera", json={"enabled": 1}).status_code == 400


def test_so_many_may_listen(server: Serving):
    threads = [threading.Thread(target=listen, args=(server, 2)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    fifth = server.get("/v1/camera/events")
    assert (fifth.status_code, fifth.json()["error"]["code"]) == (429, "too_many")
    for thread in threads:
        thread.join()
    server.wait(lambda: len(listen(server, 0.3)) > 0)
    assert server.get("/v1/camera/events", params={"preview": "9999"}).status_code == 400


def test_the_parent_computes_nothing(server: Serving):
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert not [x for x in ("cv2", "onnxruntime", "llama") if f"/{x}" in maps]


def test_a_camera_that_fails_is_seen(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--camera", "cmd:false") as server:
        server.wait(lambda: server.get("/readyz").json().get("reasons") == ["camera down"], 60)
        status = server.get("/v1/camera").json()
        assert (status["state"], status["source"]) == ("down", "cmd")
        assert "exit code 1" in status["reason"]
        # Photos are answered.
        assert server.chat(*BODY["messages"]).status_code == 200
        assert server.stop() == 0


def test_without_a_camera(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle) as server:
        server.wait_ready()
        for method, path in (("GET", "/v1/camera"), ("GET", "/v1/camera/events"), ("POST", "/v1/camera/ask")):
            done = httpx.request(method, server.url + path, json={"question": Q} if method == "POST" else None)
            assert (done.status_code, done.json()["error"]["code"]) == (404, "no_camera")
    with Serving(tmp_path, tiny_bundle, "--camera", "webcam") as server:
        assert server.process.wait(30) == 1
        assert "expected v4l2:" in server.log.splitlines()[-1]


def test_the_end_is_said_to_who_listens(tiny_bundle: Path, video: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, *options(video)) as server:
        server.wait_ready()
        worker, found = server.worker, []
        threads = [threading.Thread(target=lambda: found.append(listen(server, 30))) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
        for thread in threads:
            thread.join(5)
        assert [events[-1]["event"] for events in found] == ["bye"] * 3
        assert not Path(f"/proc/{worker}").exists()
        assert "Traceback" not in server.log
