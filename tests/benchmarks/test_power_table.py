"""The table of power modes: how to make it while there is none, and a row of each result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from paths import ROOT
from power_table import NOTHING_YET, markdown

from faceinsight.bench.result import Energy, Result, Sustained
from faceinsight.bench.stats import Summary
from faceinsight.bench.steps import WHOLE_NEW
from faceinsight.cli.main import _parser

SAVED = Result.read(ROOT / "benchmarks/results/epyc-2026-11/latency-nano.json")


def measured(mode: str, watts: float, *, lasting: bool = False, held: tuple[str, ...] = ()) -> Result:
    """As a board records it."""
    conditions = dataclasses.replace(SAVED.conditions, machine="Linux aarch64 Orin Nano", power_mode=mode)
    conditions = dataclasses.replace(conditions, device="tensorrt")
    energy = Energy(WHOLE_NEW, 100, 50.0, {"INA3221 VDD_IN": 50 * watts}, 50 * watts, watts, watts / 2, 4.5)
    ms = Summary(100, 700.0, 700.0)
    hot = Sustained(10.0, ms, (), 0.1, held, dataclasses.replace(energy, watts=watts + 1, joules_per_answer=9.0))
    after = dataclasses.replace(SAVED.after, gpu_mhz=1020.0, throttled=held)
    return dataclasses.replace(
        SAVED, conditions=conditions, energy=(energy,), sustained=hot if lasting else None, after=after
    )


def test_without_a_result_it_says_how_to_make_one(tmp_path: Path):
    assert markdown(tmp_path) == NOTHING_YET
    (command,) = (line for line in NOTHING_YET.splitlines() if line.startswith("faceinsight bench"))
    args = _parser().parse_args(command.split()[1:])
    assert (args.device, args.minutes, args.out) == ("tensorrt", 10.0, Path("power-N.json"))


def test_each_mode_is_a_row(tmp_path: Path):
    folder = tmp_path / "jetson-orin-nano-2027-01"
    folder.mkdir()
    (folder / "power-0.json").write_text(measured("15W", 11.0).to_json())
    (folder / "power-2.json").write_text(measured("MAXN_SUPER", 20.0, lasting=True, held=("cpu-throttle",)).to_json())
    (folder / "latency-nano.json").write_text(measured("7W", 6.0).to_json())
    rows = [line.strip("| ").split(" | ") for line in markdown(tmp_path).splitlines()[2:]]
    (p50,) = (s.ms.p50 for s in SAVED.steps if s.name == WHOLE_NEW)
    assert [row[:4] for row in rows] == [
        ["Linux aarch64 Orin Nano", "15W", "tensorrt", "1,020"],
        ["Linux aarch64 Orin Nano", "MAXN_SUPER", "tensorrt", "1,020"],
    ]
    assert float(rows[0][4].removesuffix(" ms")) == pytest.approx(p50, rel=0.01)
    assert rows[0][5:] == ["11.0", "4.50", "5.50", "nothing"]
    # Minutes without a pause count, where there are any.
    assert rows[1][4:] == ["700 ms", "21.0", "4.50", "9.00", "cpu-throttle"]
