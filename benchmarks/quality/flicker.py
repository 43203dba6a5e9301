"""How often does a report change while the face does not? Noisy frames of one face that sways a little."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight.live.watch import Watcher
from faceinsight.types import NO, STATES, YES
from figures import Figures
from readings import Picture

#: Frames of a clip, and how many of them are a minute.
FRAMES, MINUTE = 200, 600
#: Sensor noise, gray values; sway, per cent of the picture and of its size, and degrees.
NOISE, SHIFT, ZOOM, ANGLE = 4.0, 0.03, 0.03, 3.0
#: A label that nobody answers cannot flicker.
SKIPPED = ("Attractive",)

#: Picture -> states (N,) of its face, or None. One is started per clip, so it may remember frames as a tracker does.
Read = Callable[[Picture], "NDArray[np.int64] | None"]


def watched(watcher: Watcher) -> Read:
    """What is shown of the nearest person, where the frames come from a camera: averaged over time."""
    times = itertools.count()

    def read(image: Picture) -> NDArray[np.int64] | None:
        watcher.update(image, next(times) * 60 / MINUTE)
        labels = watcher.people[0].labels if watcher.people else ()
        return np.array([STATES.index(label.state) for label in labels]) if labels else None

    return read


def frames(image: Picture, count: int = FRAMES, seed: int = 0) -> Iterator[Picture]:
    """The picture shifted, scaled and turned by slow sines of different periods, with fresh noise in every frame."""
    rng = np.random.default_rng(seed)
    h, w = image.shape[:2]
    for t in range(count):
        # Periods of 4 to 9 seconds at 10 frames a second, none a multiple of another.
        right, down, zoom, turn = np.sin(2 * np.pi * t / np.array([47.0, 61.0, 89.0, 73.0]))
        matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), ANGLE * turn, 1 + ZOOM * zoom)
        matrix[:, 2] += SHIFT * right * w, SHIFT * down * h
        moved = cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        noisy = moved + rng.normal(0, NOISE, moved.shape)
        yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def changes(states: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """States (T,N) over time -> how often each changes (N,), and how often from a yes to a no or back (N,), whatever
    lies between."""
    between = np.zeros(states.shape[1], np.int64)
    for k in range(states.shape[1]):
        claimed = states[:, k][np.isin(states[:, k], (YES, NO))]
        between[k] = (claimed[1:] != claimed[:-1]).sum()
    return np.asarray((states[1:] != states[:-1]).sum(0)), between


def flicker(clips: Mapping[str, Picture], start: Callable[[], Read], names: Sequence[str]) -> Figures:
    """Per clip: changes of the worst label and of all together, per minute at 10 frames a second.

    start: begins a clip. Frames without a face are counted, and left out of the comparison of neighbours."""
    out: Figures = {"clips": {}}
    columns = [k for k, n in enumerate(names) if n not in SKIPPED]
    for clip, image in clips.items():
        read, clip_states = start(), []
        for frame in tqdm(frames(image), total=FRAMES, desc=f"flicker: {clip}", mininterval=5):
            states = read(frame)
            if states is not None:
                clip_states.append(states[columns])
        out["clips"][clip] = {"frames": FRAMES, "without a face": FRAMES - len(clip_states)}
        if len(clip_states) > 1:
            out["clips"][clip] |= _figures(np.array(clip_states), [names[k] for k in columns])
    rows = [r for r in out["clips"].values() if "any state" in r]
    for kind in ("any state", "between yes and no"):
        if rows:
            out[kind] = {
                key: max(r[kind][key] for r in rows) for key in ("worst label, per minute", "all labels, per minute")
            }
    return out


def _figures(states: NDArray[np.int64], names: Sequence[str]) -> Figures:
    out: Figures = {}
    minutes = (len(states) - 1) / MINUTE
    for kind, counts in zip(("any state", "between yes and no"), changes(states), strict=True):
        order = np.argsort(-counts, kind="stable")
        out[kind] = {
            "changes": int(counts.sum()),
            "labels that change": int((counts > 0).sum()),
            "worst label": names[order[0]] if counts.any() else None,
            "worst label, changes": int(counts.max()),
            "worst label, per minute": counts.max() / minutes,
            "all labels, per minute": counts.sum() / minutes,
            "per label": {names[k]: int(counts[k]) for k in order if counts[k]},
        }
    return out
