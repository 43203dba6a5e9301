"""A full-size vision encoder: the face and its surroundings to image tokens, when the LLM is first asked about it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .graph import Graph
from .manifest import VisionSpec
from .pixels import to_pixels, to_square
from .types import Face

#: Faces whose tokens are kept: a bundle of 7B has 9 MB of them per face.
KEPT = 8


class Vision:
    """Looks at a face's picture once; the tokens of the last few faces stay in memory until `forget`."""

    def __init__(self, spec: VisionSpec, session: Any) -> None:
        self._spec = spec
        shape = (None, 3, spec.size, spec.size)
        outputs = {"image_tokens": (None, spec.image_tokens, spec.width)}
        self._graph = Graph(session, spec.file, {"pixels": shape}, outputs)
        self._seen: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def __call__(self, face: Face) -> NDArray[np.float32]:
        """(P,width) image tokens of a face that `perceive` of this bundle found."""
        if face.key in self._seen:
            self._seen.move_to_end(face.key)
            return self._seen[face.key]
        if face.picture is None:
            raise RequestError("this face was perceived with another bundle, which shows its LLM no picture")
        tokens: NDArray[np.float32] = self._graph(pixels=to_pixels([face.picture], self._spec))[0][0]
        self._seen[face.key] = tokens
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return tokens

    def forget(self) -> None:
        """Wipe what is kept of faces."""
        self._seen.clear()


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
