"""The LLM: llama.cpp fed with face tokens through its embedding input, streaming answers."""

from __future__ import annotations

import codecs
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .device import Device, import_llama
from .errors import BundleError, FaceInsightError, QuestionError, RequestError
from .grounding import complete
from .manifest import LlmSpec
from .types import Face, Piece
from .vocabulary import Vocabulary, changed, quiet

Self = TypeVar("Self", bound="Language")

#: How many next tokens are remembered, should the first one have to be taken back; and how often an answer may be.
CANDIDATES, TAKEN_BACK = 8, 12
#: A token less likely than this is not taken instead: it leads to what no one would say.
PLAUSIBLE = 0.05
#: Takes an answer that grows; where it begins to say what it must not, or None.
Objection = Callable[[str], "int | None"]


@dataclass(slots=True)
class _Step:
    """A chosen token that may still be taken back: its place in the context, the likeliest tokens and their
    probabilities there (the first is the chosen one), its text, and when it was chosen."""

    at: int
    candidates: list[tuple[int, float]]
    text: str
    elapsed_ms: float


class Language:
    """One GGUF model and one context.

    The face's prefix (fixed text and face tokens) stays in the KV cache: a second question about the same face
    trims the cache back to it and costs only its own tokens. Not thread-safe: one question at a time.
    """

    # What close() looks at, also where __init__ failed early.
    _model: Any = None
    _context: Any = None

    def __init__(
        self,
        model: Path,
        spec: LlmSpec,
        device: Device,
        *,
        see: Callable[[Face], NDArray[np.float32]] = attrgetter("tokens"),
        exact: bool = False,
    ) -> None:
        """see: a face's tokens (T,width), asked for once per prefix.

        exact: float32 KV cache and plain attention, for comparing with a reference; slower and larger.
        """
        self._c: Any = import_llama()
        self._spec, self._see = spec, see
        quiet(self._c)
        self._c.llama_backend_init()
        layers = 999 if device.llm_on_gpu else 0
        # Weights are repacked for the CPU: mapped, the file's pages would stay in memory beside the copy.
        mode = self._c.LLAMA_LOAD_MODE_NONE
        model_params = changed(self._c.llama_model_default_params(), {"n_gpu_layers": layers, "load_mode": mode})
        self._model = self._c.llama_model_load_from_file(str(model).encode(), model_params)
        if not self._model:
            raise BundleError(f"{model} does not load in llama.cpp (llama-cpp-python {self._c.__version__})")
        width = self._c.llama_model_n_embd(self._model)
        if width != spec.width:
            raise BundleError(f"{model.name} has embedding width {width}, the manifest says {spec.width}")
        prompt = spec.prompt
        self.vocabulary = Vocabulary(self._model, follow=prompt.follow, max_question=spec.max_question)
        params = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), spec.context)
        params |= dict.fromkeys(("n_threads", "n_threads_batch"), device.threads)
        if exact:
            params |= dict.fromkeys(("type_k", "type_v"), self._c.GGML_TYPE_F32)
            params["flash_attn_type"] = self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context_params = changed(self._c.llama_context_default_params(), params)
        self._context = self._c.llama_init_from_model(self._model, context_params)
        if not self._context:
            raise FaceInsightError(f"llama.cpp could not make a context of {spec.context} tokens; is memory short?")
        self._memory = self._c.llama_get_memory(self._context)
        # Face tokens are no text: what stands before them and behind them begins anew.
        parts = (prompt.before_face, prompt.after_face, prompt.between, prompt.stop)
        fixed = (self.vocabulary.tokens(part, special=True, first=True) for part in parts)
        self._before, self._after, self._between, stop = fixed
        self._answer = self.vocabulary.tokens(prompt.before_answer, special=True)
        self._stop = set(stop[:1])
        self._known: tuple[str, ...] | None = None
        self._prefix = 0
        self._question_number = 0

    def read(self, question: str, after: str | None = None) -> list[int]:
        """Tokens of a question, behind an earlier one if given. Raises QuestionError for an empty or too long one."""
        self._require_open()
        return self.vocabulary.read(question, after)

    def stream(
        self,
        faces: Sequence[Face],
        question: list[int],
        findings: Sequence[NDArray[np.float32] | str],
        *,
        max_tokens: int | None = None,
        objection: Objection | None = None,
    ) -> Iterator[Piece]:
        """Greedy answer, token by token; with an objection, sentence by sentence.

        Args:
            faces: one, or two to compare; their image and region tokens come first.
            question: tokens, as `read` gives them.
            findings: per face what was found of that which the question asks about: knowledge tokens (M,width), or
                words; either may be empty.
            objection: where it has one, the answer goes back to that word and takes another plausible token there,
                if there is one.
        """
        began = time.perf_counter()
        limit = self._spec.max_answer if max_tokens is None else min(max_tokens, self._spec.max_answer)
        if limit < 1:
            raise RequestError(f"max_tokens {max_tokens}; expected at least 1")
        self.prepare(faces)
        return self._generate(question, findings, limit, began, objection, self._question_number)

    def prepare(self, faces: Sequence[Face]) -> None:
        """Prefill the prefix of these faces, unless it is the one in the cache."""
        self._require_open()
        self._question_number += 1
        key = tuple(f.key for f in faces)
        if self._known == key:
            self._c.llama_memory_seq_rm(self._memory, 0, self._prefix, -1)
            return
        seen = [self._see(face) for face in faces]
        for tokens in seen:
            if tokens.shape[1] != self._spec.width:
                raise RequestError(
                    f"face tokens of width {tokens.shape[1]}; this bundle's LLM reads {self._spec.width}"
                )
        self.forget()
        at = self._decode_tokens(self._before, 0)
        at = self._decode_each(seen, at)
        self._prefix = self._decode_tokens(self._after, at)
        self._known = key

    def forget(self) -> None:
        """Wipe the cache: nothing of any face stays in it."""
        if self._context:
            self._c.llama_memory_clear(self._memory, True)
        self._known = None
        self._question_number += 1

    def _generate(
        self,
        question: list[int],
        findings: Sequence[NDArray[np.float32] | str],
        limit: int,
        began: float,
        objection: Objection | None,
        number: int,
    ) -> Iterator[Piece]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        held: list[_Step] = []
        out = taken_back = 0
        candidates: list[tuple[int, float]] = []
        at, tokens = self._prefix, self._answer
        while True:
            # The cache holds one conversation: a stream that was overtaken must not go on in another's.
            self._require_open()
            if number != self._question_number:
                raise RequestError("another question was asked, or the cache wiped, while this answer was streaming")
            if not candidates:
                if not out and not held:
                    at = self._decode_each(findings, self._decode_tokens(question, at))
                at = self._decode_tokens(tokens, at)
                candidates = self._candidates()
            token = candidates[0][0]
            ends = token in self._stop or self.vocabulary.ends(token)
            text = decoder.decode(b"" if ends else self.vocabulary.bytes(token), ends)
            held.append(_Step(at, candidates, text, (time.perf_counter() - began) * 1e3))
            said = "".join(s.text for s in held)
            wrong = objection(said) if objection and taken_back < TAKEN_BACK else None
            back = None if wrong is None else _step_of(held, wrong)
            if back and len(back.candidates) > 1:
                taken_back += 1
                del held[held.index(back) :]
                self._c.llama_memory_seq_rm(self._memory, 0, back.at, -1)
                at, candidates = back.at, back.candidates[1:]
                decoder.reset()
                continue
            last = ends or out + len(held) == limit
            if last or objection is None or complete(said):
                finish = "repaired" if taken_back and ends else "stop" if ends else "length"
                for step in held:
                    out += 1
                    final = last and step is held[-1]
                    yield Piece(step.text, out, step.candidates[0][1], step.elapsed_ms, finish if final else None)
                held = []
            if last:
                return
            tokens, candidates = [token], []

    def _candidates(self) -> list[tuple[int, float]]:
        """The likeliest next tokens and their probabilities, the likeliest first; others only if they are plausible."""
        logits = np.ctypeslib.as_array(self._c.llama_get_logits_ith(self._context, -1), (self.vocabulary.size,))
        best = np.argpartition(-logits, CANDIDATES)[:CANDIDATES]
        best = best[np.argsort(-logits[best], kind="stable")]
        total = np.exp(logits - logits[best[0]]).sum()
        out = [(int(t), float(np.exp(logits[t] - logits[best[0]]) / total)) for t in best]
        return [out[0], *(x for x in out[1:] if x[1] >= PLAUSIBLE)]

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

    def _decode_each(self, parts: Sequence[NDArray[np.float32] | str], at: int) -> int:
        """What is shown or told of one face or two, with what stands between."""
        for i, part in enumerate(parts):
            at = self._decode_tokens(self._between, at) if i else at
            if isinstance(part, str):
                at = self._decode_tokens(self.vocabulary.tokens(part), at)
            else:
                at = self._decode_embeddings(part, at)
        return at

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


def _step_of(held: Sequence[_Step], character: int) -> _Step:
    """The step whose text holds this character."""
    end = 0
    for step in held:
        end += len(step.text)
        if character < end:
            return step
    return held[-1]
