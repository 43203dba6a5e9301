"""Text in pictures, as far as OpenCV's built-in font goes. There is no other font that is everywhere."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Directions of writing that OpenCV does not know: it draws such letters apart and in the wrong order.
_RIGHT_TO_LEFT = ("R", "AL", "AN", "RLE", "RLO", "RLI")


def drawable(text: str) -> tuple[str, int]:
    """What of a text can be drawn, and how many characters were left out: emoji, what is written from right to left,
    and what the font does not have (OpenCV before version 5 has ASCII only)."""
    found = []
    missing = 0
    for c in unicodedata.normalize("NFC", text):
        # What joins characters or chooses between their forms has no shape of its own.
        if not c.isspace() and (unicodedata.category(c) in ("Cf", "Cc") or "\ufe00" <= c <= "\ufe0f"):
            continue
        if c.isspace() or _has(c):
            found.append(" " if c.isspace() else c)
        else:
            missing += 1
    return "".join(found), missing


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """A character that the font lacks is drawn as one question mark, or as one for each of its bytes."""
    if character.isascii():
        return True
    # Half of a pair of surrogates, as a command line brings it that is not UTF-8, is no character at all.
    if unicodedata.bidirectional(character) in _RIGHT_TO_LEFT or unicodedata.category(character) == "Cs":
        return False
    unknown = ("?", "?" * len(character.encode(errors="replace")))
    return not any(np.array_equal(_drawn(character), _drawn(mark)) for mark in unknown)


def _drawn(text: str) -> NDArray[np.uint8]:
    out = np.zeros((40, 160, 3), np.uint8)
    write(out, text, (4, 30), 0.8, (255, 255, 255))
    return out


def text_width(text: str, scale: float, weight: int = 1) -> int:
    """Pixels."""
    return int(cv2.getTextSize(text, _FONT, scale, _weight(scale, weight))[0][0])


def write(
    image: NDArray[np.uint8],
    text: str,
    at: tuple[int, ...],
    scale: float,
    colour: tuple[int, int, int],
    weight: int = 1,
) -> None:
    """Draw into an RGB image; at: the left end of the baseline; weight: 1, or 2 for bold."""
    where: Any = at
    cv2.putText(image, text, where, _FONT, scale, colour, _weight(scale, weight), cv2.LINE_AA)


def _weight(scale: float, weight: int) -> int:
    """OpenCV's strokes have a width in pixels, which is to grow with the text; its outlines (from version 5 on) grow by
    themselves, and there this is how bold they are."""
    return weight if hasattr(cv2, "FontFace") else max(weight, round(weight * scale / 0.85))
