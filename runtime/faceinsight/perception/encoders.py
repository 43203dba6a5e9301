"""The graphs of a bundle that read canonical crops: parser, encoder, close-up, knowledge; and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..backends.session import CheckedSession, Session
from ..bundle.manifest import Manifest
from ..types import STATES, Age, Label, Quality
from .alignment import normalize
from .closeup import Closeup, CloseupReading
from .labeler import Labeler
from .switches import enabled

Crops = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the graphs say of B faces.

    Attributes:
        label_map: (B,S,S) mask classes.
        logits: (B,K) of the characteristics asked for.
        area: (B,R) share of the crop that each region has.
        image_tokens: (B,P,width); P is 0 where the bundle has a vision encoder of its own.
        region_tokens: (B,R,width); R is 0 where only that vision encoder speaks to the LLM.
        closeup: None where the bundle has none.
    """

    label_map: NDArray[np.uint8]
    logits: NDArray[np.float32]
    area: NDArray[np.float32]
    image_tokens: NDArray[np.float32]
    region_tokens: NDArray[np.float32]
    closeup: CloseupReading | None = None


@dataclass(frozen=True, slots=True)
class FaceReading:
    """What is known of one face.

    Attributes:
        labels: the enabled characteristics.
        areas: region -> share of the crop, 0..1.
        quality: None where the bundle does not say.
        age: None where age is switched off or the bundle does not say.
    """

    labels: tuple[Label, ...]
    areas: dict[str, float]
    quality: Quality | None
    age: Age | None


class FaceEncoders:
    """Parser, encoder, close-up and knowledge graph of a bundle, for a fixed choice of characteristics.

    Attributes:
        specs: the characteristics that are switched on, in the order of a face's labels.
        characteristic_ids: (K,) their numbers in the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        parser: Session,
        encoder: Session,
        knowledge: Session | None,
        closeup: Session | None = None,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        """On sessions of ONNX Runtime, or anything with their interface; None for a part that the bundle lacks.

        Raises:
            PolicyError: a group in allow or deny cannot be switched.
            BundleError: a graph does not fit the manifest.
        """
        m = self._manifest = manifest
        width, regions = m.encoder.width, len(m.regions)
        size, map_size = m.encoder.size, m.parser.size
        tokens = {"image_tokens": m.encoder.image_tokens, "region_tokens": regions if width else 0}
        self._tokens = {name: (None, count, width) for name, count in tokens.items() if count}
        self._parser = CheckedSession(
            parser, m.parser.file, {"pixels": (None, 3, map_size, map_size)}, {"label_map": (None, map_size, map_size)}
        )
        self._encoder = CheckedSession(
            encoder,
            m.encoder.file,
            {"pixels": (None, 3, size, size), "label_map": (None, map_size, map_size), "characteristics": (None,)},
            {"logits": (None, None), "region_area": (None, regions)} | self._tokens,
        )
        self._knowledge = None
        if m.knowledge and knowledge:
            inputs, outputs = {"characteristics": (None,), "states": (None,)}, {"knowledge_tokens": (None, width)}
            self._knowledge = CheckedSession(knowledge, m.knowledge.file, inputs, outputs)
        self.specs = enabled(m, allow, deny)
        self.characteristic_ids = np.array([m.index(c.name) for c in self.specs], np.int64)
        self.closeup = Closeup(m, m.closeup, closeup, self.characteristic_ids) if m.closeup and closeup else None
        ages, shared, named = (
            (m.closeup.ages, m.closeup.shared, m.closeup.characteristics) if m.closeup else ({}, (), ())
        )
        #: Numbers of what the close-up alone tells, and of what the encoder tells too.
        self._closeup_only = np.array([m.index(n) for n in named if n not in shared], np.int64)
        self._shared = {m.index(n) for n in shared}
        self._age_labels = [i for i, c in enumerate(self.specs) if c.name in ages]
        self._labeler = Labeler(self.specs, m.rules, soft_weight=m.soft_weight)

    def encode(self, parser_crops: Crops, encoder_crops: Crops, characteristic_ids: NDArray[np.int64]) -> Encoded:
        """Everything that the graphs say of faces.

        Args:
            parser_crops: (B,S,S,3) RGB canonical crops of the parser's size.
            encoder_crops: the same of the encoder's size.
            characteristic_ids: (K,) whose logits are wanted.
        """
        encoded = self.encode_crops(encoder_crops, self.parse(parser_crops), characteristic_ids)
        return self.merge_closeup(encoded, self.read_closeup(parser_crops), characteristic_ids)

    def parse(self, parser_crops: Crops) -> NDArray[np.uint8]:
        """Canonical crops (B,S,S,3) RGB -> label maps (B,S,S)."""
        spec = self._manifest.parser
        label_map: NDArray[np.uint8] = self._parser(pixels=normalize(parser_crops, spec.mean, spec.std))[0]
        return label_map

    def encode_crops(
        self, encoder_crops: Crops, label_map: NDArray[np.uint8], characteristic_ids: NDArray[np.int64]
    ) -> Encoded:
        """Canonical crops (B,S,S,3) RGB whose label maps are known. Logits of what only the close-up tells are 0 here
        (`merge_closeup`)."""
        spec, n = self._manifest.encoder, len(encoder_crops)
        pixels = normalize(encoder_crops, spec.mean, spec.std)
        by_encoder = ~np.isin(characteristic_ids, self._closeup_only)
        found, area, *made = self._encoder(
            pixels=pixels, label_map=label_map, characteristics=characteristic_ids[by_encoder]
        )
        logits = np.zeros((n, len(characteristic_ids)), np.float32)
        logits[:, by_encoder] = found
        tokens = dict(zip(self._tokens, made, strict=True))
        none = np.zeros((n, 0, self._manifest.llm.width), np.float32)
        return Encoded(label_map, logits, area, tokens.get("image_tokens", none), tokens.get("region_tokens", none))

    def read_closeup(self, parser_crops: Crops) -> CloseupReading | None:
        """The close-up of canonical crops (B,S,S,3) of the parser's size; None where the bundle has none."""
        return self.closeup.read(parser_crops) if self.closeup else None

    def merge_closeup(
        self, encoded: Encoded, closeup: CloseupReading | None, characteristic_ids: NDArray[np.int64]
    ) -> Encoded:
        """With the logits of the close-up: most characteristics are told by one of the two, some by their mean."""
        if closeup is None:
            return encoded
        logits = encoded.logits.copy()
        columns = {int(c): i for i, c in enumerate(characteristic_ids)}
        for column, values in zip(closeup.columns, closeup.logits.T, strict=True):
            characteristic = int(self.characteristic_ids[column])
            i = columns[characteristic]
            logits[:, i] = (logits[:, i] + values) / 2 if characteristic in self._shared else values
        return replace(encoded, logits=logits, closeup=closeup)

    def read(self, encoded: Encoded, i: int) -> FaceReading:
        """Labels, quality and age of the i-th of the encoded faces."""
        logits = encoded.logits[i]
        areas = dict(zip(self._manifest.regions, (float(a) for a in encoded.area[i]), strict=True))
        if encoded.closeup is None or self.closeup is None:
            return FaceReading(self._labeler.label(logits, areas), areas, None, None)
        quality = self.closeup.quality(encoded.closeup, i)
        is_poor = quality.value < self.closeup.spec.poor_below
        labels = self._labeler.label(logits, areas, poor=is_poor, covered=quality.covered)
        age = self.closeup.age(encoded.closeup, i, self.calibrated(logits)[1][self._age_labels])
        return FaceReading(labels, areas, quality, age)

    def calibrated(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated logits and probabilities of the enabled characteristics, before rules and visibility."""
        return self._labeler.calibrated(logits)

    def knowledge_tokens(self) -> NDArray[np.float32] | None:
        """(states, K, width): what can be found of each characteristic; None where the LLM is told in words."""
        if not self._knowledge:
            return None
        ids = self.characteristic_ids
        # One state at a time: TensorRT's plan takes no more characteristics at once than one face has.
        return np.stack(
            [self._knowledge(characteristics=ids, states=np.full_like(ids, n))[0] for n in range(len(STATES))]
        )

    @property
    def graphs(self) -> tuple[CheckedSession, ...]:
        """All of them, as they run."""
        closeup = self.closeup and self.closeup.graph
        return tuple(g for g in (self._parser, self._encoder, closeup, self._knowledge) if g)
