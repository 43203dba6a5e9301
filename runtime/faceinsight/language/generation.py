"""Answers of the LLM about faces: their tokens are a prefix in its KV cache, a question is decoded behind it.

Decoding is greedy, constrained and backtracking: where a constraint finds a violation in the growing answer, the answer
is cut back to that word and goes on with the next likeliest token there.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole
from ..backends.llama_cpp.model import MAX_PARALLEL_SEQS, Llm, LlmInput
from ..backends.llama_cpp.tokenizer import Tokenizer
from ..bundle.specs import LlmSpec
from ..cache import FaceCache
from ..errors import RequestError
from ..host.forks import OwnLock
from ..types import AnswerChunk, Face
from .claims import complete
from .prefix import FacePrefix
from .query import Query

Self = TypeVar("Self", bound="AnswerGenerator")

#: Next tokens that are remembered at each step, for backtracking; and how often an answer may be cut back.
TOP_K, MAX_BACKTRACKS = 8, 12
#: Minimum probability of an alternative token when backtracking.
MIN_ALTERNATIVE_PROB = 0.05
#: A growing answer -> where it begins to violate something (an index into the text), or None.
Constraint = Callable[[str], "int | None"]
#: Per face, what the LLM is told: knowledge tokens (M, width), or words.
Findings = Sequence["NDArray[np.float32] | str"]


@dataclass(slots=True)
class _Step:
    """A decoded token that may still be taken back.

    pos: its position in the context; candidates: the likeliest tokens there with their probabilities, the first is the
    chosen one.
    """

    pos: int
    candidates: list[tuple[int, float]]
    text: str
    elapsed_ms: float


class AnswerGenerator:
    """The LLM in conversation about a face, or two.

    A face's tokens are a prefix that stays in the KV cache: a second question costs only its own tokens. A question is
    always decoded by itself, so an answer does not depend on what was in the cache. One question at a time; `lock` is
    held while the LLM works, for those who wipe from another thread.

    Attributes:
        llm: the loaded model.
        tokenizer: its tokenizer.
        prefix: what the KV cache holds of the faces that are asked about.
        prompt_tokens: of the last question, with the faces before it.
    """

    def __init__(
        self,
        llm: Llm,
        spec: LlmSpec,
        *,
        encode_face: Callable[[Face], NDArray[np.float32]] = attrgetter("tokens"),
        prefix_cache: FaceCache | None = None,
    ) -> None:
        """On a loaded model, which is closed with this object.

        Args:
            llm: the model.
            spec: its prompt and limits.
            encode_face: a face's tokens (T, width), called once per prefix.
            prefix_cache: for the prefixes of earlier faces; by default none is kept.
        """
        self.llm, self._spec = llm, spec
        self._lock = OwnLock()
        prompt = spec.prompt
        self.tokenizer = Tokenizer(llm.model, follow=prompt.follow, max_question=spec.max_question)
        cache = FaceCache(0) if prefix_cache is None else prefix_cache
        self.prefix = FacePrefix(llm, spec, self.tokenizer, encode_face, cache)
        self._before_answer = self.tokenizer.encode(prompt.before_answer, special=True)
        self._stop = set(self.tokenizer.encode(prompt.stop, special=True, at_start=True)[:1])
        self._conversation = 0
        self.prompt_tokens = 0

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while the LLM works. Raises RequestError in a fork of the process that made this object."""
        return self._lock()

    def prefill(self, faces: Sequence[Face]) -> int:
        """Have the prefix of these faces in the KV cache: as it is, restored, or computed.

        Returns:
            A number of this conversation; another prefill, or `forget`, ends it.
        """
        with self.lock:
            self.llm.require_open()
            self._conversation += 1
            self.prefix.prefill(faces)
            return self._conversation

    def generate(
        self,
        query: Query,
        *,
        max_tokens: int | None = None,
        constraint: Constraint | None = None,
        began: float | None = None,
    ) -> Iterator[AnswerChunk]:
        """Greedy answer, token by token; under a constraint, sentence by sentence.

        Args:
            query: faces, whose tokens come first, a question, and what was found of that which it asks about.
            max_tokens: the answer is cut here; never longer than the bundle allows.
            constraint: where it finds a violation, the answer goes back to that word and takes another plausible token
                there, if there is one.
            began: when the question was asked, by time.perf_counter; by default now.

        Raises:
            QuestionError: the question does not fit the context.
            RequestError: max_tokens is below 1; or the conversation was overtaken by another one, or wiped.
        """
        began = time.perf_counter() if began is None else began
        limit = whole("max_tokens", max_tokens)
        limit = self._spec.max_answer if limit is None else min(limit, self._spec.max_answer)
        if limit < 1:
            raise RequestError(f"max_tokens {max_tokens}; expected at least 1")
        conversation = self.prefill(query.faces)
        suffix = self._suffix(query.token_ids, query.findings)
        self.prompt_tokens = self.prefix.length + sum(map(len, suffix))
        return self._generate(suffix, limit, began, constraint, conversation)

    def score(
        self, faces: Sequence[Face], questions: Sequence[tuple[list[int], Findings]], answers: Sequence[str]
    ) -> NDArray[np.float64]:
        """(questions, answers): the LLM's probability of each answer, among all that it could say.

        All questions are decoded in parallel. Answers are compared by their first differing token.

        Raises:
            RequestError: answers begin alike.
        """
        shared, first_tokens = self._first_tokens(answers)
        with self.lock:
            self.prefill(faces)
            suffixes = [self._suffix(question, findings, shared) for question, findings in questions]
            # A batch holds tokens or embeddings: where some have findings and others none, all become embeddings.
            if len({(len(s), isinstance(s[0], list)) for s in suffixes}) > 1:
                suffixes = [self._suffix(q, f, shared, embedded=True) for q, f in questions]
            probabilities = [_softmax(x)[first_tokens] for x in self._logits_after(suffixes)]
        return np.array(probabilities, np.float64).reshape(len(questions), len(answers))

    def interrupt(self) -> None:
        """End the answer under way before its next token, with a RequestError.

        Waits for nothing: where the LLM begins to read a face at this very moment, that answer goes on.
        """
        self._conversation += 1

    def forget(self) -> None:
        """Wipe the caches: nothing of any face stays in them."""
        with self.lock:
            self.prefix.wipe()
            self._conversation += 1

    def _suffix(
        self, question: list[int], findings: Findings, answer: Sequence[int] = (), *, embedded: bool = False
    ) -> list[LlmInput]:
        """What follows a prefix, up to the answer and its first tokens, in few blocks."""
        encoded: list[LlmInput] = [self.tokenizer.encode(f) if isinstance(f, str) else f for f in findings]
        parts: list[LlmInput] = [question, *self.prefix.per_face(encoded), [*self._before_answer, *answer]]
        return self.llm.pack(parts, embedded=embedded)

    def _logits_after(self, suffixes: Sequence[list[LlmInput]]) -> Iterator[NDArray[np.float32]]:
        """Logits after each suffix, in order; as many in parallel as the context holds."""
        batch: list[LlmInput] = []
        room = self._spec.context - self.prefix.length
        for blocks in suffixes:
            if len(blocks) > 1:
                # Tokens and embeddings that cannot be packed: one after the other, in the conversation itself.
                self.llm.truncate(self.prefix.length)
                self._decode(blocks, self.prefix.length)
                yield self.llm.logits()
                self.llm.truncate(self.prefix.length)
                continue
            if len(batch) == MAX_PARALLEL_SEQS or sum(map(len, batch)) + len(blocks[0]) > room:
                yield from self._decode_parallel(batch)
                batch = []
            batch += blocks
        yield from self._decode_parallel(batch)

    def _first_tokens(self, answers: Sequence[str]) -> tuple[list[int], list[int]]:
        """Tokens that all answers begin with, and each one's first token behind them."""
        encoded = [self.tokenizer.encode(a) for a in answers]
        if len(encoded) < 2 or not all(encoded):
            raise RequestError(f"answers {list(answers)!r}; expected at least two, none of them empty")
        shared = 0
        while all(len(t) > shared + 1 for t in encoded) and len({t[shared] for t in encoded}) == 1:
            shared += 1
        first = [t[shared] for t in encoded]
        if len(set(first)) < len(first):
            raise RequestError(f"answers {list(answers)!r} begin alike: word them so that their first words differ")
        return encoded[0][:shared], first

    def _generate(
        self, suffix: list[LlmInput], limit: int, began: float, constraint: Constraint | None, conversation: int
    ) -> Iterator[AnswerChunk]:
        """Constrained greedy decoding with backtracking.

        `pending` holds the steps of the last sentence, which can still be cut back; what is yielded cannot.
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        pending: list[_Step] = []
        n_yielded = n_backtracks = 0
        candidates: list[tuple[int, float]] = []
        pos, blocks = self.prefix.length, suffix
        while True:
            with self._turn(conversation):
                if not candidates:
                    pos = self._decode(blocks, pos)
                    candidates = self._top_tokens()
                    self.prefix.last_used = time.monotonic()
                token = candidates[0][0]
                is_end = token in self._stop or self.tokenizer.is_eog(token)
                text = utf8.decode(b"" if is_end else self.tokenizer.token_bytes(token), is_end)
            pending.append(_Step(pos, candidates, text, (time.perf_counter() - began) * 1e3))
            sentence = "".join(s.text for s in pending)
            violation = constraint(sentence) if constraint and n_backtracks < MAX_BACKTRACKS else None
            step = None if violation is None else _step_at(pending, violation)
            if step and (alternatives := self._alternatives(step)):
                n_backtracks += 1
                del pending[pending.index(step) :]
                with self._turn(conversation):
                    self.llm.truncate(step.pos)
                pos, candidates = step.pos, alternatives
                utf8.reset()
                continue
            is_last = is_end or n_yielded + len(pending) == limit
            if is_last or constraint is None or complete(sentence):
                finish_reason = "length" if not is_end else "repaired" if n_backtracks else "stop"
                for s in pending:
                    n_yielded += 1
                    final = is_last and s is pending[-1]
                    probability = s.candidates[0][1]
                    yield AnswerChunk(s.text, n_yielded, probability, s.elapsed_ms, finish_reason if final else None)
                pending = []
            if is_last:
                return
            blocks, candidates = [[token]], []

    def _top_tokens(self) -> list[tuple[int, float]]:
        """The likeliest next tokens and their probabilities, in order; others than the first only if plausible."""
        logits = self.llm.logits()
        top = np.argpartition(-logits, TOP_K)[:TOP_K]
        top = top[np.argsort(-logits[top], kind="stable")]
        total = np.exp(logits - logits[top[0]]).sum()
        found = [(int(t), float(np.exp(logits[t] - logits[top[0]]) / total)) for t in top]
        return [found[0], *(x for x in found[1:] if x[1] >= MIN_ALTERNATIVE_PROB)]

    def _alternatives(self, step: _Step) -> list[tuple[int, float]]:
        """The tokens that may stand instead of a step's. Where it does not go on with a word, neither may they: "looks"
        and "ick" would grow together."""
        goes_on = step.text[:1].isalnum()
        return [x for x in step.candidates[1:] if goes_on or not self.tokenizer.token_bytes(x[0])[:1].isalnum()]

    def _decode(self, blocks: Sequence[LlmInput], pos: int) -> int:
        with self.prefix.lost_on_error():
            return self.llm.decode(blocks, pos)

    def _decode_parallel(self, batch: Sequence[LlmInput]) -> list[NDArray[np.float32]]:
        with self.prefix.lost_on_error():
            return self.llm.decode_parallel(batch, self.prefix.length) if batch else []

    @contextmanager
    def _turn(self, conversation: int) -> Iterator[None]:
        """The LLM, for the stream of this conversation: the cache holds one, and a stream that was overtaken must not
        go on in another's."""
        with self.lock:
            self.llm.require_open()
            if conversation != self._conversation:
                raise RequestError("another question was asked, or the cache wiped, while this answer was streaming")
            yield

    def close(self) -> None:
        """Wipe the caches, free model and context."""
        if self._lock.inherited:
            return
        with self.lock:
            self.forget()
            self.llm.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exp = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(exp / exp.sum())


def _step_at(steps: Sequence[_Step], character: int) -> _Step:
    """The step whose text holds this character."""
    end = 0
    for step in steps:
        end += len(step.text)
        if character < end:
            return step
    return steps[-1]
