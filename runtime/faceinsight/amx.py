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
from typing import Any

import numpy as np

from .bundle import Bundle
from .device import Device, cache_folder, cores
from .llm import Llm
from .probes import probe

log = logging.getLogger(__name__)

#: Flags under which GCC keeps the configuration.
FLAGS = "-fno-dse -fno-tree-dse"
#: Largest difference of logits with and without AMX, of the largest logit: both round to 8 bits, in another order.
TOLERANCE = 0.05
_WORKS, _FAILS = "works", "fails"


@cache
def works(libraries: Path) -> bool:
    """Do the AMX kernels of this build work? libraries: the folder of llama.cpp's shared libraries."""
    record = _record(libraries)
    try:
        found = record.read_text()
    except OSError:
        found = ""
    if found not in (_WORKS, _FAILS):
        tried = probe("amx")
        found = _FAILS if tried.found is None else _WORKS
        log.info("llama.cpp was compiled for AMX, which %s here: %s", found, tried.error or tried.found)
        try:
            record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            record.write_text(found)
        except OSError as e:
            log.info("that is not remembered, and tried again in the next process: %s", e)
    return found == _WORKS


def trial() -> dict[str, Any]:
    """In a child process: the same prompt with AMX and without. Raises RuntimeError where they differ."""
    bundle = Bundle.open("nano")
    spec = bundle.manifest.llm
    logits = []
    for amx in (True, False):
        llm = Llm(bundle.file(spec.file), spec, Device("cpu", False, cores()), amx=amx)
        at = llm.decode([list(range(100, 140))], 0)
        llm.decode([[100]], at)
        logits.append(llm.logits().copy())
        llm.close()
    error = float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max())
    if not error < TOLERANCE:
        raise RuntimeError(f"logits differ by {error:.3g}")
    return {"difference": round(error, 5)}


def _record(libraries: Path) -> Path:
    """Where the finding about this build is kept."""
    files = sorted((f.name, s.st_size, s.st_mtime_ns) for f in libraries.glob("*") for s in (f.stat(),))
    digest = hashlib.sha256(f"{libraries} {files}".encode()).hexdigest()[:16]
    return cache_folder() / f"amx-{digest}"
