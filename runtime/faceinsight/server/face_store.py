"""Faces that the worker holds between requests: under the picture's hash, and under ids that nobody can guess."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..perception.image import load_scaled
from ..perception.pipeline import scaled
from ..types import Face

if TYPE_CHECKING:
    from ..insight import FaceInsight

#: Pictures and faces that are held at most; a picture of a crowd has hundreds.
MAX_PHOTOS, MAX_FACES = 32, 256


@dataclass(slots=True)
class Photo:
    """A picture that was looked at.

    Attributes:
        sha256: of the picture's bytes.
        width, height: pixels of the picture itself.
        faces: the largest first.
        ids: of the faces, 128 random bits each.
        used: when it was last asked about.
    """

    sha256: str
    width: int
    height: int
    faces: tuple[Face, ...]
    ids: tuple[str, ...]
    used: float


@dataclass(slots=True)
class Counts:
    """What happened since the last report."""

    found: int = 0
    hits: int = 0
    misses: int = 0
    expired: int = 0
    evicted: int = 0
    deleted: int = 0


@dataclass(slots=True)
class FaceStore:
    """Photos by hash; the least recently used leave where there are too many, the old ones by `expire`.

    Attributes:
        insight: finds the faces.
        seconds: after which a photo that nobody asked about is wiped; None: never.
        counts: since they were last taken.
    """

    insight: FaceInsight
    seconds: float | None
    clock: Callable[[], float] = time.monotonic
    counts: Counts = field(default_factory=Counts)
    _photos: OrderedDict[str, Photo] = field(default_factory=OrderedDict)

    @property
    def faces(self) -> int:
        """How many are held."""
        return sum(len(p.faces) for p in self._photos.values())

    def photo(self, data: bytes) -> Photo:
        """The faces of a picture's bytes: held, or found now. Raises ImageError."""
        key = hashlib.sha256(data).hexdigest()
        photo = self._photos.pop(key, None)
        if photo is None:
            self.counts.misses += 1
            pixels, scale = load_scaled(data)
            faces = tuple(scaled(face, scale) for face in self.insight.perceive(pixels))
            ids = tuple(secrets.token_hex(16) for _ in faces)
            photo = Photo(key, scale * pixels.shape[1], scale * pixels.shape[0], faces, ids, 0.0)
            self.counts.found += len(faces)
        else:
            self.counts.hits += 1
        photo.used = self.clock()
        self._photos[key] = photo
        while len(self._photos) > 1 and (len(self._photos) > MAX_PHOTOS or self.faces > MAX_FACES):
            self.counts.evicted += self._drop(next(iter(self._photos)))
        return photo

    def face(self, face_id: str) -> tuple[Photo, int] | None:
        """The photo that a face is of, and its number there; None if it is not, or no longer, held."""
        for key, photo in self._photos.items():
            if face_id in photo.ids:
                self._photos.move_to_end(key)
                photo.used = self.clock()
                return photo, photo.ids.index(face_id)
        return None

    def expire(self) -> bool:
        """Wipe what nobody asked about for long; was there anything?"""
        if self.seconds is None:
            return False
        oldest = self.clock() - self.seconds
        old = [k for k, p in self._photos.items() if p.used <= oldest]
        self.counts.expired += sum(map(self._drop, old))
        return bool(old)

    def delete(self, face_id: str | None = None) -> int:
        """Wipe the photo of a face with all its faces, or everything; returns how many faces that were."""
        keys = [k for k, p in self._photos.items() if face_id is None or face_id in p.ids]
        n = sum(self._drop(key) for key in keys)
        self.counts.deleted += n
        # What the LLM read of them.
        self.insight.forget()
        return n

    def take_counts(self) -> Counts:
        """What happened since the last time."""
        counts, self.counts = self.counts, Counts()
        return counts

    def _drop(self, key: str) -> int:
        photo = self._photos.pop(key)
        for face in photo.faces:
            for array in (face.landmarks, face.label_map, face.matrix, face.tokens, face.picture):
                if isinstance(array, np.ndarray) and array.flags.writeable:
                    array.fill(0)
        return len(photo.faces)
