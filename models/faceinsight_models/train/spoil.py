"""Makes training views of a face hard or impossible to read, and says so in their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..nets.closeup import FAULTS

Image = NDArray[np.uint8]
#: Draws a view of another face.
Another = Callable[[], Image]


@dataclass
class Drawn:
    """A training view.

    Attributes:
        image: (S,S,3).
        faults: (F,) 0 or 1; NaN: not known.
        turn: quarter turns; -1: there is no face.
        legible: can the face still be recognized as what it is?
    """

    image: Image
    faults: NDArray[np.float32]
    turn: int = 0
    legible: bool = True


def shrunk(x: Image, low: int) -> Image:
    """Down to `low` pixels and back."""
    size = x.shape[0]
    return np.asarray(cv2.resize(cv2.resize(x, (low, low), interpolation=cv2.INTER_AREA), (size, size)), np.uint8)


def spoil(rng: np.random.Generator, drawn: Drawn, another: Another, *, is_small: bool) -> Drawn:
    """Now and then what makes a face hard or impossible to read, and the labels that say so."""
    x, faults = drawn.image, drawn.faults
    size = x.shape[0]
    kind = rng.random()
    # A 48 px picture is neither sharp nor blurred for our purpose.
    if is_small:
        faults[FAULTS.index("blurred")] = np.nan
    if kind < 0.08:
        if rng.random() < 0.5:
            low = int(rng.uniform(8, 26))
            x, blurred = shrunk(x, low), low <= 20
        else:
            sigma = rng.uniform(2, 11)
            x, blurred = cv2.GaussianBlur(x, (0, 0), sigma), sigma >= 3.5
        faults[0] = float(blurred)
    elif kind < 0.12:
        gain = rng.uniform(0.02, 0.25)
        x = np.clip(x * gain + rng.normal(0, rng.uniform(0.5, 4), x.shape), 0, 255).astype(np.uint8)
        faults[1] = float(gain < 0.12)
    elif kind < 0.16:
        if rng.random() < 0.5:
            cells = int(rng.uniform(6, 24))
            x = cv2.resize(
                cv2.resize(x, (cells, cells), interpolation=cv2.INTER_AREA),
                (size, size),
                interpolation=cv2.INTER_NEAREST,
            )
            faults[2] = float(cells <= 16)
            faults[0] = np.nan
        else:
            sigma = rng.uniform(15, 80)
            x = np.clip(x + rng.normal(0, sigma, x.shape), 0, 255).astype(np.uint8)
            faults[2] = float(sigma > 35)
    elif kind < 0.30:
        which = "mouth hidden" if rng.random() < 0.65 else "eyes hidden"
        x = cover(rng, x, another, mouth=which == "mouth hidden")
        faults[FAULTS.index(which)] = 1
    elif kind < 0.38:
        drawn.turn = int(rng.integers(1, 4))
        x, drawn.legible = np.ascontiguousarray(np.rot90(x, -drawn.turn)), False
    elif kind < 0.42:
        x, drawn.legible = nothing(rng, x, another), False
        faults[:] = np.nan
        faults[FAULTS.index("no face")] = 1
        drawn.turn = -1
    drawn.image = np.ascontiguousarray(x)
    return drawn


def _stuff(rng: np.random.Generator, x: Image, another: Another) -> Image:
    """What hides: one color, folds and patterns, a piece of another picture."""
    size = x.shape[0]
    kind = rng.random()
    if kind < 0.2:
        shift = rng.integers(0, size, 2)
        return np.roll(another(), tuple(shift), (0, 1))
    color = rng.choice([[235, 240, 245], [160, 200, 220], [20, 20, 22], [int(v) for v in rng.integers(0, 256, 3)]])
    out = np.broadcast_to(np.asarray(color, np.float64), x.shape).copy()
    if kind < 0.8:
        # Folds across and the light on them.
        y, w = np.mgrid[0:size, 0:size] / size
        out += (rng.uniform(0, 18) * np.sin(2 * np.pi * (rng.uniform(1, 9) * y + rng.uniform(-1, 1) * w)))[..., None]
        out += rng.uniform(-50, 50) * (w - 0.5)[..., None] + rng.uniform(-30, 30) * (y - 0.5)[..., None]
        out += rng.normal(0, rng.uniform(0, 6), x.shape)
    return np.clip(out, 0, 255).astype(np.uint8)


def cover(rng: np.random.Generator, x: Image, another: Another, *, mouth: bool) -> Image:
    """Something before the mouth (a mask from the nose down, a hand, a scarf) or before both eyes."""
    size = x.shape[0]
    mask = np.zeros((size, size), np.uint8)

    def at(*points: tuple[float, float]) -> NDArray[np.int32]:
        moved = np.array(points) + rng.normal(0, 0.015, (len(points), 2))
        return np.rint(moved * size).astype(np.int32)

    if mouth:
        kind = rng.random()
        top = rng.uniform(0.40, 0.56)
        if kind < 0.55:
            outline = at(
                (0.04, top),
                (0.3, top - 0.04),
                (0.5, top - rng.uniform(0, 0.14)),
                (0.7, top - 0.04),
                (0.96, top),
                (0.92, 0.8),
                (0.7, 0.98),
                (0.5, 1.02),
                (0.3, 0.98),
                (0.08, 0.8),
            )
            cv2.fillPoly(mask, [outline], 1)
        elif kind < 0.8:
            cv2.rectangle(mask, (0, int(rng.uniform(0.5, 0.6) * size)), (size, size), 1, -1)
        else:
            center = at((0.5, 0.71))[0]
            axes = (int(rng.uniform(0.2, 0.4) * size), int(rng.uniform(0.12, 0.25) * size))
            cv2.ellipse(mask, (int(center[0]), int(center[1])), axes, float(rng.uniform(-40, 40)), 0, 360, 1, -1)
    else:
        half = rng.uniform(0.09, 0.17)
        y = 0.30 + rng.normal(0, 0.01)
        if rng.random() < 0.3:
            cv2.rectangle(mask, (0, 0), (size, int((y + half) * size)), 1, -1)
        else:
            margin = rng.uniform(0, 0.12)
            cv2.fillPoly(
                mask, [at((margin, y - half), (1 - margin, y - half), (1 - margin, y + half), (margin, y + half))], 1
            )
    return np.where(mask[..., None] > 0, _stuff(rng, x, another), x).astype(np.uint8)


def nothing(rng: np.random.Generator, x: Image, another: Another) -> Image:
    """No face: a corner of a picture, a face in pieces, patterns, drawn lines."""
    size, kind = x.shape[0], rng.random()
    if kind < 0.35:
        # A detail without the middle of the face: a piece of cheek, hair or background.
        side = int(size * rng.uniform(0.15, 0.3))
        left = int(rng.choice([0, size - side]))
        top = int(rng.choice([0, size - side]))
        return np.asarray(cv2.resize(x[top : top + side, left : left + side], (size, size)), np.uint8)
    if kind < 0.6:
        cells = int(rng.choice([2, 3, 4]))
        step = size // cells
        pieces = [x[i * step : (i + 1) * step, j * step : (j + 1) * step] for i in range(cells) for j in range(cells)]
        order = rng.permutation(len(pieces))
        rows = [np.concatenate([pieces[order[i * cells + j]] for j in range(cells)], 1) for i in range(cells)]
        return np.asarray(cv2.resize(np.concatenate(rows), (size, size)), np.uint8)
    if kind < 0.8:
        return _stuff(rng, x, another)
    # A drawing: few colors and black lines, or lines alone.
    smooth = cv2.bilateralFilter(cv2.medianBlur(x, 7), 9, 60, 60)
    edges = cv2.adaptiveThreshold(
        cv2.medianBlur(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), 5), 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 3
    )
    if rng.random() < 0.5:
        return np.repeat(edges[..., None], 3, 2)
    step = int(rng.choice([48, 64, 85]))
    return np.asarray(
        cv2.bitwise_and((smooth // step * step + step // 2).astype(np.uint8), np.repeat(edges[..., None], 3, 2))
    )
