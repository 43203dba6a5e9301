"""Frames to people: each is found in every frame, looked at now and then, and said goodbye to.

with FaceInsight.load("nano") as insight, Camera("v4l2:0") as camera:
    watcher = Watcher(insight)
    for frame in camera:
        for event in watcher.update(frame.image, frame.time):
            print(event)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.specs import CharacteristicSpec
from ..insight import FaceInsight
from ..perception.detector import Detection
from ..plain import plain
from ..types import Face, Label
from .average import Average, Steady
from .tracker import Track, Tracker

#: Seconds between two looks at one face: at the least, and at the most where the machine is slow.
OFTEN, SELDOM = 0.3, 2.0
#: Share of the time between two frames that detection and looks may take together, to keep up with the camera;
#: and what looks have at the least.
SHARE, LEAST = 0.6, 0.1
#: Seconds between two frames that are searched for small faces too, as long as nobody is missed.
CLOSELY = 0.5
#: People who are looked at: the nearest.
MOST = 8
#: A face is turned to the camera when its nose lies so near to the middle of its eyes, in distances of the eyes.
FACING = 0.35


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Attributes:
        kind: "appeared" (somebody was looked at for the first time), "labels" (states have changed), "left".
        time: of the frame, in seconds.
        track: the person, for this visit only.
        values: by its kind, plain: `box`, `labels` (name -> state and probability), and of those who left `dwell_s`,
            `attention_s` (turned to the camera) and `glances` (how often they turned to it).
    """

    kind: str
    time: float
    track: str
    values: dict[str, Any]


@dataclass(slots=True)
class Person:
    """Somebody who is there.

    Attributes:
        track: where they are, and since when.
        average: of what was read of them.
        face: as it was last looked at, with averaged labels; None before the first time.
        facing: is the face turned to the camera?
        attention, glances: seconds for which it was, and how often it turned to it.
    """

    track: Track
    average: Average
    face: Face | None = None
    facing: bool = False
    attention: float = 0.0
    glances: int = 0
    steady: Steady = field(default_factory=Steady)
    looked: float = -np.inf

    @property
    def labels(self) -> tuple[Label, ...]:
        """As they are shown: a state changes once it has held for a while."""
        return self.steady.labels


class Watcher:
    """Everybody in front of one camera. Not for several threads.

    Attributes:
        looks: how often somebody was looked at.
        pace: how many times longer than usual the time between two looks at one face is: more than 1 where heat holds
            the machine back, so that frames are kept.
    """

    def __init__(self, insight: FaceInsight, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """insight: finds and reads the faces; clock: measures how long that takes."""
        self._insight, self._clock = insight, clock
        self._tracker = Tracker()
        self._changing = np.array([_changes(c) for c in insight.perception.encoders.specs])
        self._people: dict[str, Person] = {}
        self._last: float | None = None
        self._closely = -np.inf
        self._periods: deque[float] = deque(maxlen=30)
        self._detecting = self._looking = 0.0
        self.looks, self.pace = 0, 1.0

    @property
    def people(self) -> list[Person]:
        """Those who are there, the nearest first."""
        people = [person for person in self._people.values() if person.track.is_certain]
        return sorted(people, key=lambda person: -person.track.box[2] * person.track.box[3])

    def update(self, image: NDArray[np.uint8], at: float) -> list[Event]:
        """A frame.

        Args:
            image: RGB (height, width, 3) uint8.
            at: when it was taken, in seconds; never before the last one.

        Returns:
            What happened.
        """
        began = self._clock()
        detections = self._detect(image, at)
        found, gone = self._tracker.update(at, [d.box for d in detections])
        self._detecting = _mean(self._detecting, self._clock() - began)
        if self._last is not None and at > self._last:
            self._periods.append(at - self._last)
        events = [self._left(track, at) for track in gone]
        present = []
        for track, detection in zip(found, detections, strict=True):
            person = self._people.setdefault(track.id, Person(track, Average(self._changing)))
            self._attend(person, detection, at)
            if track.is_certain:
                present.append((person, detection))
        known = {track.id for track in self._tracker.tracks}
        self._people = {key: person for key, person in self._people.items() if key in known}
        self._last = at
        return events + self._encode_one(image, at, present)

    def end(self, at: float) -> list[Event]:
        """Everybody has left. at: when."""
        events = [self._left(track, at) for track in self._tracker.tracks if track.is_certain]
        self._tracker, self._people, self._last, self._closely = Tracker(), {}, None, -np.inf
        return events

    def _detect(self, image: NDArray[np.uint8], at: float) -> Sequence[Detection]:
        """The nearest faces. Small ones are searched for now and then, and whenever somebody is missed."""
        closely = at - self._closely >= CLOSELY
        if closely:
            self._closely = at
        known = sum(track.last_time == self._last for track in self._tracker.tracks)
        found = self._insight.perception.detector.detect(image, enough=None if closely else known)
        return sorted(found, key=lambda d: -d.box[2] * d.box[3])[:MOST]

    def _encode_one(
        self, image: NDArray[np.uint8], at: float, present: Sequence[tuple[Person, Detection]]
    ) -> list[Event]:
        """At the one whose last look is longest ago, if it is time."""
        # The shorter ones of late: where frames are missed, that is what is to be mended.
        period = sorted(self._periods)[len(self._periods) // 4] if self._periods else SELDOM
        left = max(SHARE - self._detecting / period, LEAST)
        interval = min(max(OFTEN * self.pace, self._looking * max(1, len(present)) / left), SELDOM)
        due = [(p, d) for p, d in present if at - p.looked >= interval]
        if not due:
            return []
        person, detection = min(due, key=lambda pair: pair[0].looked)
        began = self._clock()
        perception = self._insight.perception
        matrices, parser_crops, encoder_crops = perception.crops(image, [detection])
        encoded = perception.encoders.encode(parser_crops, encoder_crops, perception.characteristic_ids)
        mean = person.average.add(at, encoded)
        face = perception.face(image, detection, mean, 0, matrices[0])
        first = person.face is None
        updates = person.steady.update(at, face.labels)
        person.face, person.looked = replace(face, labels=person.labels), at
        self._looking = _mean(self._looking, self._clock() - began)
        self.looks += 1
        if first:
            return [
                Event("appeared", at, person.track.id, {"box": plain(detection.box), "labels": states(person.labels)})
            ]
        return [Event("labels", at, person.track.id, {"labels": states(updates)})] if updates else []

    def _attend(self, person: Person, detection: Detection, at: float) -> None:
        facing = is_facing(detection.landmarks)
        if facing and person.facing and self._last is not None:
            person.attention += at - self._last
        person.glances += facing and not person.facing
        person.facing = facing

    def _left(self, track: Track, at: float) -> Event:
        person = self._people.pop(track.id, None) or Person(track, Average(self._changing))
        return Event(
            "left",
            at,
            track.id,
            {
                "dwell_s": round(track.last_time - track.began, 2),
                "attention_s": round(person.attention, 2),
                "glances": person.glances,
                "labels": states(person.labels),
            },
        )


def _changes(spec: CharacteristicSpec) -> bool:
    """Does it change while somebody stands there? What the mouth does, and the expression."""
    return spec.region == "mouth" or spec.group == "expression"


def is_facing(landmarks: NDArray[np.float32]) -> bool:
    """Is a face turned to the camera? landmarks: (5,2) eyes, nose tip, corners of the mouth."""
    right, left, nose = landmarks[0], landmarks[1], landmarks[2]
    eyes = left - right
    distance = float(np.hypot(*eyes))
    if distance < 1:
        return False
    along = float((nose - (right + left) / 2) @ eyes) / distance**2
    return abs(along) <= FACING


def states(labels: Sequence[Label]) -> dict[str, Any]:
    """Name -> state and probability, as events have them."""
    return {label.name: [label.state, label.probability] for label in labels}


def _mean(old: float, new: float) -> float:
    """Over the last ten or so."""
    return new if old == 0 else old + 0.1 * (new - old)
