"""The worker's half of the camera: frames to people."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..camera import Frame
from ..live import Event, Person, Watcher, states
from ..plain import plain
from .errors import ApiError

if TYPE_CHECKING:
    from ..insight import FaceInsight

#: JPEG quality of previews.
_QUALITY = 75


class Scene:
    """Who stands in front of the camera."""

    def __init__(self, insight: FaceInsight) -> None:
        """Nobody."""
        self._insight = insight
        self._watcher = Watcher(insight)
        self._time = 0.0

    def frame(self, fields: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """One frame: everybody in it, and what has happened. fields: of the frame, and the preview's width."""
        frame = Frame(fields["number"], fields["time"], fields["width"], fields["height"], data)
        image = frame.image
        self._time = max(self._time, frame.time)
        events = self._watcher.update(image, self._time)
        if any(event.kind == "left" for event in events):
            # What the LLM read of them.
            self._insight.forget()
        size = np.array([frame.width, frame.height, frame.width, frame.height])
        return {
            "number": frame.number,
            "time": frame.time,
            "size": [frame.width, frame.height],
            "people": [_said(person, size) for person in self._watcher.people],
            "events": list(map(_plain, events)),
            "jpeg": _jpeg(image, fields["preview"]) if fields["preview"] else None,
        }

    def person(self, track: str | None, max_age: float) -> Person:
        """Somebody who is there now, by the track; None: the nearest. Raises ApiError."""
        found = [p for p in self._watcher.people if track is None or p.track.id == track]
        for person in found:
            if person.face is not None and self.age(person) <= max_age:
                return person
        text = "Nobody is there now." if not found else "The newest look at this person is too old."
        raise ApiError(409, "camera_not_ready", text, retry=False)

    def age(self, person: Person) -> float:
        """Seconds since somebody was last found. The monotonic clock is the same in all processes of a machine."""
        return time.monotonic() - person.track.last_time

    def end(self) -> dict[str, Any]:
        """The camera is off: everybody has left, and is forgotten."""
        events = self._watcher.end(self._time)
        self._insight.forget()
        return {"events": list(map(_plain, events))}


def _said(person: Person, size: Any) -> dict[str, Any]:
    return {
        "track": person.track.id,
        "box": [round(float(x), 4) for x in np.array(person.track.box) / size],
        "facing": person.facing,
        "labels": states(person.labels),
    }


def _plain(event: Event) -> dict[str, Any]:
    values: dict[str, Any] = plain(event.values)
    return {"event": event.kind, "time": event.time, "track": event.track, **values}


def _jpeg(image: Any, width: int) -> str:
    """Base64 of a smaller picture."""
    scale = min(1.0, width / image.shape[1])
    reduced = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", reduced[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(data.tobytes()).decode() if done else ""
