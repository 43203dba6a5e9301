"""Versions, devices, active providers, bundle and sizes: what `faceinsight info` says."""

from __future__ import annotations

import platform
from typing import TypedDict

from .._version import __version__
from ..backends.device import Device
from ..backends.llama_cpp.bindings import llama_version
from ..backends.ort import import_onnxruntime
from ..bundle.bundle import Bundle
from ..host.dependencies import load
from .explain import explained

#: Keys are words for people, hence not a class.
Info = TypedDict(
    "Info",
    {
        "faceinsight": str,
        "python": str,
        "machine": str,
        "threads": int,
        "numpy": str,
        "opencv": str,
        "onnxruntime": str,
        "providers available": list[str],
        "providers active": list[str],
        "llama-cpp-python": str,
        "llm on gpu": bool,
        "bundle": str,
        "bundle sha256": str,
        "bundle size MB": float,
        "files MB": dict[str, float],
        "characteristics": int,
        "switches": dict[str, bool],
        "licences": dict[str, str],
    },
)


def info(bundle: str, *, device: str = "auto", threads: int | None = None) -> Info:
    """What is installed, and what a bundle runs on here. Arguments as in `FaceInsight.load`."""
    import numpy

    cv2 = load("cv2")
    opened = Bundle.open(bundle)
    with explained(device):
        where = Device.resolve(device, threads=threads)
        session = where.session(opened.file(opened.manifest.parser.file))
    ort = import_onnxruntime()
    manifest = opened.manifest
    return {
        "faceinsight": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": where.threads,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": ort.__version__,
        "providers available": ort.get_available_providers(),
        "providers active": session.get_providers(),
        "llama-cpp-python": llama_version(),
        "llm on gpu": where.llm_on_gpu,
        "bundle": f"{manifest.name} ({opened.path})",
        "bundle sha256": opened.sha256,
        "bundle size MB": round(opened.bytes / 1e6, 1),
        "files MB": {name: round(f.bytes / 1e6, 2) for name, f in manifest.files.items()},
        "characteristics": len(manifest.characteristics),
        "switches": manifest.switches,
        "licences": {x.component: x.licence for x in manifest.licences},
    }


def table(facts: Info) -> str:
    """For a terminal."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            value = f"\n{'':<22}".join(f"{k}: {v}" for k, v in value.items())
        lines.append(f"{key:<22}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "\n".join(lines)
