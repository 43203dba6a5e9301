"""A Jetson's CSI camera: who comes, what stays the same about them, who leaves, and how many frames were looked at.

    python examples/csi_camera.py                                  sensor 0, 1280x720 at 30 frames a second
    python examples/csi_camera.py --sensor 1 --size 1920x1080 --fps 60 --frames 1000 --device tensorrt

Frames come through the board's image signal processor, by GStreamer in a process of its own (gst-launch-1.0, which is
part of JetPack); OpenCV's wheels have no GStreamer. `gst-device-monitor-1.0 Video/Source` and
`v4l2-ctl --list-formats-ext` list what a sensor has. Ctrl-C ends it. Nothing is stored.

Not run on a Jetson: tests put a program of the same name in GStreamer's place.
"""

from __future__ import annotations

import argparse
import sys
import time

from faceinsight import FaceInsight
from faceinsight.camera import Camera
from faceinsight.live import Watcher

#: Seconds to wait for a frame before the camera's state is looked at.
PATIENCE = 1.0


def main(sensor: int, size: tuple[int, int], fps: int, most: float, device: str) -> int:
    watched = 0
    with FaceInsight.load("nano", device=device) as insight, Camera(f"csi:{sensor}", size=size, fps=fps) as camera:
        watcher, state, began = Watcher(insight), "", time.monotonic()
        while watched < most:
            frame = camera.read(PATIENCE)
            status = camera.status
            if status.state != state:
                state = status.state
                print(f"camera: {state} {status.reason}".rstrip(), flush=True)
            if frame is None:
                continue
            watched += 1
            for event in watcher.update(frame.image, frame.time):
                found = event.values.get("labels", {})
                said = ", ".join(name for name, (answer, _) in found.items() if answer == "yes")
                print(f"{frame.time - began:.1f} s: {event.track} {event.kind}: {said}", flush=True)
        rate = watched / (time.monotonic() - began)
        print(f"{watched} of {camera.status.frames} frames were looked at, {rate:.1f} a second")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sensor", type=int, default=0, metavar="N", help="which camera (0)")
    parser.add_argument("--size", default="1280x720", metavar="WxH", help="what is asked of it (1280x720)")
    parser.add_argument("--fps", type=int, default=30, metavar="N", help="frames a second (30)")
    parser.add_argument("--frames", type=float, default=float("inf"), metavar="N", help="end after N frames")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or tensorrt (auto)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    try:
        sys.exit(main(args.sensor, (width, height), args.fps, args.frames, args.device))
    except KeyboardInterrupt:
        print()
