"""Labelled faces as arrays of canonical crops.

Every image goes through the runtime's own detector and alignment, so that training sees what use will see.
Crops are cached once as .npy and opened memory-mapped.
"""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight.align import crop_matrix, similarity, warp
from faceinsight.detect import FaceDetector

from .vocabulary import NAMES


@dataclass(frozen=True)
class Faces:
    """Aligned CelebA-HQ faces: crops (N,S,S,3) uint8 RGB, labels (N,40) 0/1, index (N,) hq_idx.

    The training split is cut again: one face in twenty is kept out of training to calibrate on.
    part (N,): "train", "calibration" or "val".
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    part: NDArray[np.str_]
    index: NDArray[np.int64]

    def rows(self, part: str) -> NDArray[np.int64]:
        """Row numbers of one part."""
        return np.flatnonzero(self.part == part)


@dataclass(frozen=True)
class Masks:
    """Aligned CelebAMask-HQ pairs: crops (N,S,S,3) uint8 RGB, masks (N,S,S) uint8 0..18, train, index."""

    crops: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    train: NDArray[np.bool_]
    index: NDArray[np.int64]


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def _matrix(
    detector: FaceDetector, image: NDArray[np.uint8], template: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    faces = detector(image)
    if faces:
        return crop_matrix(faces[0].landmarks, template, size)
    # The set is aligned by its makers: where the detector sees nothing, the whole picture is the crop.
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    return similarity(unit * image.shape[0] - 0.5, unit * size - 0.5)


def read_image(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """RGB (H,W,3) of one archive member."""
    bgr = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{archive.filename}: {name} does not decode")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def load_faces(data: Path, cache: Path, detector: FaceDetector, template: NDArray[np.float32], size: int) -> Faces:
    """CelebA-HQ attributes; builds the cache on the first call."""
    rows = _rows(data / "celebahq.csv")
    target = cache / f"celebahq_{size}.npy"
    _build(
        target,
        cache / f"celebahq_{size}.json",
        template,
        lambda out: _write_faces(out, data, rows, detector, template, size),
    )
    labels = np.array([[int(r[n]) for n in NAMES] for r in rows], np.uint8)
    index = np.array([int(r["hq_idx"]) for r in rows])
    split = np.array([r["split"] for r in rows])
    part = np.where((split == "train") & (index % 20 == 0), "calibration", split)
    return Faces(np.load(target, mmap_mode="r"), labels, part, index)


def load_masks(data: Path, cache: Path, detector: FaceDetector, template: NDArray[np.float32], size: int) -> Masks:
    """CelebAMask-HQ pairs; image and mask go through the same transform (mask: nearest)."""
    rows = _rows(data / "celebamask.csv")
    target = cache / f"celebamask_{size}.npy"
    _build(
        target,
        cache / f"celebamask_{size}.json",
        template,
        lambda out: _write_masks(out, data, rows, detector, template, size),
    )
    both = np.load(target, mmap_mode="r")
    return Masks(
        both[..., :3],
        both[..., 3],
        np.array([r["split"] == "train" for r in rows]),
        np.array([int(r["hq_idx"]) for r in rows]),
    )


def _build(target: Path, sidecar: Path, template: NDArray[np.float32], write: object) -> None:
    """Run `write(temporary path)` unless the cache exists for this template."""
    key = {"template": np.asarray(template).round(6).tolist()}
    if target.exists() and sidecar.exists() and json.loads(sidecar.read_text()) == key:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".part.npy")
    assert callable(write)
    write(temporary)
    temporary.replace(target)
    sidecar.write_text(json.dumps(key))


def _write_faces(
    out: Path, data: Path, rows: list[dict[str, str]], detector: FaceDetector, template: NDArray[np.float32], size: int
) -> None:
    crops = np.lib.format.open_memmap(out, "w+", np.uint8, (len(rows), size, size, 3))
    with zipfile.ZipFile(data / "celebahq.zip") as archive:
        for i, row in enumerate(tqdm(rows, desc="aligning CelebA-HQ", unit="face")):
            image = read_image(archive, row["file"])
            crops[i] = warp(image, _matrix(detector, image, template, size), size)
    crops.flush()


def _write_masks(
    out: Path, data: Path, rows: list[dict[str, str]], detector: FaceDetector, template: NDArray[np.float32], size: int
) -> None:
    both = np.lib.format.open_memmap(out, "w+", np.uint8, (len(rows), size, size, 4))
    with zipfile.ZipFile(data / "celebamask.zip") as archive:
        for i, row in enumerate(tqdm(rows, desc="aligning CelebAMask-HQ", unit="pair")):
            image = read_image(archive, row["file"])
            mask = cv2.imdecode(np.frombuffer(archive.read(row["mask"]), np.uint8), cv2.IMREAD_GRAYSCALE)
            matrix = _matrix(detector, image, template, size)
            both[i, ..., :3] = warp(image, matrix, size)
            both[i, ..., 3] = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    both.flush()
