"""A known face that every worker must answer before it is given requests: that a model is loaded proves little.

canary.jpg is cut from NASA's portrait of Eileen Collins, which is in the public domain. canary.json has how the shipped
bundles read it on a CPU, by the bundle's SHA-256; benchmarks/canary.py writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..insight import FaceInsight

PHOTO = Path(__file__).with_name("canary.jpg")
RECORD = Path(__file__).with_name("canary.json")
#: Where its one face is (x, y, width, height), and how much of it a detector must find.
BOX, OVERLAP = (62.0, 45.0, 87.0, 110.0), 0.5
#: Share of its labels that must be as they were recorded, or as the worker before gave them.
AGREEMENT = 0.95


def examine(insight: FaceInsight) -> dict[str, Any]:
    """How this worker answers it: whether the face is found where it is and an answer comes, and its labels' states."""
    faces = insight.perceive(PHOTO)
    found = len(faces) == 1 and overlap(faces[0].box, BOX) >= OVERLAP
    ok = found and bool(insight.ask(faces[0], "Describe this face.").text)
    insight.forget()
    return {"ok": ok, "states": {x.name: x.state for face in faces[:1] for x in face.labels}}


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def recorded(bundle_sha256: str) -> dict[str, str]:
    """States of its labels with this bundle; empty for one that is not recorded."""
    found: dict[str, str] = json.loads(RECORD.read_text()).get(bundle_sha256, {})
    return found


def fault(said: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """What is wrong with an answer; empty where nothing is.

    Args:
        said: as `examine` gives it.
        known: states as they should be; labels that are switched off here do not count.
    """
    if not said["ok"]:
        return "the canary's face was not found, or not answered"
    both = [name for name in known if name in said["states"]]
    agreed = sum(said["states"][name] == known[name] for name in both)
    if agreed >= AGREEMENT * len(both):
        return ""
    return f"the canary's face was read otherwise than it must be: {agreed} of {len(both)} labels are the same"
