"""Labelled faces to measure on, in the layouts in which their makers publish them.

| set | what is looked for in the folder |
| --- | --- |
| CelebA-HQ, FairFace, FER+ of docs/training.md | `celebahq.csv`, `fairface.csv`, `ferplus.csv`, the zip beside each |
| CelebA | `list_attr_celeba.txt`, `list_eval_partition.txt`, `img_align_celeba/` |
| FairFace | `fairface_label_train.csv`, `fairface_label_val.csv` with `file, age, gender, race` |
| FER+ | `fer2013new.csv` and the folders `FER2013Train`, `FER2013Valid`, `FER2013Test` |
| UTKFace | files named `AGE_GENDER_RACE_DATE.jpg` |
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceinsight.imaging import load_image
from faceinsight_models import data as training
from faceinsight_models.vocabulary import AGES, CELEBA, EXPRESSIONS, NAMES

#: First and last year of each age bin; the last bin is taken to end at 90.
YEARS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 90))
UTKFACE = re.compile(r"^(\d{1,3})_([01])_[0-4]_\d+.*\.(?:jpg|jpeg|png)$")


@dataclass(frozen=True)
class Sample:
    """One picture: how to read it (RGB), labels (N,) with NaN where unknown, age in years where it is known."""

    read: Callable[[], NDArray[np.uint8]]
    labels: NDArray[np.float32]
    years: float | None = None


def find(folder: Path, split: str) -> dict[str, list[Sample]]:
    """The sets a folder holds, by name. Raises FileNotFoundError where there is none."""
    readers = {"celeba": _celeba, "fairface": _fairface, "ferplus": _ferplus, "utkface": _utkface}
    found = {name: samples for name, read in readers.items() if (samples := read(folder, split))}
    if not found:
        raise FileNotFoundError(f"{folder} holds none of the sets that benchmarks/datasets.py knows, split {split!r}")
    return found


def _zipped(folder: Path, name: str, split: str) -> list[Sample]:
    """A set in the training layout: CSV and zip."""
    rows = [r for r in training.set_rows(folder, name) if r["split"] == split]
    archive = zipfile.ZipFile(folder / f"{name}.zip")
    labels = training.SETS[name](rows)
    return [Sample(partial(training.read_image, archive, r["file"]), y) for r, y in zip(rows, labels, strict=True)]


def _celeba(folder: Path, split: str) -> list[Sample]:
    if (folder / "celebahq.csv").is_file():
        return _zipped(folder, "celebahq", split)
    table, parts = folder / "list_attr_celeba.txt", folder / "list_eval_partition.txt"
    if not (table.is_file() and parts.is_file()):
        return []
    number = {"train": "0", "val": "1", "test": "2"}[split]
    chosen = {f for f, n in (line.split() for line in parts.read_text().splitlines()) if n == number}
    _, header, *lines = table.read_text().splitlines()
    rows = []
    for line in lines:
        file, *values = line.split()
        if file in chosen:
            rows.append({"file": file} | {n: str(int(v == "1")) for n, v in zip(header.split(), values, strict=True)})
    images = folder / "img_align_celeba"
    missing = [n for n in CELEBA if n not in header.split()]
    if missing:
        raise ValueError(f"{table}: no column {missing[0]!r}")
    return _files(images, [r["file"] for r in rows], training.celebahq_labels(rows))


def _fairface(folder: Path, split: str) -> list[Sample]:
    if (folder / "fairface.csv").is_file():
        return _zipped(folder, "fairface", split)
    table = folder / f"fairface_label_{split}.csv"
    if not table.is_file():
        return []
    own = training.read_rows(table)
    return _files(folder, [r["file"] for r in own], training.fairface_labels(own))


def _ferplus(folder: Path, split: str) -> list[Sample]:
    if (folder / "ferplus.csv").is_file():
        return _zipped(folder, "ferplus", split)
    table = folder / "fer2013new.csv"
    if not table.is_file():
        return []
    usage, place = {
        "train": ("Training", "FER2013Train"),
        "val": ("PublicTest", "FER2013Valid"),
        "test": ("PrivateTest", "FER2013Test"),
    }[split]
    kept, files = [], []
    for row in training.read_rows(table):
        votes = {f"votes_{n.lower()}": row[n.lower()] for n in EXPRESSIONS}
        counts = sorted((int(v) for v in votes.values()), reverse=True)
        others = int(row["unknown"]) + int(row["NF"])
        # A strict majority of all votes for one expression, as the FER+ paper's "majority" mode keeps.
        if row["Usage"] == usage and row["Image name"] and 2 * counts[0] > sum(counts) + others:
            kept.append(votes)
            files.append(row["Image name"])
    return _files(folder / place, files, training.ferplus_labels(kept)) if kept else []


def _utkface(folder: Path, split: str) -> list[Sample]:
    """Age in years and gender; the set has no split, so every picture counts whatever is asked for."""
    out = []
    for path in sorted(folder.glob("*_*_*_*.*")):
        if match := UTKFACE.match(path.name):
            years, labels = int(match[1]), np.full(len(NAMES), np.nan, np.float32)
            labels[[NAMES.index(n) for n in AGES]] = [
                low <= years <= (high if k < len(YEARS) - 1 else 200) for k, (low, high) in enumerate(YEARS)
            ]
            labels[NAMES.index("Male")] = match[2] == "0"
            out.append(Sample(partial(load_image, path), labels, float(years)))
    return out


def _files(folder: Path, names: Sequence[str], labels: NDArray[np.float32]) -> list[Sample]:
    return [Sample(partial(load_image, folder / n), y) for n, y in zip(names, labels, strict=True)]
