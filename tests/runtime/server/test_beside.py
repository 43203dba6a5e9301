"""Frames of the camera between two pieces of an answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO

from faceinsight import FaceInsight
from faceinsight.server import protocol
from faceinsight.server.face_store import FaceStore
from faceinsight.server.jobs import Jobs
from faceinsight.server.worker import Pipe, _work

SIZE = (640, 512)
ASK = {"op": "ask_now", "tracks": [], "mirrored": False, "max_age": 1e9, "question": "Describe this face."}


@pytest.fixture(autouse=True)
def alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends with its parent; this one is the tests' process."""
    monkeypatch.setattr(Pipe, "_read", _read)


def _read(pipe: Pipe) -> None:
    """Nothing is sent to it here."""


@pytest.fixture(scope="module")
def insight() -> Iterator[FaceInsight]:
    with FaceInsight.load("nano") as insight:
        yield insight


def pixels(*, somebody: bool) -> bytes:
    frame = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    if somebody:
        frame[:, 64:576] = cv2.imread(str(PHOTO))
    return cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes()


class Worker:
    """One in this process."""

    def __init__(self, insight: FaceInsight) -> None:
        self.ours, theirs = socket.socketpair()
        self.pipe, self.jobs = Pipe(theirs), Jobs(insight, FaceStore(insight, None))
        self.pipe.insight = insight
        self.now = 0.0

    def frame(self, number: int, *, somebody: bool = True, after: float = 0.1) -> protocol.Frame:
        self.now += after
        data = pixels(somebody=somebody)
        header: dict[str, Any] = {"op": "frame", "id": number, "number": number, "time": self.now, "preview": 0}
        return header | {"width": SIZE[0], "height": SIZE[1], "sizes": [len(data)]}, data

    def run(self, job: protocol.Frame) -> list[dict[str, Any]]:
        """The events of a job, and of what waits beside it."""
        _work(self.pipe, self.jobs, job)
        self.pipe.send({"event": "end"})
        events = []
        while (event := protocol.receive(self.ours)[0])["event"] != "end":
            events.append(event)
        return events

    def close(self) -> None:
        assert self.pipe.jobs.empty()
        self.ours.close()


def test_an_answer_is_the_same_with_frames_between_its_pieces(insight: FaceInsight):
    worker = Worker(insight)
    for number in range(1, 6):
        (done,) = worker.run(worker.frame(number))
    assert done["people"][0]["labels"]
    alone = worker.run((ASK | {"id": 10}, b""))
    pieces = [event["text"] for event in alone if event["event"] == "chunk"]
    assert len(pieces) >= 2
    for number in range(20, 22):
        worker.pipe.jobs.put(worker.frame(number))
    both = worker.run((ASK | {"id": 11}, b""))
    order = [event["id"] for event in both]
    assert order[:4] == [11, 20, 11, 21]
    answer = [event for event in both if event["id"] == 11]
    assert [event["text"] for event in answer if event["event"] == "chunk"] == pieces
    names = ("text", "finish", "labels", "evidence", "tracks", "confidence")
    assert json.dumps([answer[-1][n] for n in names]) == json.dumps([alone[-1][n] for n in names])
    assert [event["people"][0]["track"] for event in both if event["id"] >= 20] == answer[-1]["tracks"] * 2
    worker.close()


def test_an_answer_ends_when_its_person_leaves_and_is_forgotten_then(
    insight: FaceInsight, monkeypatch: pytest.MonkeyPatch
):
    forgotten = []
    monkeypatch.setattr(type(insight), "forget", lambda self: forgotten.append(1))
    worker = Worker(insight)
    for number in range(1, 6):
        worker.run(worker.frame(number))
    worker.pipe.jobs.put(worker.frame(20, somebody=False, after=5))
    events = worker.run((ASK | {"id": 11}, b""))
    assert [(event["id"], event["event"]) for event in events[-2:]] == [(20, "done"), (11, "error")]
    assert (events[-1]["status"], events[-1]["code"]) == (409, "camera_not_ready")
    assert [event["event"] for event in events[-2]["events"]] == ["left"]
    assert forgotten == []
    worker.run(worker.frame(21, somebody=False))
    assert forgotten == [1]
    worker.close()


def test_a_frame_that_fails_harms_no_answer(insight: FaceInsight):
    worker = Worker(insight)
    for number in range(1, 6):
        worker.run(worker.frame(number))
    header, data = worker.frame(20)
    worker.pipe.jobs.put((header | {"preview": "wide"}, data))
    events = worker.run((ASK | {"id": 11}, b""))
    assert [event["event"] for event in events if event["id"] == 20] == ["error"]
    assert events[-1]["id"] == 11
    assert events[-1]["event"] == "done"
    worker.close()
