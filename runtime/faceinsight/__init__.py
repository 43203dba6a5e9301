"""FaceInsight: face understanding by a multimodal LLM, on the device in front of the person."""

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
from .insight import FaceInsight
from .labels import Label
from .types import Answer, Face, Piece, Report, Timings

__all__ = [
    "Answer",
    "BundleError",
    "BundleNotFoundError",
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
