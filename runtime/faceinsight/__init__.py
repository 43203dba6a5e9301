"""FaceInsight: face understanding by a multimodal LLM, on the device in front of the person.

    with FaceInsight.load("nano") as fi:
        for face in fi.perceive("photo.jpg"):
            print(fi.ask(face, "Is she smiling?"), fi.report(face).label("Smiling"))

What this package offers is FaceInsight, the values it hands out (Face, Report, Label, Age, Quality, Answer, Timings,
Piece, Choice), and FaceInsightError with its children; the modules are internal. Begin with
help(faceinsight.FaceInsight).
"""

import sys
from typing import TYPE_CHECKING, Any

from . import offline as offline  # first of all: see there
from ._version import __version__
from .dependencies import unavailable
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
from .types import Age, Answer, Choice, Face, Piece, Quality, Report, Timings

if TYPE_CHECKING:
    from .insight import FaceInsight

__all__ = [
    "Age",
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
    "Quality",
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
    except ImportError as e:
        if "cv2" in sys.modules or isinstance(e, FaceInsightError):
            raise
        raise unavailable("cv2", e) from e
    globals()[name] = FaceInsight
    return FaceInsight


def __dir__() -> list[str]:
    """FaceInsight too, though it is not imported yet: `help` and completion go by this."""
    return [*__all__]
