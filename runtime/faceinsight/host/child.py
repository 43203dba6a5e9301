"""Runs probes in a child process: a native library that crashes there is a finding, not the end of this process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Marks our lines among what libraries print.
MARK = "@faceinsight "
TIMEOUT = 120
#: The program that has most probes.
PROBES = "faceinsight.backends.probes"
#: How native code ends that does what it must not; not by the hand of others (SIGKILL where memory is short).
CRASHES = ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE", "SIGABRT")
NO_PYTHON = "sys.executable is no Python interpreter here (a frozen app, or Python inside of another program)"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a child found, or how it ended; neither where there was nothing to try.

    Both: how far it came before it ended so. crashed: by its own doing.
    """

    found: dict[str, Any] | None = None
    error: str | None = None
    crashed: bool = False


@cache
def probe(name: str, *arguments: str, module: str = PROBES) -> Probe:
    """As `run_probe`; its result is remembered for the life of this process."""
    return run_probe(name, *arguments, module=module)


def run_probe(name: str, *arguments: str, module: str = PROBES, timeout: float = TIMEOUT) -> Probe:
    """Run one probe in a child process.

    Args:
        name: of the probe.
        arguments: what it is given.
        module: the program that has it.
        timeout: seconds until it is ended.
    """
    python = interpreter()
    if python is None:
        return Probe(error=NO_PYTHON)
    command = [python, *as_here(module), name, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer within {timeout:.0f} s")
    except OSError as e:
        return Probe(error=f"no child process can be started: {e}")
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    found = json.loads(lines[-1]) if lines else None
    if done.returncode == 0 and found is not None:
        return Probe(error=found["error"]) if "error" in found else Probe(found)
    error = death(done.returncode, done.stderr)
    return Probe(found, error, error.startswith(tuple(f"crashed with {name}" for name in CRASHES)))


def interpreter() -> str | None:
    """The Python program to start for a child. None in a frozen app and where Python is embedded: sys.executable is
    empty there, or the app, which would begin all over again."""
    name = Path(sys.executable or "").name
    python = re.fullmatch(r"(python|pypy)[\d.]*(d|t|w|_d|-dbg|-intel64)?(\.exe)?", name, re.IGNORECASE)
    return sys.executable if python and not getattr(sys, "frozen", False) else None


def as_here(module: str) -> tuple[str, str]:
    """Python's arguments that run a module as a program which finds the packages that this process finds: the same
    sys.path, but for the working directory where nobody named it. A file there that is called like a library is not
    run: PYTHONSAFEPATH, which says so, came with Python 3.11 only, and `-I` would drop the user's PYTHONPATH."""
    chosen = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    named = any(_is_here(p) for p in chosen if p)
    paths = [p for p in sys.path if p and (named or not _is_here(p))]
    # The path is set before anything is imported but sys, which is built in.
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return "-c", f"import sys; sys.path[:] = {paths!a}; import runpy; {run}"


def _is_here(path: str) -> bool:
    """Is it the working directory?"""
    try:
        return Path(path).samefile(os.curdir)
    except OSError:
        return False


def death(code: int, stderr: str) -> str:
    """How a child ended, with its last words."""
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    if code >= 0:
        return last or f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory? close other programs, or add swap)" if name == "SIGKILL" else ""
    return f"crashed with {name}{hint}" + (f" after: {last}" if last else "")


def say(found: dict[str, Any]) -> None:
    """In a child: what was found, also on the way; the last word counts."""
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
    sys.stdout.flush()
