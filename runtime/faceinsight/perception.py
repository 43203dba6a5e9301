"""From a photo to faces: detect, align, parse, encode, judge. No LLM involved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .align import crop_matrix, warp
from .bundle import Bundle
from .detect import Detection, FaceDetector
from .device import Device
from .errors import PolicyError
from .graph import Graph
from .labels import Label, Labeler
from .manifest import STATES, CharacteristicSpec, EncoderSpec, Manifest, ParserSpec
from .types import Face
from .vision import surroundings


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the graphs say of B faces: label_map (B,S,S), logits (B,K), area (B,R), image_tokens (B,P,width) and
    region_tokens (B,R,width). P is 0 where the bundle has a vision encoder of its own, R too where only that one speaks
    to the LLM."""

    label_map: NDArray[np.uint8]
    logits: NDArray[np.float32]
    area: NDArray[np.float32]
    image_tokens: NDArray[np.float32]
    region_tokens: NDArray[np.float32]


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


class Perception:
    """The visual half of a bundle, for a fixed choice of characteristics."""

    def __init__(
        self,
        manifest: Manifest,
        detector: FaceDetector,
        parser: Any,
        encoder: Any,
        knowledge: Any,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        batch: int = 1,
    ) -> None:
        """parser, encoder, knowledge: ONNX Runtime sessions (or anything with their interface); no knowledge: None.

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
        parts = (m.parser, m.encoder, m.knowledge)
        parser, encoder, knowledge = (p and device.session(bundle.file(p.file)) for p in parts)
        return cls(m, detector, parser, encoder, knowledge, allow=allow, deny=deny, batch=device.batch)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Face, ...]:
        """RGB (H,W,3) -> its faces, the largest first."""
        detections, n = self.detector(image), self.batch
        return tuple(f for i in range(0, len(detections), n) for f in self._perceive(image, detections[i : i + n]))

    def _perceive(self, image: NDArray[np.uint8], detections: Sequence[Detection]) -> list[Face]:
        matrices, wide, small = self.crops(image, detections)
        seen = self.encode(wide, small, self.numbers)
        faces = []
        for i, d in enumerate(detections):
            labels, areas = self.judge(seen, i)
            present = seen.region_tokens[i][seen.area[i] > 0] if seen.region_tokens.size else seen.region_tokens[i]
            tokens = np.concatenate([seen.image_tokens[i], present]).astype(np.float32)
            picture = surroundings(image, d.box, self._vision) if self._vision else None
            key = self._key(tokens) if picture is None else self._key(picture, tokens)
            faces.append(
                Face(
                    d.box, d.landmarks, d.score, labels, areas, seen.label_map[i], matrices[i], tokens,
                    self.knowledge_tokens(labels), picture, key,
                )
            )  # fmt: skip
        return faces

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
        """Parse and encode canonical crops (B,S,S,3) RGB, for the characteristics with these numbers."""
        return self.look(small, self.parse(wide), characteristics)

    def parse(self, wide: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Canonical crops (B,S,S,3) RGB -> label maps (B,S,S)."""
        label_map: NDArray[np.uint8] = self._parser(pixels=normalised(wide, self._manifest.parser))[0]
        return label_map

    def look(
        self, small: NDArray[np.uint8], label_map: NDArray[np.uint8], characteristics: NDArray[np.int64]
    ) -> Encoded:
        """Encode canonical crops (B,S,S,3) RGB whose label maps are known."""
        pixels = normalised(small, self._manifest.encoder)
        logits, area, *tokens = self._encoder(pixels=pixels, label_map=label_map, characteristics=characteristics)
        made = dict(zip(self._tokens, tokens, strict=True))
        none = np.zeros((len(small), 0, self._manifest.llm.width), np.float32)
        return Encoded(label_map, logits, area, made.get("image_tokens", none), made.get("region_tokens", none))

    def judge(self, seen: Encoded, face: int) -> tuple[tuple[Label, ...], dict[str, float]]:
        """Labels of one of the encoded faces, and the share of the crop that each region has."""
        areas = dict(zip(self._manifest.regions, (float(a) for a in seen.area[face]), strict=True))
        return self._labeler(seen.logits[face], areas), areas

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All that runs on the device; the detector is OpenCV's, on the CPU."""
        return tuple(g for g in (self._parser, self._encoder, self._knowledge) if g)

    def knowledge_tokens(self, labels: Sequence[Label]) -> NDArray[np.float32]:
        """(K,width): which characteristics were looked at, and what was found; (0,0) where the LLM is told in words."""
        if not self._knowledge:
            return np.zeros((0, 0), np.float32)
        states = np.array([STATES.index(x.state) for x in labels], np.int64)
        return self._knowledge(characteristics=self.numbers, states=states)[0]


def normalised(crops: NDArray[np.uint8], spec: ParserSpec | EncoderSpec) -> NDArray[np.float32]:
    """(B,S,S,3) uint8 RGB -> (B,3,S,S) float32, (x - mean) / std."""
    scaled = (crops.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
