"""What the extras bring, by module: its name, and how to get it without asking an index for a package of our name."""

from __future__ import annotations

from .errors import DependencyError

NAMES = {"cv2": "OpenCV", "onnxruntime": "ONNX Runtime", "llama_cpp": "llama-cpp-python"}
INSTALL = {
    "cv2": "pip install opencv-python-headless",
    "onnxruntime": "pip install onnxruntime, or onnxruntime-gpu for an NVIDIA GPU",
    "llama_cpp": "pip install 'llama-cpp-python>=0.3.36,<0.4'",
}


def unavailable(module: str, error: Exception) -> DependencyError:
    """What to raise where one of them does not import: it is not there, or its own words why it does not load."""
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return DependencyError(f"{NAMES[module]} is not installed: {INSTALL[module]}; then `faceinsight doctor`")
    words = str(error).strip().splitlines()
    reason = words[0] if words else type(error).__name__
    return DependencyError(f"{NAMES[module]} is installed but does not load: {reason}; see `faceinsight doctor`")
