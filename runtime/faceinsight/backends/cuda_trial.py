"""Does ONNX Runtime's CUDA provider compute on this GPU? A list of providers says what was compiled.

A session may start and fail at its first photo all the same: where cuDNN is missing, which ONNX Runtime loads late
(microsoft/onnxruntime pull request 29252), or where the build has no kernels for this GPU. A child process tries.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..host.child import NO_PYTHON, probe
from ..host.jetson import read_text
from ..host.machine import cache_folder

log = logging.getLogger(__name__)

#: Environment variables that choose the GPU and the libraries.
CHOICES = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES")


def failure(ort: Any, *, root: Path = Path("/")) -> str | None:
    """What is wrong with the CUDA provider here; None where it works, and where it cannot be tried (a frozen app).

    That it works is remembered in the cache folder, for this build, driver and choice of libraries. That it fails is
    not: what is missing may be installed before the next process starts.

    Args:
        ort: the module onnxruntime, of a build with a CUDA provider.
        root: where the machine's /proc is.
    """
    name = hashlib.sha256(repr(list(_facts(ort, root))).encode()).hexdigest()[:16]
    try:
        record = cache_folder() / f"cuda-{name}"
        if record.exists():
            return None
    except OSError as e:
        log.info("what is found out about CUDA is not remembered: %s", e)
        record = None
    tried = probe("onnxruntime")
    if tried.found is None:
        return None if tried.error == NO_PYTHON else tried.error
    if tried.found.get("library", "ok") != "ok":
        return str(tried.found["library"])
    if tried.found.get("run") != "ok":
        return str(tried.found.get("run", "this build has no CUDA provider"))
    _remember(record)
    return None


def _remember(record: Path | None) -> None:
    if record is None:
        return
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.touch()
    except OSError as e:
        log.info("that CUDA works is not remembered, and tried again in the next process: %s", e)


def _facts(ort: Any, root: Path) -> Iterator[object]:
    """What the finding depends on."""
    folder = Path(ort.__file__).parent / "capi"
    yield ort.__version__
    yield read_text(root / "proc/driver/nvidia/version")
    yield [os.environ.get(name) for name in CHOICES]
    # NVIDIA's pip packages are folders of this one: its time changes where one comes or goes.
    for path in (folder / "libonnxruntime_providers_cuda.so", folder.parents[1] / "nvidia"):
        try:
            found = path.stat()
        except OSError:
            continue
        yield str(path), found.st_size, found.st_mtime_ns
