"""A test camera: a photo that sways before a grey wall, once or several times, as YUV4MPEG2 on stdout, for ever.

    faceinsight watch "cmd:python examples/swaying_portrait.py tests/data/astronaut.png"
    python examples/swaying_portrait.py tests/data/astronaut.png --people 2 | ffplay -f yuv4mpegpipe -

Ctrl-C, or a reader that is gone, ends it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

SIZE = (1280, 720)
#: Grey of the wall; how far people sway, in pixels; how strongly the light changes.
WALL, SWAY, LIGHT = 90, 25, 0.15


def scene(portrait: np.ndarray, people: int, seconds: float) -> np.ndarray:
    """BGR portrait (S,S,3) -> BGR picture (720,1280,3) as it is after so many seconds."""
    side = min(SIZE[1] - 2 * SWAY, SIZE[0] // people - SWAY)
    portrait = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    portrait = cv2.convertScaleAbs(portrait, alpha=1 + LIGHT * np.sin(seconds / 2.7))
    out = np.full((SIZE[1], SIZE[0], 3), WALL, np.uint8)
    for k in range(people):
        middle = SIZE[0] * (k + 0.5) / people + SWAY * np.sin(1.4 * seconds + 2 * k)
        x = int(np.clip(middle - side / 2, 0, SIZE[0] - side))
        y = int((SIZE[1] - side) / 2 + SWAY / 2 * np.cos(0.9 * seconds + k))
        out[y : y + side, x : x + side] = portrait
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--people", type=int, default=1, choices=range(1, 9), help="how many there are (1)")
    parser.add_argument("--fps", type=int, default=15, help="frames a second (15)")
    parser.add_argument("--frames", type=int, help="so many, then the end")
    args = parser.parse_args()
    portrait = cv2.imread(str(args.photo))
    if portrait is None:
        parser.error(f"{args.photo} is not a picture")
    cv2.setNumThreads(1)
    out = sys.stdout.buffer
    began, number = time.monotonic(), 0
    try:
        out.write(f"YUV4MPEG2 W{SIZE[0]} H{SIZE[1]} F{args.fps}:1 Ip A1:1 C420jpeg\n".encode())
        while args.frames is None or number < args.frames:
            yuv = cv2.cvtColor(scene(portrait, args.people, number / args.fps), cv2.COLOR_BGR2YUV_I420)
            out.write(b"FRAME\n" + yuv.tobytes())
            out.flush()
            number += 1
            time.sleep(max(0.0, began + number / args.fps - time.monotonic()))
    except (BrokenPipeError, KeyboardInterrupt):
        # Python would complain at its end that the reader is gone.
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
