"""The child process that plays a video or a photo as a camera would: YUV4MPEG2 on its output, in real time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


def main(arguments: list[str]) -> int:
    """Play one. Returns an exit code."""
    path, size, fps, mode = arguments
    width, height = map(int, size.split("x"))
    out = sys.stdout.buffer
    out.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
    due = time.monotonic()
    for picture in _pictures(path, int(fps), loop=mode == "loop"):
        fitted = _fitted(picture, width, height)
        out.write(b"FRAME\n" + cv2.cvtColor(fitted, cv2.COLOR_BGR2YUV_I420).tobytes())
        out.flush()
        due = max(due + 1 / int(fps), time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def _pictures(path: str, fps: int, *, loop: bool) -> Iterator[NDArray[Any]]:
    """BGR frames, at so many a second of the video's own time."""
    if Path(path).suffix.lower() in _PHOTOS:
        picture = cv2.imread(path)
        if picture is None:
            raise SystemExit(f"{Path(path).name} does not decode")
        yield picture
        while loop:
            yield picture
        return
    while True:
        video = cv2.VideoCapture(path)
        video_fps = video.get(cv2.CAP_PROP_FPS) or float(fps)
        shown = taken = 0
        while video.grab():
            taken += 1
            # Frames are left out, or shown again, until both clocks agree.
            while shown < taken * fps / video_fps:
                ok, picture = video.retrieve()
                if not ok:
                    break
                shown += 1
                yield picture
        video.release()
        if not taken:
            raise SystemExit(f"{Path(path).name} has no frame that OpenCV reads")
        if not loop:
            return


def _fitted(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """As large as fits, in the middle of black."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = resized
    return out


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:
        # Nobody looks any more.
        sys.exit(0)
