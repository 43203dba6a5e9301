"""Pictures that the worker gives to the pages: previews of the camera, and where the parts of a face lie."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...types import Face

#: JPEG quality of previews.
_QUALITY = 75
#: Side of a label map as it is sent, pixels.
_SIDE = 96


def jpeg(image: NDArray[np.uint8], width: int) -> str:
    """RGB -> base64 of a JPEG of at most this width; its height follows."""
    scale = min(1.0, width / image.shape[1])
    reduced = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _base64(".jpg", reduced[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def parsing(face: Face) -> dict[str, Any]:
    """The label map of a face, and where it lies.

    Returns:
        `png`: base64 of a grey PNG whose values are classes; `matrix`: six numbers a, b, c, d, e, f that take a point
        (u, v) of it, both 0 to 1, to (a u + c v + e, b u + d v + f), in widths and heights of the face's box.
    """
    size = face.label_map.shape[0]
    reduced = cv2.resize(face.label_map, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    x, y, width, height = face.box
    to_photo = cv2.invertAffineTransform(face.matrix.astype(np.float64))
    to_box = (to_photo - [[0, 0, x], [0, 0, y]]) / [[width], [height]]
    to_box[:, :2] *= size
    return {"png": _base64(".png", reduced, []), "matrix": [round(float(v), 4) for v in to_box.T.ravel()]}


def _base64(suffix: str, image: NDArray[np.uint8], settings: list[int]) -> str:
    done, data = cv2.imencode(suffix, image, settings)
    return base64.b64encode(data.tobytes()).decode() if done else ""
