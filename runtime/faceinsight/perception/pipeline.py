"""From a photo to faces: detect, align, parse, encode, judge. No LLM involved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.device import Device
from ..backends.session import Graph
from ..bundle.bundle import Bundle
from ..bundle.manifest import CharacteristicSpec, Manifest
from ..errors import PolicyError
from ..types import STATES, Age, Face, Label, Quality
from .alignment import crop_matrix, normalised, warp
from .closeup import Closeup, CloseupReading
from .detector import Detection, FaceDetector
from .labeler import Labeler
from .rotation import around, moved, nearest, points, unturn
from .vision_encoder import surroundings


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the graphs say of B faces: label_map (B,S,S), logits (B,K), area (B,R), image_tokens (B,P,width) and
    region_tokens (B,R,width). P is 0 where the bundle has a vision encoder of its own, R too where only that one speaks
    to the LLM. closeup: None where the bundle has none."""

    label_map: NDArray[np.uint8]
    logits: NDArray[np.float32]
    area: NDArray[np.float32]
    image_tokens: NDArray[np.float32]
    region_tokens: NDArray[np.float32]
    closeup: CloseupReading | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one face: labels, the share of the crop that each region has, quality and age (None where the
    bundle does not say)."""

    labels: tuple[Label, ...]
    areas: dict[str, float]
    quality: Quality | None
    age: Age | None


def enabled(manifest: Manifest, allow: Sequence[str], deny: Sequence[str] = ()) -> tuple[CharacteristicSpec, ...]:
    """The characteristics that are switched on: those without a switch, and those whose switch is on."""
    for group in (*allow, *deny):
        if group not in manifest.switches:
            known = ", ".join(manifest.switches) or "no switches"
            raise PolicyError(f"cannot switch {group!r}; this bundle knows {known}")
    for group in allow:
        if group in deny:
            raise PolicyError(f"{group!r} is both allowed and denied")
    on = {g for g, default in manifest.switches.items() if (default or g in allow) and g not in deny}
    return tuple(c for c in manifest.characteristics if c.group == "" or c.group in on)


#: Width in pixels below which nothing can be read of a face, whatever the graphs say of so few.
READABLE = 12
#: Probability from which a face counts as upright; below it turned photos are tried: it may lie askew.
UPRIGHT = 0.95


def _turns(seen: Encoded) -> NDArray[np.float32]:
    """(B,4): probabilities of the quarter turns by which the photo must be turned for each face to stand upright."""
    if seen.closeup is None:
        return np.eye(1, 4, dtype=np.float32).repeat(len(seen.logits), 0)
    return seen.closeup.turns


def _unread(judged: Judged) -> Judged:
    """Of a face that is too small: what was claimed is not sure."""
    labels = tuple(replace(x, state="unsure") if x.state in ("yes", "no") else x for x in judged.labels)
    covered = judged.quality.covered if judged.quality else ()
    return replace(judged, labels=labels, quality=Quality(0.0, "too small", covered))


def enlarged(face: Face, scale: int) -> Face:
    """A face in the pixels of a photo that is `scale` times as wide as the one in which it was found."""
    if scale == 1:
        return face
    x, y, w, h = face.box
    matrix = face.matrix / np.array([scale, scale, 1], np.float32)
    box = (scale * x, scale * y, scale * w, scale * h)
    return replace(face, box=box, landmarks=face.landmarks * scale, matrix=matrix.astype(np.float32))


class Perception:
    """The visual half of a bundle, for a fixed choice of characteristics."""

    def __init__(
        self,
        manifest: Manifest,
        detector: FaceDetector,
        parser: Any,
        encoder: Any,
        knowledge: Any,
        closeup: Any = None,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        batch: int = 1,
    ) -> None:
        """parser, encoder, knowledge, closeup: ONNX Runtime sessions (or anything with their interface); None for a
        part that the bundle does not have.

        batch: faces per run of the encoders.
        """
        m, width, regions = manifest, manifest.encoder.width, len(manifest.regions)
        self._manifest, self._vision, self.batch = m, m.vision, batch
        # Its files' hashes are in it.
        self._fingerprint = hashlib.sha256(m.to_json().encode()).digest()
        self.detector = detector
        size, map_size = m.encoder.size, m.parser.size
        tokens = {"image_tokens": m.encoder.image_tokens, "region_tokens": regions if width else 0}
        self._tokens = {name: (None, count, width) for name, count in tokens.items() if count}
        self._parser = Graph(
            parser, m.parser.file, {"pixels": (None, 3, map_size, map_size)}, {"label_map": (None, map_size, map_size)}
        )
        self._encoder = Graph(
            encoder,
            m.encoder.file,
            {"pixels": (None, 3, size, size), "label_map": (None, map_size, map_size), "characteristics": (None,)},
            {"logits": (None, None), "region_area": (None, regions)} | self._tokens,
        )
        self._knowledge = m.knowledge and Graph(
            knowledge,
            m.knowledge.file,
            {"characteristics": (None,), "states": (None,)},
            {"knowledge_tokens": (None, width)},
        )
        #: The characteristics that are switched on, in the order of a face's labels.
        self.specs = chosen = enabled(m, allow, deny)
        self.numbers = np.array([m.index(c.name) for c in chosen], np.int64)
        self._closeup = Closeup(m, m.closeup, closeup, self.numbers) if m.closeup else None
        ages = m.closeup.ages if m.closeup else {}
        told = m.closeup.characteristics if m.closeup else ()
        shared = m.closeup.shared if m.closeup else ()
        #: Numbers of what the close-up alone tells, and of what the encoder tells too.
        self._told = np.array([m.index(n) for n in told if n not in shared], np.int64)
        self._shared = {m.index(n) for n in shared}
        self._age_labels = [i for i, c in enumerate(chosen) if c.name in ages]
        self._labeler = Labeler(chosen, m.rules, soft_weight=m.soft_weight)
        self._template = np.array(m.crop.template, np.float32)
        self.image_tokens = m.encoder.image_tokens
        self.enabled = tuple(c.name for c in chosen)

    @classmethod
    def load(cls, bundle: Bundle, device: Device, *, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> Perception:
        """Open the bundle's detector and graphs on a device."""
        m = bundle.manifest
        detector = FaceDetector(
            bundle.file(m.detector.file),
            score_threshold=m.detector.score_threshold,
            nms_threshold=m.detector.nms_threshold,
            sides=m.detector.sides,
        )
        parts = (m.parser, m.encoder, m.knowledge, m.closeup)
        sessions = [p and device.session(bundle.file(p.file)) for p in parts]
        return cls(m, detector, *sessions, allow=allow, deny=deny, batch=device.batch)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Face, ...]:
        """RGB (H,W,3) -> its faces, the largest first."""
        detections, n = self.detector(image), self.batch
        faces = (f for i in range(0, len(detections), n) for f in self._perceive(image, detections[i : i + n]))
        return tuple(replace(f, people=len(detections)) for f in faces)

    def _perceive(self, image: NDArray[np.uint8], detections: Sequence[Detection]) -> list[Face]:
        matrices, wide, small = self.crops(image, detections)
        seen = self.encode(wide, small, self.numbers)
        return [
            self._upright(image, d, turns) or self._face(image, d, seen, i, matrices[i])
            for i, (d, turns) in enumerate(zip(detections, _turns(seen), strict=True))
        ]

    def _face(self, image: NDArray[np.uint8], d: Detection, seen: Encoded, i: int, matrix: NDArray[np.float32]) -> Face:
        judged = self.judge(seen, i)
        if judged.quality and d.box[2] < READABLE:
            judged = _unread(judged)
        present = seen.region_tokens[i][seen.area[i] > 0] if seen.region_tokens.size else seen.region_tokens[i]
        tokens = np.concatenate([seen.image_tokens[i], present]).astype(np.float32)
        picture = surroundings(image, d.box, self._vision) if self._vision else None
        key = self._key(tokens) if picture is None else self._key(picture, tokens)
        return Face(
            d.box, d.landmarks, d.score, judged.labels, judged.areas, seen.label_map[i], matrix, tokens,
            self.knowledge_tokens(judged.labels), picture, key, judged.quality, judged.age,
        )  # fmt: skip

    def _upright(self, image: NDArray[np.uint8], d: Detection, turns: NDArray[np.float32]) -> Face | None:
        """The face as it is found in the turned photo; None where it stands upright already, or stands better in none.

        turns: probabilities of zero to three quarter turns that make it stand upright.
        The detector's landmarks of a face that lies are wrong, and so is at times what is made of them: the likeliest
        turn is tried first, then the others. Around the face only: the rest of a large photo says nothing about it.
        """
        if turns[0] >= UPRIGHT:
            return None
        window, corner = around(image, d.box)
        for turn in sorted((1, 2, 3), key=lambda t: -turns[t]):
            turned = np.ascontiguousarray(np.rot90(window, turn))
            back = unturn(window.shape[1], window.shape[0], turn, corner)
            best = nearest(self.detector(turned), back, d.box)
            if best is None:
                continue
            matrices, wide, small = self.crops(turned, [best])
            seen = self.encode(wide, small, self.numbers)
            if _turns(seen)[0, 0] < max(0.5, turns[0]):
                continue
            # From the photo to the turned window, and on to the crop.
            there = np.linalg.inv(np.vstack([back, [0, 0, 1]]))
            face = self._face(turned, best, seen, 0, (matrices[0] @ there).astype(np.float32))
            return replace(face, box=moved(best.box, back), landmarks=points(best.landmarks, back))
        return None

    def _key(self, *seen: NDArray[Any]) -> str:
        """Fingerprint of what an LLM sees of a face: arrays, and everything that they were made and will be read by."""
        digest = hashlib.sha256(self._fingerprint)
        for array in seen:
            digest.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def crops(
        self, image: NDArray[np.uint8], detections: Sequence[Detection]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.uint8], NDArray[np.uint8]]:
        """Canonical crops of the faces: matrices to the parser's crop, crops (B,S,S,3) for parser and encoder."""
        wide, small = self._manifest.parser.size, self._manifest.encoder.size
        matrices = [crop_matrix(d.landmarks, self._template, wide) for d in detections]
        return (
            matrices,
            np.stack([warp(image, m, wide) for m in matrices]),
            np.stack([warp(image, crop_matrix(d.landmarks, self._template, small), small) for d in detections]),
        )

    def encode(self, wide: NDArray[np.uint8], small: NDArray[np.uint8], characteristics: NDArray[np.int64]) -> Encoded:
        """Parse and encode canonical crops (B,S,S,3) RGB, for the characteristics with these numbers, and take a close
        look at those that are switched on."""
        seen = self.look(small, self.parse(wide), characteristics)
        return self.joined(seen, self.closer(wide), characteristics)

    def parse(self, wide: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Canonical crops (B,S,S,3) RGB -> label maps (B,S,S)."""
        spec = self._manifest.parser
        label_map: NDArray[np.uint8] = self._parser(pixels=normalised(wide, spec.mean, spec.std))[0]
        return label_map

    def look(
        self, small: NDArray[np.uint8], label_map: NDArray[np.uint8], characteristics: NDArray[np.int64]
    ) -> Encoded:
        """Encode canonical crops (B,S,S,3) RGB whose label maps are known. Logits of what the close-up tells are 0 here
        (`joined`)."""
        spec = self._manifest.encoder
        pixels = normalised(small, spec.mean, spec.std)
        own = ~np.isin(characteristics, self._told)
        found, area, *tokens = self._encoder(pixels=pixels, label_map=label_map, characteristics=characteristics[own])
        logits = np.zeros((len(small), len(characteristics)), np.float32)
        logits[:, own] = found
        made = dict(zip(self._tokens, tokens, strict=True))
        none = np.zeros((len(small), 0, self._manifest.llm.width), np.float32)
        return Encoded(label_map, logits, area, made.get("image_tokens", none), made.get("region_tokens", none))

    def closer(self, wide: NDArray[np.uint8]) -> CloseupReading | None:
        """The close-up of canonical crops (B,S,S,3) of the parser's size; None where the bundle has none."""
        return self._closeup(wide) if self._closeup else None

    def joined(self, seen: Encoded, closeup: CloseupReading | None, characteristics: NDArray[np.int64]) -> Encoded:
        """What the encoder and the close-up say: most characteristics are told by one of them, some by both."""
        if closeup is None:
            return seen
        logits = seen.logits.copy()
        place = {int(n): i for i, n in enumerate(characteristics)}
        for column, values in zip(closeup.columns, closeup.logits.T, strict=True):
            number = int(self.numbers[column])
            at = place[number]
            logits[:, at] = (logits[:, at] + values) / 2 if number in self._shared else values
        return replace(seen, logits=logits, closeup=closeup)

    def judge(self, seen: Encoded, face: int) -> Judged:
        """Labels, quality and age of one of the encoded faces."""
        areas = dict(zip(self._manifest.regions, (float(a) for a in seen.area[face]), strict=True))
        if seen.closeup is None or self._closeup is None:
            return Judged(self._labeler(seen.logits[face], areas), areas, None, None)
        quality = self._closeup.quality(seen.closeup, face)
        poor = quality.value < self._closeup.spec.poor_below
        labels = self._labeler(seen.logits[face], areas, poor=poor, covered=quality.covered)
        probability = self.calibrated(seen.logits[face])[1]
        age = self._closeup.age(seen.closeup, face, probability[self._age_labels])
        return Judged(labels, areas, quality, age)

    def calibrated(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated logits and probabilities of the enabled characteristics, before rules and visibility."""
        return self._labeler.calibrated(logits)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All that runs on the device; the detector is OpenCV's, on the CPU."""
        closeup = self._closeup and self._closeup.graph
        return tuple(g for g in (self._parser, self._encoder, closeup, self._knowledge) if g)

    def knowledge_tokens(self, labels: Sequence[Label]) -> NDArray[np.float32]:
        """(K,width): which characteristics were looked at, and what was found; (0,0) where the LLM is told in words."""
        if not self._knowledge:
            return np.zeros((0, 0), np.float32)
        states = np.array([STATES.index(x.state) for x in labels], np.int64)
        return self._knowledge(characteristics=self.numbers, states=states)[0]
