"""An answer's text as it may leave: cut at the first stop sequence, without space around it."""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Give it the text as it is generated.

    Attributes:
        text: what has left so far.
        stopped: was a stop sequence found? Nothing behind it leaves.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """stops: sequences that end an answer; they are not part of it."""
        self.text, self.stopped = "", False
        self._stops, self._held = tuple(stops), ""
        self._hold = max(map(len, stops), default=1) - 1

    def feed(self, text: str) -> str:
        """What may leave now."""
        if self.stopped:
            return ""
        held = self._held + text
        if not self.text:
            held = held.lstrip()
        found = [(held.find(s) + len(s), held.find(s)) for s in self._stops if s in held]
        if found:
            # The one that is complete first, as if the text had come letter by letter.
            self.stopped = True
            return self._leave(held[: min(found)[1]].rstrip(), "")
        # A stop sequence may have begun, and space may be the last.
        n = len(held[: max(0, len(held) - self._hold)].rstrip())
        return self._leave(held[:n], held[n:])

    def rest(self) -> str:
        """What leaves at the end."""
        return "" if self.stopped else self._leave(self._held.rstrip(), "")

    def _leave(self, text: str, held: str) -> str:
        self._held = held
        self.text += text
        return text
