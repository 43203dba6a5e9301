"""How many threads llama.cpp gets: as many as are free, not as many as there are.

llama.cpp's threads meet after every operation. Where another process holds a core, all wait for the one that got none,
and one thread by itself is faster than two. Nobody says when that is so, but the time of a decoding step does.
"""

from __future__ import annotations

#: Steps of a trial, between two trials at first and at most, and how much of a step's time is remembered.
TRIAL, SOON, LATE, REMEMBERED = 3, 4, 256, 0.8
#: A trial wins if it takes less than this share of the time; so many steps in a row that take so many times as long as
#: usual call for one with fewer threads.
BETTER, SLOW, AGAIN = 0.9, 2.0, 2


class Threads:
    """Chooses between the budget, its half, its quarter ... and one thread, by the time that decoding steps take.

    Most steps are taken with what was best. Now and then a few are tried with each of the others in turn: later and
    later where trials lose, and with fewer at once where a step became slow.
    """

    def __init__(self, budget: int) -> None:
        """Of at most `budget` threads."""
        self.choices = [max(1, budget >> i) for i in range(budget.bit_length())]
        self._best = self._tried = self._last = 0
        self._usual: float | None = None
        self._trial: list[float] = []
        self._slow: list[float] = []
        self._wait = self._left = SOON

    @property
    def count(self) -> int:
        """Threads for the next step."""
        return self.choices[self._tried]

    def took(self, seconds: float) -> None:
        """A step with `count` threads took so long."""
        usual = self._usual = seconds if self._usual is None else self._usual
        if self._tried != self._best:
            self._trial.append(seconds)
            if seconds > SLOW * usual or len(self._trial) == TRIAL:
                self._end_trial(sum(self._trial) / len(self._trial), usual)
            return
        if seconds > SLOW * usual and self._best + 1 < len(self.choices):
            # Somebody else wants a core, if it happens again: fewer at once. With few, a slow step says nothing.
            self._slow.append(seconds)
            if len(self._slow) < AGAIN:
                return
            self._usual, self._left = sum(self._slow) / len(self._slow), 0
            if not self._best <= self._last < len(self.choices) - 1:
                self._last = self._best
        else:
            self._usual = REMEMBERED * usual + (1 - REMEMBERED) * seconds
            self._left -= 1
        self._slow = []
        if self._left <= 0 and len(self.choices) > 1:
            self._next()

    def _next(self) -> None:
        """Try the choice behind the one that was tried last."""
        self._last = (self._last + 1) % len(self.choices)
        if self._last == self._best:
            self._last = (self._last + 1) % len(self.choices)
        self._tried, self._trial = self._last, []

    def _end_trial(self, mean: float, usual: float) -> None:
        if mean < BETTER * usual:
            self._best, self._usual, self._wait = self._tried, mean, SOON
        else:
            self._tried, self._wait = self._best, min(2 * self._wait, LATE)
        self._left = self._wait
