"""A picture of what was seen: the photo with boxes and parsing, the labels of each face, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .labels import Label
from .types import Face

#: One colour per mask class (RGB); the background is left as it is. Left and right share a colour.
_COLOURS = np.array(
    [
        (0, 0, 0), (255, 196, 160), (255, 140, 105), (64, 224, 255), (70, 130, 255), (70, 130, 255), (150, 90, 60),
        (150, 90, 60), (255, 170, 60), (255, 170, 60), (170, 30, 60), (235, 60, 100), (215, 40, 85), (140, 90, 220),
        (255, 220, 40), (0, 255, 170), (255, 0, 200), (240, 170, 130), (70, 190, 110),
    ],
    np.uint8,
)  # fmt: skip
_INK, _DIM, _PAPER, _TRACK = (238, 238, 242), (160, 164, 176), (26, 28, 34), (52, 56, 66)
_ACCENTS = ((64, 200, 255), (255, 170, 60), (120, 230, 120), (255, 110, 160), (190, 150, 255), (255, 230, 90))
_STATE = {"yes": (104, 211, 145), "unsure": (240, 200, 90), "no": (110, 116, 130)}
_PANEL = 420
_MIN_HEIGHT = 640
_MARGIN, _TALK = 28, 0.55


def draw(
    image: NDArray[np.uint8], faces: Sequence[Face], *, labels: int = 12, talk: Sequence[tuple[str, str]] = ()
) -> NDArray[np.uint8]:
    """RGB photo (H,W,3) and its faces -> RGB picture: overlay on the left, up to `labels` labels per face on the right,
    questions and answers (`talk`) below.

    Panels are drawn for the three largest faces; a small photo is enlarged so that the text has room.
    """
    zoom = max(1.0, _MIN_HEIGHT / image.shape[0])
    canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    for i, face in enumerate(faces):
        _overlay(canvas, face, zoom)
        _box(canvas, face, zoom, i)
    panels = [_panel(face, i, canvas.shape[0], labels) for i, face in enumerate(faces[:3])]
    if not panels:
        panels = [_empty(canvas.shape[0])]
    picture = np.concatenate([canvas, *panels], 1)
    return np.concatenate([picture, _talk(talk, picture.shape[1])]) if talk else picture


def _talk(talk: Sequence[tuple[str, str]], width: int) -> NDArray[np.uint8]:
    """A strip with each question and its answer, wrapped."""
    lines: list[tuple[str, tuple[int, int, int], int]] = []
    for question, answer in talk:
        lines += [(line, _DIM, 30) for line in _wrapped(question, width)]
        lines += [(line, _INK, 26) for line in _wrapped(answer, width)]
    strip = np.full((sum(step for *_, step in lines) + 26, width, 3), _PAPER, np.uint8)
    y = 0
    for text, colour, step in lines:
        y += step
        _text(strip, text, (_MARGIN, y), _TALK, colour)
    return strip


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that fit, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        wide = cv2.getTextSize(longer, cv2.FONT_HERSHEY_SIMPLEX, _TALK, 1)[0][0]
        if lines[-1] and wide > width - 2 * _MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _overlay(canvas: NDArray[np.uint8], face: Face, zoom: float) -> None:
    """Blend the parsing, warped back onto the photo."""
    inverse = cv2.invertAffineTransform(face.matrix)
    inverse = (inverse + np.array([[0, 0, 0.5]] * 2)) * zoom - np.array([[0, 0, 0.5]] * 2)
    size = (canvas.shape[1], canvas.shape[0])
    mask: Any = cv2.warpAffine(face.label_map, inverse, size, flags=cv2.INTER_NEAREST, borderValue=0)
    alpha = cv2.GaussianBlur((mask > 0).astype(np.float32) * 0.38, (0, 0), 1.2)[..., None]
    colour = _COLOURS[np.minimum(mask, len(_COLOURS) - 1)].astype(np.float32)
    canvas[:] = (canvas * (1 - alpha) + colour * alpha).astype(np.uint8)


def _box(canvas: NDArray[np.uint8], face: Face, zoom: float, number: int) -> None:
    x, y, w, h = (round(v * zoom) for v in face.box)
    colour = _ACCENTS[number % len(_ACCENTS)]
    cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, 2, cv2.LINE_AA)
    for px, py in face.landmarks * zoom:
        cv2.circle(canvas, (round(px), round(py)), 2, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (x, y - 24), (x + 30, y), colour, -1)
    _text(canvas, str(number + 1), (x + 9, y - 7), 0.55, (20, 20, 20), 2)


def _panel(face: Face, number: int, height: int, count: int) -> NDArray[np.uint8]:
    panel = _empty(height, "")
    accent = _ACCENTS[number % len(_ACCENTS)]
    cv2.rectangle(panel, (0, 0), (5, height), accent, -1)
    _text(panel, f"Face {number + 1}", (28, 46), 0.85, _INK, 2)
    _text(panel, f"{face.box[2]:.0f} x {face.box[3]:.0f} px   detector {face.score:.2f}", (28, 74), 0.45, _DIM)
    for row, label in enumerate(top_labels(face.labels, min(count, (height - 110) // 42))):
        _bar(panel, label, 112 + row * 42)
    return panel


def top_labels(labels: Sequence[Label], count: int) -> list[Label]:
    """What is there, the most probable first; then what is unsure."""
    seen = [x for x in labels if x.state in ("yes", "unsure") and x.probability is not None]
    return sorted(seen, key=lambda x: (x.state != "yes", -(x.probability or 0.0)))[:count]


def _bar(panel: NDArray[np.uint8], label: Label, y: int) -> None:
    probability = label.probability or 0.0
    colour = _STATE.get(label.state, _DIM)
    _text(panel, label.phrase, (28, y), 0.52, _INK)
    _text(
        panel, f"{probability:.0%}" if label.state == "yes" else f"{probability:.0%} ?", (_PANEL - 84, y), 0.52, colour
    )
    cv2.rectangle(panel, (28, y + 9), (_PANEL - 30, y + 14), _TRACK, -1)
    cv2.rectangle(panel, (28, y + 9), (28 + round((_PANEL - 58) * probability), y + 14), colour, -1)


def _empty(height: int, text: str = "No face found") -> NDArray[np.uint8]:
    panel = np.full((height, _PANEL, 3), _PAPER, np.uint8)
    if text:
        _text(panel, text, (28, 46), 0.85, _DIM)
    return panel


def _text(
    image: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
    weight: int = 1,
) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)
