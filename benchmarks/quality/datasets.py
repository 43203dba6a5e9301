"""Labelled faces to measure on, in the layouts in which their makers publish them.

| set | what is looked for in the folder |
| --- | --- |
| CelebA-HQ, FairFace, FER+, UTKFace of docs/train.md | `celebahq.csv`, `fairface.csv`, ..., the zip beside each |
| CelebAMask-HQ | `CelebAMask-HQ-attribute-anno.txt`, `CelebA-HQ-to-CelebA-mapping.txt`, `CelebA-HQ-img/` |
| CelebA | `list_attr_celeba.txt` or `.csv`, `list_eval_partition.txt` or `.csv`, `img_align_celeba/`; `Anno/` ... |
| FairFace | `fairface_label_train.csv`, `fairface_label_val.csv` with `file, age, gender, race` |
| FER+ | `fer2013new.csv`; `FER2013Train`, `FER2013Valid`, `FER2013Test` or else `fer2013.csv` |
| UTKFace | files named `AGE_GENDER_RACE_DATE.jpg`, in the folder, in `UTKFace/` or in `crop_part1/` |

Masks are read by benchmarks/quality/masks.py, photos of strangers by benchmarks/quality/strangers.py.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight.errors import ImageError
from faceinsight.perception.image import load_image
from faceinsight_models.data import faces as training
from faceinsight_models.data import labels as labels_of
from faceinsight_models.data.files import read_image, read_rows
from faceinsight_models.taxonomy import CELEBA, EXPRESSIONS

#: First and last year of each age bin; the last bin is taken to end at 90.
YEARS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 90))
UTKFACE = re.compile(r"^(\d{1,3})_([01])_([0-4])_\d+.*\.(?:jpg|jpeg|png)$")
#: UTKFace's numbers of genders and races.
UTKFACE_GENDERS = ("Male", "Female")
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Others")
#: What a picture that is damaged or missing raises, from a file or from an archive.
UNREADABLE = (ImageError, OSError, ValueError, KeyError, zipfile.BadZipFile)

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Sample:
    """One picture: how to read it (RGB), labels (N,) with NaN where unknown, age in years where it is known, its name.

    Several ones among a choice's members: it is one of these, the set does not say which."""

    read: Callable[[], NDArray[np.uint8]]
    labels: NDArray[np.float32]
    years: float | None = None
    name: str = ""


def find(folder: Path, split: str) -> dict[str, list[Sample]]:
    """The sets a folder holds, by name. Raises FileNotFoundError where there is nothing at all to measure on."""
    readers = {"celeba": _celeba, "fairface": _fairface, "ferplus": _ferplus, "utkface": _utkface}
    found = {name: samples for name, read in readers.items() if (samples := read(folder, split))}
    others = ("celebamask.csv", "strangers.csv")
    if not found and not any((folder / name).is_file() for name in others):
        raise FileNotFoundError(
            f"{folder} holds none of the sets that benchmarks/quality/datasets.py knows, split {split!r}"
        )
    return found


def notes(folder: Path, split: str) -> list[str]:
    """What a reader of the figures must know about the sets that `find` takes."""
    out = []
    if split == "test" and _fairface(folder, split):
        out.append("fairface: its test labels are not published; these are the official validation faces")
    if _utkface(folder, split) and not _zipped(folder, "utkface", split):
        out.append("utkface: published without a split; every picture counts")
    if (home := _maskhq(folder)) and not _partition(home, folder):
        out.append("celeba: no list_eval_partition beside CelebAMask-HQ; every picture counts, whatever its split")
    if home and (folder / "celebahq.csv").is_file():
        out.append("celeba: celebahq.csv is measured, CelebAMask-HQ's attributes are not")
    elif _table(folder, "list_attr_celeba") and (home or (folder / "celebahq.csv").is_file()):
        out.append("celeba: the pictures of CelebA-HQ are measured, those of CelebA are not")
    return out


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly over all: UTKFace's names begin with the age, so its first ones are no sample."""
    if count >= len(samples):
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]


def sound(samples: Sequence[Sample], name: str) -> tuple[list[Sample], list[str]]:
    """The samples whose pictures can be read, and the names of the others."""
    usable: list[Sample] = []
    damaged: list[str] = []
    for sample in tqdm(samples, desc=f"reading {name}", mininterval=5):
        try:
            sample.read()
        except UNREADABLE:
            damaged.append(sample.name)
        else:
            usable.append(sample)
    return usable, damaged


def _zipped(folder: Path, name: str, split: str) -> list[Sample]:
    """A set in the training layout: CSV and zip."""
    if not (folder / f"{name}.csv").is_file():
        return []
    rows = [r for r in training.set_rows(folder, name) if r["split"] == split]
    archive = zipfile.ZipFile(folder / f"{name}.zip")
    labels = labels_of.SETS[name](rows)
    return [
        Sample(partial(read_image, archive, r["file"]), y, _exact(r), r["file"])
        for r, y in zip(rows, labels, strict=True)
    ]


def _exact(row: dict[str, str]) -> float | None:
    """A row's age where it is a number of years: FairFace has ranges."""
    age = row.get("age", "")
    return float(age) if age.isdigit() else None


def _files(folder: Path, names: Sequence[str], labels: NDArray[np.float32], rows: Rows | None = None) -> list[Sample]:
    years = [_exact(r) for r in rows] if rows else [None] * len(names)
    found = zip(names, labels, years, strict=True)
    return [Sample(partial(load_image, folder / n), y, age, n) for n, y, age in found]


def _table(folder: Path, stem: str) -> Path | None:
    """CelebA's tables come as text from their makers, in folders of their own, and as CSV from Kaggle."""
    places = (folder, folder / "Anno", folder / "Eval")
    names = (f"{stem}.txt", f"{stem}.csv")
    return next((p / n for p in places for n in names if (p / n).is_file()), None)


def _cells(path: Path) -> Iterator[list[str]]:
    """Lines of a table, split at commas or blanks; a first line that holds only their count is left out."""
    for number, line in enumerate(path.read_text().splitlines()):
        cells = line.split(",") if path.suffix == ".csv" else line.split()
        if cells and not (number == 0 and len(cells) == 1):
            yield cells


def _partition(*folders: Path) -> dict[str, str]:
    """CelebA's file names -> "0", "1", "2" for train, val, test; empty where the table is missing."""
    found = next((p for f in folders if (p := _table(f, "list_eval_partition"))), None)
    return {cells[0]: cells[1] for cells in _cells(found) if cells[1].isdigit()} if found else {}


def _attributes(path: Path) -> dict[str, dict[str, str]]:
    """File -> attribute -> "0" or "1", of CelebA's or CelebAMask-HQ's table."""
    lines = _cells(path)
    header = [n for n in next(lines) if n != "image_id"]
    if missing := [n for n in CELEBA if n not in header]:
        raise ValueError(f"{path}: no column {missing[0]!r}")
    return {c[0]: {n: str(int(v == "1")) for n, v in zip(header, c[1:], strict=True)} for c in lines}


PARTS = {"train": "0", "val": "1", "test": "2"}


def _celeba(folder: Path, split: str) -> list[Sample]:
    return _zipped(folder, "celebahq", split) or _celebamaskhq(folder, split) or _celeba_published(folder, split)


def _celeba_published(folder: Path, split: str) -> list[Sample]:
    table, parts = _table(folder, "list_attr_celeba"), _partition(folder)
    if not table or not parts:
        return []
    rows = {f: row for f, row in _attributes(table).items() if parts.get(f) == PARTS[split]}
    images = folder / ("Img" if (folder / "Img").is_dir() else "") / "img_align_celeba"
    # Kaggle's archive has a folder of the same name inside.
    images = images / images.name if (images / images.name).is_dir() else images
    return _files(images, list(rows), labels_of.celebahq_labels(list(rows.values()))) if rows else []


def _maskhq(folder: Path) -> Path | None:
    """Where CelebAMask-HQ lies as published, if it does."""
    homes = (folder, folder / "CelebAMask-HQ")
    return next((h for h in homes if (h / "CelebAMask-HQ-attribute-anno.txt").is_file()), None)


def maskhq_indices(folder: Path, split: str) -> tuple[Path, list[int]] | None:
    """CelebAMask-HQ as published: its folder, the numbers of its pictures in a split (of all without a partition)."""
    homes = (folder, folder / "CelebAMask-HQ")
    home = next((h for h in homes if (h / "CelebA-HQ-img").is_dir()), None)
    if home is None:
        return None
    parts, mapping = _partition(home, folder), home / "CelebA-HQ-to-CelebA-mapping.txt"
    if not parts or not mapping.is_file():
        return home, sorted(int(p.stem) for p in (home / "CelebA-HQ-img").glob("*.jpg") if p.stem.isdigit())
    rows = [cells for cells in _cells(mapping) if cells[0].isdigit()]
    return home, [int(index) for index, _, file in rows if parts.get(file) == PARTS[split]]


def _celebamaskhq(folder: Path, split: str) -> list[Sample]:
    home, found = _maskhq(folder), maskhq_indices(folder, split)
    if not home or not found:
        return []
    table = _attributes(home / "CelebAMask-HQ-attribute-anno.txt")
    files = [f for i in found[1] if (f := f"{i}.jpg") in table]
    labels = labels_of.celebahq_labels([table[f] for f in files]) if files else np.empty((0, 0), np.float32)
    return _files(home / "CelebA-HQ-img", files, labels)


def _fairface(folder: Path, split: str) -> list[Sample]:
    if zipped := _zipped(folder, "fairface", split):
        return zipped
    # The test labels were never published: the official validation faces are what papers report.
    table = folder / f"fairface_label_{'val' if split == 'test' else split}.csv"
    rows = read_rows(table) if table.is_file() else []
    if not rows:
        return []
    # The archives are named after their margin and hold train/ and val/.
    places = (folder, *sorted(folder.glob("fairface-img-margin*")))
    home = next((p for p in places if (p / rows[0]["file"]).is_file()), folder)
    return _files(home, [r["file"] for r in rows], labels_of.fairface_labels(rows))


def _ferplus(folder: Path, split: str) -> list[Sample]:
    if zipped := _zipped(folder, "ferplus", split):
        return zipped
    table = folder / "fer2013new.csv"
    if not table.is_file():
        return []
    usage, place = {
        "train": ("Training", "FER2013Train"),
        "val": ("PublicTest", "FER2013Valid"),
        "test": ("PrivateTest", "FER2013Test"),
    }[split]
    usable: Rows = []
    files: dict[int, str] = {}
    for number, row in enumerate(read_rows(table)):
        votes = {f"votes_{n.lower()}": row[n.lower()] for n in EXPRESSIONS}
        counts = sorted((int(v) for v in votes.values()), reverse=True)
        others = int(row["unknown"]) + int(row["NF"])
        # A strict majority of all votes for one expression, as the FER+ paper's "majority" mode keeps.
        if row["Usage"] == usage and row["Image name"] and 2 * counts[0] > sum(counts) + others:
            usable.append(votes)
            files[number] = row["Image name"]
    if not usable:
        return []
    labels = labels_of.ferplus_labels(usable)
    if (folder / place).is_dir() or not (folder / "fer2013.csv").is_file():
        return _files(folder / place, list(files.values()), labels)
    pixels = _fer_pixels(folder / "fer2013.csv", set(files))
    numbered = zip(files.items(), labels, strict=True)
    return [Sample(partial(_gray, pixels.get(n, "")), y, None, name) for (n, name), y in numbered]


def _fer_pixels(table: Path, wanted: set[int]) -> dict[int, str]:
    """Row -> gray values of FER2013's CSV, whose rows are those of FER+'s."""
    with open(table, newline="") as f:
        return {n: row["pixels"] for n, row in enumerate(csv.DictReader(f)) if n in wanted}


def _gray(pixels: str) -> NDArray[np.uint8]:
    """FER2013's gray values as RGB (48,48,3). Raises ValueError where there are not as many."""
    values = np.array(pixels.split(), np.uint8).reshape(48, 48)
    return np.repeat(values[:, :, None], 3, 2)


def _utkface(folder: Path, split: str) -> list[Sample]:
    """Age in years, gender and race; as published the set has no split, so every picture counts whatever is asked."""
    if zipped := _zipped(folder, "utkface", split):
        return zipped
    for home in (folder, *(folder / n for n in ("UTKFace", "utkface", "crop_part1"))):
        found = {p.name: m for p in sorted(home.glob("*_*_*_*.*")) if (m := UTKFACE.match(p.name))}
        if found:
            rows = [
                {"age": m[1], "gender": UTKFACE_GENDERS[int(m[2])], "race": UTKFACE_RACES[int(m[3])]}
                for m in found.values()
            ]
            return _files(home, list(found), labels_of.utkface_labels(rows), rows)
    return []
