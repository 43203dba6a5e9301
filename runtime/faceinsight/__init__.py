"""FaceInsight: face understanding by a multimodal LLM, on the device in front of the person."""

from typing import TYPE_CHECKING, Any

from . import offline as offline  # first of all: see there
from ._version import __version__
from .errors import (
    BundleError,
    BundleNotFoundError,
    DependencyError,
    DeviceError,
    FaceInsightError,
    ImageError,
    ImageNotFoundError,
    PolicyError,
    QuestionError,
    RequestError,
)
from .labels import Label
from .types import Answer, Choice, Face, Piece, Report, Timings

if TYPE_CHECKING:
    from .insight import FaceInsight

__all__ = [
    "Answer",
    "BundleError",
    "BundleNotFoundError",
    "Choice",
    "DependencyError",
    "DeviceError",
    "Face",
    "FaceInsight",
    "FaceInsightError",
    "ImageError",
    "ImageNotFoundError",
    "Label",
    "Piece",
    "PolicyError",
    "QuestionError",
    "Report",
    "RequestError",
    "Timings",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """FaceInsight is imported when it is first asked for: `faceinsight doctor` must start where OpenCV is missing."""
    if name != "FaceInsight":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .insight import FaceInsight
    except ModuleNotFoundError as e:
        if e.name != "cv2":
            raise
        raise DependencyError("OpenCV is not installed: pip install 'faceinsight[cpu]' or [gpu]") from e
    globals()[name] = FaceInsight
    return FaceInsight
