"""Nothing leaves, and nothing is written but where we say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import PHOTO

from faceinsight.diagnostics.doctor import OK, WARN, diagnose
from faceinsight.diagnostics.facts import Facts
from faceinsight.host.child import Probe

USE = """
import sys, time
from faceinsight import FaceInsight
with FaceInsight.load("nano", device="cpu", threads=1) as fi:
    face = fi.perceive(sys.argv[1])[0]
    until = time.monotonic() + float(sys.argv[2])
    while True:
        fi.ask(face, "Is she smiling?")
        if time.monotonic() > until:
            break
        time.sleep(0.5)
"""


def written(home: Path) -> set[str]:
    """Folders in a home folder that hold files."""
    return {str(p.parent.relative_to(home)) for p in home.rglob("*") if p.is_file()}


def run(code: str, home: Path, *arguments: object, before: tuple[str, ...] = (), **changes: str):
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), **changes}
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)


def test_a_question_leaves_no_trace(tmp_path):
    run(USE, tmp_path, PHOTO, 0)
    assert written(tmp_path) <= {".cache/faceinsight"}


def test_what_onnxruntime_would_do_is_noticed(tmp_path):
    """The negative control: told otherwise, this version leaves its traces."""
    run("import faceinsight, onnxruntime", tmp_path, ORT_DISABLE_TELEMETRY="0")
    if not written(tmp_path):
        pytest.skip("this ONNX Runtime has no telemetry")
    late = "import onnxruntime, faceinsight\nfrom faceinsight.backends.ort import import_onnxruntime as i\ni()\ni()"
    assert run("import logging; logging.basicConfig()\n" + late, tmp_path).stderr.count("telemetry") == 1


def test_doctor_says_so():
    nothing = dict.fromkeys(("onnxruntime", "llama", "cuda", "tensorrt", "opencv"), Probe(error="not there"))
    status = {
        off: {c.name: c.status for c in diagnose(Facts("x86_64", {}, **nothing, telemetry_off=off))}
        for off in (True, False)
    }
    assert (status[True]["telemetry"], status[False]["telemetry"]) == (OK, WARN)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_process_that_lives_a_minute_opens_no_connection(tmp_path):
    log = tmp_path / "calls"
    run(USE, tmp_path, PHOTO, 60, before=("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log)))
    outward = [line for line in log.read_text().splitlines() if "AF_INET" in line]
    assert not outward
