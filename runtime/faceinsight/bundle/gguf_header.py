"""What a GGUF file says of itself: hyperparameters and tensor table, read without the gguf package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..errors import BundleError

_STRING, _ARRAY = 8, 9
#: struct formats by GGUF value type.
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A weight: name, shape (the innermost axis first), ggml type number, bytes in the file, and where they begin."""

    name: str
    shape: tuple[int, ...]
    kind: int
    bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Values by key (of an array, its length) and the tensor table."""

    values: dict[str, int | float | str]
    tensors: tuple[GgufTensor, ...]

    @classmethod
    def read(cls, path: Path) -> GgufHeader:
        """Raises BundleError if the file is no GGUF, or ends early."""
        try:
            with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
        except (ValueError, KeyError, struct.error, OSError) as e:
            raise BundleError(f"{path} is not a GGUF file that can be read: {e}") from e

    def number(self, key: str) -> int:
        """An architecture's whole number, e.g. "block_count". Raises BundleError if it is missing."""
        full = f"{self.values.get('general.architecture', '?')}.{key}"
        value = self.values.get(full)
        if not isinstance(value, int):
            raise BundleError(f"the GGUF header has {full} = {value!r}; expected a whole number")
        return value

    @property
    def parameters(self) -> int:
        """How many weights."""
        return sum(math.prod(t.shape) for t in self.tensors)


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> GgufHeader:
        if self._data[:4] != b"GGUF":
            raise ValueError(f"it starts with {self._data[:4]!r}, not GGUF")
        self._at = 4
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}; expected 2 or 3")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        values: dict[str, int | float | str] = {}
        for _ in range(pairs):
            key = self._string()
            values[key] = self._value(self._number("<I"))
        table = []
        for _ in range(tensors):
            name = self._string()
            shape = tuple(self._number("<Q") for _ in range(self._number("<I")))
            table.append((name, shape, self._number("<I"), self._number("<Q")))
        alignment = int(values.get("general.alignment", 32))
        start = -(-self._at // alignment) * alignment
        if any(start + offset > len(self._data) for *_, offset in table):
            raise ValueError("a tensor begins past its end")
        # A tensor reaches to where the next one begins: no table of block sizes is needed.
        ends = sorted({offset for *_, offset in table} | {len(self._data) - start})
        following = dict(pairwise(ends))
        sized = (GgufTensor(n, s, k, following.get(at, at) - at, start + at) for n, s, k, at in table)
        return GgufHeader(values, tuple(sized))

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _string(self) -> str:
        size = self._number("<Q")
        if self._at + size > len(self._data):
            raise ValueError("a string ends past its end")
        self._at += size
        return self._data[self._at - size : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> int | float | str:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            form = _FORMATS[kind]
            (value,) = struct.unpack_from(form, self._data, self._at)
            self._at += struct.calcsize(form)
            return value  # type: ignore[no-any-return]
        inner, count = self._number("<I"), self._number("<Q")
        if inner in _FORMATS:
            self._at += count * struct.calcsize(_FORMATS[inner])
            return count
        for _ in range(count):
            self._value(inner)
        return count
