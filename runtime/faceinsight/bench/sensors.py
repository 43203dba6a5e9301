"""Energy, where the machine measures it: RAPL (x86), INA3221 and INA238 (Jetson), NVML. Not run on a Jetson yet.

Nothing is estimated: without a sensor there is no figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from ..host.jetson import read_number, read_text
from .nvml import Nvml

#: Seconds between two looks: power gauges average over about this long, and counters must not wrap twice in between.
EVERY = 0.1
#: Channels of an INA3221.
CHANNELS = (1, 2, 3)
#: The rail that feeds all others: on Orin Nano and NX of an INA3221, on Thor what an INA238 measures
#: (rbonghi/jetson_stats pull request 900). An AGX Orin has none.
WHOLE = ("VDD_IN", "VIN")


@dataclass(slots=True)
class EnergySensor:
    """Sums up joules from look to look.

    name: of sensor and rail; counted: part of the machine's total (what another sensor includes is not).
    read: a counter's joules, or a gauge's watts; None where it cannot be read now.
    wraps: joules at which a counter begins anew; None: it does not. gauge: `read` gives watts.
    """

    name: str
    read: Callable[[], float | None]
    counted: bool = True
    wraps: float | None = None
    gauge: bool = False
    joules: float = 0.0
    _last: tuple[float, float] | None = field(default=None, repr=False)

    def start(self, now: float) -> None:
        """Forget what was summed up."""
        self.joules, self._last = 0.0, None
        self.sample(now)

    def sample(self, now: float) -> None:
        """Add what has come since the last look; now: seconds."""
        value = self.read()
        if value is None:
            return
        if self._last is not None:
            then, before = self._last
            if self.gauge:
                self.joules += (value + before) / 2 * (now - then)
            else:
                # One that fell has gone past its end and begun anew.
                self.joules += value - before + ((self.wraps or 0.0) if value < before else 0.0)
        self._last = now, value


class Meter:
    """Joules and seconds of what happens in a with block.

    with Meter(sensors) as meter: ...
    """

    def __init__(self, sensors: tuple[EnergySensor, ...], *, every: float = EVERY) -> None:
        """every: seconds between two looks."""
        self._sensors, self._every = sensors, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)
        self.seconds = 0.0

    @property
    def joules(self) -> dict[str, float]:
        """By sensor."""
        return {s.name: s.joules for s in self._sensors}

    @property
    def total(self) -> float:
        """Of all that is not part of another."""
        return sum(s.joules for s in self._sensors if s.counted)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._read_all()

    def _read_all(self) -> None:
        for sensor in self._sensors:
            sensor.sample(time.monotonic())

    def __enter__(self) -> Meter:
        self._began = time.monotonic()
        for sensor in self._sensors:
            sensor.start(time.monotonic())
        if self._sensors:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._sensors:
            self._thread.join()
        self._read_all()
        self.seconds = time.monotonic() - self._began


def find_sensors(root: Path = Path("/"), nvml: Nvml | None = None) -> tuple[tuple[EnergySensor, ...], tuple[str, ...]]:
    """The energy sensors that can be read, and notes on those that cannot.

    root: where the machine's /sys is. nvml: of the GPU that is used; one that idles beside a CPU's run is left out.
    """
    (rapl, unreadable), (rails, summed) = _rapl(root), _rails(root)
    sensors, notes = (*rapl, *rails, *_nvml(nvml)), (*unreadable, *summed)
    if not sensors and not notes:
        notes = ("no energy sensor here (looked for RAPL, INA3221, INA238 and NVML): no power, no J per answer",)
    return sensors, notes


def _rapl(root: Path) -> tuple[tuple[EnergySensor, ...], tuple[str, ...]]:
    """Counters of the kernel's powercap (AMD's too are called intel-rapl); the same by MMIO would count twice."""
    out, unreadable = [], []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(zone / "name") or zone.name
        if read_number(zone / "energy_uj") is None:
            unreadable.append(name)
            continue
        inner = zone.name.count(":") > 1
        parent = read_text(zone.with_name(zone.name.rpartition(":")[0]) / "name") if inner else None
        counted = name.startswith("package") if not inner else name == "dram"
        wraps = read_number(zone / "max_energy_range_uj")
        out.append(
            EnergySensor(
                " ".join(filter(None, ("RAPL", parent, name))),
                _scaled(zone / "energy_uj", 1e-6),
                counted,
                None if wraps is None else wraps / 1e6,
            )
        )
    if not unreadable:
        return tuple(out), ()
    note = f"RAPL ({', '.join(unreadable)}) is there but not readable by this user: "
    return tuple(out), (f"{note}sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj, until the next reboot",)


def _rails(root: Path) -> tuple[tuple[EnergySensor, ...], tuple[str, ...]]:
    """Rails of a Jetson. Where one feeds all the others, it alone is the total; else all are, and a note names them."""
    gauges: list[tuple[str, str, Callable[[], float | None]]] = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = read_text(chip / "name")
        if name == "ina3221":
            gauges += [("INA3221", label, watts) for label, watts in _ina3221(chip)]
        elif name == "ina238":
            gauges.append(("INA238", "VIN", _scaled(chip / "power1_input", 1e-6)))
    gauges = [g for g in gauges if g[2]() is not None]
    whole = any(rail in WHOLE for _, rail, _ in gauges)
    sensors = tuple(
        EnergySensor(f"{chip} {rail}", watts, rail in WHOLE or not whole, gauge=True) for chip, rail, watts in gauges
    )
    if whole or len(sensors) < 2:
        return sensors, ()
    names = ", ".join(rail for _, rail, _ in gauges)
    return sensors, (f"no rail of this board is known to feed all others: power is the sum of {names}",)


def _ina3221(chip: Path) -> list[tuple[str, Callable[[], float | None]]]:
    """Label and watts of each channel: millivolts times milliamperes."""
    rails = []
    for channel in CHANNELS:
        volts, amperes = _scaled(chip / f"in{channel}_input", 1e-3), _scaled(chip / f"curr{channel}_input", 1e-3)
        if label := read_text(chip / f"in{channel}_label"):
            rails.append((label, _product(volts, amperes)))
    return rails


def _nvml(nvml: Nvml | None) -> tuple[EnergySensor, ...]:
    if nvml is None:
        return ()
    if nvml.joules() is not None:
        return (EnergySensor(f"NVML {nvml.name()}", nvml.joules),)
    return (EnergySensor(f"NVML {nvml.name()}", nvml.watts, gauge=True),) if nvml.watts() is not None else ()


def _scaled(path: Path, factor: float) -> Callable[[], float | None]:
    def read() -> float | None:
        value = read_number(path)
        return None if value is None else value * factor

    return read


def _product(one: Callable[[], float | None], other: Callable[[], float | None]) -> Callable[[], float | None]:
    def read() -> float | None:
        a, b = one(), other()
        return None if a is None or b is None else a * b

    return read
