"""The floors of the runtime hold: `make lint` checks them, and these tests that the check can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("importlinter", reason="pip install import-linter")


def lint(runtime: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml with this copy of the runtime."""
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    paths = [runtime, ROOT / "models", ROOT / "export"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "300"}
    return subprocess.run(command, cwd=runtime, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "runtime" / "faceinsight", tmp_path / "faceinsight")
    return tmp_path


def test_the_contracts_hold(copy: Path):
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("perception/image.py", "import torch", "The runtime is slim BROKEN"),
        (
            "perception/image.py",
            "from ..cli import text",
            "floors of the runtime: a lower one never sees a higher one BROKEN",
        ),
        ("language/guard.py", "from ..perception import rules", "a lower one never sees a higher one BROKEN"),
        ("host/machine.py", "import faceinsight_models", "the runtime knows neither BROKEN"),
        ("host/memory.py", "from .dependencies import load", "No circles between the rooms of the runtime BROKEN"),
    ],
)
def test_a_forbidden_import_is_found(copy: Path, file: str, line: str, broken: str):
    path = copy / "faceinsight" / file
    path.write_text(path.read_text().replace("from __future__ import annotations\n", f"{line}\n", 1))
    done = lint(copy)
    assert done.returncode == 1
    assert broken in " ".join(done.stdout.split())
