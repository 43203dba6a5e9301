"""What the endpoints share: the way to the worker, the counters, the names of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from .._version import __version__
from .errors import loading
from .metrics import Metrics
from .supervisor import Supervisor


@dataclass(slots=True)
class State:
    """Of one server.

    Attributes:
        supervisor: the way to the worker.
        metrics: the counters.
        aliases: further names of the model.
        forget_after: seconds after which a face is wiped; None: never.
        log_content: may questions and answers be logged?
    """

    supervisor: Supervisor
    metrics: Metrics
    aliases: tuple[str, ...]
    forget_after: float | None
    log_content: bool = False
    version: str = __version__

    @property
    def info(self) -> dict[str, Any]:
        """What the worker said of itself. Raises ApiError before the first one was ready."""
        if self.supervisor.info is None:
            raise loading()
        return self.supervisor.info

    @property
    def model(self) -> str:
        """The model's id."""
        return f"faceinsight-{self.info['bundle']}"

    @property
    def models(self) -> tuple[str, ...]:
        """Every name of it."""
        return (self.model, "faceinsight", *self.aliases)

    def note(self, request: Request, *, images: Sequence[bytes] = (), question: str | None = None) -> None:
        """For the log's line of this request: never the picture itself, and words only where the user said so."""
        notes = request.scope["notes"]
        for image in images:
            notes.append(f"image {hashlib.sha256(image).hexdigest()[:12]} {len(image)} B")
        if question is not None and self.log_content:
            notes.append(f"question {question!r}")

    def count(self, request: Request, done: Mapping[str, Any]) -> None:
        """The worker's last event of a request: into the counters and the log."""
        self.metrics.take(dict(done))
        if "finish" in done:
            request.scope["notes"].append(f"finish {done['finish']}")
        if self.log_content and "text" in done:
            request.scope["notes"].append(f"answer {done['text']!r}")
