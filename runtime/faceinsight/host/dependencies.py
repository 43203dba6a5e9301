"""What the extras bring, by module: its name, and how to get it without asking an index for a package of our name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import DependencyError
from .memory import one_line, short

NAMES = {"cv2": "OpenCV", "onnxruntime": "ONNX Runtime", "llama_cpp": "llama-cpp-python"}
INSTALL = {
    "cv2": "pip install opencv-python-headless",
    "onnxruntime": "pip install onnxruntime, or 'onnxruntime-gpu[cuda,cudnn]' for an NVIDIA GPU",
    "llama_cpp": "pip install 'llama-cpp-python>=0.3.36,<0.4'",
}


def load(module: str) -> Any:
    """The module, or a DependencyError: a library that does not fit raises whatever it likes when it is imported."""
    try:
        return import_module(module)
    except Exception as e:
        raise unavailable(module, e) from e


def unavailable(module: str, error: Exception) -> DependencyError:
    """What to raise where one of them does not import: it is not there, or its own words why it does not load."""
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return DependencyError(f"{NAMES[module]} is not installed: {INSTALL[module]}; then `faceinsight doctor`")
    hint = "memory is short" if short(error) else "see `faceinsight doctor`"
    return DependencyError(f"{NAMES[module]} is installed but does not load: {one_line(error)}; {hint}")


def installed(distribution: str) -> str | None:
    """Its version; None where it is not installed as a package."""
    # Imported where it is needed: it takes longer than all of this package.
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
