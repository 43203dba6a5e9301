"""A camera watched: how old a frame is when its boxes and its labels are there, what that costs, and what flickers.

    python benchmarks/speed/live.py --out work/live.json               (seven minutes)
    python benchmarks/speed/live.py --out live.json --seconds 10 --people 1

A video of the portrait, once and four times, moving and noisy, is played by `faceinsight.camera.Camera` as a camera
would send it, and watched by `faceinsight.live.Watcher`. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceinsight import FaceInsight, __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.camera import Camera
from faceinsight.live import Watcher
from serve import PHOTO, percentiles

SIZE, FPS = (1280, 720), 15
#: Seconds after which what is shown is compared with photos.
SETTLED = 3
#: The portrait's width by how many there are, and how far it sways.
WIDTH, SWAY = {1: 512, 4: 300}, 25


def frame(photo: NDArray[np.uint8], people: int, i: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """BGR: people side by side who sway, in light that changes."""
    width = WIDTH[people]
    portrait = cv2.resize(photo, (width, width), interpolation=cv2.INTER_AREA)
    out = np.full((SIZE[1], SIZE[0], 3), 90, np.float32)
    for k in range(people):
        middle = SIZE[0] * (k + 0.5) / people
        x = int(middle - width / 2 + SWAY * np.sin(i / 11 + 2 * k))
        y = int((SIZE[1] - width) / 2 + SWAY / 2 * np.cos(i / 17 + k))
        x = min(max(x, 0), SIZE[0] - width)
        out[y : y + width, x : x + width] = portrait
    lit = out * (1 + 0.15 * np.sin(i / 40)) + rng.normal(0, 5, out.shape)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def video(path: Path, people: int, seconds: float) -> None:
    photo, rng = np.asarray(cv2.imread(str(PHOTO)), np.uint8), np.random.default_rng(people)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, SIZE)
    for i in range(int(seconds * FPS)):
        out.write(frame(photo, people, i, rng))
    out.release()


def watch(insight: FaceInsight, people: int, seconds: float) -> dict[str, Any]:
    """One video from its beginning to its end."""
    boxes: list[float] = []
    labels: list[float] = []
    looks = 0
    shown: dict[tuple[str, str], list[str]] = defaultdict(list)
    changes = returns = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.avi"
        video(path, people, seconds)
        watcher = Watcher(insight)
        before, began = cpu(), time.monotonic()
        with Camera(f"file:{path}", size=SIZE, fps=FPS, loop=False) as camera:
            for found in camera:
                events = watcher.update(found.image, found.time)
                age = time.monotonic() - found.time
                (labels if watcher.looks > looks else boxes).append(age)
                looks = watcher.looks
                for event in events:
                    if event.kind not in ("appeared", "labels"):
                        continue
                    for name, (state, _) in event.values["labels"].items():
                        states = shown[event.track, name]
                        changes, returns = changes + bool(states), returns + (state in states)
                        states.append(state)
            status, tracks = camera.status, len(watcher.people)
            spent, taken = cpu() - before, time.monotonic() - began
            watcher.end(time.monotonic())
    return {
        "people": people,
        "seconds": round(taken, 1),
        "frames": status.frames,
        "watched": status.frames - status.dropped,
        "tracks at the end": tracks,
        "looks": looks,
        "frame to boxes": percentiles(boxes),
        "frame to labels": percentiles(labels),
        "cores": round(spent / taken, 2),
        "changes of a state, a track and minute": round(changes / people / (taken / 60), 2),
        "back to an earlier one, a track and minute": round(returns / people / (taken / 60), 2),
    }


def agreement(insight: FaceInsight, people: int, seconds: float) -> dict[str, Any]:
    """Labels as they are shown, against those of a photo: of one frame a second, where the photo claims something; and
    how far two photos of one person agree, a second apart."""
    photo, rng = np.asarray(cv2.imread(str(PHOTO)), np.uint8), np.random.default_rng(people)
    watcher = Watcher(insight)
    claims = agreed = unsure = faces = missed = pairs = alike = 0
    last: dict[str, dict[str, str]] = {}
    for i in range(int(seconds * FPS)):
        image = np.ascontiguousarray(frame(photo, people, i, rng)[:, :, ::-1])
        watcher.update(image, i / FPS)
        if i % FPS or i < SETTLED * FPS:
            continue
        for face in insight.perceive(image):
            x, y = face.box[0] + face.box[2] / 2, face.box[1] + face.box[3] / 2
            person = next((p for p in watcher.people if holds(p.track.box, x, y)), None)
            faces, missed = faces + 1, missed + (person is None)
            if person is None:
                continue
            shown = {label.name: label.state for label in person.labels}
            before = last.get(person.track.id, {})
            last[person.track.id] = {label.name: label.state for label in face.labels}
            for label in face.labels:
                if label.state in ("yes", "no"):
                    pairs, alike = pairs + bool(before), alike + (before.get(label.name) == label.state)
                    claims += 1
                    agreed += shown[label.name] == label.state
                    unsure += shown[label.name] not in ("yes", "no")
    watcher.end(seconds)
    return {
        "faces of the photos": faces,
        "not tracked": missed,
        "claims of the photos": claims,
        "the same": round(agreed / claims, 4),
        "in doubt": round(unsure / claims, 4),
        "the opposite": round((claims - agreed - unsure) / claims, 4),
        "two photos a second apart, the same": round(alike / max(1, pairs), 4),
    }


def holds(box: tuple[float, float, float, float], x: float, y: float) -> bool:
    return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]


def cpu() -> float:
    """Seconds of this process and its children, those that have ended included."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--people", type=int, nargs="+", choices=list(WIDTH), default=list(WIDTH))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with FaceInsight.load(args.bundle, device="cpu") as insight:
        result = {
            "faceinsight": __version__,
            "machine": machine(),
            "bundle": args.bundle,
            "bundle_sha256": Bundle.open(args.bundle).sha256,
            "size": SIZE,
            "fps": FPS,
            "runs": [
                watch(insight, people, args.seconds)
                | {"labels against photos": agreement(insight, people, args.seconds)}
                for people in args.people
            ],
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
