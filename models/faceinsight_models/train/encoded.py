"""What the trained encoder sees of the faces that conversations are about."""

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
class Seen:
    """What the frozen encoder sees: half-precision features and logits of the chosen faces.

    boxes: x, y, width, height in their pictures, for a vision encoder that looks at the surroundings too.
    """

    rows: NDArray[np.int64]
    image: Tensor
    regions: Tensor
    area: Tensor
    logits: NDArray[np.float32]
    boxes: Tensor | None = None

    def save(self, path: Path, encoder: str) -> None:
        """Keep it for later steps; encoder: the fingerprint of who saw it."""
        arrays = {k: torch.as_tensor(v) for k, v in vars(self).items() if v is not None}
        torch.save({"encoder": encoder, **arrays}, path)

    @classmethod
    def load(cls, path: Path, encoder: str, rows: NDArray[np.int64] | None = None) -> Seen | None:
        """What was saved, if this encoder saw it, and these rows where they are given."""
        if not path.exists():
            return None
        saved = torch.load(path, weights_only=True)
        found = saved["rows"].numpy()
        if saved["encoder"] != encoder or not (rows is None or np.array_equal(found, rows)):
            return None
        seen = (saved[name] for name in ("image", "regions", "area"))
        return cls(found, *seen, saved["logits"].numpy(), saved.get("boxes"))


@torch.no_grad()
def look(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> Seen:
    """Run the encoder once over clean crops."""
    encoder.eval()
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc="encoding", unit="batch", mininterval=5):
        features, logits = encoder.judge(*clean_batch(faces, maps, rows[start : start + batch], size))
        parts.append((features.image.half(), features.regions.half(), features.area, logits))
    image, regions, area, logits = (torch.cat(p) for p in zip(*parts, strict=True))
    return Seen(rows, image, regions, area, logits.numpy())
