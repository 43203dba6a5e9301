"""Labelled faces of several sets.

Every picture goes through the runtime's own detector and alignment, so training and use have the same crops. Only the
landmarks are cached: pictures are read from their archives when they are needed.
"""

from __future__ import annotations

import json
import logging
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight.perception.alignment import crop_matrix, warp
from faceinsight.perception.detector import FaceDetector

from ..taxonomy import CELEBA
from .files import COLUMNS, WHERE, open_pictures, read_image, read_mask, read_rows
from .labels import SETS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Faces:
    """Faces of all sets.

    Attributes:
        archives: one per set.
        source: (N,) which set.
        files: (N,) names in the archive.
        landmarks: (N,5,2) in picture pixels.
        labels: (N,K) float32: 0 or 1, a share of votes (expression), or NaN where the set does not say. Several ones
            among the members of an exclusive group: it is one of these, the set does not say which.
        years: (N,) age in years, NaN where the set does not say or gives a range only.
        part: (N,) "train", "calibration" (one training picture in twenty) or "val".
        template: (5,2) of the canonical crop.
    """

    archives: tuple[Path, ...]
    source: NDArray[np.int64]
    files: tuple[str, ...]
    landmarks: NDArray[np.float32]
    labels: NDArray[np.float32]
    years: NDArray[np.float32]
    part: NDArray[np.str_]
    template: NDArray[np.float32]
    _open: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def rows(self, part: str, source: int | None = None) -> NDArray[np.int64]:
        """Row numbers of one part, of one set or all."""
        return np.flatnonzero((self.part == part) & ((source is None) | (self.source == source)))

    def counts(self) -> dict[str, int]:
        """Set -> training faces."""
        return {a.stem: len(self.rows("train", i)) for i, a in enumerate(self.archives)}

    def picture(self, row: int) -> NDArray[np.uint8]:
        """RGB (H,W,3). An archive is opened once per thread."""
        if not hasattr(self._open, "zips"):
            self._open.zips = [zipfile.ZipFile(a) for a in self.archives]
        return read_image(self._open.zips[self.source[row]], self.files[row])

    def crop(self, row: int, size: int, motion: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """The canonical crop (size,size,3), moved by a (2,3) matrix in its own pixels if one is given."""
        matrix = crop_matrix(self.landmarks[row], self.template, size)
        if motion is not None:
            matrix = (motion @ np.vstack([matrix, [0, 0, 1]])).astype(np.float32)
        return warp(self.picture(row), matrix, size)


@dataclass(frozen=True)
class Masks:
    """Aligned pairs of CelebAMask-HQ.

    Attributes:
        crops: (N,S,S,3) uint8 RGB.
        masks: (N,S,S) uint8 label maps, 0..18.
        train: (N,) is it a training pair?
        index: (N,) number in CelebA-HQ.
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    train: NDArray[np.bool_]
    index: NDArray[np.int64]


class Mixture:
    """Draws training rows: each set has its share of a batch, whatever its size."""

    def __init__(self, faces: Faces, sampling_weights: Mapping[str, float]) -> None:
        """Draw from the sets that have a weight.

        Args:
            faces: faces of all sets.
            sampling_weights: set name -> weight; a set without one is not drawn from.

        Raises:
            ValueError: no set of `faces` has a weight.
        """
        stems = [a.stem for a in faces.archives]
        drawn = [i for i, stem in enumerate(stems) if sampling_weights.get(stem, 0) > 0]
        if not drawn:
            raise ValueError(f"none of the sets {', '.join(stems)} has a share in the recipe's sampling_weights")
        self.rows = [faces.rows("train", i) for i in drawn]
        weight = np.array([sampling_weights[stems[i]] for i in drawn])
        self.share = weight / weight.sum()
        #: Faces drawn so that the best represented set is seen once.
        self.epoch = int(max(len(r) / s for r, s in zip(self.rows, self.share, strict=True)))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` rows, with replacement."""
        which = rng.choice(len(self.rows), count, p=self.share)
        return np.array([rng.choice(self.rows[i]) for i in which])


#: Terms of the sets, for the licence ledger of what is trained on them.
TERMS = {
    "celebahq": "CelebA-HQ and CelebAMask-HQ (non-commercial research)",
    "fairface": "FairFace (CC BY 4.0)",
    "ferplus": "FER2013 images (research) with FER+ labels (MIT)",
    "utkface": "UTKFace (non-commercial research)",
}


def set_rows(data: Path, name: str) -> list[dict[str, str]]:
    """The usable rows of a set's CSV: of FER+ those on whose expression a strict majority agrees."""
    rows = read_rows(data / f"{name}.csv", COLUMNS[name])
    return [r for r in rows if r.get("ferplus_usable", "1") == "1"]


def require(data: Path, *, masks: bool = False) -> None:
    """What training needs is there, and in its form; said before hours of it. masks: CelebAMask-HQ's pairs too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not in its form; the message says what is missing.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"--data {data}: no such folder; expected one of labelled faces, {WHERE}")
    faces = load_pictures(data)
    for name, count in faces.counts().items():
        if not count:
            raise ValueError(f"{data / name}.csv: fewer than two rows have the split train; {WHERE}")
    if not masks:
        return
    if not (data / "celebamask.csv").is_file():
        raise FileNotFoundError(
            f"{data} holds no celebamask.csv: parser and encoder learn from CelebAMask-HQ's pairs of picture and mask, "
            f"whatever sets of faces there are; {WHERE}"
        )
    read_rows(data / "celebamask.csv", COLUMNS["celebamask"])
    open_pictures(data, "celebamask").close()


def load_faces(data: Path, cache: Path, detector: FaceDetector, template: NDArray[np.float32]) -> Faces:
    """All sets of the data folder; finds and caches their landmarks on the first call."""
    faces = load_pictures(data)
    landmarks = [_landmarks(data, a.stem, set_rows(data, a.stem), cache, detector) for a in faces.archives]
    return replace(faces, landmarks=np.concatenate(landmarks), template=np.asarray(template, np.float32))


def load_pictures(data: Path) -> Faces:
    """All sets of the data folder, without looking where in a picture the face is: landmarks and template are empty."""
    found = [n for n in SETS if (data / f"{n}.csv").is_file()]
    if not found:
        raise FileNotFoundError(f"{data} holds none of {', '.join(f'{n}.csv' for n in SETS)}: {WHERE}")
    rows = [set_rows(data, n) for n in found]
    for n in found:
        open_pictures(data, n).close()
    part = [_parts([r["split"] for r in rows_of_set]) for rows_of_set in rows]
    return Faces(
        tuple(data / f"{n}.zip" for n in found),
        np.repeat(np.arange(len(found)), [len(r) for r in rows]),
        tuple(r["file"] for rows_of_set in rows for r in rows_of_set),
        np.empty((0, 5, 2), np.float32),
        np.concatenate([_labels(n, rows_of_set) for n, rows_of_set in zip(found, rows, strict=True)]),
        np.array([_years(r) for rows_of_set in rows for r in rows_of_set], np.float32),
        np.concatenate(part),
        np.empty((0, 2), np.float32),
    )


def _labels(name: str, rows: Sequence[dict[str, str]]) -> NDArray[np.float32]:
    """Labels of a set's rows.

    Raises:
        ValueError: a value is not in the set's words; the message has the row's file.
    """
    try:
        return SETS[name](rows)
    except (KeyError, ValueError) as e:
        if len(rows) == 1:
            values = {c: rows[0][c] for c in COLUMNS[name] if c not in (*CELEBA, "file")}
            raise ValueError(
                f"{name}.csv, {rows[0]['file']}: a value is not in the set's words: {values}; {WHERE}"
            ) from e
        for row in rows:
            _labels(name, [row])
        raise


def _years(row: dict[str, str]) -> float:
    """A row's age where it is a number of years: FairFace has ranges."""
    age = row.get("age", "")
    return float(age) if age.isdigit() else np.nan


def _parts(splits: Sequence[str]) -> NDArray[np.str_]:
    """One training picture in twenty is kept out of training to calibrate on."""
    part = np.array(splits, dtype="<U11")
    part[np.flatnonzero(part == "train")[::20]] = "calibration"
    return part


def _landmarks(
    data: Path, name: str, rows: Sequence[dict[str, str]], cache: Path, detector: FaceDetector
) -> NDArray[np.float32]:
    """(N,5,2) of the largest face in each picture; where there is none, the mean of its set."""
    target = cache / f"{name}_landmarks.npy"
    if target.exists():
        known = np.asarray(np.load(target))
        if len(known) == len(rows):
            return known
    out = np.full((len(rows), 5, 2), np.nan, np.float32)
    with open_pictures(data, name) as archive:
        for i, row in enumerate(tqdm(rows, desc=f"finding faces: {name}", unit="face", mininterval=5)):
            faces = detector.detect(read_image(archive, row["file"]))
            if faces:
                out[i] = faces[0].landmarks
    missing = np.isnan(out[:, 0, 0])
    out[missing] = out[~missing].mean(0)
    log.info("%s: no face found in %d of %d pictures", name, missing.sum(), len(rows))
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, out)
    return out


def load_masks(data: Path, cache: Path, detector: FaceDetector, template: NDArray[np.float32], size: int) -> Masks:
    """CelebAMask-HQ pairs; image and mask go through the same transform (mask: nearest)."""
    rows = read_rows(data / "celebamask.csv", COLUMNS["celebamask"])
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


def _build(target: Path, sidecar: Path, template: NDArray[np.float32], write: Callable[[Path], None]) -> None:
    """Run `write(temporary path)` unless the cache exists for this template."""
    key = {"template": np.asarray(template).round(6).tolist()}
    if target.exists() and sidecar.exists() and json.loads(sidecar.read_text()) == key:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".part.npy")
    write(temporary)
    temporary.replace(target)
    sidecar.write_text(json.dumps(key))


def _write_masks(
    out: Path, data: Path, rows: list[dict[str, str]], detector: FaceDetector, template: NDArray[np.float32], size: int
) -> None:
    both = np.lib.format.open_memmap(out, "w+", np.uint8, (len(rows), size, size, 4))
    with open_pictures(data, "celebamask") as archive:
        for i, row in enumerate(tqdm(rows, desc="aligning CelebAMask-HQ", unit="pair")):
            image = read_image(archive, row["file"])
            mask = read_mask(archive, row["mask"])
            faces = detector.detect(image)
            # These pictures are aligned by their makers: one in which no face is found says the crop is at fault.
            if not faces:
                raise ValueError(f"celebamask: no face found in {row['file']}")
            matrix = crop_matrix(faces[0].landmarks, template, size)
            both[i, ..., :3] = warp(image, matrix, size)
            both[i, ..., 3] = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    both.flush()
