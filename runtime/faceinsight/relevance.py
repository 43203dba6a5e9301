"""Which findings does a question need? The bundle's question encoder decides; the LLM is given just these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .manifest import Manifest
from .types import Face


class Relevance:
    """Token ids of a question -> which of the enabled characteristics it asks about."""

    def __init__(self, manifest: Manifest, session: Any, numbers: NDArray[np.int64]) -> None:
        """numbers: the enabled characteristics, in the order of a face's labels."""
        spec, count = manifest.question, len(manifest.characteristics)
        self._graph = Graph(session, spec.file, {"tokens": (None, None)}, {"relevance": (None, count)})
        self._numbers, self._list_from = numbers, spec.list_from

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Positions in the face's labels, ascending."""
        (relevance,) = self._graph(tokens=np.array([tokens], np.int64))
        return np.flatnonzero(relevance[0, self._numbers] > 0)

    def findings(self, face: Face, about: NDArray[np.int64]) -> NDArray[np.float32]:
        """(M,width) the knowledge tokens that the LLM is given. A long list leaves out what was found absent."""
        if len(about) >= self._list_from:
            about = np.array([i for i in about if face.labels[i].state != "no"], np.int64)
        return face.knowledge[about]
