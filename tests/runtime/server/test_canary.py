"""The face that every worker must read as it was recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving

from faceinsight import FaceInsight
from faceinsight.bundle.bundle import Bundle
from faceinsight.server import canary


def test_the_shipped_bundle_reads_it_as_recorded(insight: FaceInsight):
    known = canary.recorded(Bundle.open("nano").sha256)
    assert len(known) >= 40
    found = canary.examine(insight)
    assert found["ok"]
    assert canary.fault(found, known) == ""
    assert canary.recorded("another bundle") == {}


@pytest.mark.parametrize(
    ("ok", "turned", "words"),
    [(True, 0, ""), (True, 1, ""), (True, 3, "37 of 40 labels"), (True, 40, "0 of 40"), (False, 0, "not found")],
)
def test_how_much_may_differ(ok: bool, turned: int, words: str):
    known = {f"label {i}": "no" for i in range(40)} | {"switched off here": "yes"}
    states = {f"label {i}": "yes" if i < turned else "no" for i in range(40)}
    fault = canary.fault({"ok": ok, "states": states}, known)
    assert words in fault
    assert bool(fault) is bool(words)


@pytest.mark.slow
def test_a_server_that_reads_it_otherwise_does_not_start(tmp_path: Path):
    """A device that computes something else: here it is the record that is another one."""
    package = tmp_path / "faceinsight"
    shutil.copytree(Path(canary.__file__).parents[1], package)
    record = package / "server" / "canary.json"
    (sha256,) = json.loads(record.read_text())
    other = {name: "yes" if state == "no" else "no" for name, state in canary.recorded(sha256).items()}
    record.write_text(json.dumps({sha256: other}))
    command = [sys.executable, "-m", "faceinsight", "serve", "--port", "0", "--device", "cpu", "--threads", "1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the canary's face was read otherwise than it must be" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_server_that_reads_it_as_recorded_starts(tmp_path: Path):
    with Serving(tmp_path, "nano", "--deny", "expression") as server:
        server.wait_ready()
        assert server.metric("canary_failures_total") == 0
