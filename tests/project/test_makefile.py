"""What `.ci/run` runs of NVIDIA's software: skipped with a reason where its wheels cannot be had, and never else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def make(folder: Path, python: str, *, then: str = "echo NEXT:") -> subprocess.CompletedProcess[str]:
    """`make test-nvidia-or-skip` with a program in Python's place, and another one in the place of the next make."""
    (folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python").chmod(0o755)
    words = ["make", "--old-file=setup-dev", "test-nvidia-or-skip", f"BIN={folder}", f"MAKE={then}"]
    return subprocess.run([*words, f"NVIDIA={folder}/nvidia"], cwd=ROOT, capture_output=True, text=True, check=False)


def test_where_the_wheels_are_the_tests_run(tmp_path: Path):
    done = make(tmp_path, f'echo "$@" >> {tmp_path}/words')
    assert done.returncode == 0, done.stderr
    assert "NEXT: test-nvidia" in done.stdout
    asked = (tmp_path / "words").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == [
        "tests/nvidia-requirements.txt",
        "tensorrt-cu12-bindings==10.3.0",
        "tensorrt-cu13-bindings==10.16.1.11",
    ]
    assert all("-m pip download" in line for line in asked)


def test_a_failing_test_is_a_failure(tmp_path: Path):
    assert make(tmp_path, "exit 0", then="false").returncode != 0


def test_where_a_wheel_is_not_to_be_had_it_says_so(tmp_path: Path):
    missing = 'case "$*" in *10.3.0) echo "some words"; echo "ERROR: No matching distribution" >&2; exit 1;; esac'
    done = make(tmp_path, missing)
    assert done.returncode == 0
    assert "skipped: tensorrt-cu12-bindings==10.3.0 cannot be had here: ERROR: No matching distribution" in done.stdout
    assert "NEXT:" not in done.stdout


def test_ci_runs_it():
    assert "make test-nvidia-or-skip\n" in (ROOT / ".ci" / "run").read_text()
