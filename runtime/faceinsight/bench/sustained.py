"""The same work for minutes: does the device keep its speed when it gets warm?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .nvml import Nvml
from .result import Energy, Sustained, Window
from .sensors import EnergySensor, Meter
from .state import MachineState, read_state, throttling
from .stats import Summary, summarise

#: The first and the last part of the run that are compared; a window is such a part, or a whole share of it.
PARTS = 10
#: Seconds between two looks at the energy sensors: seldom, so that looking costs nothing.
EVERY = 1.0

Progress = Callable[[str], None]


def sustain(
    work: Callable[[], object],
    minutes: float,
    *,
    what: str,
    root: Path,
    nvml: Nvml | None,
    sensors: tuple[EnergySensor, ...],
    progress: Progress,
    behind: float = 0.0,
) -> Sustained:
    """Work for so many minutes, without a pause. what: the work in words. root: where /proc and /sys are.

    behind: seconds that are still to come then, for the time left.
    """
    count = PARTS * max(1, math.ceil(minutes / PARTS))
    length = minutes * 60 / count
    spans: list[tuple[float, float]] = []
    states = [read_state(root, nvml)]
    with Meter(sensors, every=EVERY) as meter:
        origin = now = time.perf_counter()
        while now - origin < minutes * 60:
            work()
            began, now = now, time.perf_counter()
            spans.append((now - origin, (now - began) * 1e3))
            # As many states as windows have ended.
            while len(states) <= min(count, (now - origin) // length):
                states.append(read_state(root, nvml))
                remaining = left(minutes * 60 - (now - origin) + behind)
                progress(f"sustained run: window {len(states) - 1} of {count}, {remaining}")
                now = time.perf_counter()
    # The last window's end may be missed by a rounding error.
    states += [read_state(root, nvml) for _ in range(count + 1 - len(states))]
    parts: list[list[float]] = [[] for _ in range(count)]
    for ended, ms in spans:
        parts[min(int(ended // length), count - 1)].append(ms)
    share = count // PARTS
    first, last = ([ms for part in some for ms in part] for some in (parts[:share], parts[-share:]))
    return Sustained(
        minutes=minutes,
        ms=summarise([ms for _, ms in spans]),
        windows=tuple(_window(i, length, p, s) for i, (p, s) in enumerate(zip(parts, states[1:], strict=True))),
        drift=round(summarise(last).p50 / summarise(first).p50 - 1, 4) if first and last else None,
        throttled=throttling(states),
        energy=energy(what, len(spans), meter) if sensors else None,
    )


def left(seconds: float) -> str:
    """How long something still takes, as exactly as one can know: "about 40 s left"."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"about {max(1, round(seconds / 5) * 5) if seconds > 10 else max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min left"


def _window(number: int, length: float, ms: Sequence[float], state: MachineState) -> Window:
    summary: Summary | None = summarise(ms) if ms else None
    return Window(round(number * length, 2), round(length, 2), summary, round(len(ms) * 60 / length, 2), state)


def energy(work: str, answers: int, meter: Meter, *, idle_watts: float | None = None) -> Energy:
    """What a meter saw of so many answers."""
    joules = {name: round(j, 3) for name, j in meter.joules.items()}
    return Energy(
        work,
        answers,
        round(meter.seconds, 3),
        joules,
        round(meter.total, 3),
        round(meter.total / meter.seconds, 3),
        round(meter.total / answers, 4),
        idle_watts,
    )
