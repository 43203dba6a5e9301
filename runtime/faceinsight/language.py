"""The LLM: llama.cpp fed with face tokens through its embedding input, streaming answers."""

from __future__ import annotations

import codecs
import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .device import Device, import_llama
from .errors import BundleError, FaceInsightError, QuestionError, RequestError
from .manifest import LlmSpec
from .types import Face, Piece

Self = TypeVar("Self", bound="Language")


class Language:
    """One GGUF model and one context.

    The face's prefix (fixed text and face tokens) stays in the KV cache: a second question about the same face
    trims the cache back to it and costs only its own tokens. Not thread-safe: one question at a time.
    """

    # What close() looks at, also where __init__ failed early.
    _model: Any = None
    _context: Any = None

    def __init__(self, model: Path, spec: LlmSpec, device: Device, *, exact: bool = False) -> None:
        """exact: float32 KV cache and plain attention, for comparing with a reference; slower and larger."""
        self._c: Any = import_llama()
        self._spec = spec
        _quiet(self._c)
        self._c.llama_backend_init()
        model_params = self._c.llama_model_default_params()
        model_params.n_gpu_layers = 999 if device.llm_on_gpu else 0
        # Weights are repacked for the CPU: with mmap the file's pages would stay in memory beside the copy.
        model_params.use_mmap = False
        self._model = self._c.llama_model_load_from_file(str(model).encode(), model_params)
        if not self._model:
            raise BundleError(f"{model} does not load in llama.cpp (llama-cpp-python {self._c.__version__})")
        width = self._c.llama_model_n_embd(self._model)
        if width != spec.width:
            raise BundleError(f"{model.name} has embedding width {width}, the manifest says {spec.width}")
        self._vocabulary = self._c.llama_model_get_vocab(self._model)
        self._size = self._c.llama_vocab_n_tokens(self._vocabulary)
        params = self._c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = spec.context
        params.n_threads = params.n_threads_batch = device.threads
        if exact:
            params.type_k = params.type_v = self._c.GGML_TYPE_F32
            params.flash_attn_type = self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = self._c.llama_init_from_model(self._model, params)
        if not self._context:
            raise FaceInsightError(f"llama.cpp could not make a context of {spec.context} tokens; is memory short?")
        self._memory = self._c.llama_get_memory(self._context)
        prompt = spec.prompt
        self._before, self._after = self._tokenize(prompt.before_face, True), self._tokenize(prompt.after_face, True)
        self._answer = self._tokenize(prompt.before_answer, True)
        self._stop = set(self._tokenize(prompt.stop, True)[:1])
        self._known: str | None = None
        self._prefix = 0
        self._question_number = 0

    def read(self, question: str) -> list[int]:
        """Tokens of a question. Raises QuestionError for an empty or too long one."""
        self._require_open()
        text = " ".join(question.split())
        if not text:
            raise QuestionError("the question is empty")
        tokens = self._tokenize(text, False)
        if len(tokens) > self._spec.max_question:
            raise QuestionError(f"the question has {len(tokens)} tokens; at most {self._spec.max_question}")
        return tokens

    def stream(
        self, face: Face, question: list[int], knowledge: NDArray[np.float32], *, max_tokens: int | None = None
    ) -> Iterator[Piece]:
        """Greedy answer, token by token.

        Args:
            face: whose image and region tokens come first.
            question: tokens, as `read` gives them.
            knowledge: (M,width) the findings that the question asks about; M may be 0.
        """
        began = time.perf_counter()
        limit = self._spec.max_answer if max_tokens is None else min(max_tokens, self._spec.max_answer)
        if limit < 1:
            raise RequestError(f"max_tokens {max_tokens}; expected at least 1")
        self.prepare(face)
        return self._generate(question, knowledge, limit, began, self._question_number)

    def prepare(self, face: Face) -> None:
        """Prefill the face's prefix, unless it is the one in the cache."""
        self._require_open()
        self._question_number += 1
        if self._known == face.key:
            self._c.llama_memory_seq_rm(self._memory, 0, self._prefix, -1)
            return
        if face.tokens.shape[1] != self._spec.width:
            raise RequestError(
                f"face tokens of width {face.tokens.shape[1]}; this bundle's LLM reads {self._spec.width}"
            )
        self.forget()
        at = self._decode_tokens(self._before, 0)
        at = self._decode_embeddings(face.tokens, at)
        self._prefix = self._decode_tokens(self._after, at)
        self._known = face.key

    def forget(self) -> None:
        """Wipe the cache: nothing of any face stays in it."""
        if self._context:
            self._c.llama_memory_clear(self._memory, True)
        self._known = None
        self._question_number += 1

    def _generate(
        self, question: list[int], knowledge: NDArray[np.float32], limit: int, began: float, number: int
    ) -> Iterator[Piece]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens, at = self._answer, self._prefix
        for count in range(1, limit + 1):
            # The cache holds one conversation: a stream that was overtaken must not go on in another's.
            self._require_open()
            if number != self._question_number:
                raise RequestError("another question was asked, or the cache wiped, while this answer was streaming")
            if count == 1:
                at = self._decode_tokens(question, at)
                at = self._decode_embeddings(knowledge, at)
            at = self._decode_tokens(tokens, at)
            token, probability = self._pick()
            elapsed = (time.perf_counter() - began) * 1e3
            if token in self._stop or self._c.llama_vocab_is_eog(self._vocabulary, token):
                yield Piece(decoder.decode(b"", True), count, probability, elapsed, "stop")
                return
            text = decoder.decode(self._bytes(token), False)
            yield Piece(text, count, probability, elapsed, "length" if count == limit else None)
            tokens = [token]

    def _pick(self) -> tuple[int, float]:
        """The most probable next token and its probability."""
        logits = np.ctypeslib.as_array(self._c.llama_get_logits_ith(self._context, -1), (self._size,))
        token = int(logits.argmax())
        return token, float(1 / np.exp(logits - logits[token]).sum())

    def _decode_tokens(self, tokens: list[int], at: int) -> int:
        if not tokens:
            return at
        batch = self._c.llama_batch_init(len(tokens), 0, 1)
        try:
            for i, token in enumerate(tokens):
                batch.token[i] = token
            return self._decode(batch, len(tokens), at)
        finally:
            self._c.llama_batch_free(batch)

    def _decode_embeddings(self, rows: NDArray[np.float32], at: int) -> int:
        if not len(rows):
            return at
        batch = self._c.llama_batch_init(len(rows), rows.shape[1], 1)
        try:
            rows = np.ascontiguousarray(rows, np.float32)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            return self._decode(batch, len(rows), at)
        finally:
            self._c.llama_batch_free(batch)

    def _decode(self, batch: Any, count: int, at: int) -> int:
        """Run `count` rows of a batch at position `at`; logits for the last. Returns the next position."""
        if at + count > self._spec.context:
            raise QuestionError(
                f"{at + count} tokens do not fit the context of {self._spec.context}: shorten the question"
            )
        batch.n_tokens = count
        for i in range(count):
            batch.pos[i] = at + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == count - 1
        status = self._c.llama_decode(self._context, batch)
        if status != 0:
            self.forget()
            raise FaceInsightError(f"llama.cpp could not decode (status {status}); the cache was cleared, ask again")
        return at + count

    def _tokenize(self, text: str, special: bool) -> list[int]:
        """special=False for anything a user typed: a control token in it stays text."""
        data = text.encode("utf-8", "replace")
        out = (ctypes.c_int32 * (len(data) + 8))()
        count = self._c.llama_tokenize(self._vocabulary, data, len(data), out, len(out), False, special)
        if count < 0:
            raise QuestionError(f"the text could not be tokenised ({len(data)} bytes)")
        return list(out[:count])

    def _bytes(self, token: int) -> bytes:
        out = ctypes.create_string_buffer(256)
        count = self._c.llama_token_to_piece(self._vocabulary, token, out, len(out), 0, False)
        return out.raw[:count] if count > 0 else b""

    def _require_open(self) -> None:
        if not self._context:
            raise RequestError("this FaceInsight is closed; load it again")

    def close(self) -> None:
        """Free model and context."""
        if self._context:
            self.forget()
            self._c.llama_free(self._context)
            self._context = None
        if self._model:
            self._c.llama_model_free(self._model)
            self._model = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


_callback: Any = None


def _quiet(c: Any) -> None:
    """llama.cpp writes to stderr by itself; its messages go nowhere, errors come as return values."""
    global _callback
    if _callback is None:
        _callback = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(_callback, ctypes.c_void_p(0))
