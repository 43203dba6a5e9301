"""The command `faceinsight`, started so that Ctrl-C ends it and a missing library is one line."""

from __future__ import annotations

import sys

from ..errors import DependencyError
from ..host.memory import causes, one_line
from .console import end


def main() -> int:
    """The command `faceinsight`. Its libraries take a second to import on a small device: Ctrl-C ends that too."""
    if sys.argv[1:2] == ["serve"]:
        from ..server.allocator import restart_overwriting

        restart_overwriting()

    def run() -> int:
        try:
            from .main import main
        except ImportError as e:
            *_, first = causes(e)
            raise DependencyError(
                f"{getattr(first, 'name', None) or 'a library'} does not load: {one_line(first)}"
            ) from e
        return main()

    return end(run)
