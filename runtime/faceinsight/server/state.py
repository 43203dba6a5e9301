"""What the endpoints share: the way to the worker, the counters, the names of the model."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from .._version import __version__
from .audience.figures import Audience
from .errors import loading
from .lane import BATCH, INTERACTIVE
from .metrics import Metrics
from .options import Options
from .page.words import load as load_words
from .supervisor import Supervisor
from .watching.live import LiveCamera


@dataclass(slots=True)
class State:
    """Of one server.

    Attributes:
        supervisor: the way to the worker.
        metrics: the counters.
        aliases: further names of the model.
        forget_after: seconds after which a face is wiped; None: never.
        log_content: may questions and answers be logged?
        held: bytes of the bodies of requests under way.
        camera: None where the server has none.
        audience: counts of those who were there; None where nobody is counted.
        words: of the pages, by the code of the language.
        operator: who runs it, for the notice; "": nobody said.
        outlets: names of the ways by which figures leave.
    """

    supervisor: Supervisor
    metrics: Metrics
    aliases: tuple[str, ...] = ()
    forget_after: float | None = None
    log_content: bool = False
    held: int = 0
    camera: LiveCamera | None = None
    audience: Audience | None = None
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=load_words)
    operator: str = ""
    outlets: tuple[str, ...] = ()
    version: str = __version__

    def take(self, options: Options) -> None:
        """What a reload may change without a new worker."""
        self.aliases, self.forget_after, self.log_content = options.alias, options.forget_after, options.log_content
        self.operator = options.operator
        self.supervisor.lane.limit, self.supervisor.deadline = options.queue, options.timeout

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

    def admit(self, request: Request) -> None:
        """Raises ApiError where a request would be turned away, before its body is read."""
        self.supervisor.require()
        self.supervisor.lane.require_room(_rank(request))

    def events(
        self, request: Request, op: str, fields: Mapping[str, Any], blobs: Sequence[bytes] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What the worker says to a request, up to its end; see `Supervisor.events`."""
        return self.supervisor.events(op, fields, blobs, rank=_rank(request))

    async def call(
        self,
        request: Request,
        op: str,
        fields: Mapping[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        rank: int | None = None,
    ) -> dict[str, Any]:
        """The last of the events, counted. rank: in the queue; None: as the request says."""
        rank = _rank(request) if rank is None else rank
        done = [event async for event in self.supervisor.events(op, fields, blobs, rank=rank)][-1]
        self.count(request, done)
        return done

    def note(self, request: Request, *, images: Sequence[bytes] = (), question: str | None = None) -> None:
        """For the log's line of this request: the size of pictures, and words only where the user said so."""
        notes = request.scope["notes"]
        notes += [f"image {len(image)} B" for image in images]
        if question is not None and self.log_content:
            notes.append(f"question {question!r}")

    def count(self, request: Request, done: Mapping[str, Any]) -> None:
        """The worker's last event of a request: into the counters and the log."""
        self.metrics.take(dict(done))
        request.scope["notes"] += [f"sha256 {image}" for image in done.get("images", ())]
        if "finish" in done:
            request.scope["notes"].append(f"finish {done['finish']}")
        if self.log_content and "text" in done:
            request.scope["notes"].append(f"answer {done['text']!r}")


def _rank(request: Request) -> int:
    """Of a request in the queue: `Priority: u=6` or 7 (RFC 9218) is a batch, which others go before."""
    found = re.search(r"\bu=([67])\b", request.headers.get("priority", ""))
    return BATCH if found else INTERACTIVE
