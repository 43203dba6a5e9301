"""The outcome of a run, as the JSON file holds it. Tables, chart and comparison are made of nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..bundle.json_decoder import FieldError, decode
from ..errors import RequestError
from ..plain import Plain, to_json
from .state import MachineState, throttling
from .stats import Summary

FORMAT = "faceinsight-bench"
#: Of the JSON file. Another one is refused, never guessed at.
VERSION = 1
#: Share of the CPU time that others may take: two cores with one busy elsewhere slow an LLM tenfold, not twofold.
IDLE_ENOUGH = 0.05
#: What a step belongs to: starting, one part of the way, what a user waits for.
START, STAGE, ANSWER = "start", "stage", "answer"


def disturbance(others: float | None) -> str | None:
    """What a share of the CPU time that others took (0..1; None: not known) means, in words, where it matters."""
    if others is None or others <= IDLE_ENOUGH:
        return None
    return f"others took {others:.0%} of the CPU time: figures of a machine that is not idle mean little"


@dataclass(frozen=True, slots=True)
class Step:
    """Milliseconds of one step; group: START, STAGE or ANSWER."""

    name: str
    group: str
    ms: Summary


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second: those of one run, by the step's median; low, high: by its interval."""

    name: str
    tokens: int
    per_second: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """10^6 bytes; None where /proc does not tell.

    peak_mb: resident memory of this process at its highest, after all rounds.
    fresh_peak_mb: the same of a process that answers one question.
    available_drop_mb: what the machine's MemAvailable lost to the loaded process. On a Jetson the GPU's share is in it.
    gpu_rise_mb: how much more of a GPU's own memory was in use after all rounds than before anything was loaded. What
        CUDA takes when llama.cpp looks for a GPU may have been there before.
    """

    peak_mb: float | None
    fresh_peak_mb: float | None
    available_drop_mb: float | None
    gpu_rise_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Energy:
    """Of one kind of work. Watts are means over `seconds`.

    joules: by sensor; total_joules: of those that are not part of another.
    idle_watts: before the work, with the models loaded.
    """

    work: str
    answers: int
    seconds: float
    joules: dict[str, float]
    total_joules: float
    watts: float
    joules_per_answer: float
    idle_watts: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a sustained run: answers that ended in it, and the machine at its end."""

    begins_s: float
    seconds: float
    ms: Summary | None
    per_minute: float
    state: MachineState


@dataclass(frozen=True, slots=True)
class Sustained:
    """The same work for minutes: photo file to whole answer about a face not seen before.

    drift: median of the last tenth over that of the first, less 1; positive is slower. None: an answer takes too long.
    throttled: what held clocks back on the way; None: nothing here tells.
    """

    minutes: float
    ms: Summary
    windows: tuple[Window, ...]
    drift: float | None
    throttled: tuple[str, ...] | None
    energy: Energy | None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What ran, where, and how.

    Attributes:
        when: UTC, ISO 8601.
        machine: system, architecture, processor or board.
        cores: that this process may use; threads: the budget it was given.
        asked: the device that was asked for; device: what that came to.
        providers: graph file -> what is active, the first choice first; read from the sessions after the run.
        gpu: its name, where one was used.
        llm_on_gpu, gpu_layers: where llama.cpp was told to run the LLM.
        llama_build: what llama.cpp was compiled for.
        versions: of packages and system software.
        quantisation: file -> how most of its weights are stored.
        power_mode: a Jetson's; governor: of the CPU's clock.
        photo, photo_sha256, faces: what was looked at, and how many faces were found.
        question: that the answers are to.
    """

    when: str
    machine: str
    cores: int
    threads: int
    asked: str
    device: str
    providers: dict[str, tuple[str, ...]]
    gpu: str | None
    llm_on_gpu: bool
    gpu_layers: int
    llama_build: str
    versions: dict[str, str]
    bundle: str
    bundle_sha256: str
    quantisation: dict[str, str]
    power_mode: str | None
    governor: str | None
    photo: str
    photo_sha256: str
    photo_size: tuple[int, int]
    faces: int
    question: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Result(Plain):
    """A whole run.

    before, after: the machine before anything was loaded, and after the last round.
    others: share of the machine's CPU time that others took during the rounds, 0..1; None: not known.
    """

    format: str
    version: int
    conditions: Conditions
    steps: tuple[Step, ...]
    rates: tuple[Rate, ...]
    memory: Memory
    energy: tuple[Energy, ...]
    sustained: Sustained | None
    before: MachineState
    after: MachineState
    others: float | None
    notes: tuple[str, ...]

    @property
    def disturbed(self) -> str | None:
        """That the machine was not idle otherwise, in words."""
        return disturbance(self.others)

    @property
    def throttled(self) -> tuple[str, ...] | None:
        """What held clocks back during the run; None: nothing here tells."""
        held = [self.sustained.throttled] if self.sustained else []
        known = [h for h in (throttling([self.before, self.after]), *held) if h is not None]
        return tuple(dict.fromkeys(name for h in known for name in h)) if known else None

    def step(self, name: str) -> Step | None:
        """By name; None where it was not measured."""
        return next((s for s in self.steps if s.name == name), None)

    def to_json(self) -> str:
        """As it is saved."""
        return to_json(self) + "\n"

    @classmethod
    def read(cls, path: Path) -> Result:
        """A saved run. Raises RequestError for anything else."""
        try:
            data = json.loads(path.read_bytes())
        except OSError as e:
            raise RequestError(f"{path} cannot be read: {e.strerror}") from e
        except ValueError as e:
            raise RequestError(f"{path} is not JSON: {e}") from e
        found = (data.get("format"), data.get("version")) if isinstance(data, dict) else None
        if found != (FORMAT, VERSION):
            raise RequestError(f"{path} is no result of `faceinsight bench`: found {found}, not {(FORMAT, VERSION)}")
        try:
            return decode(cls, data, path.name)
        except FieldError as e:
            raise RequestError(str(e)) from e
