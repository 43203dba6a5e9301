"""The data folder's files: a CSV and a zip of pictures for each set. An error names the file and what is missing."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..taxonomy import CELEBA, EXPRESSIONS

#: Where it is written what a data folder holds.
WHERE = "see docs/train.md, The data folder"
#: Columns that a set's CSV must have.
COLUMNS: dict[str, tuple[str, ...]] = {
    "celebahq": ("file", "split", *CELEBA),
    "fairface": ("file", "split", "age", "gender", "race"),
    "ferplus": ("file", "split", *(f"votes_{n.lower()}" for n in EXPRESSIONS)),
    "utkface": ("file", "split", "age", "gender", "race"),
    "celebamask": ("file", "mask", "split", "hq_idx"),
}


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """A CSV with a header.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it lacks one of `columns`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {WHERE}")
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        found = reader.fieldnames or ()
        if missing := [c for c in columns if c not in found]:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}; found {', '.join(found) or 'nothing'}: {WHERE}"
            )
        return list(reader)


def open_pictures(data: Path, name: str) -> zipfile.ZipFile:
    """The archive beside a set's CSV.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no zip.
    """
    path = data / f"{name}.zip"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, {name}.csv is: its pictures go into a stored zip; {WHERE}")
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as e:
        raise ValueError(f"{path} is no zip: {e}; {WHERE}") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise ValueError(f"{archive.filename} holds no {name}, which its CSV names") from None


def read_image(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """RGB (H,W,3) of one archive member."""
    bgr = cv2.imdecode(np.frombuffer(_member(archive, name), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{archive.filename}: {name} does not decode")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def read_mask(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """Class numbers (H,W) of one archive member, a gray picture."""
    mask = cv2.imdecode(np.frombuffer(_member(archive, name), np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"{archive.filename}: {name} does not decode")
    return np.asarray(mask, np.uint8)
