"""Recall of the detector by face size and photo size, false faces on textures, and latency.

    python benchmarks/quality/crowds.py --data DIR --out crowds.json

Crowds are composed: faces of the first labelled set in DIR (docs/train.md), scaled to a width and put on a wall,
without and with a near face. A face counts as found if a box shares half of both areas' union with it. Textures are
drawn; whatever is found in one is false. Latency is the detector's, photo sizes in turns: absolute values hold for this
machine, as busy as it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets import Sample, find
from faceinsight import FaceInsight
from faceinsight.perception.detector import Detection, FaceDetector

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]

PHOTOS = ((640, 480), (1920, 1080), (4000, 3000))
WIDTHS = (12, 16, 20, 24, 32, 48, 96)
#: Faces of a crowd at most; width of the near one as a share of the photo's.
CROWD, NEAR = 12, 0.15
#: Intersection over union from which a box is a face's.
SAME = 0.5


def heads(detector: FaceDetector, samples: Iterable[Sample], count: int) -> list[tuple[Picture, Box]]:
    """Pictures with one face each, and its box; cut to head and hair."""
    out = []
    for sample in samples:
        image = sample.read()
        found = detector.detect(image)
        if len(found) != 1 or found[0].score < 0.85:
            continue
        x, y, w, h = found[0].box
        left, top = max(0, round(x - 0.3 * w)), max(0, round(y - 0.4 * h))
        out.append((image[top : round(y + 1.2 * h), left : round(x + 1.3 * w)], (x - left, y - top, w, h)))
        if len(out) == count:
            break
    return out


def put(canvas: Picture, head: tuple[Picture, Box], x: int, y: int, width: float) -> Box:
    """The head with its corner at x, y, its face as wide as that; its box in the canvas."""
    image, box = head
    factor = width / box[2]
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    canvas[y : y + size[1], x : x + size[0]] = small
    return x + box[0] * factor, y + box[1] * factor, box[2] * factor, box[3] * factor


def crowd(
    people: Sequence[tuple[Picture, Box]], size: tuple[int, int], width: int, near: bool, rng: np.random.Generator
) -> tuple[Picture, list[Box]]:
    """A photo of faces of one width, and their boxes; the near one, if any, is not among these."""
    canvas = np.full((size[1], size[0], 3), rng.integers(60, 200, 3), np.uint8)
    begin = 0
    if near:
        put(canvas, people[int(rng.integers(len(people)))], 0, 0, NEAR * size[0])
        begin = round(0.4 * size[0])
    # Places that do not touch, in an order of their own, each with a shift.
    cell = round(2.6 * width)
    places = list(itertools.product(range(begin, size[0] - cell, cell), range(0, size[1] - cell, cell)))
    boxes = []
    for k in rng.permutation(len(places))[:CROWD]:
        x, y = places[k]
        head = people[int(rng.integers(len(people)))]
        boxes.append(put(canvas, head, x + int(rng.integers(width // 4 + 1)), y, width))
    return canvas, boxes


def found(boxes: Sequence[Box], detections: Sequence[Detection]) -> int:
    """How many of the boxes are among the detections?"""
    return sum(any(overlap(box, d.box) >= SAME for d in detections) for box in boxes)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def recall(detector: FaceDetector, people: Sequence[tuple[Picture, Box]], photos: int) -> list[dict[str, Any]]:
    """A row for each photo size, near face and width."""
    rows = []
    for size, near, width in tqdm(list(itertools.product(PHOTOS, (False, True), WIDTHS)), desc="crowds", mininterval=5):
        rng = np.random.default_rng(width)
        hits = people_in = extra = 0
        for _ in range(photos):
            canvas, boxes = crowd(people, size, width, near, rng)
            detections = detector.detect(canvas)
            right = found(boxes, detections)
            hits, people_in = hits + right, people_in + len(boxes)
            extra += max(0, len(detections) - right - near)
        share = round(hits / people_in, 3) if people_in else None
        rows.append(
            {"photo": f"{size[0]}x{size[1]}", "near face": near, "face": width}
            | {"faces": people_in, "recall": share, "other boxes": extra}
        )
    return rows


def textures(size: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    """Pictures without a face, by kind."""
    w, h = size

    def noise(scale: float) -> Picture:
        small = rng.normal(128, 60, (max(2, round(h / scale)), max(2, round(w / scale)), 3)).clip(0, 255)
        return np.asarray(cv2.resize(small.astype(np.uint8), size, interpolation=cv2.INTER_CUBIC), np.uint8)

    for scale in (1, 4, 12, 40):
        yield f"noise of {scale} px", noise(scale)
    yield "noise of all sizes", np.mean([noise(2.0**k) for k in range(7)], 0).astype(np.uint8)
    rows, columns = np.mgrid[:h, :w]
    brick = (rows % 24 < 3) | ((columns + rows // 24 % 2 * 30) % 60 < 3)
    wall = np.asarray(np.where(brick[:, :, None], [190, 185, 180], [150, 80, 60]), np.uint8)
    yield "bricks", cv2.addWeighted(wall, 0.8, noise(3), 0.2, 0)
    for name, colours in (("leaves", ((20, 60, 10), (120, 190, 80))), ("stones", ((90, 80, 70), (210, 200, 190)))):
        canvas = np.full((h, w, 3), colours[0], np.uint8)
        for _ in range(min(6000, w * h // 300)):
            middle = (int(rng.integers(w)), int(rng.integers(h)))
            axes = tuple(int(v) for v in rng.integers(4, 26, 2))
            colour = tuple(int(v) for v in rng.integers(*colours))
            cv2.ellipse(canvas, middle, axes, float(rng.integers(180)), 0, 360, colour, -1, cv2.LINE_AA)
        yield name, canvas


def false_faces(detector: FaceDetector, photos: int) -> list[dict[str, Any]]:
    """A row for each photo size and kind of texture."""
    rows: dict[tuple[str, str], int] = {}
    for size in ((512, 512), *PHOTOS[1:]):
        for k in range(photos):
            for kind, picture in textures(size, np.random.default_rng(k)):
                key = (f"{size[0]}x{size[1]}", kind)
                rows[key] = rows.get(key, 0) + len(detector.detect(picture))
    return [{"photo": s, "texture": kind, "false faces per photo": n / photos} for (s, kind), n in rows.items()]


def latency(
    detector: FaceDetector, people: Sequence[tuple[Picture, Box]], rounds: int
) -> dict[str, dict[str, float | int]]:
    """Milliseconds of one near face in a photo of 512 px and of 12 megapixels, in turns."""
    photos: dict[str, Picture] = {}
    for name, (w, h) in {"512 px": (512, 512), "12 MP": (4000, 3000)}.items():
        photos[name] = np.full((h, w, 3), (150, 160, 170), np.uint8)
        put(photos[name], people[0], w // 4, h // 4, w / 5)
    times: dict[str, list[float]] = {name: [] for name in photos}
    _in_turns(detector, photos, lambda *_: None)
    for _ in range(rounds):
        _in_turns(detector, photos, lambda name, ms: times[name].append(ms))
    return {
        name: {"median ms": round(float(np.median(t)), 2), "p90 ms": round(float(np.percentile(t, 90)), 2), "n": len(t)}
        for name, t in times.items()
    }


def _in_turns(detector: FaceDetector, photos: dict[str, Picture], note: Callable[[str, float], None]) -> None:
    for name, photo in photos.items():
        began = time.perf_counter()
        detector.detect(photo)
        note(name, 1e3 * (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled faces")
    parser.add_argument("--bundle", default="nano", help="name or folder of the bundle whose detector is measured")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--people", type=int, default=40, help="different faces in the crowds")
    parser.add_argument("--photos", type=int, default=4, help="photos per row")
    parser.add_argument("--rounds", type=int, default=30, help="of latency")
    args = parser.parse_args()
    with FaceInsight.load(args.bundle, threads=1) as insight:
        detector = insight.perception.detector
        people = heads(detector, next(iter(find(args.data, "val").values())), args.people)
        result = {
            "machine": {"processor": platform.processor() or platform.machine(), "OpenCV": cv2.__version__},
            "photos per row": args.photos,
            "recall": recall(detector, people, args.photos),
            "textures": false_faces(detector, args.photos),
            "latency": latency(detector, people, args.rounds),
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["recall"]:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
