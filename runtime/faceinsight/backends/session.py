"""An ONNX model that was checked against the manifest before its first run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from ..errors import BundleError, FaceInsightError


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a graph; a dynamic axis is None (or, from ONNX Runtime, its name)."""

    name: str
    shape: tuple[Any, ...]


class Session(Protocol):
    """What runs a graph: an ONNX Runtime session, a TensorRT plan, or anything with these methods."""

    def get_inputs(self) -> Sequence[Any]:
        """Nodes with `name` and `shape`."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """Nodes with `name` and `shape`."""
        ...

    def get_providers(self) -> list[str]:
        """What is active, the first choice first."""
        ...

    def run(self, names: Sequence[str] | None, feeds: dict[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Outputs of these names, for inputs by name."""
        ...


class CheckedSession:
    """An ONNX model checked against the manifest: names and, where the graph states them, sizes."""

    def __init__(
        self, session: Session, name: str, inputs: dict[str, tuple[Any, ...]], outputs: dict[str, tuple[Any, ...]]
    ) -> None:
        """Check a session.

        Args:
            session: what runs the graph.
            name: of its file, for errors.
            inputs: name -> shape as the manifest has it; a dynamic axis is None.
            outputs: the same.

        Raises:
            BundleError: an input or output is missing, or of another shape.
        """
        self._session = session
        self.name = name
        self._outputs = list(outputs)
        for kind, nodes, expected in (
            ("input", session.get_inputs(), inputs),
            ("output", session.get_outputs(), outputs),
        ):
            found = {n.name: tuple(n.shape) for n in nodes}
            for key, shape in expected.items():
                if key not in found:
                    raise BundleError(f"{name}: {kind} {key!r} is missing; the graph has {', '.join(found)}")
                if not _fits(found[key], shape):
                    raise BundleError(f"{name}: {kind} {key!r} has shape {found[key]}, the manifest says {shape}")

    def __call__(self, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the graph: outputs in the order in which they were named. Raises FaceInsightError."""
        try:
            return self._session.run(self._outputs, inputs)
        except Exception as e:
            raise FaceInsightError(f"{self.name} failed: {e}") from e

    @property
    def providers(self) -> tuple[str, ...]:
        """What is active now, the first choice first."""
        return tuple(self._session.get_providers())

    def settle(self) -> None:
        """Until a plan that is being built in the background is there, or has failed."""
        wait = getattr(self._session, "wait", None)
        if wait is not None:
            wait()


def _fits(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    return len(found) == len(expected) and all(
        f == e or not isinstance(f, int) or e is None for f, e in zip(found, expected, strict=True)
    )
