"""A camera, a video file or a folder of frames: labels of the largest face, and an answer when somebody new comes.

    python examples/webcam.py 0                     the first camera
    python examples/webcam.py visit.avi             a video file
    python examples/webcam.py frames/               a folder of pictures, in the order of their names
    python examples/webcam.py 0 --question "Is he smiling?" --every 5 --frames 100

A label of a single frame may change with the next one, so a label is shown when it was the same in the last frames.
Ctrl-C ends it. Nothing is stored.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from faceinsight import Face, FaceInsight

#: So many frames in a row must agree before a label is shown.
STEADY = 3
#: Somebody new has come if the box moved by more than its own width, or was gone.
MOVED = 1.0


def frames(source: str) -> Iterator[np.ndarray]:
    """BGR pictures (H,W,3) of a camera's number, a video file or a folder."""
    if Path(source).is_dir():
        for path in sorted(Path(source).iterdir()):
            if (picture := cv2.imread(str(path))) is not None:
                yield picture
        return
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise SystemExit(f"{source} does not open: expected a camera's number, a video file or a folder")
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield frame
    finally:
        capture.release()


def is_same(before: Face | None, now: Face) -> bool:
    """Does this face stand where the last one stood? That is all that is compared: nobody is recognised."""
    if before is None:
        return False
    (x0, y0, width, _), (x1, y1, _, _) = before.box, now.box
    return bool(np.hypot(x1 - x0, y1 - y0) < MOVED * width)


def main(source: str, question: str, every: int, limit: int | None) -> None:
    last: Face | None = None
    history: deque[set[str]] = deque(maxlen=STEADY)
    shown: set[str] = set()
    with FaceInsight.load("nano") as fi:
        for number, frame in enumerate(frames(source)):
            if limit is not None and number >= limit:
                break
            if number % every:
                continue
            faces = fi.perceive(frame, bgr=True)
            if not faces:
                if last is not None:
                    print(f"frame {number}: nobody", flush=True)
                    fi.forget()
                last, shown = None, set()
                history.clear()
                continue
            face = faces[0]
            if not is_same(last, face):
                history.clear()
                shown = set()
                print(f"frame {number}: {fi.ask(face, question)}", flush=True)
            last = face
            history.append({x.phrase for x in fi.report(face).labels if x.state == "yes"})
            steady = set.intersection(*history) if len(history) == STEADY else set()
            if steady != shown and steady:
                shown = steady
                print(f"frame {number}: {', '.join(sorted(steady))}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a camera's number, a video file or a folder of frames")
    parser.add_argument("--question", default="Describe this face.", help="asked when somebody new comes")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="read every N-th frame only")
    parser.add_argument("--frames", type=int, metavar="N", help="end after N frames")
    args = parser.parse_args()
    try:
        main(args.source, args.question, args.every, args.frames)
    except KeyboardInterrupt:
        print()
