"""AMX, the matrix unit of some x86 servers: the LLM runs twice as fast there, if llama.cpp was compiled right.

Several compilers drop the tiles' configuration as if nobody read it, and the first token crashes (ggml-org/llama.cpp
issue 20824, pull request 26954). Whether a build is one of these only shows when it runs: a child process tries, and
what it found is remembered for this build.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bundle.gguf_header import GgufHeader
from ...host.child import Probe, probe, say
from ...host.machine import cache_folder, cores
from .model import Llm

log = logging.getLogger(__name__)

#: Flags under which GCC keeps the configuration.
FLAGS = "-fno-dse -fno-tree-dse"
#: Largest difference of logits with and without AMX, of the largest logit: both round to 8 bits, in another order.
TOLERANCE = 0.05
_WORKS, _FAILS = "works", "fails"


class _Cpu(NamedTuple):
    threads: int
    llm_on_gpu: bool = False


@cache
def works(libraries: Path, model: Path) -> bool:
    """Do the AMX kernels of this build work? Tried once per build, and remembered in the cache folder.

    Args:
        libraries: the folder of llama.cpp's shared libraries.
        model: the GGUF to try them with.
    """
    try:
        known = _record(libraries).read_text(errors="replace")
    except OSError:
        known = ""
    if known in (_WORKS, _FAILS):
        return known == _WORKS
    tried = probe("amx", str(model))
    found = verdict(tried)
    if found is None:
        log.warning("whether AMX works in this llama.cpp was not tried, it is left unused: %s", tried.error)
        return False
    log.info("llama.cpp was compiled for AMX, which %s here: %s", _WORKS if found else _FAILS, tried)
    try:
        record = _record(libraries)
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(_WORKS if found else _FAILS)
    except OSError as e:
        log.info("that is not remembered, and tried again in the next process: %s", e)
    return found


def verdict(tried: Probe) -> bool | None:
    """What a trial shows: that AMX works, that it fails, or (None) nothing: the child came to no result, which may have
    any other reason."""
    if tried.found is None:
        return None
    if tried.error is None:
        return bool(tried.found["difference"] < TOLERANCE)
    # Without AMX the same had come through.
    return False if tried.crashed else None


def trial(model: Path) -> dict[str, Any]:
    """In a child process: the same prompt without AMX and with it; how much the logits differ, of the largest."""
    width = GgufHeader.read(model).number("embedding_length")
    logits = []
    for amx in (False, True):
        llm = Llm(model, _Cpu(cores()), n_embd=width, n_ctx=64, repack=amx)
        at = llm.decode([list(range(100, 140))], 0)
        llm.decode([[100]], at)
        logits.append(llm.logits().copy())
        llm.close()
        if not amx:
            say({"without": "AMX"})
    error = float(np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max())
    return {"difference": round(error, 5)}


def _record(libraries: Path) -> Path:
    """Where the finding about this build is kept. Raises OSError."""
    files = sorted((f.name, s.st_size, s.st_mtime_ns) for f in libraries.glob("*") for s in (f.stat(),))
    digest = hashlib.sha256(f"{libraries} {files}".encode()).hexdigest()[:16]
    return cache_folder() / f"amx-{digest}"
