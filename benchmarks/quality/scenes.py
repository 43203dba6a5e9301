"""Are all faces found, and nothing else? Recall of the detector by kind of scene, false faces, and what it costs.

    python benchmarks/quality/scenes.py --data DIR --half choose --out OUT
    python benchmarks/quality/scenes.py --data DIR --before OTHER --out OUT

Scenes are composed (compositions.py) of faces of the labelled sets in DIR (docs/train.md). Constants of the detector
are chosen on one half, "choose"; figures are of the other, "report": other people, other places and widths. A face is
found if a box shares half of both areas' union with it, as far as they are inside of the photo; a scene is right if its
faces and nothing else are found. Cost is counted, not timed: runs of the network, and pixels that it saw. --before puts
the result of another version beside this one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from compositions import KINDS, LARGE, Head, Kind, Scene, inside
from crowds import SAME, Picture, heads, overlap, put, textures
from datasets import find
from faceinsight import FaceInsight, __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.host.machine import cores
from faceinsight.perception.detector import FaceDetector

Figures = dict[str, Any]
#: Sets of pictures in colour that are large enough to be pasted.
SETS = ("celeba", "fairface", "utkface")
#: Which of their people, and which random numbers.
HALVES = {"choose": 0, "report": 1}
#: Side of the squares that are shuffled: nothing of a face is left, all else of a photo is.
SQUARE = 20


class CountedNetwork:
    """The detector's network, and how much it had to do."""

    def __init__(self, network: Any) -> None:
        self._network, self.runs, self.pixels = network, 0, 0

    def detect(self, picture: Picture) -> Any:
        self.runs, self.pixels = self.runs + 1, self.pixels + picture.shape[0] * picture.shape[1]
        return self._network.detect(picture)


def halved(detector: FaceDetector, folder: Path, half: str, count: int) -> list[Head]:
    """People of one half, alike many of each set."""
    sets = find(folder, "val")
    missing = [name for name in SETS if name not in sets]
    if missing:
        raise SystemExit(f"{folder} holds no {missing[0]}; the scenes need {', '.join(SETS)}")
    return [head for name in SETS for head in heads(detector, sets[name][HALVES[half] :: 2], count // len(SETS))]


def judged(detector: FaceDetector, scene: Scene) -> tuple[int, int]:
    """How many of its faces are found, and how many boxes are none of them."""
    size = scene.photo.shape[1], scene.photo.shape[0]
    left = [inside(d.box, size) for d in detector.detect(scene.photo)]
    hits = 0
    for face in scene.boxes:
        best = max(left, key=lambda box: overlap(face, box), default=None)
        if best is not None and overlap(face, best) >= SAME:
            left.remove(best)
            hits += 1
    return hits, len(left)


def recall(detector: FaceDetector, kind: Kind, people: Sequence[Head], rng: np.random.Generator, count: int) -> Figures:
    """Of one kind of scene."""
    faces = hits = extra = right = 0
    for _ in range(count):
        scene = kind.scene(people, rng)
        found, others = judged(detector, scene)
        faces, hits, extra = faces + len(scene.boxes), hits + found, extra + others
        right += found == len(scene.boxes) and not others
    return {"scenes": count, "right": right, "faces": faces, "found": hits, "other boxes": extra}


def shuffled(people: Sequence[Head], size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Squares of photos of people, each turned: skin, hair and clothes, and no face."""
    columns, rows = size[0] // SQUARE + 1, size[1] // SQUARE + 1
    canvas = np.empty((rows * SQUARE, columns * SQUARE, 3), np.uint8)
    for k in range(rows * columns):
        image = people[int(rng.integers(len(people)))][0]
        y, x = (int(rng.integers(n - SQUARE)) for n in image.shape[:2])
        square = np.rot90(image[y : y + SQUARE, x : x + SQUARE], int(rng.integers(4)))
        top, left = k // columns * SQUARE, k % columns * SQUARE
        canvas[top : top + SQUARE, left : left + SQUARE] = square
    return np.ascontiguousarray(canvas[: size[1], : size[0]])


def false_faces(detector: FaceDetector, people: Sequence[Head], seed: int, count: int) -> list[Figures]:
    """A row for each size: pictures without a face, and faces in them."""
    rows = []
    for size in ((512, 512), (1920, 1080), LARGE):
        row: Figures = {"photo": f"{size[0]}x{size[1]}"}
        row |= dict.fromkeys(("textures", "faces in textures", "shuffled", "faces in shuffled"), 0)
        for k in range(count):
            rng = np.random.default_rng((seed, k))
            for _, picture in textures(size, rng):
                row["textures"] += 1
                row["faces in textures"] += len(detector.detect(picture))
            row["shuffled"] += 1
            row["faces in shuffled"] += len(detector.detect(shuffled(people, size, rng)))
        rows.append(row)
    return rows


def costs(detector: FaceDetector, people: Sequence[Head], seed: int) -> list[Figures]:
    """What the network has to do for some photos, the mean of each kind."""
    rng = np.random.default_rng(seed)

    def near(w: int, h: int) -> Picture:
        canvas = np.full((h, w, 3), (150, 160, 170), np.uint8)
        put(canvas, people[int(rng.integers(len(people)))], w // 4, h // 4, w / 5)
        return canvas

    pictures = {
        "one near face, 512 px": [near(512, 512) for _ in range(8)],
        "one near face, 12 MP": [near(*LARGE) for _ in range(4)],
        "a group of eight": [KINDS["eight people"].scene(people, rng).photo for _ in range(8)],
        "textures, 12 MP": [picture for _, picture in textures(LARGE, rng)],
        "shuffled squares, 12 MP": [shuffled(people, LARGE, rng)],
        "nothing at all, 12 MP": [np.full((*LARGE[::-1], 3), (150, 160, 170), np.uint8)],
        "nothing at all, 512 px": [np.full((512, 512, 3), (150, 160, 170), np.uint8)],
    }
    rows = []
    for name, photos in pictures.items():
        counted = CountedNetwork(detector.network)
        detector.network = counted  # type: ignore[assignment]
        for photo in photos:
            detector.detect(photo)
        detector.network = counted._network
        runs, pixels = (round(n / len(photos), 3) for n in (counted.runs, counted.pixels / 1e6))
        rows.append({"photo": name, "runs": runs, "megapixels": pixels})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled faces")
    parser.add_argument("--bundle", default="nano", help="name or folder of the bundle whose detector is measured")
    parser.add_argument("--half", choices=tuple(HALVES), default="report")
    parser.add_argument("--scenes", type=int, default=30, help="of each kind")
    parser.add_argument("--textures", type=int, default=4, help="pictures without a face, of each size and texture")
    parser.add_argument("--only", action="append", default=[], help="part of a kind's name; recall alone")
    parser.add_argument("--people", type=int, default=90, help="different ones")
    parser.add_argument("--before", type=Path, help="JSON of another version, to be shown beside this one")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    args = parser.parse_args()
    seed = HALVES[args.half]
    with FaceInsight.load(args.bundle, threads=1) as insight:
        detector = insight.perception.detector
        people = halved(detector, args.data, args.half, args.people)
        chosen = {k: v for k, v in KINDS.items() if not args.only or any(part in k for part in args.only)}
        found = {
            name: recall(detector, kind, people, np.random.default_rng((seed, number)), args.scenes)
            for number, (name, kind) in enumerate(tqdm(chosen.items(), desc="scenes", mininterval=5))
        }
        result: Figures = {"kinds": found}
        if not args.only:
            result["without a face"] = false_faces(detector, people, seed, args.textures)
            result["cost"] = costs(detector, people, seed)
    scenes = {name: sum(row[name] for row in found.values()) for name in next(iter(found.values()))}
    about = {
        "faceinsight": __version__,
        "machine": machine(),
        "cores": cores(),
        "OpenCV": cv2.__version__,
        "bundle sha256": Bundle.open(args.bundle).sha256,
        "half": args.half,
        "people": len(people),
        "all": scenes,
    }
    if args.before:
        before = json.loads(args.before.read_text())
        result["before"] = {name: before[name] for name in ("all", *result)}
    args.out.write_text(json.dumps(about | result, indent=1) + "\n")
    for name, row in {**found, "all": scenes}.items():
        print(f"{name:<36}", *row.values(), sep="\t")


if __name__ == "__main__":
    main()
