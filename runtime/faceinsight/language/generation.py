"""What is said about faces: their tokens and a question go into the LLM, an answer comes out."""

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

from ..backends.llama_cpp.model import BRANCHES, Llm, Rows
from ..backends.llama_cpp.tokenizer import Vocabulary
from ..bundle.manifest import LlmSpec
from ..cache import FaceCache
from ..errors import FaceInsightError, QuestionError, RequestError
from ..host.forks import OwnLock
from ..types import Face, Piece
from .claims import complete

Self = TypeVar("Self", bound="Language")

#: How many next tokens are remembered, should the first one have to be taken back; and how often an answer may be.
CANDIDATES, TAKEN_BACK = 8, 12
#: A token less likely than this is not taken instead: it leads to what no one would say.
PLAUSIBLE = 0.05
#: Takes an answer that grows; where it begins to say what it must not, or None.
Objection = Callable[[str], "int | None"]
#: What was found of a face: knowledge tokens (M,width), or words.
Findings = Sequence["NDArray[np.float32] | str"]


@dataclass(slots=True)
class _Step:
    """A chosen token that may still be taken back: its place in the context, the likeliest tokens and their
    probabilities there (the first is the chosen one), its text, and when it was chosen."""

    at: int
    candidates: list[tuple[int, float]]
    text: str
    elapsed_ms: float


class Language:
    """The LLM in conversation about a face, or two.

    The prompt up to a face (always the same) and a face's tokens are its prefix, which stays in the KV cache: a second
    question costs only its own tokens. Prefixes of earlier faces are kept beside it, and put back when asked for.
    A question always goes through the LLM by itself, so an answer does not depend on what was in the cache.
    One question at a time; `lock` is held while the LLM works, for those who wipe from another thread.
    """

    def __init__(
        self,
        llm: Llm,
        spec: LlmSpec,
        *,
        see: Callable[[Face], NDArray[np.float32]] = attrgetter("tokens"),
        kept: FaceCache | None = None,
    ) -> None:
        """llm: the loaded model, which is closed with this object.

        see: a face's tokens (T,width), asked for once per prefix; kept: for the prefixes of earlier faces.
        """
        self.llm, self._spec, self._see = llm, spec, see
        self.kept = FaceCache(0) if kept is None else kept
        self._lock = OwnLock()
        prompt = spec.prompt
        self.vocabulary = Vocabulary(self.llm.model, follow=prompt.follow, max_question=spec.max_question)
        # Face tokens are no text: what stands before them and behind them begins anew.
        parts = (prompt.before_face, prompt.after_face, prompt.between, prompt.stop)
        before, self._after, self._between, stop = (
            self.vocabulary.tokens(part, special=True, first=True) for part in parts
        )
        self._answer = self.vocabulary.tokens(prompt.before_answer, special=True)
        self._stop = set(stop[:1])
        #: Rows of the prompt before a face: computed once, put back for each face.
        self.opening_rows = self.llm.decode(self.llm.joined([before]), 0)
        self._opening = self.llm.save() if before else None
        self._known: str | None = None
        self._prefix = 0
        #: When the LLM was last used, by time.monotonic.
        self.used = 0.0
        self._question_number = 0

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held while the LLM works. Raises RequestError in a fork of the process that made this object."""
        return self._lock()

    def read(self, question: str, after: str | None = None) -> list[int]:
        """Tokens of a question, behind an earlier one if given. Raises QuestionError for an empty or too long one."""
        self.llm.require_open()
        return self.vocabulary.read(question, after)

    def prepare(self, faces: Sequence[Face]) -> int:
        """Have the prefix of these faces in the KV cache: as it is, or put back, or computed.

        Returns a number that stands for this state of the cache.
        """
        with self.lock:
            self.llm.require_open()
            self._question_number += 1
            key = " ".join(f.key for f in faces)
            if self._known == key:
                self.llm.trim(self._prefix)
            else:
                self._keep()
                state = self.kept.get(key)
                self._known = None
                self._prefix = self._compute(faces) if state is None else self.llm.restore(state)
                self._known = key
            self.used = time.monotonic()
            return self._question_number

    def stream(
        self,
        faces: Sequence[Face],
        question: list[int],
        findings: Findings,
        *,
        max_tokens: int | None = None,
        objection: Objection | None = None,
    ) -> Iterator[Piece]:
        """Greedy answer, token by token; with an objection, sentence by sentence.

        Args:
            faces: one, or two to compare; their image and region tokens come first.
            question: tokens, as `read` gives them.
            findings: per face what was found of that which the question asks about; may be empty.
            objection: where it has one, the answer goes back to that word and takes another plausible token there,
                if there is one.
        """
        began = time.perf_counter()
        limit = self._spec.max_answer if max_tokens is None else min(max_tokens, self._spec.max_answer)
        if limit < 1:
            raise RequestError(f"max_tokens {max_tokens}; expected at least 1")
        number = self.prepare(faces)
        return self._generate(self._asked(question, findings), limit, began, objection, number)

    def choose(
        self, faces: Sequence[Face], questions: Sequence[tuple[list[int], Findings]], answers: Sequence[str]
    ) -> NDArray[np.float64]:
        """(questions, answers): how likely each answer is what the LLM would say, of all that it could say.

        All questions go through the LLM at once. An answer is told by its first token behind what all of them begin
        with. Raises RequestError for answers that begin alike.
        """
        shared, firsts = self._first_tokens(answers)
        with self.lock:
            self.prepare(faces)
            asked = [self._asked(question, findings, shared) for question, findings in questions]
            if len({(len(a), isinstance(a[0], list)) for a in asked}) > 1:
                asked = [self._asked(q, f, shared, embedded=True) for q, f in questions]
            out = [_probabilities(x)[firsts] for x in self._branched(asked)]
        return np.array(out, np.float64).reshape(len(questions), len(answers))

    def forget(self) -> None:
        """Wipe the caches: nothing of any face stays in them."""
        with self.lock:
            self.kept.wipe()
            self.llm.wipe()
            self._known = None
            self._question_number += 1

    def _keep(self) -> None:
        """Save the prefix in the KV cache, if it is a face's that is not kept yet."""
        if self._known is not None and self._known not in self.kept:
            self.llm.trim(self._prefix)
            self.kept.put(self._known, self.llm.save(), used=self.used)

    def _compute(self, faces: Sequence[Face]) -> int:
        seen = [self._see(face) for face in faces]
        for tokens in seen:
            if tokens.shape[1] != self._spec.width:
                raise RequestError(
                    f"face tokens of width {tokens.shape[1]}; this bundle's LLM reads {self._spec.width}"
                )
        self.llm.trim(0)
        start = 0 if self._opening is None else self.llm.restore(self._opening)
        return self.llm.decode(self.llm.joined([*self._between_each(seen), self._after]), start)

    def _decode(self, blocks: Sequence[Rows], at: int) -> int:
        with self._cleared():
            return self.llm.decode(blocks, at)

    def _branch(self, chunk: Sequence[Rows]) -> list[NDArray[np.float32]]:
        with self._cleared():
            return self.llm.branch(chunk, self._prefix) if chunk else []

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        """Where llama.cpp fails, the cache was cleared and holds no prefix any more."""
        try:
            yield
        except QuestionError:
            raise
        except FaceInsightError:
            self._known = None
            raise

    def _asked(
        self, question: list[int], findings: Findings, behind: Sequence[int] = (), *, embedded: bool = False
    ) -> list[Rows]:
        """What follows a prefix, up to where the answer begins and `behind`, in few blocks."""
        told: list[Rows] = [self.vocabulary.tokens(f) if isinstance(f, str) else f for f in findings]
        parts = [question, *self._between_each(told), [*self._answer, *behind]]
        return self.llm.joined(parts, embedded=embedded)

    def _between_each(self, parts: Sequence[Rows]) -> list[Rows]:
        """The parts, one per face, with what stands between faces."""
        return [x for i, part in enumerate(parts) for x in ((self._between, part) if i else (part,))]

    def _branched(self, asked: Sequence[list[Rows]]) -> Iterator[NDArray[np.float32]]:
        """Logits behind each of these, in order; as many at once as the context holds."""
        chunk: list[Rows] = []
        room = self._spec.context - self._prefix
        for blocks in asked:
            if len(blocks) > 1:
                # Tokens and embeddings that cannot be joined: one after the other, in the conversation itself.
                self.llm.trim(self._prefix)
                self._decode(blocks, self._prefix)
                yield self.llm.logits()
                self.llm.trim(self._prefix)
                continue
            if len(chunk) == BRANCHES or sum(map(len, chunk)) + len(blocks[0]) > room:
                yield from self._branch(chunk)
                chunk = []
            chunk += blocks
        yield from self._branch(chunk)

    def _first_tokens(self, answers: Sequence[str]) -> tuple[list[int], list[int]]:
        """Tokens that all answers begin with, and each one's first token behind them."""
        tokens = [self.vocabulary.tokens(a) for a in answers]
        if len(tokens) < 2 or not all(tokens):
            raise RequestError(f"answers {list(answers)!r}; expected at least two, none of them empty")
        shared = 0
        while all(len(t) > shared + 1 for t in tokens) and len({t[shared] for t in tokens}) == 1:
            shared += 1
        firsts = [t[shared] for t in tokens]
        if len(set(firsts)) < len(firsts):
            raise RequestError(f"answers {list(answers)!r} begin alike: word them so that their first words differ")
        return tokens[0][:shared], firsts

    def _generate(
        self, asked: list[Rows], limit: int, began: float, objection: Objection | None, number: int
    ) -> Iterator[Piece]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        held: list[_Step] = []
        out = taken_back = 0
        candidates: list[tuple[int, float]] = []
        at, blocks = self._prefix, asked
        while True:
            with self._turn(number):
                if not candidates:
                    at = self._decode(blocks, at)
                    candidates = self._candidates()
                    self.used = time.monotonic()
                token = candidates[0][0]
                ends = token in self._stop or self.vocabulary.ends(token)
                text = decoder.decode(b"" if ends else self.vocabulary.bytes(token), ends)
            held.append(_Step(at, candidates, text, (time.perf_counter() - began) * 1e3))
            said = "".join(s.text for s in held)
            wrong = objection(said) if objection and taken_back < TAKEN_BACK else None
            back = None if wrong is None else _step_of(held, wrong)
            others = self._others(back) if back else []
            if back and others:
                taken_back += 1
                del held[held.index(back) :]
                with self._turn(number):
                    self.llm.trim(back.at)
                at, candidates = back.at, others
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
            blocks, candidates = [[token]], []

    @contextmanager
    def _turn(self, number: int) -> Iterator[None]:
        """The LLM, for the stream of this number: the cache holds one conversation, and one that was overtaken must not
        go on in another's."""
        with self.lock:
            self.llm.require_open()
            if number != self._question_number:
                raise RequestError("another question was asked, or the cache wiped, while this answer was streaming")
            yield

    def _candidates(self) -> list[tuple[int, float]]:
        """The likeliest next tokens and their probabilities, the likeliest first; others only if they are plausible."""
        logits = self.llm.logits()
        best = np.argpartition(-logits, CANDIDATES)[:CANDIDATES]
        best = best[np.argsort(-logits[best], kind="stable")]
        total = np.exp(logits - logits[best[0]]).sum()
        out = [(int(t), float(np.exp(logits[t] - logits[best[0]]) / total)) for t in best]
        return [out[0], *(x for x in out[1:] if x[1] >= PLAUSIBLE)]

    def _others(self, step: _Step) -> list[tuple[int, float]]:
        """The tokens that may stand instead of a step's. Where it does not go on with a word, neither may they: "looks"
        and "ick" would grow together."""
        goes_on = step.text[:1].isalnum()
        return [x for x in step.candidates[1:] if goes_on or not self.vocabulary.bytes(x[0])[:1].isalnum()]

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


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax, (vocabulary,)."""
    exp = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(exp / exp.sum())


def _step_of(held: Sequence[_Step], character: int) -> _Step:
    """The step whose text holds this character."""
    end = 0
    for step in held:
        end += len(step.text)
        if character < end:
            return step
    return held[-1]
