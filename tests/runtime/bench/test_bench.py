"""`faceinsight bench`: its arithmetic by hand, sensors from planted files, and the command on the shipped bundle."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from paths import PHOTO

from faceinsight import DeviceError, FaceInsight, RequestError
from faceinsight.backends.device import Device
from faceinsight.backends.session import CheckedSession
from faceinsight.bench import run, sensors
from faceinsight.bench.chart import chart
from faceinsight.bench.compare import FASTER, SAME, SLOWER, UNCLEAR, compare
from faceinsight.bench.conditions import quantisation, require_active
from faceinsight.bench.files import targets
from faceinsight.bench.nvml import open_nvml
from faceinsight.bench.result import ANSWER, STAGE, START, Conditions, Energy, Memory, Rate, Result, Step
from faceinsight.bench.sensors import Meter, find_sensors
from faceinsight.bench.state import (
    CpuTime,
    MachineState,
    cpu_time,
    machine,
    others_share,
    peak_mb,
    read_state,
    throttling,
)
from faceinsight.bench.stats import Summary, median_ranks, summarise
from faceinsight.bench.steps import DECODE, PREFILL, PREFIX, Stopwatch, Tokens, one_round, rates
from faceinsight.bench.sustained import left, sustain
from faceinsight.bench.text import markdown, memory_rows, number
from faceinsight.bundle.bundle import Bundle
from faceinsight.cli.main import main
from faceinsight.language.generation import AnswerGenerator
from faceinsight.language.prefix import FacePrefix
from faceinsight.language.question_encoder import QuestionEncoder
from faceinsight.perception.encoders import FaceEncoders

STEPS = {
    START: {
        "load the bundle",
        "first report after loading",
        "first answer after loading",
        "process start to first answer",
    },
    STAGE: {
        "decode the photo",
        "detect",
        "align",
        "parse",
        "encode",
        "close-up",
        "labels: calibration and rules",
        "LLM: prefix of a new face",
        "question encoder",
        "LLM: question, to the first token",
        "LLM: each further token",
    },
    ANSWER: {
        "photo file to full report",
        "LLM's first token, new photo",
        "LLM's first token, new face (perceived)",
        "LLM's first token, known face",
        "first checked words, new face (perceived)",
        "first checked words, known face",
        "whole answer, new photo",
        "whole answer, known face",
        "whole description, known face",
    },
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# Statistics


def test_summary_by_hand():
    found = summarise(list(range(1, 101)))
    assert (found.n, found.mean, found.p50) == (100, 50.5, 50.5)
    assert (found.p90, found.p95, found.p99) == pytest.approx((90.1, 95.05, 99.01))
    # The tables give ranks 40 and 61 of 100 for 95 % (Conover, Practical Nonparametric Statistics, A3).
    assert (found.low, found.high) == (40, 61)


@pytest.mark.parametrize(("n", "given"), [(9, ""), (10, "90"), (20, "90 95"), (99, "90 95"), (100, "90 95 99")])
def test_a_quantile_is_given_only_where_enough_was_measured(n: int, given: str):
    found = summarise([1.0] * n)
    assert " ".join(q for q in ("90", "95", "99") if getattr(found, f"p{q}") is not None) == given


def test_ranks_of_the_median_are_the_binomial_ones():
    assert median_ranks(5) is None
    assert summarise([1, 2, 3, 4, 5]).low is None
    assert median_ranks(6) == (0, 5)
    assert median_ranks(20) == (5, 14)
    for n in range(6, 200):
        low, high = median_ranks(n)
        missed = 2 * sum(math.comb(n, k) for k in range(low + 1)) / 2**n
        assert missed <= 0.05 < missed + 2 * math.comb(n, low + 1) / 2**n
        assert low + high == n - 1
    # Beyond a thousand by approximation, which joins on.
    assert median_ranks(1001)[0] == pytest.approx(median_ranks(999)[0] + 1, abs=1)


def test_the_interval_covers_the_median():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        found = summarise(rng.exponential(size=30))
        hits += found.low <= math.log(2) <= found.high
    assert 0.94 < hits / 1000 < 0.99


# Energy

RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "900000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000000",
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "100000",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "1000000",
    "sys/class/powercap/intel-rapl:0:1/name": "dram",
    "sys/class/powercap/intel-rapl:0:1/energy_uj": "0",
    "sys/class/powercap/intel-rapl:0:1/max_energy_range_uj": "1000000",
    "sys/class/powercap/intel-rapl-mmio:0/name": "package-0",
    "sys/class/powercap/intel-rapl-mmio:0/energy_uj": "900000",
}


def test_rapl_counts_each_joule_once_and_past_its_end(tmp_path: Path):
    found, notes = find_sensors(plant(tmp_path, RAPL))
    assert notes == ()
    with Meter(found, every=60) as meter:
        plant(
            tmp_path,
            {
                "sys/class/powercap/intel-rapl:0/energy_uj": "200000",
                "sys/class/powercap/intel-rapl:0:0/energy_uj": "250000",
                "sys/class/powercap/intel-rapl:0:1/energy_uj": "50000",
            },
        )
    expected = {"RAPL package-0": 0.3, "RAPL package-0 core": 0.15, "RAPL package-0 dram": 0.05}
    assert meter.joules == pytest.approx(expected)
    # The cores are part of the package; the memory is not.
    assert meter.total == pytest.approx(0.35)


def test_a_counter_that_wraps_twice_is_seen_by_looking_often(tmp_path: Path):
    path = plant(tmp_path, RAPL) / "sys/class/powercap/intel-rapl:0/energy_uj"
    package = find_sensors(tmp_path)[0][0]
    package.start(0.0)
    for i, microjoules in enumerate((100_000, 800_000, 0, 300_000)):
        path.write_text(str(microjoules))
        package.sample(float(i + 1))
    assert package.joules == pytest.approx(0.2 + 0.7 + 0.2 + 0.3)


def test_rapl_that_only_root_may_read_is_said(tmp_path: Path):
    root = plant(tmp_path, RAPL)
    for path in root.glob("sys/class/powercap/*/energy_uj"):
        path.unlink()
    found, notes = find_sensors(root)
    assert found == ()
    assert "package-0, core, dram" in notes[0]
    assert "chmod a+r" in notes[0]


INA = {
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": "5000",
    "sys/class/hwmon/hwmon3/curr1_input": "2000",
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon3/in2_input": "5000",
    "sys/class/hwmon/hwmon3/curr2_input": "800",
}


def test_a_jetsons_rails_are_summed_over_time(tmp_path: Path):
    found, _ = find_sensors(plant(tmp_path, INA))
    assert [(s.name, s.counted) for s in found] == [("INA3221 VDD_IN", True), ("INA3221 VDD_CPU_GPU_CV", False)]
    whole = found[0]
    whole.start(0.0)
    whole.sample(2.0)
    assert whole.joules == pytest.approx(20.0)
    (tmp_path / "sys/class/hwmon/hwmon3/curr1_input").write_text("4000")
    whole.sample(3.0)
    assert whole.joules == pytest.approx(20.0 + 15.0)
    # Without a rail that feeds the others, all of them are the total, and are named.
    (tmp_path / "sys/class/hwmon/hwmon3/in1_label").write_text("VDD_GPU_SOC")
    found, notes = find_sensors(tmp_path)
    assert all(s.counted for s in found)
    assert len(notes) == 1
    assert notes[0].endswith("power is the sum of VDD_GPU_SOC, VDD_CPU_GPU_CV")


def test_a_thors_whole_power_is_what_its_ina238_measures(tmp_path: Path):
    thor = {
        "sys/class/hwmon/hwmon5/name": "ina238",
        "sys/class/hwmon/hwmon5/power1_input": "31000000",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU",
    }
    found, notes = find_sensors(plant(tmp_path, INA | thor))
    assert notes == ()
    assert [s.name for s in found if s.counted] == ["INA238 VIN"]
    assert {s.name for s in found if not s.counted} == {"INA3221 VDD_GPU", "INA3221 VDD_CPU_GPU_CV"}
    (whole,) = (s for s in found if s.counted)
    whole.start(0.0)
    whole.sample(2.0)
    assert whole.joules == pytest.approx(62.0)


def test_no_sensor_is_said(tmp_path: Path):
    found, notes = find_sensors(tmp_path)
    assert found == ()
    assert "no energy sensor here" in notes[0]
    with Meter(found) as meter:
        pass
    assert (meter.joules, meter.total) == ({}, 0)


class FakeNvml:
    """libnvidia-ml with one GPU: status codes, and values by reference."""

    def __init__(self, values: dict[str, int], status: int = 0) -> None:
        self._values, self._status = values, status

    def __getattr__(self, name: str):
        if name == "nvmlDeviceGetName":
            return lambda handle, text, size: setattr(text, "value", b"RTX 4060") or 0
        if name in ("nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByUUID"):
            return lambda *args: self._status
        if name not in self._values:
            raise AttributeError(name)

        def call(*args):
            args[-1]._obj.value = self._values[name]
            return 0

        return call


def test_nvml_energy_heat_and_reasons(tmp_path: Path):
    values = {
        "nvmlDeviceGetTotalEnergyConsumption": 5000,
        "nvmlDeviceGetPowerUsage": 42_000,
        "nvmlDeviceGetTemperature": 71,
        "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24 | 0x1,
    }
    nvml = open_nvml(FakeNvml(values))
    (sensor,) = find_sensors(tmp_path, nvml)[0]
    with Meter((sensor,), every=60) as meter:
        values["nvmlDeviceGetTotalEnergyConsumption"] = 8500
    assert meter.joules == {"NVML RTX 4060": pytest.approx(3.5)}
    state = read_state(tmp_path, nvml)
    assert (state.celsius, state.gpu_mhz) == ({"GPU": 71}, 1980)
    # Idle is a reason too, but not one that holds back.
    assert state.throttled == ("GPU: power cap", "GPU: software thermal")
    # An older GPU has no counter: its power is summed up.
    del values["nvmlDeviceGetTotalEnergyConsumption"]
    assert find_sensors(tmp_path, nvml)[0][0].gauge
    assert open_nvml(FakeNvml({}, status=9)) is None


# The state of the machine

BOARD = {
    "proc/cpuinfo": "processor : 0\nmodel name : Some CPU @ 2 GHz\n",
    "proc/meminfo": "MemAvailable: 2000000 kB\n",
    "proc/self/status": "Name: python\nVmHWM:\t  250000 kB\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "61500",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "-2000",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1000000",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2000000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2000000",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4",
}


def test_heat_clocks_and_throttling_are_read_from_files(tmp_path: Path):
    cool = read_state(plant(tmp_path, BOARD))
    assert cool == MachineState(
        celsius={"cpu-thermal": 61.5, "cpu-thermal 1": -2.0},
        cpu_mhz=1500.0,
        cpu_max_mhz=2000.0,
        gpu_mhz=None,
        throttled=(),
        throttle_events={"core throttling": 4},
        available_mb=2048.0,
    )
    assert machine(tmp_path).endswith("Some CPU @ 2 GHz")
    assert peak_mb(root=tmp_path) == 256.0
    assert throttling([cool, cool]) == ()
    plant(tmp_path, {"sys/class/thermal/cooling_device1/cur_state": "2"})
    hot = read_state(tmp_path)
    assert throttling([cool, hot, cool]) == ("cpu-throttle-alert",)
    plant(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "5"})
    assert throttling([hot, read_state(tmp_path)]) == ("cpu-throttle-alert", "core throttling")


def test_what_others_take_of_the_machine(tmp_path: Path):
    tick = os.sysconf("SC_CLK_TCK")

    def at(busy: float, idle: float, own: float) -> CpuTime:
        plant(tmp_path, {"proc/stat": f"cpu  {busy * tick:.0f} 0 0 {idle * tick:.0f} 0 0 0 0 0 0\ncpu0 1 2 3\n"})
        return dataclasses.replace(cpu_time(tmp_path), process=own)

    before = at(100, 100, 7)
    # 20 s of two cores: 10 s by this process, 4 s by others.
    assert others_share(before, at(114, 106, 17)) == pytest.approx(0.2)
    assert others_share(before, at(110, 110, 17)) == 0
    assert others_share(None, before) is None
    assert cpu_time(tmp_path / "none") is None


def test_where_nothing_can_be_read_nothing_is_claimed(tmp_path: Path):
    state = read_state(tmp_path)
    assert state == MachineState({}, None, None, None, None, {}, None)
    assert throttling([state, state]) is None


# A sustained run


def test_a_sustained_run_sees_work_get_slower(tmp_path: Path):
    began = time.perf_counter()

    def work() -> None:
        time.sleep(0.002 if time.perf_counter() - began < 0.6 else 0.006)

    root = plant(tmp_path, BOARD | RAPL)
    found = sustain(
        work, 0.02, what="work", root=root, nvml=None, sensors=find_sensors(root)[0], progress=lambda line: None
    )
    assert len(found.windows) == 10
    assert sum(w.ms.n for w in found.windows) == found.ms.n
    assert found.drift > 1
    assert found.windows[0].per_minute > 1.5 * found.windows[-1].per_minute
    assert found.throttled == ()
    assert found.energy.answers == found.ms.n


def test_an_answer_longer_than_a_tenth_has_no_drift(tmp_path: Path):
    found = sustain(
        lambda: time.sleep(0.1), 0.002, what="", root=tmp_path, nvml=None, sensors=(), progress=lambda line: None
    )
    assert (found.ms.n, found.drift, found.energy, found.throttled) == (2, None, None, None)
    assert len(found.windows) == 10


# Comparing

STATE = MachineState({"cpu-thermal": 50.0}, 2000.0, 3000.0, None, (), {}, 4000.0)
CONDITIONS = Conditions(
    when="2026-11-24T12:00:00+00:00", machine="Linux x86_64 CPU", cores=2, threads=2, asked="cpu", device="cpu",
    providers={"encoder.onnx": ("CPUExecutionProvider",)}, gpu=None, llm_on_gpu=False, gpu_layers=0, llama_build="AVX2",
    versions={"faceinsight": "0.1.0"}, bundle="nano", bundle_sha256="ab", quantisation={"llm.gguf": "Q4_0"},
    power_mode=None, governor="performance", photo="photo.png", photo_sha256="cd", photo_size=(512, 512), faces=1,
    question="Is she wearing glasses?", rounds=100,
)  # fmt: skip


def result(ms: dict[str, Summary], *, state: MachineState = STATE, peak: float = 250.0, **conditions) -> Result:
    return Result(
        "faceinsight-bench", 1, dataclasses.replace(CONDITIONS, **conditions),
        tuple(Step(name, STAGE, summary) for name, summary in ms.items()), (Rate("decode", 12, 90.0, 80.0, 100.0),),
        Memory(peak, None, None), (), None, STATE, state, 0.01, ("a note",),
    )  # fmt: skip


def around(p50: float, spread: float = 0.02, n: int = 100) -> Summary:
    return Summary(n, p50, p50, low=p50 * (1 - spread), high=p50 * (1 + spread))


def saved(path: Path, value: Result) -> str:
    path.write_text(value.to_json())
    return str(path)


def test_a_planted_regression_is_found_and_named(tmp_path: Path, capsys):
    a = saved(tmp_path / "a.json", result({"encode": around(20), "detect": around(8), "parse": around(9)}))
    b = saved(tmp_path / "b.json", result({"encode": around(25), "detect": around(6), "parse": around(9.2)}))
    assert main(["bench", "compare", a, b]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "worse by more than 10%: encode +25.0%"
    assert main(["bench", "compare", a, b, "--threshold", "0.3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is worse by more than 30%"
    assert main(["bench", "compare", b, a, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["regressions"] == ["detect"]
    assert [c["verdict"] for c in found["changes"]] == [FASTER, SLOWER, SAME, SAME]
    assert main(["bench", "compare", a, a]) == 0


def test_noise_is_not_a_regression():
    def verdict(a: Summary, b: Summary) -> str:
        return compare(result({"encode": a}), result({"encode": b})).changes[0].verdict

    assert verdict(around(20, 0.2), around(24, 0.2)) == UNCLEAR
    assert verdict(around(20, 0.02), around(24, 0.02)) == SLOWER
    # Too few for an interval: the threshold alone decides.
    assert verdict(Summary(3, 20, 20), Summary(3, 24, 24)) == SLOWER
    assert verdict(around(24, 0.2), around(20, 0.2)) == UNCLEAR


def test_what_is_unclear_is_no_all_clear(tmp_path: Path, capsys):
    """+299 % within the noise: said with what the noise is, and an exit code of its own."""
    slow = Summary(6, 80, 79.8, low=18, high=200)
    a = saved(tmp_path / "a.json", result({"load": Summary(6, 20, 20, low=16, high=19.5), "parse": around(9)}))
    b = saved(tmp_path / "b.json", result({"load": slow, "parse": around(9)}))
    assert main(["bench", "compare", a, b]) == 3
    out = capsys.readouterr().out
    assert "nothing is worse" not in out
    assert "unclear: load +299.0%, the medians' intervals overlap: 16 to 19.5 ms (N = 6) and 18 to 200 ms" in out
    assert "noise hides it; measure more rounds" in out.splitlines()[-1]
    assert main(["bench", "compare", a, b, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["unclear"] == ["load"]
    # What may be faster is nobody's worry, and what is slower outweighs what is unclear.
    assert main(["bench", "compare", b, a]) == 0
    worse = saved(tmp_path / "c.json", result({"load": slow, "parse": around(19)}))
    assert main(["bench", "compare", a, worse]) == 1


def test_folders_compare_as_their_results(tmp_path: Path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name / "bench.json", result({"encode": around(20)}))
    assert main(["bench", "compare", str(tmp_path / "a"), str(tmp_path / "b" / "bench.json")]) == 0
    assert main(["bench", "compare", str(tmp_path / "a"), str(tmp_path)]) == 2
    assert "holds no bench.json: expected a folder that `faceinsight bench --out` made" in capsys.readouterr().err


def test_memory_that_others_gave_back_is_no_negative_drop():
    def shown(drop: float | None) -> str:
        memory = Memory(200.0, 100.0, drop)
        return dict(memory_rows(dataclasses.replace(result({}), memory=memory)))["MemAvailable, drop while loaded"]

    assert shown(120.0) == "120 MB"
    assert shown(None) == "-"
    assert shown(-3551.0) == "none: it rose by 3,551 MB, which others gave back meanwhile"


def test_time_left_in_words():
    seconds = (-1, 0.2, 7, 43, 89, 91, 5000, 5400, 36_000)
    words = ("1 s", "1 s", "7 s", "45 s", "90 s", "2 min", "83 min", "1 h 30 min", "10 h 0 min")
    assert tuple(map(left, seconds)) == tuple(f"about {w} left" for w in words)


def test_memory_and_energy_count_too():
    a, b = result({"encode": around(20)}), result({"encode": around(20)}, peak=300.0)
    assert [c.name for c in compare(a, b).regressions] == ["peak memory"]
    works = [Energy("whole answer", 100, 10.0, {}, j, j / 10, j / 100) for j in (100.0, 130.0)]
    a, b = (dataclasses.replace(a, energy=(work,)) for work in works)
    assert [(c.name, c.unit) for c in compare(a, b).regressions] == [("energy: whole answer", "J")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"machine": "Linux aarch64 Orin"}, "machine: Linux x86_64 CPU and Linux aarch64 Orin"),
        ({"device": "cuda"}, "device: cpu and cuda"),
        ({"threads": 4}, "threads: 2 and 4"),
        ({"power_mode": "15W"}, "power_mode: None and 15W"),
        ({"llm_on_gpu": True}, "llm_on_gpu: False and True"),
        ({"photo_sha256": "ef"}, "photo_sha256: cd and ef"),
        (
            {"providers": {"encoder.onnx": ("CUDAExecutionProvider", "CPUExecutionProvider")}},
            "providers of encoder.onnx: CPUExecutionProvider and CUDAExecutionProvider, CPUExecutionProvider",
        ),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(changed: dict, message: str, tmp_path: Path, capsys):
    steps = {"encode": around(20)}
    a, b = saved(tmp_path / "a.json", result(steps)), saved(tmp_path / "b.json", result(steps, **changed))
    assert main(["bench", "compare", a, b]) == 2
    assert message in capsys.readouterr().err
    assert main(["bench", "compare", a, b, "--anyway"]) == 0
    assert f"warning: {message}" in capsys.readouterr().out


def test_another_bundle_version_or_heat_is_a_warning():
    a, b = result({"encode": around(20)}), result({"encode": around(20)}, bundle_sha256="ef", versions={"numpy": "2"})
    hot = dataclasses.replace(STATE, throttled=("cpu-throttle-alert",))
    found = compare(a, dataclasses.replace(b, after=hot))
    assert "bundle_sha256: ab and ef" in found.warnings
    assert "versions of numpy: None and 2" in found.warnings
    assert "clocks were held back during B: cpu-throttle-alert" in found.warnings
    busy = compare(dataclasses.replace(a, others=0.4), b).warnings
    assert any(w.startswith("A: others took 40% of the CPU time") for w in busy)
    assert not any("others" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is no result of `faceinsight bench`"),
        ("[1]", "is no result of `faceinsight bench`"),
        ("no", "is not JSON"),
        ('{"format": "faceinsight-bench", "version": 2}', "is no result of"),
        ('{"format": "faceinsight-bench", "version": 1}', "field 'conditions' is missing"),
    ],
)
def test_files_that_are_no_result_give_exit_code_2(text: str, message: str, tmp_path: Path, capsys):
    good = saved(tmp_path / "a.json", result({"encode": around(20)}))
    (tmp_path / "b.json").write_text(text)
    assert main(["bench", "compare", good, str(tmp_path / "b.json")]) == 2
    assert message in capsys.readouterr().err
    assert main(["bench", "compare", good, str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_nothing_in_common_and_a_senseless_threshold():
    a, b = result({"encode": around(20)}), result({"detect": around(20)})
    names = compare(a, b)
    assert names.only == ("encode only in A", "detect only in B")
    bare = [dataclasses.replace(r, memory=Memory(None, None, None)) for r in (a, b)]
    with pytest.raises(RequestError, match="no step in common"):
        compare(*bare)
    with pytest.raises(RequestError, match="threshold -1"):
        compare(a, a, threshold=-1)


# No figures of a GPU that the CPU made


def test_a_gpu_run_on_the_cpu_is_refused(tmp_path: Path, monkeypatch, capsys):
    """The provider is compiled in, and falls back: sessions say CPU."""
    cpu = Device("cpu", False, 1)
    gpu = Device("cuda", False, 1, strict=False)
    monkeypatch.setattr(Device, "resolve", classmethod(lambda cls, name, threads=None: gpu))
    monkeypatch.setattr(Device, "session", lambda self, model: cpu._on_onnxruntime(model))
    out = tmp_path / "out"
    assert main(["bench", str(PHOTO), "--device", "cuda", "--rounds", "1", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "runs on CPUExecutionProvider, the device is 'cuda'" in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_every_graph_must_be_on_the_device():
    cuda, tensorrt = (Device(name, True, 1) for name in ("cuda", "tensorrt"))
    on_gpu, on_cpu = ("CUDAExecutionProvider", "CPUExecutionProvider"), ("CPUExecutionProvider",)
    require_active(cuda, {"a.onnx": on_gpu})
    require_active(tensorrt, {"a.onnx": ("TensorRT 10.3.0",), "b.onnx": ("TensorrtExecutionProvider", *on_gpu)})
    with pytest.raises(DeviceError, match=r"b\.onnx runs on CPUExecutionProvider"):
        require_active(cuda, {"a.onnx": on_gpu, "b.onnx": on_cpu})
    with pytest.raises(DeviceError, match=r"b\.onnx runs on CUDAExecutionProvider, the device is 'tensorrt'"):
        require_active(tensorrt, {"a.onnx": ("TensorRT 10.3.0",), "b.onnx": on_gpu})


def test_a_plan_that_is_being_built_is_waited_for():
    waited = []
    ends = [SimpleNamespace(name="x", shape=[1])]
    session = SimpleNamespace(
        get_inputs=lambda: ends, get_outputs=lambda: ends, get_providers=lambda: ["TensorRT 10.3.0"],
        run=lambda names, feeds: [], wait=lambda: waited.append(True),
    )  # fmt: skip
    graph = CheckedSession(session, "a.onnx", {"x": (1,)}, {"x": (1,)})
    graph.settle()
    assert (waited, graph.providers) == ([True], ("TensorRT 10.3.0",))


# The command


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A real run of few rounds, with a planted energy counter."""
    out = tmp_path_factory.mktemp("bench") / "out" / "here.json"
    joules = iter(range(1, 10**9))
    counter = sensors.EnergySensor("planted", lambda: float(next(joules)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "find_sensors", lambda root, nvml: ((counter,), ("planted note",)))
        patch.setattr(run, "IDLE", 0.2)
        args = ["--rounds", "2", "--minutes", "0.02", "--threads", "1", "--device", "cpu", "--out", str(out)]
        assert main(["bench", str(PHOTO), *args]) == 0
    return out


def test_the_command_measures_every_step(measured: Path):
    found = Result.read(measured)
    assert {group: {s.name for s in found.steps if s.group == group} for group in STEPS} == STEPS
    assert all(s.ms.n == 2 and s.ms.p50 > 0 and s.ms.p90 is None for s in found.steps)
    assert [r.name for r in found.rates] == [
        "prefill, prefix of a new face", "prefill, question and findings", "decode"
    ]  # fmt: skip
    c = found.conditions
    assert (c.device, c.asked, c.threads, c.llm_on_gpu, c.gpu_layers, c.faces) == ("cpu", "cpu", 1, False, 0, 1)
    graphs = {"parser.onnx", "encoder.onnx", "closeup.onnx", "knowledge.onnx", "question.onnx"}
    assert c.providers == dict.fromkeys(graphs, ("CPUExecutionProvider",))
    assert c.bundle_sha256 == Bundle.open("nano").sha256
    assert {"faceinsight", "onnxruntime", "llama-cpp-python", "opencv", "numpy", "python"} <= set(c.versions)
    assert 30 < found.memory.fresh_peak_mb < 1000
    assert [e.work for e in found.energy] == ["whole answer, new photo", "whole answer, known face"]
    assert all(e.joules_per_answer > 0 for e in found.energy)
    assert found.sustained.ms.n >= 1
    assert 0 <= found.others <= 1
    assert "planted note" in found.notes


@pytest.mark.slow
def test_progress_says_how_long_it_takes_and_that_others_are_busy(monkeypatch):
    monkeypatch.setattr(run, "others_share", lambda before, after: 0.5)
    lines: list[str] = []
    run.bench(PHOTO, device="cpu", threads=1, rounds=2, minutes=0.01, progress=lines.append)
    warned = next(i for i, line in enumerate(lines) if line.startswith("warning: others took 50% of the CPU time"))
    rounds = next(i for i, line in enumerate(lines) if line.startswith("round 1 of 2, about "))
    assert warned < rounds
    for begin in ("round 2 of 2", "sustained run: window 1 of 10", "start 2 of 2", "start 1 of 2 in a process"):
        assert any(line.startswith(begin) and line.endswith(" left") for line in lines), begin


class Recorder(Stopwatch):
    """Knows what is being timed now."""

    now = ""

    @contextmanager
    def __call__(self, group: str, name: str) -> Iterator[None]:
        self.now = name
        with super().__call__(group, name):
            yield
        self.now = ""


def test_each_step_holds_the_work_that_its_name_says(insight: FaceInsight, monkeypatch):
    """Which steps parse, compute a face's prefix, ask the question encoder; the rest is not timed."""
    watch, seen = Recorder(), defaultdict(set)

    def spy(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def spied(self, *args, **kwargs):
            seen[f"{owner.__name__}.{name}"].add(watch.now)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, spied)

    spy(FaceEncoders, "parse")
    spy(FacePrefix, "_compute")
    spy(AnswerGenerator, "forget")
    spy(QuestionEncoder, "parse")
    tokens = one_round(watch, insight, PHOTO)
    new_photo = {"LLM's first token, new photo", "whole answer, new photo"}
    new_face = {"LLM's first token, new face (perceived)", "first checked words, new face (perceived)"}
    known = {
        "LLM's first token, known face", "first checked words, known face", "whole answer, known face",
        "whole description, known face",
    }  # fmt: skip
    assert seen["FaceEncoders.parse"] - {""} == {"parse", "photo file to full report"} | new_photo
    assert seen["FacePrefix._compute"] == {"LLM: prefix of a new face"} | new_face | new_photo
    assert seen["QuestionEncoder.parse"] - {""} == {"question encoder"} | new_face | new_photo | known
    assert seen["AnswerGenerator.forget"] == {""}
    # Rows of the prompt's fixed opening are not a face's.
    assert 20 <= tokens.prefix <= insight.perceive(PHOTO)[0].tokens.shape[0] + 10
    assert tokens.question > 5
    assert tokens.decoded > 10


def test_rates_are_tokens_over_the_median():
    steps = tuple(Step(n, STAGE, Summary(9, ms, ms, low=ms / 2, high=ms * 2)) for n, ms in
                  ((PREFIX, 10.0), (PREFILL, 5.0), (DECODE, 2.0), ("parse", 3.0)))  # fmt: skip
    assert rates(steps, Tokens(28, 15, 40)) == (
        Rate("prefill, prefix of a new face", 28, 2800, 1400, 5600),
        Rate("prefill, question and findings", 15, 3000, 1500, 6000),
        Rate("decode", 40, 500, 250, 1000),
    )


def test_markdown_and_chart_are_made_of_the_json(measured: Path):
    text = measured.with_suffix(".md").read_text()
    found = Result.read(measured)
    assert text == markdown(found)
    for step in found.steps:
        assert f"| {step.name} | 2 | {number(step.ms.p50)} |" in text
    assert found.conditions.bundle_sha256 in text
    assert "planted note" in text
    assert "Sustained for 0.02 minutes" in text
    assert measured.with_suffix(".png").read_bytes() == chart(found)


def test_the_chart_shows_longer_steps_as_longer_bars():
    def row(value: float) -> int:
        """Coloured pixels of the longest bar."""
        steps = (Step("encode", STAGE, around(value)), Step("detect", STAGE, around(1.0)))
        data = chart(dataclasses.replace(result({}), steps=steps))
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] == 1180
        return int((picture == (210, 150, 70)).all(2).sum(1).max())

    assert row(2.0) < row(4.0) < row(8.0)


def test_a_saved_result_compares_with_itself(measured: Path, capsys):
    assert main(["bench", "compare", str(measured), str(measured)]) == 0
    assert "nothing is worse" in capsys.readouterr().out
    slower = json.loads(measured.read_text())
    for step in slower["steps"]:
        if step["name"] == "parse":
            step["ms"]["p50"] *= 1.5
    other = measured.with_name("slower.json")
    other.write_text(json.dumps(slower))
    assert main(["bench", "compare", str(measured), str(other)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "worse by more than 10%: parse +50.0%"


def test_json_on_stdout_is_a_result(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("faceinsight.bench.run.bench", lambda *a, **k: result({"encode": around(20)}))
    assert main(["bench", str(PHOTO), "--json"]) == 0
    (tmp_path / "a.json").write_text(capsys.readouterr().out)
    assert Result.read(tmp_path / "a.json").step("encode").ms.p50 == 20
    assert main(["bench", str(PHOTO)]) == 0
    assert "note: a note" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.png"], "nowhere.png: no such file"),
        ([str(PHOTO), "--rounds", "0"], "rounds 0"),
        ([str(PHOTO), "--minutes", "-1"], "minutes -1"),
        ([str(PHOTO), "--minutes", "nan"], "minutes nan"),
        ([str(PHOTO), "--out", f"{PHOTO}/y.json"], "cannot be written"),
        ([str(PHOTO), "--out", __file__], "is a file"),
        ([str(PHOTO), "--bundle", "pico"], "no bundle 'pico'"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_measured(args: list[str], message: str, capsys):
    assert main(["bench", *args]) == 1
    captured = capsys.readouterr().err
    assert message in captured
    assert len(captured.splitlines()) == 1


def test_a_photo_without_a_face(tmp_path: Path, capsys):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 200, 3), 128, np.uint8))
    assert main(["bench", str(tmp_path / "grey.png"), "--device", "cpu"]) == 1
    assert "no face found" in capsys.readouterr().err


def test_numbers_have_three_digits_that_count():
    values = (None, 0.0, 0.00123, 0.0996, 0.1234, 9.994, 9.996, 12.34, 99.96, 1234.5)
    texts = ("-", "0", "0.0012", "0.10", "0.12", "9.99", "10.0", "12.3", "100", "1,234")
    assert tuple(map(number, values)) == texts


def test_names_of_the_files(tmp_path: Path):
    assert [p.name for p in targets(tmp_path)] == ["bench.json", "bench.md", "bench.png"]
    assert [p.name for p in targets(tmp_path / "v0.2.json")] == ["v0.2.json", "v0.2.md", "v0.2.png"]


def test_quantisation_is_read_from_the_files():
    found = quantisation(Bundle.open("nano"))
    assert "bits a weight" in found["llm.gguf"]
    assert found["encoder.onnx"] == found["closeup.onnx"] == "int8"
    assert found["parser.onnx"] == "float16"
    assert set(found) >= {"parser.onnx", "encoder.onnx", "question.onnx"}


def test_a_process_that_gives_no_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(run, "interpreter", lambda: "/bin/false")
    with pytest.raises(Exception, match="gave no answer"):
        run._cold(SimpleNamespace(add=None), 1, PHOTO, "nano", "cpu", 1, Path("/"))
    monkeypatch.setattr(run, "interpreter", lambda: None)
    assert run._cold(SimpleNamespace(add=None), 1, PHOTO, "nano", "cpu", 1, Path("/")) is None
