"""From a photo to its faces: detect, align, encode, read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.device import Device
from ..bundle.bundle import Bundle
from ..bundle.manifest import Manifest
from ..types import Face, Quality
from .alignment import crop_matrix, warp
from .detector import Detection, FaceDetector
from .encoders import Encoded, FaceEncoders, FaceReading
from .rotation import around, moved, nearest, points, unturn
from .vision_encoder import surroundings

Photo = NDArray[np.uint8]
#: Width in pixels below which nothing can be read of a face, whatever the graphs say of so few.
READABLE = 12
#: Probability from which a face counts as upright; below it turned photos are tried: it may lie askew. One upright face
#: in two hundred is below, of the smallest; one tilted by 60 degrees may reach 0.98 with landmarks that are wrong.
UPRIGHT = 0.99


class Perception:
    """The visual half of a bundle, for a fixed choice of characteristics.

    Attributes:
        detector: finds faces.
        encoders: the graphs that read them.
        enabled: names of the characteristics that are switched on, in the order of a face's labels.
        batch: faces per run of the encoders.
    """

    def __init__(self, manifest: Manifest, detector: FaceDetector, encoders: FaceEncoders, *, batch: int = 1) -> None:
        """Of a detector and encoders; `load` makes them. batch: faces per run of the encoders."""
        self._manifest, self.detector, self.encoders, self.batch = manifest, detector, encoders, batch
        # Its files' hashes are in it.
        self._fingerprint = hashlib.sha256(manifest.to_json().encode()).digest()
        self._template = np.array(manifest.crop.template, np.float32)
        self.characteristic_ids = encoders.characteristic_ids
        self.enabled = tuple(c.name for c in encoders.specs)

    @classmethod
    def load(cls, bundle: Bundle, device: Device, *, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> Perception:
        """Open the bundle's detector and graphs on a device."""
        m = bundle.manifest
        # Photos have any size, a TensorRT plan has one.
        detector = FaceDetector(m.detector, device.on_cpu().session(bundle.file(m.detector.file)))
        parser, encoder = (device.session(bundle.file(spec.file)) for spec in (m.parser, m.encoder))
        knowledge, closeup = (
            device.session(bundle.file(spec.file)) if spec else None for spec in (m.knowledge, m.closeup)
        )
        encoders = FaceEncoders(m, parser, encoder, knowledge, closeup, allow=allow, deny=deny)
        return cls(m, detector, encoders, batch=device.batch)

    def perceive(self, photo: Photo) -> tuple[Face, ...]:
        """RGB (H,W,3) -> its faces, the largest first."""
        detections = self.detector.detect(photo)
        faces = self.read(photo, detections)
        return tuple(replace(f, people=len(detections)) for f in faces)

    def read(self, photo: Photo, detections: Sequence[Detection]) -> list[Face]:
        """The faces that were detected in a photo, a batch at a time."""
        faces = []
        for start in range(0, len(detections), self.batch):
            batch = detections[start : start + self.batch]
            matrices, parser_crops, encoder_crops = self.crops(photo, batch)
            encoded = self.encoders.encode(parser_crops, encoder_crops, self.characteristic_ids)
            for i, (detection, turns) in enumerate(zip(batch, _turns(encoded), strict=True)):
                upright = self._turned_upright(photo, detection, turns)
                faces.append(upright or self.face(photo, detection, encoded, i, matrices[i]))
        return faces

    def crops(
        self, photo: Photo, detections: Sequence[Detection]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.uint8], NDArray[np.uint8]]:
        """Canonical crops of the faces.

        Returns:
            Matrices (2,3) from the photo to the parser's crop, and crops (B,S,S,3) for parser and encoder.
        """
        parser_size, encoder_size = self._manifest.parser.size, self._manifest.encoder.size
        matrices = [crop_matrix(d.landmarks, self._template, parser_size) for d in detections]
        smaller = [crop_matrix(d.landmarks, self._template, encoder_size) for d in detections]
        parser_crops = np.stack([warp(photo, m, parser_size) for m in matrices])
        return matrices, parser_crops, np.stack([warp(photo, m, encoder_size) for m in smaller])

    def face(self, photo: Photo, detection: Detection, encoded: Encoded, i: int, matrix: NDArray[np.float32]) -> Face:
        """The i-th of the encoded faces as a value. matrix: (2,3) from the photo to the parser's crop."""
        reading = self.encoders.read(encoded, i)
        if reading.quality and detection.box[2] < READABLE:
            reading = _too_small(reading)
        region_tokens = encoded.region_tokens[i]
        if region_tokens.size:
            region_tokens = region_tokens[encoded.area[i] > 0]
        tokens = np.concatenate([encoded.image_tokens[i], region_tokens]).astype(np.float32)
        vision = self._manifest.vision
        picture = surroundings(photo, detection.box, vision) if vision else None
        return Face(
            box=detection.box,
            landmarks=detection.landmarks,
            score=detection.score,
            labels=reading.labels,
            areas=reading.areas,
            label_map=encoded.label_map[i],
            matrix=matrix,
            tokens=tokens,
            picture=picture,
            key=self.fingerprint(tokens) if picture is None else self.fingerprint(picture, tokens),
            quality=reading.quality,
            age=reading.age,
        )

    def fingerprint(self, *arrays: NDArray[Any]) -> str:
        """Of what an LLM is shown of a face: arrays, and everything that they were made and will be read by."""
        digest = hashlib.sha256(self._fingerprint)
        for array in arrays:
            digest.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _turned_upright(self, photo: Photo, detection: Detection, turns: NDArray[np.float32]) -> Face | None:
        """The face as it is found in the turned photo; None where it stands upright already, or stands better in none.

        The detector's landmarks of a face that lies are wrong, and so is at times what is made of them: the likeliest
        turn is tried first, then the others. Around the face only: the rest of a large photo says nothing about it.

        Args:
            photo: RGB (H,W,3).
            detection: the face as it was found.
            turns: (4,) probabilities of zero to three quarter turns that make it stand upright.
        """
        if turns[0] >= UPRIGHT:
            return None
        window, corner = around(photo, detection.box)
        for turn in sorted((1, 2, 3), key=lambda t: -turns[t]):
            turned = np.ascontiguousarray(np.rot90(window, turn))
            back = unturn(window.shape[1], window.shape[0], turn, corner)
            best = nearest(self.detector.detect(turned), back, detection.box)
            if best is None:
                continue
            matrices, parser_crops, encoder_crops = self.crops(turned, [best])
            encoded = self.encoders.encode(parser_crops, encoder_crops, self.characteristic_ids)
            if _turns(encoded)[0, 0] < max(0.5, turns[0]):
                continue
            # From the photo to the turned window, and on to the crop.
            there = np.linalg.inv(np.vstack([back, [0, 0, 1]]))
            face = self.face(turned, best, encoded, 0, (matrices[0] @ there).astype(np.float32))
            return replace(face, box=moved(best.box, back), landmarks=points(best.landmarks, back))
        return None


def scaled(face: Face, scale: int) -> Face:
    """A face in the pixels of a photo that is `scale` times as wide as the one in which it was found."""
    if scale == 1:
        return face
    x, y, w, h = face.box
    matrix = face.matrix / np.array([scale, scale, 1], np.float32)
    box = (scale * x, scale * y, scale * w, scale * h)
    return replace(face, box=box, landmarks=face.landmarks * scale, matrix=matrix.astype(np.float32))


def _turns(encoded: Encoded) -> NDArray[np.float32]:
    """(B,4): probabilities of the quarter turns by which the photo must be turned for each face to stand upright."""
    if encoded.closeup is None:
        return np.eye(1, 4, dtype=np.float32).repeat(len(encoded.logits), 0)
    return encoded.closeup.turns


def _too_small(reading: FaceReading) -> FaceReading:
    """Of a face that is too small: what was claimed is not sure."""
    labels = tuple(replace(x, state="unsure") if x.state in ("yes", "no") else x for x in reading.labels)
    covered = reading.quality.covered if reading.quality else ()
    return replace(reading, labels=labels, quality=Quality(0.0, "too small", covered))
