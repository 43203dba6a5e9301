"""Photos composed of faces on walls, by what is hard about finding them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from crowds import Box, Picture

#: A picture with one face, and its box in it.
Head = tuple[Picture, Box]
#: Distance of two people in a row, in widths of a face.
APART = 2.6


@dataclass(frozen=True, slots=True)
class Scene:
    """photo: RGB (H,W,3). boxes: x, y, width, height of each face, as far as it is inside of the photo."""

    photo: Picture
    boxes: tuple[Box, ...]


class Painter:
    """Paints people, drawn at random, on a wall. Every other wall is plain, the others are cloudy."""

    def __init__(self, people: Sequence[Head], rng: np.random.Generator, size: tuple[int, int]) -> None:
        """size: width and height of the photo."""
        self.rng, self.size, self._people = rng, size, people
        self._boxes: list[Box] = []
        colour = rng.integers(60, 200, 3)
        clouds = rng.normal(0, 40 if rng.random() < 0.5 else 0, (9, 9, 3)) + colour
        self._photo = np.asarray(cv2.resize(clouds.clip(0, 255).astype(np.uint8), size), np.uint8)

    def face(self, x: float, y: float, width: float, degrees: float = 0) -> None:
        """A face that is `width` wide; its middle at x, y, also beyond the border; turned counter-clockwise."""
        image, (left, top, w, h) = self._people[int(self.rng.integers(len(self._people)))]
        factor = width / w
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        head = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        middle = ((left + w / 2) * factor, (top + h / 2) * factor)
        # A square around the middle of the face that holds the head however it is turned.
        reach = int(np.hypot(max(middle[0], size[0] - middle[0]), max(middle[1], size[1] - middle[1]))) + 1
        matrix = cv2.getRotationMatrix2D(middle, degrees, 1)
        matrix[:, 2] += reach - np.array(middle)
        turned, inked = (
            cv2.warpAffine(np.asarray(picture, np.uint8), matrix, (2 * reach, 2 * reach), flags=cv2.INTER_LINEAR)
            for picture in (head, np.full(size[::-1], 255, np.uint8))
        )
        self._paste(
            np.asarray(turned, np.uint8), np.asarray(inked, np.uint8) == 255, round(x) - reach, round(y) - reach
        )
        tall = h * factor
        across = (tall, width) if 60 < abs(degrees) % 180 < 120 else (width, tall)
        self._boxes.append(inside((x - across[0] / 2, y - across[1] / 2, *across), self.size))

    def row(self, y: float, width: float, *, begin: float = 0) -> None:
        """People of one width beside each other, from the left to the right border, five at most."""
        left, apart = begin + APART * width / 2, APART * width
        places = np.arange(left, self.size[0] - apart / 2, apart)
        for x in self.rng.choice(places, min(5, len(places)), replace=False):
            self.face(x, y + self.rng.uniform(-0.2, 0.2) * width, width)

    def somewhere(self, width: float, degrees: float = 0) -> None:
        """One face, whole, anywhere."""
        reach = (1.3 * width, 1.3 * width)
        x, y = (self.rng.uniform(min(r, n / 2), max(n - r, n / 2)) for r, n in zip(reach, self.size, strict=True))
        self.face(x, y, width, degrees)

    def at_border(self, width: float, share: float, *, columns: Sequence[int] = (0, 1)) -> None:
        """One face of which the left or right border, or the lower or upper, cuts off that share."""
        w, h = self.size
        off = (0.5 - share) * width
        along = self.rng.uniform(0.35, 0.65)
        tall = off * 1.3
        places = ((off, along * h), (w - off, along * h), (along * w, tall), (along * w, h - tall))
        self.face(*places[int(self.rng.choice(columns))], width)

    def scene(self, change: Callable[[Picture], Picture] | None = None) -> Scene:
        return Scene(change(self._photo) if change else self._photo, tuple(self._boxes))

    def _paste(self, picture: Picture, inked: np.ndarray, x: int, y: int) -> None:
        w, h = self.size
        left, top, right, bottom = max(0, x), max(0, y), min(w, x + len(picture)), min(h, y + len(picture))
        if left >= right or top >= bottom:
            return
        cut = slice(top - y, bottom - y), slice(left - x, right - x)
        part = self._photo[top:bottom, left:right]
        part[inked[cut]] = picture[cut][inked[cut]]


def inside(box: Box, size: tuple[int, int]) -> Box:
    """What of a box is in a photo of that width and height."""
    x, y, w, h = box
    left, top = max(0.0, x), max(0.0, y)
    return left, top, max(0.0, min(size[0], x + w) - left), max(0.0, min(size[1], y + h) - top)


HD, LARGE = (1920, 1080), (4000, 3000)


def _near(p: Painter) -> None:
    """Someone near, on the left."""
    width = p.rng.uniform(0.08, 0.15) * p.size[0]
    p.face(0.17 * p.size[0], 0.5 * p.size[1], width)


def _one(p: Painter) -> None:
    p.somewhere(p.rng.uniform(0.12, 0.35) * p.size[0])


def _group(p: Painter) -> None:
    width = p.rng.uniform(0.06, 0.09) * p.size[0]
    for row, column in itertools.product((0.3, 0.7), (0.14, 0.38, 0.62, 0.86)):
        p.face(column * p.size[0], row * p.size[1] + p.rng.uniform(-0.3, 0.3) * width, width)


def _crowd(p: Painter) -> None:
    width = p.rng.uniform(28, 45)
    step = APART * width
    for x, y in itertools.product(*(np.arange(step / 2, n - step / 2, step) for n in p.size)):
        p.face(x, y, width)


def _row(least: float, most: float, *, near: bool) -> Callable[[Painter], None]:
    """People of a width in pixels between these, without or behind someone near."""

    def paint(p: Painter) -> None:
        if near:
            _near(p)
        p.row(p.rng.uniform(0.2, 0.8) * p.size[1], p.rng.uniform(least, most), begin=near * 0.42 * p.size[0])

    return paint


def _cut(share: float, *, near: bool = False, columns: Sequence[int] = (0, 1)) -> Callable[[Painter], None]:
    def paint(p: Painter) -> None:
        if near:
            _near(p)
        p.at_border(p.rng.uniform(0.12, 0.3) * p.size[0], share, columns=(1,) if near else columns)

    return paint


def _turned(*degrees: float, beside: bool = False) -> Callable[[Painter], None]:
    def paint(p: Painter) -> None:
        width, off = p.rng.uniform(0.12, 0.2) * p.size[0], p.rng.uniform(-12, 12)
        turn = float(p.rng.choice(degrees)) + off
        if beside:
            p.face(0.25 * p.size[0], 0.5 * p.size[1], width)
            p.face(0.72 * p.size[0], 0.5 * p.size[1], width, turn)
        else:
            p.somewhere(width, turn)

    return paint


def _close(p: Painter) -> None:
    """A face as wide as the photo, or wider."""
    p.face(p.size[0] / 2, p.size[1] / 2, p.rng.uniform(0.7, 1.2) * p.size[0])


def _strip(p: Painter) -> None:
    w, h = p.size
    for along in (0.15, 0.5, 0.85):
        x, y = (along * w, h / 2) if w > h else (w / 2, along * h)
        p.face(x, y, p.rng.uniform(0.2, 0.45) * min(w, h))


def _thumbnail(p: Painter) -> None:
    p.face(p.size[0] / 2, p.size[1] / 2, p.rng.uniform(0.4, 0.55) * p.size[0])


def _dark(photo: Picture) -> Picture:
    return photo // 16


def _light(photo: Picture) -> Picture:
    return np.minimum(photo.astype(np.uint16) * 5 // 2, 255).astype(np.uint8)


def _blurred(photo: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), photo.shape[1] / 100), np.uint8)


@dataclass(frozen=True, slots=True)
class Kind:
    """sizes: width and height of the photo, one of these. change: of the whole photo, at the end."""

    sizes: Sequence[tuple[int, int]]
    paint: Callable[[Painter], None]
    change: Callable[[Picture], Picture] | None = None

    def scene(self, people: Sequence[Head], rng: np.random.Generator) -> Scene:
        """One of this kind."""
        painter = Painter(people, rng, self.sizes[int(rng.integers(len(self.sizes)))])
        self.paint(painter)
        return painter.scene(self.change)


_ORDINARY = ((640, 480), (480, 640), (1280, 960))
KINDS = {
    "one person": Kind(_ORDINARY, _one),
    "eight people": Kind(((1280, 960), HD), _group),
    "a crowd, 28 to 45 px": Kind(((1200, 900),), _crowd),
    "12 MP, 26 to 60 px, someone near": Kind((LARGE,), _row(26, 60, near=True)),
    "12 MP, 26 to 60 px": Kind((LARGE,), _row(26, 60, near=False)),
    "12 MP, 18 to 25 px": Kind((LARGE,), _row(18, 25, near=False)),
    "2 MP, 24 to 40 px, someone near": Kind((HD,), _row(24, 40, near=True)),
    "2 MP, 16 to 23 px, someone near": Kind((HD,), _row(16, 23, near=True)),
    "2 MP, 16 to 23 px": Kind((HD,), _row(16, 23, near=False)),
    "VGA, 10 to 16 px": Kind(((640, 480),), _row(10, 16, near=False)),
    "a third off, at the side": Kind(_ORDINARY, _cut(0.33)),
    "half off, at the side": Kind(_ORDINARY, _cut(0.5)),
    "a third off, above or below": Kind(_ORDINARY, _cut(0.33, columns=(2, 3))),
    "half off, above or below": Kind(_ORDINARY, _cut(0.5, columns=(2, 3))),
    "a third off, beside someone": Kind(_ORDINARY, _cut(0.33, near=True)),
    "half off, beside someone": Kind(_ORDINARY, _cut(0.5, near=True)),
    "tilted by 30 to 60 degrees": Kind(_ORDINARY, _turned(-45, 45)),
    "on the side": Kind(_ORDINARY, _turned(-90, 90)),
    "on the side, beside someone": Kind(_ORDINARY, _turned(-90, 90, beside=True)),
    "upside down": Kind(_ORDINARY, _turned(180)),
    "wider than the photo": Kind(_ORDINARY, _close),
    "a strip": Kind(((9000, 1700), (12000, 480), (480, 9000)), _strip),
    "a thumbnail of 20 to 60 px": Kind(((20, 24), (32, 32), (48, 60)), _thumbnail),
    "a sixteenth of the light": Kind(_ORDINARY, _one, _dark),
    "over-exposed": Kind(_ORDINARY, _one, _light),
    "blurred": Kind(_ORDINARY, _one, _blurred),
}
