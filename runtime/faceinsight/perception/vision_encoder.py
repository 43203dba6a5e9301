"""CLIP vision tower and projector: the face and its surroundings to image tokens, when it is first asked about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backends.session import CheckedSession, Session
from ..bundle.specs import VisionSpec
from ..cache import FaceCache
from ..errors import RequestError
from ..types import Face
from .clip_pixels import to_pixels, to_square


class VisionEncoder:
    """Encodes a face's picture once; its image tokens are kept in `cache`."""

    def __init__(self, spec: VisionSpec, session: Session, cache: FaceCache) -> None:
        """On a session of the graph, with a cache for the image tokens of earlier faces."""
        self._spec = spec
        shape = (None, 3, spec.size, spec.size)
        outputs = {"image_tokens": (None, spec.image_tokens, spec.width)}
        self.graph = CheckedSession(session, spec.file, {"pixels": shape}, outputs)
        self.cache = cache

    def encode_face(self, face: Face) -> NDArray[np.float32]:
        """(P+T, width): what the LLM is shown of a face: image tokens of its picture, and behind them its region
        tokens, where the bundle has some.

        Raises:
            RequestError: the face was perceived with another bundle.
        """
        image = self.encode_image(face)
        if face.tokens.shape[1:] != image.shape[1:]:
            raise RequestError(f"this face was perceived with another bundle: tokens of shape {face.tokens.shape}")
        return np.concatenate([image, face.tokens])

    def encode_image(self, face: Face) -> NDArray[np.float32]:
        """(P, width) image tokens of its picture."""
        cached: NDArray[np.float32] | None = self.cache.get(face.key)
        if cached is not None:
            return np.array(cached)
        if face.picture is None:
            raise RequestError("this face was perceived with another bundle, which shows its LLM no picture")
        tokens: NDArray[np.float32] = self.graph(pixels=to_pixels([face.picture], self._spec))[0][0]
        # A copy: what is kept is overwritten when it leaves.
        self.cache.put(face.key, tokens.copy())
        return tokens


def surroundings(
    image: NDArray[np.uint8], box: tuple[float, float, float, float], spec: VisionSpec
) -> NDArray[np.uint8]:
    """(size,size,3) uint8: of an RGB photo (H,W,3), the square around a face box that the encoder is shown.

    What lies outside the photo is left out, not made up: the rest is padded as the encoder is used to.
    """
    x, y, width, height = box
    half = max(width, height) * spec.margin / 2
    left, right = (round(min(max(x + width / 2 + d, 0), image.shape[1])) for d in (-half, half))
    top, bottom = (round(min(max(y + height / 2 + d, 0), image.shape[0])) for d in (-half, half))
    return to_square(np.ascontiguousarray(image[top : max(bottom, top + 1), left : max(right, left + 1)]), spec)
