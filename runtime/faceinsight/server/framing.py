"""How the parts of a stream are told apart: server-sent events, and lines of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Framing:
    """How the parts of a stream are told apart.

    Attributes:
        media_type: of the stream.
        before, after: what stands around a part.
        ping: keeps a stream alive while nothing comes; None where the format has no such thing.
    """

    media_type: str
    before: str
    after: str
    ping: bytes | None

    def __call__(self, data: Any) -> bytes:
        """One part: plain values as JSON, a text as it is."""
        text = data if isinstance(data, str) else json.dumps(data, allow_nan=False, separators=(",", ":"))
        return f"{self.before}{text}{self.after}".encode()


#: Server-sent events, and one JSON object a line.
sse = Framing("text/event-stream; charset=utf-8", "data: ", "\n\n", b": ping\n\n")
ndjson = Framing("application/x-ndjson", "", "\n", None)
