"""The main path of a measurement."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..backends.device import Device
from ..bundle.bundle import Bundle
from ..errors import FaceInsightError, RequestError
from ..host.child import as_here, death, interpreter
from ..insight import FaceInsight
from ..perception.image import load_image
from .conditions import conditions, require_active
from .nvml import open_nvml
from .result import FORMAT, START, VERSION, Energy, Memory, Result, disturbance
from .sensors import EnergySensor, Meter, find_sensors
from .state import MachineState, cpu_time, others_share, peak_mb, read_state
from .steps import COLD, LOAD, QUESTION, WHOLE_KNOWN, WHOLE_NEW, Stopwatch, one_round, rates, start
from .sustained import Progress, energy, left, sustain

log = logging.getLogger(__name__)

#: Rounds that are not counted. At least so many starts, which are slow, and one for every so many rounds:
#: from six on, the median has an interval.
WARM_UP, STARTS, ROUNDS_A_START = 3, 6, 10
#: Seconds of rest before energy is measured, and the least that each kind of work then goes on.
IDLE = 3.0


def bench(
    photo: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] = "nano",
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 100,
    minutes: float = 0.0,
    root: Path = Path("/"),
    progress: Progress = log.info,
) -> Result:
    """Measure every step on this machine, which should be idle otherwise.

    Args:
        photo: a file with at least one face; the questions are about the largest.
        bundle, device, threads: as in `FaceInsight.load`.
        rounds: how often each step is measured; loading and cold starts less often.
        minutes: of a sustained run behind it; 0: none.
        root: where the machine's /etc, /proc and /sys are.
        progress: is told what goes on.
    Raises DeviceError where a graph does not run on the device: there are no figures of a GPU that the CPU made.
    """
    if rounds < 1 or not 0 <= minutes <= 10_000:
        raise RequestError(f"rounds {rounds}, minutes {minutes}; expected at least 1, and 0 to 10,000")
    photo = Path(photo)
    image = load_image(photo)
    where, opened = Device.resolve(device, threads=threads), Bundle.open(bundle)
    nvml = open_nvml() if where.name != "cpu" or where.llm_on_gpu else None
    sensors, notes = find_sensors(root, nvml)
    before = read_state(root, nvml)
    watch = Stopwatch()

    def load() -> FaceInsight:
        with watch(START, LOAD):
            return FaceInsight.load(bundle, device=device, threads=threads, forget_after=None)

    progress(f"loading {opened.manifest.name} on {where.name}")
    starts, clock = min(rounds, max(STARTS, rounds // ROUNDS_A_START)), time.monotonic()
    with load() as insight:
        faces = start(watch, insight, photo)
        # Each start again, and a process of its own, which imports the libraries first.
        a_start = time.monotonic() - clock
        behind = starts * a_start * 3 + IDLE * 3 * bool(sensors)
        _settle(insight, photo, progress)
        require_active(where, _active(insight))
        began, clock = cpu_time(root), time.monotonic()
        for _ in range(warm := min(WARM_UP, rounds)):
            one_round(Stopwatch(), insight, photo)
        a_round = (time.monotonic() - clock) / warm
        if busy := disturbance(others_share(began, cpu_time(root))):
            progress(f"warning: {busy}")
        began, clock = cpu_time(root), time.monotonic()
        for i in range(rounds):
            if i % max(1, rounds // 10) == 0:
                a_round = (time.monotonic() - clock) / i if i else a_round
                progress(f"round {i + 1} of {rounds}, {left((rounds - i) * a_round + minutes * 60 + behind)}")
            tokens = one_round(watch, insight, photo)
        others = others_share(began, cpu_time(root))
        after, peak = read_state(root, nvml), peak_mb(root=root)

        def answer_new() -> None:
            insight.forget()
            insight.ask(insight.perceive(photo)[0], QUESTION)

        used = _energy(sensors, rounds, {WHOLE_NEW: answer_new, WHOLE_KNOWN: lambda: insight.ask(faces[0], QUESTION)})
        lasting = (
            sustain(
                answer_new, minutes, what=WHOLE_NEW, root=root, nvml=nvml, sensors=sensors, behind=behind,
                progress=progress,
            )
            if minutes
            else None
        )  # fmt: skip
        # Once more: a plan that was to come may have failed on the way.
        providers = _active(insight)
        require_active(where, providers)
        layers = insight.language.llm.gpu_layers

    for i in range(1, starts):
        progress(f"start {i + 1} of {starts}, {left((starts - i) * a_start + starts * a_start * 2)}")
        with load() as again:
            start(watch, again, photo)
    fresh = _cold(watch, starts, photo, os.fspath(bundle), device, where.threads, root, progress)
    steps = watch.steps()
    if where.name != "cpu" and not where.llm_on_gpu:
        notes = (*notes, "the LLM ran on the CPU: this llama-cpp-python is a CPU build")
    return Result(
        format=FORMAT,
        version=VERSION,
        conditions=conditions(
            bundle=opened, asked=device, device=where, providers=providers, gpu_layers=layers, photo=photo,
            photo_size=(image.shape[1], image.shape[0]), faces=len(faces), question=QUESTION, rounds=rounds, nvml=nvml,
            root=root,
        ),
        steps=steps,
        rates=rates(steps, tokens),
        memory=Memory(peak, fresh, _drop(before, after)),
        energy=used,
        sustained=lasting,
        before=before,
        after=after,
        others=others,
        notes=notes,
    )  # fmt: skip


def _active(insight: FaceInsight) -> dict[str, tuple[str, ...]]:
    return {g.name: g.providers for g in insight.graphs}


def _settle(insight: FaceInsight, photo: Path, progress: Progress) -> None:
    """Until plans that the first run began to build are built, and the sessions have gone over to them."""
    for graph in insight.graphs:
        progress(f"{graph.name}: {graph.providers[0]}")
        graph.settle()
    insight.ask(insight.perceive(photo)[0], QUESTION)


def _energy(
    sensors: tuple[EnergySensor, ...], rounds: int, works: dict[str, Callable[[], object]]
) -> tuple[Energy, ...]:
    """Joules of each kind of work, apart from the timing so that neither disturbs the other."""
    if not sensors:
        return ()
    with Meter(sensors) as idle:
        time.sleep(IDLE)
    out = []
    for name, work in works.items():
        answers = 0
        with Meter(sensors) as meter:
            began = time.monotonic()
            while answers < rounds or time.monotonic() - began < IDLE:
                work()
                answers += 1
        out.append(energy(name, answers, meter, idle_watts=round(idle.total / idle.seconds, 3)))
    return tuple(out)


def _cold(
    watch: Stopwatch, starts: int, photo: Path, bundle: str, device: str, threads: int, root: Path,
    progress: Progress = log.info,
) -> float | None:  # fmt: skip
    """A new process from its start to its first answer; returns its peak memory. One goes before, uncounted: it brings
    the files into Linux's cache."""
    python = interpreter()
    if python is None:
        return None
    command = [python, *as_here("faceinsight.cli"), "ask", str(photo), QUESTION, "--bundle", bundle]
    command += ["--device", device, "--threads", str(threads)]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    peaks, clock = [], time.monotonic()
    for i in range(starts + 1):
        if i:
            remaining = left((starts + 1 - i) * (time.monotonic() - clock) / i)
            progress(f"start {i} of {starts} in a process of its own, {remaining}")
        with tempfile.TemporaryFile("w+") as stderr:
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env) as child:
                answer = child.stdout.readline() if child.stdout else ""
                ms = (time.perf_counter() - began) * 1e3
                peak = peak_mb(child.pid, root)
            if child.returncode != 0 or not answer.strip():
                stderr.seek(0)
                raise FaceInsightError(f"a process of its own gave no answer: {death(child.returncode, stderr.read())}")
        if i:
            watch.add(START, COLD, ms)
            peaks.append(peak)
    known = [p for p in peaks if p is not None]
    return max(known) if known else None


def _drop(before: MachineState, after: MachineState) -> float | None:
    if before.available_mb is None or after.available_mb is None:
        return None
    return round(before.available_mb - after.available_mb, 1)
