"""The command watch: who comes, what is found of them, and who leaves, as JSON Lines."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

from ..errors import RequestError
from ..plain import to_json
from .photo_commands import load_insight

#: Seconds between two looks at a camera that sends nothing.
_PATIENCE = 0.5


def add_watch(add: Any) -> argparse.ArgumentParser:
    """Its parser."""
    watch: argparse.ArgumentParser = add.add_parser(
        "watch",
        help="who comes and goes in front of a camera, as JSON Lines",
        description="Who comes and goes in front of a camera, as JSON Lines. Faces are told apart by their position "
        "alone, and nothing is stored: whoever comes back is somebody new.",
    )
    sources = "v4l2:0, v4l2:/dev/v4l/by-id/..., rtsp://..., csi:0, file:video.mp4, 'cmd:program ...'"
    watch.add_argument("source", help=sources)
    watch.add_argument("--size", type=_size, default=(1280, 720), metavar="WxH", help="that is asked for (1280x720)")
    watch.add_argument("--fps", type=int, default=15, metavar="N", help="frames a second that are asked for (15)")
    watch.add_argument("--seconds", type=float, metavar="S", help="end after so long")
    watch.add_argument("--once", action="store_true", help="end when a video ends, instead of playing it again")
    watch.set_defaults(run=run)
    return watch


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size like 1280x720, found {text!r}")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    """Watch until the video ends, the time is over, or Ctrl-C."""
    from ..camera import Camera
    from ..live import Watcher

    if args.seconds is not None and args.seconds <= 0:
        raise RequestError(f"--seconds {args.seconds:g}: expected more than 0")
    with load_insight(args) as insight, Camera(args.source, size=args.size, fps=args.fps, loop=not args.once) as camera:
        watcher, began, frames = Watcher(insight), time.monotonic(), 0
        state = ("", "")
        try:
            while args.seconds is None or time.monotonic() - began < args.seconds:
                frame = camera.read(_PATIENCE)
                status = camera.status
                if (status.state, status.reason) != state:
                    state = status.state, status.reason
                    _print({"event": "camera", "time": _since(began), "state": status.state, "reason": status.reason})
                if frame is None:
                    if status.state == "ended":
                        break
                    continue
                frames += 1
                for event in watcher.update(frame.image, frame.time):
                    _print(_event(event, began))
        finally:
            for event in watcher.end(time.monotonic()):
                _print(_event(event, began))
            status = camera.status
            ended = {
                "frames": status.frames,
                "watched": frames,
                "looks": watcher.looks,
                "reconnects": status.reconnects,
            }
            _print({"event": "end", "time": _since(began), **ended})
    return 0


def _event(event: Any, began: float) -> dict[str, Any]:
    return {"event": event.kind, "time": round(event.time - began, 2), "track": event.track, **event.values}


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


def _print(values: dict[str, Any]) -> None:
    sys.stdout.write(to_json(values, indent=None) + "\n")
    sys.stdout.flush()
