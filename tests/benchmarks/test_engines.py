"""Graphs in other engines, an LLM beside busy processes: what is compared, and that the scripts run."""

from __future__ import annotations

import subprocess
import sys

import engine_tables
import numpy as np
import pytest
import tuning_tables
from paths import ROOT

import cpu_engines
from faceinsight.bundle.bundle import Bundle

SCRIPTS = ("peers/weights.py", "speed/busy.py", "speed/convert.py", "speed/cpu_engines.py")


def row(ms: float, difference: float = 0.0) -> dict[str, float]:
    return {"p50 ms": ms, "difference": difference}


def result(**graphs: dict[str, dict[str, float]]) -> dict:
    return {
        "graphs": graphs, "worth it from": {"times as fast": 1.3, "difference": 0.01}, "AMX": False, "threads": 2,
        "machine": "a CPU", "versions": {"openvino": "1"},
    }  # fmt: skip


def test_an_engine_is_worth_it_where_it_is_fast_and_exact():
    found = result(
        a={"ours": row(13), "fast": row(10, 0.01), "inexact": row(1, 0.011), "slow": row(10.1)},
        b={"ours": row(10), "fast": row(10)},
    )
    assert engine_tables.decision(found).endswith("largest value: fast on a (1.30x).")
    assert engine_tables.decision(result(b=found["graphs"]["b"])).endswith("largest value: none is.")


def test_the_table_has_a_column_for_every_engine():
    lines = engine_tables.engines(
        result(a={"ours": row(12), "x": row(6, 2e-7)}, d={"ours": row(9), "OpenCV": row(9)})
    ).splitlines()
    assert lines[0] == "| | ours | x | OpenCV |"
    assert lines[2] == "| a | 12 ms | 6 ms (2.00x; 2e-07) | - |"
    assert lines[3] == "| d | 9 ms | - | 9 ms (1.00x; 0e+00) |"


def test_a_difference_is_relative_or_a_share():
    a = {"p": np.array([1.0, -4.0], np.float32), "labels": np.array([1, 2, 3, 4], np.uint8)}
    assert cpu_engines.difference(a, a) == 0
    assert cpu_engines.difference(a, a | {"p": np.array([1.0, -4.4], np.float32)}) == pytest.approx(0.1)
    assert cpu_engines.difference(a, a | {"labels": np.array([1, 2, 3, 9], np.uint8)}) == 0.25
    with pytest.raises(RuntimeError, match="outputs of shapes"):
        cpu_engines.difference(a, {"p": a["p"]})


def test_a_busy_table_says_whether_amx_is_there():
    cell = {"arm": {"p50 ms": 20.4, "p90 ms": 31.0}}
    rows = {"whole answer": {"1 busy processes": cell}}
    heads = [tuning_tables.busy(rows | amx)[0][0] for amx in ({}, {"AMX": True}, {"AMX": False})]
    assert heads == ["median / p90", "median / p90, with AMX", "median / p90, without AMX"]
    assert tuning_tables.busy(rows)[1] == [("1 busy processes", "20 / 31 ms")]


@pytest.mark.slow
def test_engines_run_in_processes_of_their_own():
    feeds = cpu_engines.nano_feeds(2)
    assert set(feeds) == {"closeup.onnx", "detector.onnx", "encoder.onnx", "parser.onnx", "question.onnx"}
    path = Bundle.open("nano").file("detector.onnx")
    engines = {"ONNX Runtime": None, "OpenCV": None}
    found = cpu_engines.measure(path, feeds["detector.onnx"], engines, rounds=1, threads=2, warmup=1)
    assert found["ONNX Runtime"]["difference"] == 0
    assert 0 < found["OpenCV"]["difference"] < 1e-3
    assert all(figures["n"] == 1 and figures["p50 ms"] > 0 for figures in found.values())
    with pytest.raises(RuntimeError, match="no such engine ended with exit code 1"):
        cpu_engines.measure(path, feeds["detector.onnx"], {"no such engine": None}, rounds=1, threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_finds_what_it_needs(script: str):
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--help"]
    assert "usage:" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_an_llm_alone_is_made_and_asked(tmp_path):
    benchmarks = ROOT / "benchmarks"
    command = [sys.executable, str(benchmarks / "peers" / "weights.py"), str(tmp_path), "--llm", "--tiny"]
    subprocess.run(command, check=True, capture_output=True)
    command = [
        sys.executable,
        str(benchmarks / "speed" / "busy.py"),
        "--llm",
        str(tmp_path / "llm.gguf"),
        "--rounds",
        "2",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert len([float(ms) for ms in done.stdout.strip(" []\n").split(",")]) == 2
