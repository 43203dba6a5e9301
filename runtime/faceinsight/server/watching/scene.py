"""The worker's half of the camera: frames to people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...camera import Frame
from ...host.thermal import throttled
from ...live import Event, Person, Watcher, states
from ...live.words import at, means_several, places
from ...plain import plain
from ..errors import ApiError
from .pictures import jpeg, parsing

if TYPE_CHECKING:
    from ...insight import FaceInsight

#: Seconds between two looks at what holds clocks back, and how many times rarer faces are read then.
_HEAT, _HELD_BACK = 10.0, 3.0


class Scene:
    """Who stands in front of the camera."""

    def __init__(self, insight: FaceInsight) -> None:
        """Nobody."""
        self._insight = insight
        self._watcher = Watcher(insight)
        self._time = 0.0
        self._must_forget = False
        self._measured = -_HEAT

    def frame(self, fields: Mapping[str, Any], data: bytes, *, beside: bool = False) -> dict[str, Any]:
        """One frame: everybody in it, and what has happened.

        Args:
            fields: of the frame, and the preview's width.
            data: its pixels.
            beside: is an answer under way? Then what the LLM read of those who left is wiped after it.
        """
        frame = Frame(fields["number"], fields["time"], fields["width"], fields["height"], data)
        image = frame.image
        self._time = max(self._time, frame.time)
        self._measure_heat()
        events = self._watcher.update(image, self._time)
        self._must_forget |= any(event.kind == "left" for event in events)
        if self._must_forget and not beside:
            # What the LLM read of them.
            self._insight.forget()
            self._must_forget = False
        size = np.array([frame.width, frame.height, frame.width, frame.height])
        return {
            "number": frame.number,
            "time": frame.time,
            "size": [frame.width, frame.height],
            "people": [self._said(person, size, drawn=bool(fields["preview"])) for person in self._watcher.people],
            "events": list(map(_plain, events)),
            "jpeg": jpeg(image, fields["preview"]) if fields["preview"] else None,
        }

    def _measure_heat(self) -> None:
        """Where heat or power hold clocks back, fewer looks come before fewer frames."""
        if self._time - self._measured >= _HEAT:
            self._measured = self._time
            self._watcher.pace = _HELD_BACK if throttled() else 1.0

    def meant(self, fields: Mapping[str, Any]) -> tuple[list[Person], str]:
        """Whom a question is about, and the question without words for where they stand.

        Args:
            fields: the question; `tracks` where they are named; `mirrored`: is left where the picture has right?
                `max_age`: seconds that the newest look at somebody may be old.

        Returns:
            One person, or two to compare, the left one first.

        Raises:
            ApiError: nobody is there, or no longer.
        """
        there, question = self._watcher.people, str(fields["question"])
        across = sorted(there, key=_middle, reverse=fields["mirrored"])
        if fields["tracks"]:
            chosen = [p for p in across if p.track.id in fields["tracks"]]
            if len(chosen) < len(fields["tracks"]):
                raise _not_there("Somebody whom the question is about is not there any more.")
        else:
            named, question = places(question)
            if named and there:
                chosen = list({p.track.id: p for p in (at(place, across) for place in named[:2])}.values())
            else:
                nearest = there[: 2 if means_several(question) else 1]
                chosen = [p for p in across if p in nearest]
        if not chosen:
            raise _not_there("Nobody is there now.")
        if any(p.face is None or self.age(p) > fields["max_age"] for p in chosen):
            raise _not_there("The newest look at this person is too old.")
        return chosen, question

    def require(self, people: Sequence[Person]) -> None:
        """Raises ApiError where one of them has left: nothing is said about them any more."""
        there = {id(person) for person in self._watcher.people}
        if any(id(person) not in there for person in people):
            raise _not_there("This person has left.")

    def age(self, person: Person) -> float:
        """Seconds since somebody was last found. The monotonic clock is the same in all processes of a machine."""
        return time.monotonic() - person.track.last_time

    def end(self) -> dict[str, Any]:
        """The camera is off: everybody has left, and is forgotten."""
        events = self._watcher.end(self._time)
        self._insight.forget()
        self._must_forget = False
        return {"events": list(map(_plain, events))}

    def _said(self, person: Person, size: Any, *, drawn: bool) -> dict[str, Any]:
        """drawn: with the parts of the face, where this is the frame in which they were found."""
        out: dict[str, Any] = {
            "track": person.track.id,
            "box": [round(float(x), 4) for x in np.array(person.track.box) / size],
            "facing": person.facing,
            "labels": states(person.labels),
        }
        if drawn and person.face is not None and person.looked == self._time:
            out["parsing"] = parsing(person.face)
        return out


def _middle(person: Person) -> float:
    return person.track.box[0] + person.track.box[2] / 2


def _not_there(text: str) -> ApiError:
    return ApiError(409, "camera_not_ready", text, retry=False)


def _plain(event: Event) -> dict[str, Any]:
    values: dict[str, Any] = plain(event.values)
    return {"event": event.kind, "time": event.time, "track": event.track, **values}
