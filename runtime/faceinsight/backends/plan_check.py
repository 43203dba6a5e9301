"""Does a TensorRT plan compute what ONNX Runtime computes on the CPU? Not run on hardware yet.

TensorRT may build a plan without an error that computes something else: its release 10.3 did so with a vision
transformer in half precision (https://github.com/NVIDIA/TensorRT/issues/4723).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.onnx_header import FLOAT, FLOAT16, UINT8, OnnxHeader, Value
from ..host.machine import cores
from .ort import open_session
from .session import Session

#: A picture has so many squares of one colour in a row: in noise a parser finds nothing, whatever it computes.
_SQUARES = 8
#: Whole numbers choose rows of tables, and every table has two.
_ROWS = 2
_DTYPES = {FLOAT: np.float32, FLOAT16: np.float16, UINT8: np.uint8}


def deviation(model: Path, plan: Session, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """How far a plan is from ONNX Runtime on the CPU, on one seeded input.

    Args:
        model: the ONNX file that the plan was built of.
        plan: runs it.
        shapes: of the inputs.

    Returns:
        The largest `difference` over the outputs.

    Raises:
        BundleError: ONNX Runtime does not load the model.
        DeviceError: the plan does not run.
    """
    header = OnnxHeader.read(model)
    rng = np.random.default_rng(0)
    feeds = {v.name: _seeded(v, shapes[v.name], rng) for v in header.inputs}
    names = [v.name for v in header.outputs]
    found = plan.run(names, feeds)
    expected = open_session(model, "cpu", threads=cores(), strict=True).run(names, feeds)
    return max(difference(e, f) for e, f in zip(expected, found, strict=True))


def difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Of one output: ||found - expected|| / ||expected|| of real numbers; of whole ones, such as a label map, the share
    that is unequal, of those that are not the commonest value in both: a picture of no face is nearly all background.

    Infinite where a number is not finite, or the shape is another one.
    """
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind in "uib":
        values, counts = np.unique(expected, return_counts=True)
        common = values[counts.argmax()]
        others = int(((expected != common) | (found != common)).sum())
        return int((expected != found).sum()) / max(1, others)
    e, f = (x.astype(np.float64).ravel() for x in (expected, found))
    error = float(np.linalg.norm(e - f) / max(float(np.linalg.norm(e)), 1e-12))
    return error if np.isfinite(error) else float("inf")


def _seeded(value: Value, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if value.kind not in (FLOAT, FLOAT16):
        drawn: NDArray[Any] = rng.integers(0, _ROWS, shape)
    elif len(shape) == 4:
        rows, columns = (np.arange(side) * _SQUARES // side for side in shape[2:])
        drawn = rng.normal(size=(*shape[:2], _SQUARES, _SQUARES))[:, :, rows][..., columns]
    else:
        drawn = rng.normal(size=shape)
    return drawn.astype(_DTYPES.get(value.kind, np.int64))
