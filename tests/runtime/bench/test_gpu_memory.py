"""A GPU's own memory in a measurement: read by NVML, saved, shown and compared; results without it still read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from paths import ROOT

from faceinsight.bench.compare import compare
from faceinsight.bench.nvml import open_nvml
from faceinsight.bench.result import Memory, Result
from faceinsight.bench.run import _rise
from faceinsight.bench.state import read_state
from faceinsight.bench.text import memory_rows

SAVED = ROOT / "benchmarks/results/epyc-2026-11/latency-nano.json"


class OneGpu:
    """libnvidia-ml with one GPU, of which nothing is known but its memory."""

    def __init__(self, used: int) -> None:
        self.used = used

    def __getattr__(self, name: str):
        known = ("nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo")
        if name not in known:
            raise AttributeError(name)

        def call(*arguments: object) -> int:
            if name == "nvmlDeviceGetMemoryInfo":
                memory = arguments[-1]._obj
                memory.total, memory.free, memory.used = 8 * 10**9, 8 * 10**9 - self.used, self.used
            return 0

        return call


def test_the_memory_in_use_is_read(tmp_path: Path):
    library = OneGpu(300_000_000)
    nvml = open_nvml(library)
    before = read_state(tmp_path, nvml)
    library.used = 1_250_000_000
    after = read_state(tmp_path, nvml)
    assert (before.gpu_used_mb, after.gpu_used_mb) == (300.0, 1250.0)
    assert _rise(before.gpu_used_mb, after.gpu_used_mb) == 950.0
    assert read_state(tmp_path).gpu_used_mb is None
    assert _rise(None, 1250.0) is None


def test_a_result_that_was_saved_before_has_none():
    result = Result.read(SAVED)
    assert result.memory.gpu_rise_mb is None
    assert not [name for name, _ in memory_rows(result) if "GPU" in name]


def test_it_is_saved_shown_and_compared(tmp_path: Path):
    old = Result.read(SAVED)
    low, high = (dataclasses.replace(old, memory=Memory(250.0, 240.0, None, rise)) for rise in (900.0, 1200.0))
    assert dict(memory_rows(low))["the GPU's memory, rise while loaded"] == "900 MB"
    (tmp_path / "r.json").write_text(high.to_json())
    assert json.loads((tmp_path / "r.json").read_text())["memory"]["gpu_rise_mb"] == 1200.0
    assert Result.read(tmp_path / "r.json") == high
    assert [c.name for c in compare(low, high).regressions] == ["the GPU's memory"]
    fallen = dataclasses.replace(low, memory=Memory(250.0, 240.0, None, -5.0))
    assert compare(fallen, fallen).regressions == ()
