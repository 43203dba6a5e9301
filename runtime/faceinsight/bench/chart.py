"""A result as a picture: medians as bars, p90 as whiskers, on a logarithmic scale; a sustained run below."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .result import ANSWER, STAGE, START, Result, Step, Sustained
from .text import TITLES, number

_INK, _DIM, _PAPER, _GRID = (40, 42, 50), (112, 116, 128), (255, 255, 255), (226, 228, 234)
#: RGB, by group.
_COLOURS = {START: (150, 130, 200), STAGE: (70, 150, 210), ANSWER: (60, 165, 120)}
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 1180, 400, 1040, 30, 92
_PLOT, _FOOT = 220, 40


def chart(result: Result) -> bytes:
    """A PNG file."""
    rows: list[Step | str] = []
    for group, title in TITLES.items():
        rows += [title, *(s for s in result.steps if s.group == group)]
    height = _TOP + _ROW * (len(rows) + 1) + (_PLOT + 2 * _FOOT if result.sustained else 0) + _FOOT
    picture = np.full((height, _WIDTH, 3), _PAPER, np.uint8)
    c = result.conditions
    _text(picture, f"FaceInsight, bundle {c.bundle}: milliseconds, median and p90", (28, 38), 0.75, _INK, 2)
    llm = "GPU" if c.llm_on_gpu else "CPU"
    where = f"{c.machine}; device {c.device}, LLM on {llm}, {c.threads} threads; {c.rounds} rounds; {c.when[:10]}"
    _text(picture, where, (28, 66), 0.48, _DIM)
    scale = _Scale.of(result.steps)
    scale.grid(picture, _TOP, _TOP + _ROW * len(rows))
    for i, row in enumerate(rows):
        y = _TOP + _ROW * i
        if isinstance(row, str):
            _text(picture, row, (28, y + 21), 0.52, _INK, 2)
        else:
            _bar(picture, row, y, scale)
    if result.sustained:
        _sustained(picture, result.sustained, _TOP + _ROW * (len(rows) + 1) + _FOOT)
    # OpenCV writes BGR.
    data = cv2.imencode(".png", picture[:, :, ::-1])[1]
    return bytes(data.tobytes())


class _Scale:
    """Milliseconds to columns, whole decades."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    @classmethod
    def of(cls, steps: Sequence[Step]) -> _Scale:
        values = [v for s in steps for v in (s.ms.p50, s.ms.p90) if v]
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        first = math.floor(math.log10(low))
        return cls(first, max(first + 1, math.ceil(math.log10(high))))

    def x(self, ms: float) -> int:
        share = (math.log10(max(ms, 10.0**self._low)) - self._low) / (self._high - self._low)
        return round(_LEFT + share * (_RIGHT - _LEFT))

    def grid(self, picture: NDArray[np.uint8], top: int, bottom: int) -> None:
        for decade in range(self._low, self._high + 1):
            x = self.x(10.0**decade)
            cv2.line(picture, (x, top), (x, bottom), _GRID, 1)
            _text(picture, f"{10.0**decade:,g}", (x - 8, bottom + 18), 0.42, _DIM)


def _bar(picture: NDArray[np.uint8], step: Step, y: int, scale: _Scale) -> None:
    middle, end = y + _ROW // 2, scale.x(step.ms.p50)
    _text(picture, step.name, (44, y + 20), 0.47, _INK)
    cv2.rectangle(picture, (_LEFT, y + 7), (max(end, _LEFT + 1), y + _ROW - 8), _COLOURS[step.group], -1)
    label = number(step.ms.p50)
    if step.ms.p90 is not None:
        tip = scale.x(step.ms.p90)
        cv2.line(picture, (end, middle), (tip, middle), _INK, 1, cv2.LINE_AA)
        cv2.line(picture, (tip, middle - 5), (tip, middle + 5), _INK, 1, cv2.LINE_AA)
        label, end = f"{label}   p90 {number(step.ms.p90)}", max(end, tip)
    _text(picture, label, (end + 10, y + 20), 0.44, _DIM)


def _sustained(picture: NDArray[np.uint8], run: Sustained, top: int) -> None:
    """Median and p99 of each window over time, from zero."""
    bottom = top + _PLOT
    drift = "" if run.drift is None else f"; last tenth against the first: {run.drift:+.1%}"
    _text(picture, f"{run.minutes:g} minutes without a pause, ms per answer{drift}", (28, top - 12), 0.52, _INK, 2)
    lines = {
        "p50": [(w.begins_s + w.seconds / 2, w.ms.p50) for w in run.windows if w.ms],
        "p99": [(w.begins_s + w.seconds / 2, w.ms.p99) for w in run.windows if w.ms and w.ms.p99 is not None],
    }
    most = max((ms for line in lines.values() for _, ms in line), default=1.0) * 1.1
    left = 110
    for share in (0.0, 0.5, 1.0):
        y = round(bottom - share * _PLOT)
        cv2.line(picture, (left, y), (_RIGHT, y), _GRID, 1)
        _text(picture, number(most * share), (28, y + 5), 0.44, _DIM)
    # The two lines may end close together: their names must not.
    for (name, line), colour, beside in zip(lines.items(), (_COLOURS[ANSWER], _COLOURS[START]), (16, -8), strict=True):
        points = [
            (round(left + s / (run.minutes * 60) * (_RIGHT - left)), round(bottom - ms / most * _PLOT))
            for s, ms in line
        ]
        if points:
            cv2.polylines(picture, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
            _text(picture, name, (_RIGHT + 12, points[-1][1] + beside), 0.5, colour, 2)
    _text(picture, f"{run.minutes:g} min", (_RIGHT - 40, bottom + 20), 0.44, _DIM)


def _text(
    image: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
    weight: int = 1,
) -> None:
    # OpenCV's font has ASCII only.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)
