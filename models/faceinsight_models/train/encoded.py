"""Features of the faces that conversations are about, computed once by the frozen encoder and cached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..data.faces import Faces
from ..nets.encoder import FaceEncoder
from .encoder import clean_batch


@dataclass(frozen=True)
class EncodedFaces:
    """Outputs of the frozen encoder for M chosen faces.

    Attributes:
        rows: (M,) rows in `Faces`.
        image: (M,P,1280) float16 patch features.
        regions: (M,R,D) float16 region features.
        area: (M,R) share of the crop that each region covers.
        logits: (M,N) of all characteristics.
        boxes: (M,4) x, y, width, height in picture pixels, for a vision encoder that sees the surroundings too.
    """

    rows: NDArray[np.int64]
    image: Tensor
    regions: Tensor
    area: Tensor
    logits: NDArray[np.float32]
    boxes: Tensor | None = None

    def save(self, path: Path, key: str) -> None:
        """Cache it for later steps; key: fingerprint of the encoder that computed it."""
        arrays = {k: torch.as_tensor(v) for k, v in vars(self).items() if v is not None}
        torch.save({"encoder": key, **arrays}, path)

    @classmethod
    def load(cls, path: Path, key: str, rows: NDArray[np.int64] | None = None) -> EncodedFaces | None:
        """The cached features, or None if they are of another encoder or of other rows."""
        if not path.exists():
            return None
        saved = torch.load(path, weights_only=True)
        found = saved["rows"].numpy()
        if saved["encoder"] != key or not (rows is None or np.array_equal(found, rows)):
            return None
        logits, boxes = saved["logits"].numpy(), saved.get("boxes")
        return cls(found, saved["image"], saved["regions"], saved["area"], logits, boxes)


@torch.no_grad()
def encode_faces(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> EncodedFaces:
    """Run the encoder once over clean crops of `size` px with their coarse label maps (N,64,64)."""
    encoder.eval()
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc="encoding", unit="batch", mininterval=5):
        features, logits = encoder.forward_with_flip(*clean_batch(faces, maps, rows[start : start + batch], size))
        parts.append((features.image.half(), features.regions.half(), features.area, logits))
    image, regions, area, logits = (torch.cat(p) for p in zip(*parts, strict=True))
    return EncodedFaces(rows, image, regions, area, logits.numpy())
