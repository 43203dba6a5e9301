"""FaceInsight: face understanding by a multimodal LLM, on the device in front of the person.

    with FaceInsight.load("nano") as fi:
        for face in fi.perceive("photo.jpg"):
            print(fi.ask(face, "Is she smiling?"), fi.report(face).label("Smiling"))

What this package offers is FaceInsight, the values it hands out (Face, Report, Label, Age, Quality, Answer, Timings,
AnswerChunk, AnswerScores), and FaceInsightError with its children; the modules are internal. Begin with
help(faceinsight.FaceInsight).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    BundleError,
    BundleNotFoundError,
    DependencyError,
    DeviceError,
    FaceInsightError,
    ImageError,
    ImageNotFoundError,
    MemoryShortError,
    PolicyError,
    QuestionError,
    RequestError,
)
from .host import offline as offline  # first of all: see there

if TYPE_CHECKING:
    from .insight import FaceInsight
    from .types import Age, Answer, AnswerChunk, AnswerScores, Face, Label, Quality, Report, Timings

__all__ = [
    "Age",
    "Answer",
    "AnswerChunk",
    "AnswerScores",
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
    "MemoryShortError",
    "PolicyError",
    "Quality",
    "QuestionError",
    "Report",
    "RequestError",
    "Timings",
    "__version__",
]


_LATER = {"FaceInsight": "insight"} | dict.fromkeys(
    ("Age", "Answer", "AnswerScores", "Face", "Label", "AnswerChunk", "Quality", "Report", "Timings"), "types"
)


def __getattr__(name: str) -> Any:
    """What needs a library is imported when it is first asked for: a command must start, and say so, where one is
    missing, and must end at once by Ctrl-C."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "FaceInsight":
        from .host.dependencies import load
        from .host.memory import require_address_space

        require_address_space()
        load("cv2")
    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    """What is not imported yet too: `help` and completion go by this."""
    return [*__all__]
