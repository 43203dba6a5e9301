"""The photos that a command line names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..plain import Plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..insight import FaceInsight
    from ..types import Face

#: Names of pictures in a folder. Those of formats that are not read are refused by name, not passed over.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
REFUSED = (".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class PhotoAnswer(Plain):
    """A question on the command line.

    Attributes:
        question: as it was asked.
        faces: numbers of the faces it is about; 1 is the largest of the photo.
        faces_found: how many faces the photo has.
    """

    question: str
    faces: tuple[int, ...]
    faces_found: int


def several(names: Sequence[str]) -> bool:
    """More than one photo, or a folder?"""
    return len(names) > 1 or any(map(_is_folder, names))


def _is_folder(name: str) -> bool:
    # Path.is_dir raises for a name that is too long, or that one may not look at.
    return os.path.isdir(name)  # noqa: PTH112


def expand(names: Sequence[str]) -> Iterator[str]:
    """Files as they are named; of a folder every picture in it and below it, in the order of their names.

    What is hidden (.name) is left out. A folder without a picture comes as itself, so that it is not passed over.
    """
    for name in names:
        found = False
        for folder, below, files in os.walk(name):
            below[:] = sorted(d for d in below if not d.startswith("."))
            for file in sorted(files):
                if not file.startswith(".") and file.lower().endswith(SUFFIXES + REFUSED):
                    found = True
                    yield os.path.join(folder, file)  # noqa: PTH118 -- keeps a leading ./ as it was given
        if not found:
            yield name


def read(name: str) -> tuple[NDArray[np.uint8], int]:
    """RGB (H,W,3) of a photo and by how much it was reduced; "-" is standard input. Raises ImageError, and RequestError
    for a folder without one."""
    from ..perception.image import load_scaled

    if name == "-":
        return load_scaled(sys.stdin.buffer)
    if _is_folder(name):
        raise RequestError(f"{name} holds no photo: expected files that end in {', '.join(SUFFIXES)}")
    return load_scaled(name)


def perceive(insight: FaceInsight, name: str) -> tuple[tuple[Face, ...], int]:
    """The faces of a photo, and its width. Raises as `read`."""
    from ..perception.pipeline import scaled

    image, scale = read(name)
    return tuple(scaled(f, scale) for f in insight.perceive(image)), scale * image.shape[1]
