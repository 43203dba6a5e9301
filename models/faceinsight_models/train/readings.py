"""Outputs of the finished graphs for faces kept out of training, in views like those of users' photos.

Each face is shown as it is, with surroundings (its picture need not end at the face), with mouth or eyes behind
something, and, for poor quality, out of focus, dark, noisy or in a mosaic. Thresholds fitted on all of these hold for
more than the sets' own look.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from faceinsight.backends.session import Session
from faceinsight.perception.alignment import crop_matrix
from faceinsight.perception.closeup import Closeup as CloseupReader

from ..data.augment import degrade, to_pixels
from ..data.faces import Faces
from ..nets.closeup import COVERS, FAULTS, CloseupNet
from ..nets.encoder import FaceEncoder
from ..nets.graphs import write_closeup, write_encoder, write_parser
from ..nets.parser import FaceParser
from ..recipe import CloseupSizes, Recipe
from ..specs import characteristic_specs, closeup_spec
from ..storage import CLOSEUP, ENCODER, PARSER
from ..taxonomy import NAMES
from .build import build_adapter
from .calibration import Readings
from .closeup import merge_logits
from .spoil import cover

Image = NDArray[np.uint8]
Change = Callable[[np.random.Generator, Image], Image]


def canvas(faces: Faces, row: int, size: int) -> Image:
    """The canonical crop (size,size,3) with surroundings: what lies outside the picture is its mirror image,
    blurred.
    """
    picture = faces.picture(row)
    matrix = crop_matrix(faces.landmarks[row], faces.template, size)
    inner = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    inside = cv2.warpAffine(np.ones(picture.shape[:2], np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    return np.where(inside[..., None] > 0, inner, cv2.GaussianBlur(inner, (0, 0), 6)).astype(np.uint8)


def spoiled(rng: np.random.Generator, x: Image) -> Image:
    """A picture of poor quality: out of focus, few pixels, dark, noisy, or a mosaic."""
    size, kind = x.shape[0], rng.integers(5)
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(5, 16)), np.uint8)
    if kind in (1, 2):
        low = int(rng.uniform(14, 44))
        how = cv2.INTER_LINEAR if kind == 1 else cv2.INTER_NEAREST
        return np.asarray(
            cv2.resize(cv2.resize(x, (low, low), interpolation=cv2.INTER_AREA), (size, size), interpolation=how)
        )
    if kind == 3:
        return np.clip(x * rng.uniform(0.02, 0.12) + rng.normal(0, 2, x.shape), 0, 255).astype(np.uint8)
    return np.clip(x + rng.normal(0, rng.uniform(35, 80), x.shape), 0, 255).astype(np.uint8)


def covering(faces: Faces, rows: NDArray[np.int64], window: CloseupSizes) -> Change:
    """Puts something before the mouth or the eyes; at times a piece of another of these faces."""
    part = np.s_[window.top : window.top + window.size, window.left : window.left + window.size]

    def change(rng: np.random.Generator, x: Image) -> Image:
        def another() -> Image:
            return faces.crop(int(rng.choice(rows)), x.shape[0])[part]

        x = x.copy()
        x[part] = cover(rng, x[part], another, mouth=rng.random() < 0.5)
        return x

    return change


def closeup_of(recipe: Recipe, session: Session) -> CloseupReader:
    """The runtime's close-up of a recipe, with every characteristic switched on."""
    identity = np.tile([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], (len(NAMES), 1))
    # Of a manifest, the runtime's close-up reads the names of the characteristics alone.
    manifest: Any = SimpleNamespace(characteristics=characteristic_specs(identity))
    return CloseupReader(manifest, closeup_spec(recipe), session, np.arange(len(NAMES)))


class GraphReader:
    """The graphs of a run in ONNX Runtime, as the bundle will hold them."""

    def __init__(
        self, recipe: Recipe, parser: FaceParser, encoder: FaceEncoder, closeup: CloseupNet, folder: Path
    ) -> None:
        """Write the graphs into `folder` and load them."""
        crop, sizes = recipe.crop, recipe.encoder
        self.window = recipe.closeup
        self._crop = crop
        folder.mkdir(parents=True, exist_ok=True)
        adapter = build_adapter(text_width=sizes.text_width, segmentation=sizes.segmentation_width, states=4, width=8)
        write_parser(parser, folder / PARSER, size=crop.parser)
        write_encoder(encoder, adapter, folder / ENCODER, size=crop.encoder, map_size=crop.parser)
        write_closeup(closeup, folder / CLOSEUP, size=recipe.closeup.size)
        parser_session, encoder_session, closeup_session = (
            onnxruntime.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])
            for file in (PARSER, ENCODER, CLOSEUP)
        )
        self._parser, self._encoder = parser_session, encoder_session
        self._closeup = closeup_of(recipe, closeup_session)

    def logits(self, crops: Image) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Canonical crops (B,S,S,3) of the parser's size -> logits (B,N), quality (B,), covered (B,2).

        The close-up's part is the runtime's own code; its quality is the least of `upright` and `not faulty`.
        """
        (label_map,) = self._parser.run(None, {"pixels": to_pixels(crops)})
        size = (self._crop.encoder, self._crop.encoder)
        encoder_crops = np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in crops])
        feeds = {"pixels": to_pixels(encoder_crops), "label_map": label_map, "characteristics": np.arange(len(NAMES))}
        (logits,) = self._encoder.run(["logits"], feeds)
        reading = self._closeup.read(crops)
        merge_logits(logits, reading.logits, reading.columns)
        # Faults that hide a part only say which characteristics are not visible.
        whole = [i for i, name in enumerate(FAULTS) if name not in COVERS]
        quality = np.minimum(reading.turns[:, 0], 1 - reading.faults[:, whole].max(1))
        return logits, quality, reading.faults[:, [FAULTS.index(n) for n in COVERS]] > 0.5

    def read(
        self,
        faces: Faces,
        rows: NDArray[np.int64],
        change: Change | None,
        *,
        surroundings: bool,
        seed: int,
        batch: int = 32,
    ) -> Readings:
        """Every row once, changed in some way or as it is."""
        rng, size = np.random.default_rng(seed), self._crop.parser
        parts = []
        for start in tqdm(range(0, len(rows), batch), desc="reading", unit="batch", mininterval=5):
            crops = [
                canvas(faces, r, size) if surroundings else faces.crop(r, size) for r in rows[start : start + batch]
            ]
            parts.append(self.logits(np.stack([x if change is None else change(rng, x) for x in crops])))
        logits, quality, covered = (np.concatenate(p) for p in zip(*parts, strict=True))
        return Readings(rows, logits, quality, covered)


def calibration_readings(reader: GraphReader, faces: Faces, rows: NDArray[np.int64]) -> tuple[Readings, Readings]:
    """Readings of good and of poor quality, by the close-up's own estimate; a face covered in part may be either."""
    plain = reader.read(faces, rows, None, surroundings=False, seed=1)
    around = reader.read(faces, rows, degrade, surroundings=True, seed=2)
    bad = reader.read(faces, rows, spoiled, surroundings=True, seed=3)
    hiding = reader.read(faces, rows, covering(faces, rows, reader.window), surroundings=True, seed=4)
    everything = plain.concatenated(around).concatenated(bad).concatenated(hiding)
    poor = everything.quality < reader.window.poor_below

    def part(chosen: NDArray[np.bool_]) -> Readings:
        return Readings(*(getattr(everything, n)[chosen] for n in Readings.__dataclass_fields__))

    return part(~poor), part(poor)
