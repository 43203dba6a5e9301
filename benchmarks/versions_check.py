"""Answers about photos, in the environment of one row of versions.py, as one line of JSON. Started by versions.py."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from faceinsight import FaceInsight
from faceinsight.bundle.bundle import Bundle
from faceinsight.cli.main import main as command
from faceinsight.diagnostics.fit import estimate
from faceinsight.diagnostics.versions import EXPORT, RUNTIME
from faceinsight.perception.image import load_image

PHOTO = Path(__file__).resolve().parents[1] / "tests" / "data" / "astronaut.png"
QUESTIONS = ("Is she smiling?", "Is she wearing glasses?", "What color is the hair?", "Describe this face.")


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def check() -> None:
    """Answer, and print what came out as one line of JSON."""
    photo = np.ascontiguousarray(load_image(PHOTO))
    photos = {
        "as it is": photo,
        "mirrored": photo[:, ::-1],
        "half": photo[::2, ::2],
        "dark": photo // 3,
        "on its side": np.rot90(photo),
        "two": np.concatenate([photo, photo[:, ::-1]], 1),
        "framed": np.pad(photo, ((200, 90), (40, 310), (0, 0)), constant_values=127),
    }
    faces: dict[str, list[dict[str, Any]]] = {}
    peak = 0
    with FaceInsight.load("nano", device="cpu", threads=2, allow=["gender", "age", "race"]) as fi:
        for name, picture in photos.items():
            faces[name] = []
            for face in fi.perceive(np.ascontiguousarray(picture)):
                labels = {x.name: (x.state, round(x.probability or 0, 5)) for x in fi.report(face).labels}
                answers = [fi.ask(face, q).text for q in QUESTIONS]
                faces[name].append({"labels": labels, "answers": answers})
            if not peak:
                peak = peak_bytes()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        command(["doctor", "--json"])
    doctor = json.loads(printed.getvalue())
    versions = {"python": platform.python_version()}
    for name in {**RUNTIME, **EXPORT}:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = {
        "versions": versions,
        "faces": faces,
        "doctor": {c["name"]: c["status"] for c in doctor["checks"]},
        "fit": {"estimate": estimate(Bundle.open("nano")).total, "peak": peak},
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    check()
