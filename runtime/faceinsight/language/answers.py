"""From what the LLM generated, or how it scored given answers, to the values that are handed out."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence

from ..errors import PolicyError, RequestError
from ..types import Answer, AnswerChunk, AnswerScores, Label, Timings
from .generation import AnswerGenerator
from .guard import Guard
from .query import Query
from .question_encoder import SWITCHED_OFF, QuestionEncoder


class AnswerStream(Iterator[AnswerChunk]):
    """The chunks of an answer as they are generated; `answer` is the whole of those that were read."""

    def __init__(self, chunks: Iterator[AnswerChunk], query: Query, questions: QuestionEncoder, began: float) -> None:
        """The arguments are those of `collect`."""
        self._chunks, self._query, self._questions, self._began = chunks, query, questions, began
        self._read: list[AnswerChunk] = []

    def __next__(self) -> AnswerChunk:
        chunk = next(self._chunks)
        self._read.append(chunk)
        return chunk

    @property
    def answer(self) -> Answer:
        """What was read so far, with the findings it rests on. Raises RequestError before the first chunk."""
        if not self._read:
            raise RequestError("nothing of this answer was read yet: there is none")
        return collect(self._read, self._query, self._questions, self._began)

    def close(self) -> None:
        """Generate no more of it."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()


def collect(chunks: Sequence[AnswerChunk], query: Query, questions: QuestionEncoder, began: float) -> Answer:
    """A whole answer of its chunks.

    Args:
        chunks: all of them, at least one.
        query: what was asked.
        questions: tells a sentence that declines.
        began: when the question was asked, by time.perf_counter.
    """
    last, text = chunks[-1], "".join(c.text for c in chunks).strip()
    reason = query.question.declined or questions.decline_reason(text)
    labels = () if reason else tuple(x for of_face in query.labels for x in of_face)
    log_probabilities = [math.log(max(c.probability, 1e-9)) for c in chunks]
    return Answer(
        text=text,
        labels=labels,
        confidence=round(math.exp(sum(log_probabilities) / len(log_probabilities)), 4),
        evidence=tuple(dict.fromkeys(x.region for x in labels)),
        finish_reason=last.finish_reason or "stop",
        timings=Timings(chunks[0].elapsed_ms, (time.perf_counter() - began) * 1e3, last.tokens),
        outcome="declined" if reason else "unsure" if labels and not any(map(_is_sure, labels)) else "answered",
        reason=reason,
    )


def score_answers(
    questions: Sequence[str], queries: Sequence[Query], answers: Sequence[str], language: AnswerGenerator, guard: Guard
) -> tuple[AnswerScores, ...]:
    """How the LLM chooses between given answers, for several questions about the same faces.

    Raises:
        PolicyError: a question is declined, or a question or an answer mentions something switched off.
        RequestError: the first words of the answers do not differ.
    """
    for question, query in zip(questions, queries, strict=True):
        parsed = query.question
        if parsed.declined and parsed.declined != SWITCHED_OFF:
            raise PolicyError(f"{question!r} is declined ({parsed.declined}): {parsed.decline}")
        if parsed.asks_disabled or any(map(guard.forbids, (question, *answers))):
            raise PolicyError(f"{question!r} asks about something that is switched off here")
    if not queries:
        return ()
    table = language.score(queries[0].faces, [(q.token_ids, q.findings) for q in queries], answers)
    return tuple(
        AnswerScores(
            question,
            dict(zip(answers, (row / max(row.sum(), 1e-12)).tolist(), strict=True)),
            float(row.sum()),
            tuple(x for of_face in query.labels for x in of_face),
        )
        for question, query, row in zip(questions, queries, table, strict=True)
    )


def _is_sure(label: Label) -> bool:
    return label.state in ("yes", "no")
