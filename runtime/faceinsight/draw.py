"""A picture of what was seen: the photo with boxes and parsing, the labels of each face, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .letters import drawable, text_width, write
from .types import Face, Label

#: One colour per mask class (RGB); the background is left as it is. Left and right share a colour.
_COLOURS = np.array(
    [
        (0, 0, 0),
        (255, 196, 160),
        (255, 140, 105),
        (64, 224, 255),
        (70, 130, 255),
        (70, 130, 255),
        (150, 90, 60),
        (150, 90, 60),
        (255, 170, 60),
        (255, 170, 60),
        (170, 30, 60),
        (235, 60, 100),
        (215, 40, 85),
        (140, 90, 220),
        (255, 220, 40),
        (0, 255, 170),
        (255, 0, 200),
        (240, 170, 130),
        (70, 190, 110),
    ],
    np.uint8,
)
_INK, _DIM, _PAPER, _TRACK = (238, 238, 242), (160, 164, 176), (26, 28, 34), (52, 56, 66)
_ACCENTS = ((64, 200, 255), (255, 170, 60), (120, 230, 120), (255, 110, 160), (190, 150, 255), (255, 230, 90))
_STATE = {"yes": (104, 211, 145), "unsure": (240, 200, 90), "no": (110, 116, 130)}
#: Widths and heights of a picture of about _SIDE pixels in square; those of a larger one grow with it.
_PANEL, _MIN_HEIGHT, _SIDE = 420, 640, 900
_MARGIN, _TALK, _LINE = 28, 0.55, 30
#: Of the parsing: how strongly it is laid over the photo, and the nearness to the crop's centre below which it fades.
_ALPHA, _FADE = 0.38, 0.25
#: The longer side of the photo in the picture, at most.
_LONGEST = 8192
#: Panels in a column, and columns, at most; up to so many faces have a column each.
_ROWS, _COLUMNS, _ALONE = 2, 4, 3
#: Suffix -> the longer side of a picture that the format can hold.
FORMATS = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}


def draw(
    image: NDArray[np.uint8],
    faces: Sequence[Face],
    *,
    labels: int = 12,
    talk: Sequence[tuple[str, str]] = (),
    about: int = 1,
) -> NDArray[np.uint8]:
    """RGB photo (H,W,3) and its faces -> RGB picture: overlay on the left, up to `labels` labels per face on the right,
    questions and answers (`talk`, about the face with the number `about`) below.

    Panels are drawn for the eight largest faces, with fewer labels from the fourth on; how many more there are is said.
    A small photo is enlarged so that the text has room; text and lines grow with a large one. A photo whose longer side
    exceeds 8,192 pixels is made smaller.
    """
    canvas, zoom = _canvas(image)
    scale = max(1.0, (canvas.shape[0] * canvas.shape[1]) ** 0.5 / _SIDE)
    _overlay(canvas, faces, zoom)
    for i, face in enumerate(faces):
        _box(canvas, face, zoom, scale, i)
    # A strip-like photo is as high as its panels need.
    canvas = _padded(canvas, max(canvas.shape[0], round(_MIN_HEIGHT * scale)))
    picture = np.concatenate([canvas, *_panels(faces, canvas.shape[0], labels, scale)], 1)
    if not talk:
        return picture
    return np.concatenate([picture, _talk(talk, picture.shape[1], scale, about if len(faces) > 1 else None)])


def encode(picture: NDArray[np.uint8], suffix: str) -> bytes:
    """RGB picture -> the bytes of a file, in the format of a suffix in FORMATS. Raises RequestError for too large a
    picture."""
    suffix = suffix.lower()
    height, width = picture.shape[:2]
    if max(width, height) > FORMATS[suffix]:
        raise RequestError(
            f"the picture has {width}x{height} pixels, {suffix[1:]} holds {FORMATS[suffix]:,} a side: "
            "name a file that ends in .png, or ask less"
        )
    ok, data = cv2.imencode(suffix, picture[:, :, ::-1])
    if not ok:
        raise RequestError(f"OpenCV does not write {suffix[1:]} of {width}x{height} pixels; try .png")
    return bytes(data)


def _canvas(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The photo in the size that is drawn on, and that over its own."""
    height, width = image.shape[:2]
    # As high as a panel, but not as wide as that would make a strip.
    zoom = max(1.0, min(_MIN_HEIGHT / height, 2 * _MIN_HEIGHT / width))
    zoom = min(zoom, _LONGEST / max(height, width))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    method = cv2.INTER_CUBIC if zoom >= 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8), zoom


def _padded(canvas: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    out = np.full((height, canvas.shape[1], 3), _PAPER, np.uint8)
    top = (height - canvas.shape[0]) // 2
    out[top : top + canvas.shape[0]] = canvas
    return out


def _talk(talk: Sequence[tuple[str, str]], width: int, scale: float, about: int | None) -> NDArray[np.uint8]:
    """A strip with each question and its answer, wrapped; what cannot be written is left out, with a note."""
    lines: list[tuple[str, tuple[int, int, int]]] = []
    if about:
        lines.append((f"About face {about}:", _DIM))
    missing = 0
    for pair in talk:
        for text, colour in zip(pair, (_DIM, _INK), strict=True):
            drawn, left_out = drawable(text)
            missing += left_out
            lines += [(line, colour) for line in _wrapped(drawn.strip() or "(...)", width, scale)]
    if missing:
        note = f"({missing} character{'s' if missing > 1 else ''} left out, which cannot be drawn here)"
        lines += [(line, _DIM) for line in _wrapped(note, width, scale)]
    step = round(_LINE * scale)
    strip = np.full((step * len(lines) + round(26 * scale), width, 3), _PAPER, np.uint8)
    for i, (text, colour) in enumerate(lines, 1):
        write(strip, text, (round(_MARGIN * scale), step * i), _TALK * scale, colour)
    return strip


def _wrapped(text: str, width: int, scale: float) -> list[str]:
    """Lines that fit, broken between words; a word that is too long by itself, between letters."""
    room = width - 2 * round(_MARGIN * scale)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, _TALK * scale) <= room:
            lines[-1] = longer
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, _TALK * scale) > room:
                lines.append("")
            lines[-1] += letter
    return lines


def _overlay(canvas: NDArray[np.uint8], faces: Sequence[Face], zoom: float) -> None:
    """Blend each parsing, warped back onto the photo. Where crops overlap, a pixel belongs to the nearest face."""
    plain, nearest = canvas.copy(), np.zeros(canvas.shape[:2], np.float32)
    for face in faces:
        inverse = cv2.invertAffineTransform(face.matrix).astype(np.float64)
        inverse = (inverse + np.array([[0, 0, 0.5]] * 2)) * zoom - np.array([[0, 0, 0.5]] * 2)
        side = face.label_map.shape[0]
        corners = np.array([(0, 0, 1), (side, 0, 1), (0, side, 1), (side, side, 1)]) @ inverse.T
        left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, canvas.shape[1::-1])
        if right <= left or bottom <= top:
            continue
        part, size = np.s_[top:bottom, left:right], (int(right - left), int(bottom - top))
        inverse[:, 2] -= (left, top)
        mask: Any = cv2.warpAffine(face.label_map, inverse, size, flags=cv2.INTER_NEAREST, borderValue=0)
        near: Any = cv2.warpAffine(_nearness(side), inverse, size, flags=cv2.INTER_LINEAR, borderValue=0)
        soft = cv2.GaussianBlur((mask > 0).astype(np.float32), (0, 0), 1.2)
        alpha = (soft * np.minimum(near / _FADE, 1) * _ALPHA)[..., None]
        colour = _COLOURS[np.minimum(mask, len(_COLOURS) - 1)].astype(np.float32)
        nearer = (mask > 0) & (near > nearest[part])
        blended = (plain[part] * (1 - alpha) + colour * alpha).astype(np.uint8)
        canvas[part] = np.where(nearer[..., None], blended, canvas[part])
        nearest[part] = np.where(nearer, near, nearest[part])


def _nearness(side: int) -> NDArray[np.float32]:
    """Of each pixel of a crop to its centre: 1 there, 0 at the edge."""
    ramp = 1 - np.abs((2 * np.arange(side, dtype=np.float32) + 1) / side - 1)
    return np.asarray(np.outer(ramp, ramp), np.float32)


def _box(canvas: NDArray[np.uint8], face: Face, zoom: float, scale: float, number: int) -> None:
    x, y, w, h = (round(v * zoom) for v in face.box)
    colour, line = _ACCENTS[number % len(_ACCENTS)], max(1, round(2 * scale))
    cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, line, cv2.LINE_AA)
    for px, py in face.landmarks * zoom:
        cv2.circle(canvas, (round(px), round(py)), line, (255, 255, 255), -1, cv2.LINE_AA)
    # Inside of a box that begins at the photo's edge.
    tag, name = round(24 * scale), str(number + 1)
    foot = y if y >= tag else y + tag
    tag_width = text_width(name, 0.55 * scale) + round(18 * scale)
    cv2.rectangle(canvas, (x, foot - tag), (x + tag_width, foot), colour, -1)
    write(canvas, name, (x + round(9 * scale), foot - round(7 * scale)), 0.55 * scale, (20, 20, 20), 2)


def _panels(faces: Sequence[Face], height: int, labels: int, scale: float) -> list[NDArray[np.uint8]]:
    """Columns of panels, and how many faces have none."""
    if not faces:
        return [_empty(height, scale, "No face found")]
    rows = 1 if len(faces) <= _ALONE else _ROWS
    n_panels = min(len(faces), rows * _COLUMNS)
    note = round(44 * scale) if n_panels < len(faces) else 0
    room = (height - note) // rows
    columns = []
    for first in range(0, n_panels, rows):
        numbers = range(first, min(first + rows, n_panels))
        column = [_panel(faces[i], i, room, labels, scale) for i in numbers]
        columns.append(_filled(np.concatenate(column), height))
    if note:
        more = f"+{len(faces) - n_panels} more faces without a panel"
        write(columns[-1], more, (round(28 * scale), height - round(16 * scale)), 0.6 * scale, _DIM)
    return columns


def _filled(column: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    rest = np.full((height - column.shape[0], column.shape[1], 3), _PAPER, np.uint8)
    return np.concatenate([column, rest])


def _panel(face: Face, number: int, height: int, count: int, scale: float) -> NDArray[np.uint8]:
    panel = _empty(height, scale)
    cv2.rectangle(panel, (0, 0), (round(5 * scale), height), _ACCENTS[number % len(_ACCENTS)], -1)
    left = round(28 * scale)
    write(panel, f"Face {number + 1}", (left, round(46 * scale)), 0.85 * scale, _INK, 2)
    subtitle = f"{face.box[2]:.0f} x {face.box[3]:.0f} px   detector {face.score:.2f}"
    write(panel, subtitle, (left, round(74 * scale)), 0.45 * scale, _DIM)
    for row, label in enumerate(top_labels(face.labels, min(count, int((height / scale - 110) // 42)))):
        _bar(panel, label, 112 + row * 42, scale)
    return panel


def top_labels(labels: Sequence[Label], count: int) -> list[Label]:
    """What is there, the most probable first; then what is unsure."""
    present = [x for x in labels if x.state in ("yes", "unsure") and x.probability is not None]
    return sorted(present, key=lambda x: (x.state != "yes", -(x.probability or 0.0)))[:count]


def _bar(panel: NDArray[np.uint8], label: Label, y: int, scale: float) -> None:
    probability = label.probability or 0.0
    colour = _STATE.get(label.state, _DIM)

    def at(*values: float) -> tuple[int, ...]:
        return tuple(round(v * scale) for v in values)

    share = f"{probability:.0%}" if label.state == "yes" else f"{probability:.0%} ?"
    write(panel, drawable(label.phrase)[0], at(28, y), 0.52 * scale, _INK)
    write(panel, share, at(_PANEL - 84, y), 0.52 * scale, colour)
    cv2.rectangle(panel, at(28, y + 9), at(_PANEL - 30, y + 14), _TRACK, -1)
    cv2.rectangle(panel, at(28, y + 9), at(28 + (_PANEL - 58) * probability, y + 14), colour, -1)


def _empty(height: int, scale: float, text: str = "") -> NDArray[np.uint8]:
    panel = np.full((height, round(_PANEL * scale), 3), _PAPER, np.uint8)
    if text:
        write(panel, text, (round(28 * scale), round(46 * scale)), 0.85 * scale, _DIM)
    return panel
