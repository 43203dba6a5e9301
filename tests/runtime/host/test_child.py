"""Child processes find the packages that their parent finds, and nothing in the working directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from faceinsight.host.child import Probe, as_here, probe

ANOTHER_OPENCV = "__version__ = '1.2.3'\n"
TRAP = "raise SystemExit('a file of the working directory was run')\n"


def opencv() -> Probe:
    return probe.__wrapped__("opencv")


def path_of_a_child(folder: Path) -> list[str]:
    (folder / "where.py").write_text("import json, sys\nprint(json.dumps(sys.path))\n")
    done = subprocess.run([sys.executable, *as_here("where")], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with files that are called like libraries, on sys.path as `-c` and `-m` put it there."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("cv2", "json", "runpy", "numpy", "faceinsight"):
        (folder / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend("")
    return folder


def test_a_child_looks_where_its_parent_looks_in_the_same_order(tmp_path: Path, monkeypatch):
    """In an installed wheel our own folder is that of all packages: it must not come before what the user put first."""
    (tmp_path / "cv2.py").write_text(ANOTHER_OPENCV)
    monkeypatch.syspath_prepend(tmp_path)
    assert opencv().found == {"version": "1.2.3"}
    # `python -m pytest` itself puts the working directory first.
    assert path_of_a_child(tmp_path) == [p for p in sys.path if p not in ("", str(Path.cwd()))]


@pytest.mark.parametrize("safe", [None, "1"])
def test_files_of_the_working_directory_are_not_run(trapped: Path, tmp_path: Path, monkeypatch, safe):
    if safe:
        monkeypatch.setenv("PYTHONSAFEPATH", safe)
    assert (opencv().found or {})["version"] == cv2.__version__
    monkeypatch.syspath_prepend(tmp_path)
    assert path_of_a_child(tmp_path) == [p for p in sys.path if p not in ("", str(trapped))]


def test_a_working_directory_that_the_user_named_is_looked_at(tmp_path: Path, monkeypatch):
    (tmp_path / "cv2.py").write_text(ANOTHER_OPENCV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert (opencv().found or {})["version"] == "1.2.3"


def test_a_child_starts_where_the_working_directory_is_gone(tmp_path: Path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    # Not a probe: numpy does not load there on Python 3.13.0.
    monkeypatch.syspath_prepend(tmp_path)
    assert path_of_a_child(tmp_path)[0] == str(tmp_path)
