"""Faces over time, by their position alone: nobody is recognised, and whoever comes back is somebody new."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]

#: Seconds after which a face that was not found again has left.
LOST = 1.0
#: Frames in which a face must be found before it counts: a detector's slip is seen once.
CERTAIN = 3
#: How far a face may have moved, in widths of it, and how its size may have changed, from one frame to the next.
NEAR, ALIKE = 0.9, 1.8
#: Weight of the newest step in the velocity.
_NEWEST = 0.4


@dataclass(slots=True)
class Track:
    """One face.

    Attributes:
        id: random, of this visit only.
        box: x, y, width, height in pixels, where it was last found.
        velocity: of its center, pixels a second.
        began, last_time: seconds, when it was first and last found.
        hits: in how many frames.
    """

    id: str
    box: Box
    velocity: tuple[float, float]
    began: float
    last_time: float
    hits: int = 1

    @property
    def is_certain(self) -> bool:
        """Was it found often enough to count?"""
        return self.hits >= CERTAIN

    def predicted(self, time: float) -> Box:
        """Where it will be, if it moves on as it did."""
        x, y, width, height = self.box
        seconds = min(time - self.last_time, LOST)
        return x + self.velocity[0] * seconds, y + self.velocity[1] * seconds, width, height


class Tracker:
    """Gives boxes to tracks.

    Attributes:
        tracks: those that have not left, in the order in which they came.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self.tracks: list[Track] = []

    def update(self, time: float, boxes: Sequence[Box]) -> tuple[list[Track], list[Track]]:
        """The faces of a frame.

        Args:
            time: of the frame, in seconds; never earlier than before.
            boxes: of its faces.

        Returns:
            The track of each box, and the certain tracks that have left.
        """
        found: dict[int, Track] = {}
        pairs = []
        for track in self.tracks:
            expected = track.predicted(time)
            for i, box in enumerate(boxes):
                cost = _distance(expected, box)
                if cost is not None:
                    pairs.append((cost, track, i))
        free = {id(track) for track in self.tracks}
        for _, track, i in sorted(pairs, key=lambda pair: pair[0]):
            if id(track) in free and i not in found:
                free.remove(id(track))
                found[i] = track
                _move(track, time, boxes[i])
        for i, box in enumerate(boxes):
            if i not in found:
                found[i] = Track(secrets.token_hex(4), box, (0.0, 0.0), time, time)
                self.tracks.append(found[i])
        gone = [track for track in self.tracks if time - track.last_time > LOST]
        self.tracks = [track for track in self.tracks if time - track.last_time <= LOST]
        return [found[i] for i in range(len(boxes))], [track for track in gone if track.is_certain]


def _distance(a: Box, b: Box) -> float | None:
    """Between two boxes, in widths; None where they cannot be the same face."""
    width = max(a[2], b[2], 1e-6)
    ratio = width / max(min(a[2], b[2]), 1e-6)
    distance = math.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2) / width
    return distance + math.log(ratio) if distance <= NEAR and ratio <= ALIKE else None


def _move(track: Track, time: float, box: Box) -> None:
    seconds = time - track.last_time
    if seconds > 0:
        step = [
            (b + bw / 2 - a - aw / 2) / seconds
            for a, aw, b, bw in zip(track.box[:2], track.box[2:], box[:2], box[2:], strict=True)
        ]
        vx, vy = ((1 - _NEWEST) * v + _NEWEST * s for v, s in zip(track.velocity, step, strict=True))
        track.velocity = (vx, vy)
    track.box, track.last_time, track.hits = box, time, track.hits + 1
