"""The shapes that a plan is built for: the range of every dynamic axis of a graph's inputs."""

from __future__ import annotations

from pathlib import Path

from ...bundle.onnx_header import OnnxHeader, Value
from ...errors import DeviceError

#: Dynamic axes by the name the exporter gives them (min, opt, max): faces, characteristics, tokens.
AXES = {"batch": (1, 1, 8), "count": (1, 64, 256), "length": (1, 16, 512)}

Shape = tuple[int, ...]
#: Of each input its name and (min, opt, max) shape.
Profile = tuple[tuple[str, tuple[Shape, Shape, Shape]], ...]


def profile_of(model: Path) -> Profile:
    """Of an ONNX model.

    Raises:
        BundleError: it is none.
        DeviceError: it has a dynamic axis that is not known.
    """
    return tuple((v.name, _shapes(v)) for v in OnnxHeader.read(model).inputs)


def _shapes(value: Value) -> tuple[Shape, Shape, Shape]:
    unknown = [d for d in value.shape if isinstance(d, str) and d not in AXES]
    if unknown:
        raise DeviceError(f"input {value.name!r} has a dynamic axis {unknown[0]!r}; expected one of {', '.join(AXES)}")
    low, opt, high = (tuple(d if isinstance(d, int) else AXES[d][i] for d in value.shape) for i in range(3))
    return low, opt, high


def shapes_to_compare(profile: Profile) -> dict[str, Shape]:
    """Of the inputs, when a plan is compared: one more than it was tuned for: a fault may not show in a size of 1."""
    return {n: tuple(min(o + 1, h) for o, h in zip(opt, high, strict=True)) for n, (_, opt, high) in profile}
