"""How a command ends: one line on stderr whatever goes wrong, and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from ..errors import FaceInsightError
from ..host.memory import causes, one_line, short


def end(run: Callable[[], int]) -> int:
    """Run a command. Exit code: its own; 1 with one line on stderr; 130 for Ctrl-C."""
    # What a console cannot show is written as its code.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _silence()
        return 130
    except BrokenPipeError:
        # The reader went away (a pipe into head): nothing is wrong with us, and nothing more can be said.
        _silence()
        return 1
    except FaceInsightError as e:
        # numpy makes an ImportError of Ctrl-C.
        return 130 if any(isinstance(x, KeyboardInterrupt) for x in causes(e)) else _failed(str(e))
    except OSError as e:
        _silence()
        where = e.filename or "the output cannot be written"
        return _failed(f"{where}: {e.strerror or e}")
    except Exception as e:
        if not short(e):
            raise
        return _failed(f"memory is short: {one_line(e)}")


def utf8() -> bool:
    """Can standard output show every character?"""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def _failed(line: str) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"faceinsight: {' '.join(line.splitlines())}\n")
    return 1


def _silence() -> None:
    """Python flushes what is left in standard output when it ends: not where that fails, or is wanted no more."""
    if sys.stdout is None:
        return
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
