"""What a closed window shows of the people in front of one content: sums in, numbers that may be shown out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, TypeVar

from .quantification import Correction, clip

T = TypeVar("T", int, float)
YES, NO, UNSURE, HIDDEN, UNREAD = "yes", "no", "unsure", "not visible", "not read"
#: Columns of the CSV.
COLUMNS = (
    "start", "seconds", "content", "impressions", "watchers", "dwell_mean_s", "dwell_total_s", "attention_mean_s",
    "attention_total_s", "characteristic", "choice", "yes", "no", "unsure", "not_visible", "not_read", "expected",
    "low", "high",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """What is counted of everybody.

    Attributes:
        name: of the characteristic, or of the group that a choice's members are in.
        members: characteristics: itself, or those of the choice, of which one holds.
        correction: of their probabilities; None where there is none for this bundle.
    """

    name: str
    members: tuple[str, ...]
    correction: Correction | None

    @property
    def is_choice(self) -> bool:
        """Is it one of several?"""
        return len(self.members) > 1

    @property
    def answers(self) -> tuple[str, ...]:
        """Of which everybody gets one."""
        return (*(self.members if self.is_choice else (YES, NO)), UNSURE, HIDDEN, UNREAD)

    def answer(self, labels: Mapping[str, Sequence[Any]]) -> tuple[str, list[float]]:
        """One person's answer, and the members' probabilities; none where it is not visible or was not read.

        labels: name -> state and probability."""
        found = [labels[name] for name in self.members if name in labels]
        if len(found) < len(self.members):
            return UNREAD, []
        if any(state == HIDDEN or probability is None for state, probability in found):
            return HIDDEN, []
        states = [state for state, _ in found]
        answer = states[0]
        if self.is_choice:
            answer = self.members[states.index(YES)] if YES in states else UNSURE
        return answer, [probability for _, probability in found]


@dataclass(slots=True)
class Sums:
    """Over people: nothing of one of them. counts: question -> answer -> people. probabilities: question -> sums."""

    people: int = 0
    watchers: int = 0
    dwell: float = 0.0
    attention: float = 0.0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    probabilities: dict[str, list[float]] = field(default_factory=dict)

    def add(self, question: Question, labels: Mapping[str, Sequence[Any]]) -> None:
        """One person more."""
        answer, probabilities = question.answer(labels)
        self.counts.setdefault(question.name, Counter())[answer] += 1
        sums = self.probabilities.setdefault(question.name, [0.0] * len(question.members))
        for i, probability in enumerate(probabilities):
            sums[i] += probability


def suppressed(cells: Sequence[float], least: int, *, last: int | None = None) -> list[bool]:
    """Which numbers of a table with a known total are not shown: those below `least`, and the smallest of the others
    until two or more are missing that are `least` or more together.

    last: of these others, the one that is wanted most."""
    missing = [cell < least for cell in cells]
    for i in sorted(range(len(cells)), key=lambda i: (i == last, cells[i])):
        hidden = [cell for cell, is_missing in zip(cells, missing, strict=True) if is_missing]
        if not hidden or (len(hidden) > 1 and sum(hidden) >= least):
            break
        missing[i] = True
    return missing


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Numbers of people that explain the probabilities.

    Attributes:
        correction: that they were made with.
        counts: (C,) by class.
        missing: (C,) which are not shown.
        people: whose probabilities they are.
        limit: the highest number that may be shown: `people`, or more where that must not be known.
    """

    correction: Correction
    counts: tuple[float, ...]
    missing: tuple[bool, ...]
    people: int
    limit: int

    def __add__(self, other: Adjusted) -> Adjusted:
        counts = tuple(map(add, self.counts, other.counts))
        missing = tuple(a or b for a, b in zip(self.missing, other.missing, strict=True))
        return Adjusted(self.correction, counts, missing, self.people + other.people, self.limit + other.limit)

    def values(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Of each class: expected number and interval."""
        for i, name in enumerate(self.correction.names):
            low, high = self.correction.interval(i, self.counts, self.people)
            high = self.limit if high == self.people else high
            value = round(clip(self.counts[i], self.people), 1)
            yield name, None if self.missing[i] else {"value": value, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Table:
    """Of one question. counts: answer -> people, None where it is not shown. adjusted: None without a correction."""

    question: Question
    counts: Mapping[str, int | None]
    adjusted: Adjusted | None

    def __add__(self, other: Table) -> Table:
        counts = {answer: _sum(n, other.counts[answer]) for answer, n in self.counts.items()}
        a, b = self.adjusted, other.adjusted
        return Table(self.question, counts, a + b if a and b else None)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        expected = dict(self.adjusted.values()) if self.adjusted else None
        if expected and not self.question.is_choice:
            expected = {YES: expected[self.question.name]}
        return {"counts": dict(self.counts), "expected": expected}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the people in front of one content, in one window or several; None: not shown."""

    people: int
    watchers: int | None
    dwell: float
    attention: float | None
    tables: Mapping[str, Table]

    def __add__(self, other: Figures) -> Figures:
        tables = {name: t + other.tables[name] for name, t in self.tables.items() if name in other.tables}
        watchers, attention = _sum(self.watchers, other.watchers), _sum(self.attention, other.attention)
        return Figures(self.people + other.people, watchers, self.dwell + other.dwell, attention, tables)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "impressions": self.people,
            "watchers": self.watchers,
            "dwell_s": self.seconds(self.dwell),
            "attention_s": self.seconds(self.attention),
            "characteristics": {name: table.plain() for name, table in self.tables.items()},
        }

    def seconds(self, total: float | None) -> dict[str, float] | None:
        """Mean and total of a time."""
        return None if total is None else {"mean": round(total / self.people, 2), "total": round(total, 1)}


#: Of fewer people than may be shown.
NOTHING = dict.fromkeys(("impressions", "watchers", "dwell_s", "attention_s", "characteristics"))


def shown_total(cells: Sequence[int], shown: Sequence[int | None], least: int) -> int | None:
    """The sum of all cells; None where one that is not shown could be computed from it and the others."""
    hidden = [cell for cell, value in zip(cells, shown, strict=True) if value is None]
    fits = not hidden or (len(hidden) > 1 and sum(hidden) >= least)
    return sum(cells) if fits else None


def released(sums: Sums, questions: Sequence[Question], least: int) -> Figures | None:
    """What may be shown of these people; None where they are fewer than `least`."""
    if sums.people < least:
        return None
    few = suppressed((sums.watchers, sums.people - sums.watchers), least)[0]
    # Time is shown only of so many who spent it.
    attention = sums.attention if sums.watchers >= least else None
    tables = {question.name: _table(question, sums, least) for question in questions if question.name in sums.counts}
    return Figures(sums.people, None if few else sums.watchers, sums.dwell, attention, tables)


def _table(question: Question, sums: Sums, least: int) -> Table:
    found = sums.counts[question.name]
    counts = {answer: found[answer] for answer in question.answers}
    # How many have it is worth more than how many do not.
    missing = suppressed(list(counts.values()), least, last=None if question.is_choice else 0)
    shown = {answer: None if hide else n for (answer, n), hide in zip(counts.items(), missing, strict=True)}
    return Table(question, shown, _adjusted(question, sums, sums.people - counts[HIDDEN] - counts[UNREAD], least))


def _adjusted(question: Question, sums: Sums, people: int, least: int) -> Adjusted | None:
    if question.correction is None:
        return None
    summed = dict(zip(question.members, sums.probabilities[question.name], strict=True))
    counts = question.correction.counts(summed, people)
    missing = suppressed([clip(count, people) for count in counts], least)
    # Who was not read is a number of people as well.
    limit = people if sums.people - people >= least else sums.people
    return Adjusted(question.correction, tuple(counts), tuple(missing), people, limit)


def total(windows: Sequence[Figures]) -> Figures | None:
    """Of all of them; what one of them does not show is not shown. None of none."""
    return reduce(add, windows) if windows else None


def rows(content: str, figures: Figures | None) -> Iterator[tuple[Any, ...]]:
    """Of the CSV, without start and seconds: one for each characteristic."""
    if figures is None:
        yield (content, *[None] * (len(COLUMNS) - 3))
        return
    times = [figures.seconds(time) or {} for time in (figures.dwell, figures.attention)]
    head = (content, figures.people, figures.watchers, *(time.get(key) for time in times for key in ("mean", "total")))
    for name, table in figures.tables.items():
        expected, choice = dict(table.adjusted.values()) if table.adjusted else {}, table.question.is_choice
        rest = [table.counts[answer] for answer in (UNSURE, HIDDEN, UNREAD)]
        for row in dict.fromkeys((*table.question.members, *expected)):
            yes, no = (table.counts.get(row), None) if choice else (table.counts[YES], table.counts[NO])
            interval = expected.get(row) or {}
            values = [interval.get(key) for key in ("value", "low", "high")]
            yield (*head, row, name if choice else None, yes, no, *rest, *values)


def _sum(a: T | None, b: T | None) -> T | None:
    return None if a is None or b is None else a + b
