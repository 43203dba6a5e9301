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
from ..types import Face
from .conditions import conditions, require_active
from .nvml import open_nvml
from .result import FORMAT, START, VERSION, Energy, Memory, Result, Sustained, disturbance
from .sensors import EnergySensor, Meter, find_sensors
from .state import cpu_time, others_share, peak_mb, read_state
from .steps import COLD, LOAD, QUESTION, WHOLE_KNOWN, WHOLE_NEW, Stopwatch, Tokens, one_round, rates, start
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
        bundle: as in `FaceInsight.load`.
        device: as in `FaceInsight.load`.
        threads: as in `FaceInsight.load`.
        rounds: how often each step is measured; loading and cold starts less often.
        minutes: of a sustained run behind it; 0: none.
        root: where the machine's /etc, /proc and /sys are.
        progress: called with a line about what goes on.

    Raises:
        RequestError: rounds or minutes are out of range, or there is no face.
        DeviceError: a graph does not run on the device: there are no figures of a GPU that the CPU made.
    """
    if rounds < 1 or not 0 <= minutes <= 10_000:
        raise RequestError(f"rounds {rounds}, minutes {minutes}; expected at least 1, and 0 to 10,000")
    run = _Run(Path(photo), bundle, device, threads, rounds, minutes, root, progress)
    before = read_state(root, run.nvml)
    progress(f"loading {run.bundle.manifest.name} on {run.device.name}")
    clock = time.monotonic()
    with run.load() as insight:
        faces = start(run.watch, insight, run.photo)
        run.start_seconds = time.monotonic() - clock
        run.settle(insight)
        tokens, others = run.measure_rounds(insight)
        after, peak = read_state(root, run.nvml), peak_mb(root=root)
        used, lasting = run.measure_energy(insight, faces[0]), run.sustained(insight)
        # Once more: a plan that was to come may have failed on the way.
        providers = run.require_active(insight)
        gpu_layers = insight.language.llm.gpu_layers
    run.start_again()
    fresh = run.start_processes()
    steps = run.watch.steps()
    return Result(
        format=FORMAT,
        version=VERSION,
        conditions=conditions(
            bundle=run.bundle,
            asked=device,
            device=run.device,
            providers=providers,
            gpu_layers=gpu_layers,
            photo=run.photo,
            photo_size=run.photo_size,
            faces=len(faces),
            question=QUESTION,
            rounds=rounds,
            nvml=run.nvml,
            root=root,
        ),
        steps=steps,
        rates=rates(steps, tokens),
        memory=Memory(
            peak, fresh, _rise(after.available_mb, before.available_mb), _rise(before.gpu_used_mb, after.gpu_used_mb)
        ),
        energy=used,
        sustained=lasting,
        before=before,
        after=after,
        others=others,
        notes=run.notes,
    )


class _Run:
    """One measurement, stage by stage.

    Attributes:
        watch: what was timed.
        start_seconds: how long loading and the first answer took.
        notes: what a reader of the figures must know.
    """

    def __init__(
        self,
        photo: Path,
        bundle: str | os.PathLike[str],
        device: str,
        threads: int | None,
        rounds: int,
        minutes: float,
        root: Path,
        progress: Progress,
    ) -> None:
        height, width = load_image(photo).shape[:2]
        self.photo, self.photo_size = photo, (width, height)
        self._bundle, self._device, self._threads = bundle, device, threads
        self.device, self.bundle = Device.resolve(device, threads=threads), Bundle.open(bundle)
        self.rounds, self.minutes, self.root, self.progress = rounds, minutes, root, progress
        self.nvml = open_nvml() if self.device.name != "cpu" or self.device.llm_on_gpu else None
        self.sensors, self.notes = find_sensors(root, self.nvml)
        if self.device.name != "cpu" and not self.device.llm_on_gpu:
            self.notes = (*self.notes, "the LLM ran on the CPU: this llama-cpp-python is a CPU build")
        self.watch = Stopwatch()
        self.starts = min(rounds, max(STARTS, rounds // ROUNDS_A_START))
        self.start_seconds = 0.0

    @property
    def _seconds_behind(self) -> float:
        """What follows the rounds: each start again, and in a process that imports the libraries first, and energy."""
        return self.starts * self.start_seconds * 3 + IDLE * 3 * bool(self.sensors)

    def load(self) -> FaceInsight:
        with self.watch(START, LOAD):
            return FaceInsight.load(self._bundle, device=self._device, threads=self._threads, forget_after=None)

    def settle(self, insight: FaceInsight) -> None:
        """Until plans that the first run began to build are built, and the sessions have switched to them."""
        for graph in insight.graphs:
            self.progress(f"{graph.name}: {graph.providers[0]}")
            graph.settle()
        insight.ask(insight.perceive(self.photo)[0], QUESTION)
        self.require_active(insight)

    def require_active(self, insight: FaceInsight) -> dict[str, tuple[str, ...]]:
        """Active providers by graph. Raises DeviceError where one does not run on the device."""
        providers = {g.name: g.providers for g in insight.graphs}
        require_active(self.device, providers)
        return providers

    def measure_rounds(self, insight: FaceInsight) -> tuple[Tokens, float | None]:
        """Every round after a warm-up: tokens of a round, and the share of the CPU that others took meanwhile."""
        began, clock = cpu_time(self.root), time.monotonic()
        for _ in range(warm := min(WARM_UP, self.rounds)):
            tokens = one_round(Stopwatch(), insight, self.photo)
        round_seconds = (time.monotonic() - clock) / warm
        if busy := disturbance(others_share(began, cpu_time(self.root))):
            self.progress(f"warning: {busy}")
        began, clock = cpu_time(self.root), time.monotonic()
        for i in range(self.rounds):
            if i % max(1, self.rounds // 10) == 0:
                round_seconds = (time.monotonic() - clock) / i if i else round_seconds
                seconds = (self.rounds - i) * round_seconds + self.minutes * 60 + self._seconds_behind
                self.progress(f"round {i + 1} of {self.rounds}, {left(seconds)}")
            tokens = one_round(self.watch, insight, self.photo)
        return tokens, others_share(began, cpu_time(self.root))

    def _answer_new(self, insight: FaceInsight) -> None:
        insight.forget()
        insight.ask(insight.perceive(self.photo)[0], QUESTION)

    def measure_energy(self, insight: FaceInsight, face: Face) -> tuple[Energy, ...]:
        """Joules of an answer about a new photo and about a known face."""
        works: dict[str, Callable[[], object]] = {
            WHOLE_NEW: lambda: self._answer_new(insight),
            WHOLE_KNOWN: lambda: insight.ask(face, QUESTION),
        }
        return _energy(self.sensors, self.rounds, works)

    def sustained(self, insight: FaceInsight) -> Sustained | None:
        """Answers about new photos for `minutes`; None where none are wanted."""
        if not self.minutes:
            return None
        return sustain(
            lambda: self._answer_new(insight),
            self.minutes,
            what=WHOLE_NEW,
            root=self.root,
            nvml=self.nvml,
            sensors=self.sensors,
            behind=self._seconds_behind,
            progress=self.progress,
        )

    def start_again(self) -> None:
        """Loading and first answers, again in this process."""
        for i in range(1, self.starts):
            seconds = (self.starts - i) * self.start_seconds + self.starts * self.start_seconds * 2
            self.progress(f"start {i + 1} of {self.starts}, {left(seconds)}")
            with self.load() as again:
                start(self.watch, again, self.photo)

    def start_processes(self) -> float | None:
        """Cold starts; the peak memory of such a process in MB."""
        bundle, threads = os.fspath(self._bundle), self.device.threads
        return _cold(self.watch, self.starts, self.photo, bundle, self._device, threads, self.root, self.progress)


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
    watch: Stopwatch,
    starts: int,
    photo: Path,
    bundle: str,
    device: str,
    threads: int,
    root: Path,
    progress: Progress = log.info,
) -> float | None:
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


def _rise(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else round(high - low, 1)
