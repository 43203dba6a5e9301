"""The prefix of a conversation in the KV cache: the prompt up to a face, and the tokens of a face or two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ..backends.llama_cpp.model import Llm, LlmInput
from ..backends.llama_cpp.tokenizer import Tokenizer
from ..bundle.specs import LlmSpec
from ..cache import FaceCache
from ..errors import FaceInsightError, QuestionError, RequestError
from ..types import Face


class FacePrefix:
    """Has the prefix of the faces that are asked about in the KV cache: as it is, restored, or computed.

    The prompt up to a face (the system prefix) is always the same: it is computed once and restored for each face.
    Prefixes of earlier faces are saved in `cache`, and restored when they are asked about again.

    Attributes:
        cache: saved KV caches by the faces' fingerprints.
        system_len: tokens of the system prefix.
        key: fingerprints of the faces in the KV cache; None where it holds none.
        length: tokens of their prefix.
        cached: of these, how many the last `prefill` did not compute.
        last_used: when it was last needed, by time.monotonic.
    """

    def __init__(
        self,
        llm: Llm,
        spec: LlmSpec,
        tokenizer: Tokenizer,
        encode_face: Callable[[Face], NDArray[np.float32]],
        cache: FaceCache,
    ) -> None:
        """On a loaded model.

        Args:
            llm: the model, whose KV cache this object governs.
            spec: its prompt and embedding width.
            tokenizer: the model's.
            encode_face: a face's tokens (T, width), called once per prefix.
            cache: for the prefixes of earlier faces.
        """
        self._llm, self._width, self._encode_face, self.cache = llm, spec.width, encode_face, cache
        prompt = spec.prompt
        # Face tokens are no text: what stands before them and behind them is tokenized as a text of its own.
        parts = (prompt.before_face, prompt.after_face, prompt.between)
        before, self._after_face, self._between = (tokenizer.encode(p, special=True, at_start=True) for p in parts)
        self.system_len = llm.decode(llm.pack([before]), 0)
        self._system_state = llm.save() if before else None
        self.key: str | None = None
        self.length = self.cached = 0
        self.last_used = 0.0

    def prefill(self, faces: Sequence[Face]) -> None:
        """Have the prefix of these faces, and nothing behind it, in the KV cache.

        Raises:
            RequestError: a face has tokens of another bundle.
        """
        key = " ".join(f.key for f in faces)
        if self.key == key:
            self._llm.truncate(self.length)
            self.cached = self.length
        else:
            self._save()
            state = self.cache.get(key)
            self.key = None
            self.length = self._compute(faces) if state is None else self._llm.restore(state)
            self.cached = self.system_len if state is None else self.length
            self.key = key
        self.last_used = time.monotonic()

    def per_face(self, parts: Sequence[LlmInput]) -> list[LlmInput]:
        """The parts, one per face, with what stands between faces."""
        return [x for i, part in enumerate(parts) for x in ((self._between, part) if i else (part,))]

    def wipe(self) -> None:
        """Overwrite all caches with zeros: nothing of any face stays in them."""
        self.cache.wipe()
        self._llm.clear()
        self.key = None

    @contextmanager
    def lost_on_error(self) -> Iterator[None]:
        """Around decoding: where llama.cpp fails, the KV cache was cleared and holds no prefix any more."""
        try:
            yield
        except QuestionError:
            raise
        except FaceInsightError:
            self.key = None
            raise

    def _save(self) -> None:
        """Save the prefix in the KV cache, if it is a face's that is not saved yet."""
        if self.key is not None and self.key not in self.cache:
            self._llm.truncate(self.length)
            self.cache.put(self.key, self._llm.save(), used=self.last_used)

    def _compute(self, faces: Sequence[Face]) -> int:
        face_tokens = [self._encode_face(face) for face in faces]
        for tokens in face_tokens:
            if tokens.shape[1] != self._width:
                raise RequestError(f"face tokens of width {tokens.shape[1]}; this bundle's LLM reads {self._width}")
        self._llm.truncate(0)
        n_past = 0 if self._system_state is None else self._llm.restore(self._system_state)
        return self._llm.decode(self._llm.pack([*self.per_face(face_tokens), self._after_face]), n_past)
