"""Which findings does a question need? The bundle's question encoder decides; the LLM is given just these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .manifest import Manifest


class Relevance:
    """Token ids of a question -> which of the enabled characteristics it asks about."""

    def __init__(self, manifest: Manifest, session: Any, numbers: NDArray[np.int64]) -> None:
        """numbers: the enabled characteristics, in the order of a face's labels."""
        spec, count = manifest.question, len(manifest.characteristics)
        self._graph = Graph(session, spec.file, {"tokens": (None, None)}, {"relevance": (None, count)})
        self._numbers = numbers

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Positions in the face's labels, ascending."""
        (relevance,) = self._graph(tokens=np.array([tokens], np.int64))
        return np.flatnonzero(relevance[0, self._numbers] > 0)
