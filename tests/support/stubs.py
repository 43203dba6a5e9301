"""Shared libraries for tests, compiled on the spot: how one fails to load is the system's to say, not a fake's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("cc")
needs_cc = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler (cc)")


def library(path: Path, source: str, *options: str | Path) -> Path:
    """Compile C to a shared library whose soname is its file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [COMPILER, "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", path]
    command += [f"-Wl,-soname,{path.name}", *options]
    subprocess.run([str(part) for part in command], input=source, text=True, check=True)
    return path


def library_that_wants(path: Path, missing: str, source: str = "") -> Path:
    """One that is linked against a library which is not there when it is loaded."""
    wanted = library(path.parent / missing, "")
    library(path, source, "-Wl,--no-as-needed", wanted)
    wanted.unlink()
    return path
