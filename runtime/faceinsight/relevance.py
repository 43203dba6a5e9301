"""Which findings does a question need? The bundle's question encoder decides; the LLM is told just these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph
from .labels import Label
from .manifest import Manifest
from .types import Face
from .vocabulary import Vocabulary


class Relevance:
    """A question -> which of the enabled characteristics it asks about, and what was found of them."""

    def __init__(self, manifest: Manifest, session: Any, vocabulary: Vocabulary, numbers: NDArray[np.int64]) -> None:
        """vocabulary: the question encoder's; numbers: the enabled characteristics, in the order of a face's labels."""
        spec, count = manifest.question, len(manifest.characteristics)
        self.graph = Graph(session, spec.file, {"tokens": (None, None)}, {"relevance": (None, count)})
        self._numbers, self._vocabulary = numbers, vocabulary
        self._list_from, self._share = spec.list_from, spec.share
        self._prompt, self._worded = manifest.llm.prompt, manifest.knowledge is None
        self._absent = {c.name: c.absent for c in manifest.characteristics}

    def __call__(self, question: str, after: str | None = None) -> NDArray[np.int64]:
        """Positions in the face's labels, ascending. Raises QuestionError for a question that is empty or too long."""
        return self.read(question, after)[0]

    def read(self, question: str, after: str | None = None) -> tuple[NDArray[np.int64], bool]:
        """The same, and whether it asks about something that is not enabled, if only by the way."""
        (relevance,) = self.graph(tokens=np.array([self._vocabulary.read(question, after)], np.int64))[0]
        about = np.flatnonzero(relevance[self._numbers] > max(0.0, self._share * relevance.max()))
        return about, bool((np.delete(relevance, self._numbers) > 0).any())

    def findings(self, face: Face, about: NDArray[np.int64]) -> NDArray[np.float32] | str:
        """What the LLM is told: knowledge tokens (M,width), or words where the bundle has none. A long list leaves out
        what was found absent."""
        if len(about) >= self._list_from:
            about = np.array([i for i in about if face.labels[i].state != "no"], np.int64)
        return self._words([face.labels[i] for i in about]) if self._worded else face.knowledge[about]

    def _words(self, labels: Sequence[Label]) -> str:
        if not labels:
            return ""
        who = self._prompt.who[0]
        told = (self._prompt.stated(x.state, who=who, phrase=x.phrase, absent=self._absent[x.name]) for x in labels)
        return self._prompt.findings.format(findings=" ".join(dict.fromkeys(told)))
