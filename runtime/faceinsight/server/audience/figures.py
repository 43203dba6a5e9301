"""Audience figures: how many people were in front of the camera, by what was on the screen, and what was found of them.

Fed with the `left` event of every visit, it adds to sums at once and holds nothing of a person. Windows of at least 15
minutes are closed as a whole, and only closed windows leave. Whatever they show is of `least` people or more: a smaller
number is null, and so are as many others as are needed so that it cannot be computed from them and their total
(complementary suppression). Figures over several windows are made of what these show, so nothing more can be computed
from them. Expected numbers and their intervals: see quantification.py.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ...errors import RequestError
from .quantification import corrections
from .window import COLUMNS, NOTHING, Figures, Question, Sums, released, rows, shown_total, suppressed, total

#: Seconds of a window, at least; windows that are held; contents of a window, and of all that are held, at most.
WINDOW, HELD, CONTENTS, HELD_CONTENTS = 900.0, 96, 16, 192
#: People that a figure is of, at least.
LEAST = 5
#: Seconds for which somebody who counts was there, and was turned to the camera to be a watcher.
IMPRESSION, WATCHING = 1.0, 1.0
#: The content while nobody has said what is on the screen.
NO_CONTENT = "none"
_CONTENT = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Window:
    """A closed one. ended: by the monotonic clock; contents: None of fewer people than may be shown."""

    start: datetime
    ended: float
    impressions: int | None
    watchers: int | None
    contents: Mapping[str, Figures | None]


class Audience:
    """Of one camera.

    Attributes:
        window: seconds of a window.
        least: people that a figure is of, at least.
    """

    def __init__(
        self,
        facts: Callable[[], Mapping[str, Any] | None],
        *,
        window: float = WINDOW,
        least: int = LEAST,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """Nobody was there yet.

        Args:
            facts: what the worker said of its bundle (`bundle_sha256`, `characteristics`, `choices`); None before that.
            window: seconds, 900 or more.
            least: people, 2 or more.
            clock: seconds, never set; decides when windows end.
            now: the date, for the record.

        Raises:
            RequestError: window or least does not fit.
        """
        if window < WINDOW or least < 2:
            raise RequestError(
                f"audience: expected a window of {WINDOW:g} s or more and figures of 2 people or more, found "
                f"{window:g} s and {least}"
            )
        self.window, self.least = window, least
        self._facts, self._clock, self._now = facts, clock, now
        self._known: Mapping[str, Any] | None = None
        self._bundle, self._questions = "", list[Question]()
        self._shown: deque[tuple[float, str]] = deque([(clock(), NO_CONTENT)], maxlen=CONTENTS)
        self._closed: deque[_Window] = deque(maxlen=HELD)
        self._unreported: deque[_Window] = deque(maxlen=HELD)
        self._open(clock())

    def observe(self, kind: str, values: Mapping[str, Any]) -> None:
        """An event of the camera."""
        if kind == "left":
            self.left(values)

    def left(self, values: Mapping[str, Any]) -> None:
        """Somebody has left. values: of the event: `dwell_s`, `attention_s`, `labels`."""
        at = self._clock()
        self._close_if_due(at)
        self._take_facts()
        if values["dwell_s"] < IMPRESSION:
            return
        sums = self._contents.setdefault(self._content(at, values["dwell_s"]), Sums())
        sums.people += 1
        sums.watchers += values["attention_s"] >= WATCHING
        sums.dwell += values["dwell_s"]
        sums.attention += values["attention_s"]
        for question in self._questions:
            sums.add(question, values["labels"])

    def set_content(self, content: str) -> None:
        """What is on the screen from now on. Raises RequestError where the name does not fit, or one window has too
        many of them."""
        if not _CONTENT.fullmatch(content):
            raise RequestError("content: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")
        self._close_if_due(self._clock())
        if content not in self._contents and len(self._contents) >= CONTENTS:
            raise RequestError(f"content: a window has at most {CONTENTS} of them; name groups of contents instead")
        self._contents.setdefault(content, Sums())
        if content != self._shown[-1][1]:
            self._shown.append((self._clock(), content))

    def roll(self, at: float) -> dict[str, Any] | None:
        """Close the window if it is over; returns the first of the closed ones that was not returned before, or None.

        at: seconds of `clock`, now."""
        self._close_if_due(at)
        if not self._unreported:
            return None
        window = self._unreported.popleft()
        contents = {name: found.plain() if found else NOTHING for name, found in window.contents.items()}
        return {
            "start": _iso(window.start),
            "window_s": self.window,
            "least_people": self.least,
            "expected": self._expected(),
            "impressions": window.impressions,
            "watchers": window.watchers,
            "contents": contents,
        }

    def report(self, seconds: float) -> dict[str, Any]:
        """The closed windows of the last so many seconds together. Raises RequestError where that is less than one."""
        windows = self._of_last(seconds)
        contents: dict[str, Any] = {}
        for name in sorted({name for window in windows for name in window.contents}):
            found = [window.contents[name] for window in windows if name in window.contents]
            known = [figures for figures in found if figures]
            figures = total(known)
            contents[name] = {"windows": len(known), "left_out": len(found) - len(known)}
            contents[name] |= figures.plain() if figures else NOTHING
        return {
            "start": _iso(windows[0].start) if windows else None,
            "end": _iso(windows[-1].start + timedelta(seconds=self.window)) if windows else None,
            "windows": len(windows),
            "window_s": self.window,
            "least_people": self.least,
            "expected": self._expected(),
            "contents": contents,
        }

    def csv(self, seconds: float) -> str:
        """The closed windows of the last so many seconds: a row for each window, content and characteristic; what is
        not shown is empty. Raises RequestError where that is less than one window."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for window in self._of_last(seconds):
            for name, figures in window.contents.items():
                table.writerows((_iso(window.start), self.window, *row) for row in rows(name, figures))
        return text.getvalue()

    def _of_last(self, seconds: float) -> list[_Window]:
        if not self.window <= seconds <= self.window * HELD:
            raise RequestError(
                f"window: expected {self.window:g} (the length of a window) to {self.window * HELD:g} seconds, found "
                f"{seconds:g}"
            )
        at = self._clock()
        self._close_if_due(at)
        return [window for window in self._closed if window.ended > at - seconds]

    def _close_if_due(self, at: float) -> None:
        if at < self._ends:
            return
        figures = {name: released(sums, self._questions, self.least) for name, sums in self._contents.items()}
        window = _Window(self._start, self._ends, *self._totals(figures), figures)
        self._closed.append(window)
        self._unreported.append(window)
        while sum(len(window.contents) for window in self._closed) > HELD_CONTENTS:
            self._closed.popleft()
        # Later windows that are over as well had nobody: they are not recorded.
        self._open(self._ends + (at - self._ends) // self.window * self.window)

    def _totals(self, figures: Mapping[str, Figures | None]) -> tuple[int | None, int | None]:
        """Impressions and watchers of all contents."""
        people, watchers = ([getattr(x, name) for x in self._contents.values()] for name in ("people", "watchers"))
        impressions = shown_total(people, [x.people if x else None for x in figures.values()], self.least)
        watching = shown_total(watchers, [x.watchers if x else None for x in figures.values()], self.least)
        few = suppressed((sum(watchers), sum(people) - sum(watchers)), self.least)[0]
        return impressions, None if few or impressions is None else watching

    def _open(self, at: float) -> None:
        self._start = self._now() - timedelta(seconds=self._clock() - at)
        self._ends = at + self.window
        self._contents: dict[str, Sums] = {self._shown[-1][1]: Sums()}

    def _content(self, at: float, dwell: float) -> str:
        """What was on the screen for most of somebody's visit."""
        until, times = at, dict[str, float]()
        for since, name in reversed(self._shown):
            times[name] = times.get(name, 0.0) + until - max(since, at - dwell)
            until = since
            if since <= at - dwell:
                break
        return max(times, key=times.__getitem__)

    def _take_facts(self) -> None:
        """Whose labels these are: another bundle's, or those of other groups, are not added to the same sums."""
        facts = self._facts()
        if facts is None or facts is self._known:
            return
        questions = _questions(facts)
        if self._known and (facts["bundle_sha256"], questions) != (self._bundle, self._questions):
            self._closed.clear()
            self._unreported.clear()
            self._open(self._clock())
        self._known, self._bundle, self._questions = facts, facts["bundle_sha256"], questions

    def _expected(self) -> dict[str, Any]:
        """Whether there are expected numbers, and why not."""
        if any(question.correction for question in self._questions):
            return {"available": True, "reason": ""}
        reason = "there is no validation record of this bundle" if self._bundle else "nobody was there yet"
        return {"available": False, "reason": reason}


def _questions(facts: Mapping[str, Any]) -> list[Question]:
    """What is counted: each choice once, in the place of its first member, and every other characteristic."""
    known = corrections(facts["bundle_sha256"])
    choice_of = {name: tuple(choice) for choice in facts["choices"] for name in choice}
    groups = {c["name"]: c["group"] for c in facts["characteristics"]}
    members = dict.fromkeys(choice_of.get(name, (name,)) for name in groups)
    out = []
    for names in members:
        correction = next((known[name] for name in names if name in known), None)
        fits = correction is not None and {name for of in correction.classes for name in of} <= set(names)
        out.append(Question(names[0] if len(names) == 1 else groups[names[0]], names, correction if fits else None))
    return out


def _iso(date: datetime) -> str:
    return date.isoformat(timespec="seconds")
