"""Token embeddings of a GGUF, a row at a time: text and face tokens then go through the LLM in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.gguf_header import GgufHeader

#: ggml types whose rows are read here, and how 32 weights are stored: a row of any other type stays in llama.cpp.
_F32, _F16, _Q8_0, _BF16 = 0, 1, 8, 30
_BLOCK = 32
_KINDS: dict[int, Any] = {
    _F32: np.dtype("<f4"),
    _F16: np.dtype("<f2"),
    _BF16: np.dtype("<u2"),
    _Q8_0: np.dtype([("scale", "<f2"), ("quants", "i1", _BLOCK)]),
}


class Embeddings:
    """Rows of `token_embd.weight` as llama.cpp itself reads them, from the file: only pages in use are in memory."""

    def __init__(self, table: NDArray[Any], kind: int) -> None:
        """Of a table (tokens, blocks of a row) of this ggml type."""
        self._table, self._kind = table, kind

    @classmethod
    def open(cls, path: Path) -> Embeddings | None:
        """None if the table is of a type that is not read here."""
        tensor = next((t for t in GgufHeader.read(path).tensors if t.name == "token_embd.weight"), None)
        if tensor is None or tensor.kind not in _KINDS:
            return None
        width, tokens = tensor.shape
        blocks = width // _BLOCK if tensor.kind == _Q8_0 else width
        return cls(np.memmap(path, _KINDS[tensor.kind], "r", tensor.offset, (tokens, blocks)), tensor.kind)

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """(len(tokens), width) float32."""
        rows = self._table[np.asarray(tokens, np.int64)]
        if self._kind == _Q8_0:
            scaled = rows["quants"].astype(np.float32) * rows["scale"].astype(np.float32)[..., None]
            return np.asarray(scaled.reshape(len(rows), -1))
        if self._kind == _BF16:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(rows, np.float32)
