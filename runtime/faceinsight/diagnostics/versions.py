"""Which versions of what this package stands on were tried.

pyproject.toml asks pip for the same oldest ones (tests/runtime/diagnostics/test_versions.py holds the two together);
docs/reference/versions.md says what was run with them.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy

from ..host.child import Probe
from ..host.dependencies import installed


@dataclass(frozen=True, slots=True)
class Package:
    """`oldest` works and is asked for; `newest` is the last that was tried; `lacks` says what is wrong with older ones.

    numpy2: the first version that runs with numpy 2, where older ones are supported too.
    """

    name: str
    oldest: str
    newest: str
    lacks: str = "older ones were not tried"
    numpy2: str = ""


@dataclass(frozen=True, slots=True)
class Old:
    """A package that is too old: the version to take, and why."""

    wanted: str
    why: str


#: By the name under which pip knows it; "python" is Python itself.
RUNTIME = {
    "python": Package("Python", "3.10", "3.13"),
    "numpy": Package("numpy", "1.24", "2.5"),
    "opencv-python-headless": Package("OpenCV", "4.8", "5.0", "older ones were not tried", "4.10"),
    "onnxruntime": Package("ONNX Runtime", "1.18", "1.32", "older ones do not read nano's graphs (IR 10)", "1.19"),
    "llama-cpp-python": Package("llama-cpp-python", "0.3.36", "0.3.36", "this one's functions are called"),
}
#: Only exporting and training need these.
EXPORT = {
    "torch": Package("torch", "2.13", "2.13", "older ones cannot trace nano's graphs"),
    "transformers": Package("transformers", "4.57.1", "5.24", "older ones lack what is called, or read fewer folders"),
    "onnx": Package("onnx", "1.19", "1.23", "older ones cannot join the graphs of an adapter"),
    "onnxscript": Package("onnxscript", "0.7", "0.7", "older ones do not convert nano's graphs"),
    "gguf": Package("gguf", "0.18", "0.19", "older ones leave out the token that begins a text"),
    "tokenizers": Package("tokenizers", "0.22", "0.23"),
    "safetensors": Package("safetensors", "0.4.3", "0.8"),
    "sentencepiece": Package("sentencepiece", "0.2.0", "0.2", "older ones do not load beside protobuf 4"),
    "protobuf": Package("protobuf", "4.25.1", "7.36", "older ones, written in Python, do not bear onnxscript"),
}
#: Distributions that bring one and the same module.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
    "onnxruntime-gpu-extended",
)
_OPENCVS = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")


def found_versions(probes: Mapping[str, Probe]) -> dict[str, str]:
    """Versions by the names above: what a library says of itself in its probe, else what pip says of it, for one that
    does not load may be too old."""
    versions = {"python": platform.python_version(), "numpy": numpy.__version__}
    for probe, names in (("opencv", _OPENCVS), ("onnxruntime", ONNXRUNTIMES), ("llama", ("llama-cpp-python",))):
        itself = (probes[probe].found or {}).get("version")
        versions[names[0]] = itself or next(filter(None, map(installed, names)), "")
    versions |= {name: installed(name) or "" for name in EXPORT}
    return {name: version for name, version in versions.items() if numbers(version)}


def onnxruntime_version() -> tuple[int, ...]:
    """Of the ONNX Runtime that pip installed; () where it is not known."""
    return numbers(next(filter(None, map(installed, ONNXRUNTIMES)), ""))


def too_old(versions: Mapping[str, str]) -> dict[str, Old]:
    """Of the packages with these versions, those that are older than what works."""
    old = {}
    for name, version in versions.items():
        package = (RUNTIME | EXPORT)[name]
        if numbers(version) < numbers(package.oldest):
            old[name] = Old(package.oldest, f"{package.name} {version}: {package.lacks}")
        elif numbers(version) < numbers(package.numpy2) and numbers(versions["numpy"]) >= (2,):
            old[name] = Old(package.numpy2, f"{package.name} {version} needs numpy 1, and numpy is {versions['numpy']}")
    return old


def untried(versions: Mapping[str, str]) -> list[str]:
    """Packages that are newer than the last ones tried."""
    newer = []
    for name, version in versions.items():
        package = (RUNTIME | EXPORT)[name]
        newest = numbers(package.newest)
        if numbers(version)[: len(newest)] > newest:
            newer.append(f"{package.name} {version} (tried: {package.newest})")
    return newer


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: "4.10.0.84" -> (4, 10, 0, 84)."""
    return tuple(int(n) for n in re.findall(r"\d+", version))
