"""What a camera is called, and the program that reads it.

Each source is a child process that writes YUV4MPEG2: drivers and network streams hang in ways that only the end of a
process ends (opencv#22677, #24393).
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DependencyError, RequestError
from ..host.child import NO_PYTHON, as_here, interpreter

KINDS = ("v4l2", "rtsp", "rtsps", "csi", "file", "cmd")
PLAYER = "faceinsight.camera.player"
#: Microseconds after which ffmpeg gives up a silent stream.
_SILENT = 5_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A camera, a stream, a video.

    Attributes:
        kind: one of KINDS.
        name: what logs call it: without user and password.
        command: what is run.
        device: a file that must be there before; None where there is none.
        still: may its picture stay the same for long? Then that is no fault.
    """

    kind: str
    name: str
    command: tuple[str, ...]
    device: Path | None = None
    still: bool = False


def parse(text: str, *, size: tuple[int, int], fps: int, loop: bool = True) -> Source:
    """A source by its name.

    Args:
        text: "v4l2:/dev/v4l/by-id/..." (or "v4l2:0"), "rtsp://...", "csi:0", "file:video.mp4" (also a photo), or
            "cmd:program arguments", a program that writes YUV4MPEG2 to its output.
        size: width and height that are asked for.
        fps: frames a second that are asked for.
        loop: does a video begin again when it ends?

    Raises:
        RequestError: it is none of these.
        DependencyError: the program that reads it is not installed.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS or not rest:
        raise RequestError(f"camera {scrubbed(text)!r}: expected {', '.join(f'{k}:...' for k in KINDS)}")
    if kind == "cmd":
        words = shlex.split(rest)
        if not words or shutil.which(words[0]) is None:
            raise RequestError(f"camera {scrubbed(text)!r}: there is no such program")
        return Source(kind, f"cmd:{words[0]}", tuple(words))
    if kind == "csi":
        return Source(kind, text, _argus(rest, size, fps))
    if kind == "file":
        path = Path(rest)
        if not path.is_file():
            raise RequestError(f"camera {text!r}: there is no such file")
        return Source(kind, text, _player(str(path), size, fps, loop=loop), still=True)
    if kind == "v4l2":
        device = Path(f"/dev/video{rest}" if rest.isdigit() else rest)
        return Source(kind, text, _ffmpeg(_V4L2, str(device), size, fps), device)
    return Source(kind, scrubbed(text), _ffmpeg(_RTSP, text, size, fps))


def scrubbed(text: str) -> str:
    """Without user and password."""
    return re.sub(r"//[^/\s]*@", "//", text)


#: A camera that sends JPEG makes more pixels a second over USB than one that sends them raw.
_V4L2 = ("-f", "v4l2", "-framerate", "{fps}", "-video_size", "{size}", "-input_format", "mjpeg", "-i")
#: TCP: a frame of which a packet is lost is grey.
_RTSP = ("-rtsp_transport", "tcp", "-timeout", str(_SILENT), "-fflags", "nobuffer", "-flags", "low_delay", "-i")


def _ffmpeg(options: Sequence[str], name: str, size: tuple[int, int], fps: int) -> tuple[str, ...]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise DependencyError("ffmpeg is not installed, which reads v4l2: and rtsp: cameras: apt-get install ffmpeg")
    filled = [x.format(fps=fps, size=f"{size[0]}x{size[1]}") for x in options]
    output = ("-an", "-r", str(fps), "-s", f"{size[0]}x{size[1]}", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-")
    return (program, "-nostdin", "-hide_banner", "-loglevel", "error", *filled, name, *output)


def _argus(sensor: str, size: tuple[int, int], fps: int) -> tuple[str, ...]:
    """A Jetson's CSI camera, through its image signal processor. Not run on hardware."""
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise DependencyError("gst-launch-1.0 is not installed, which reads csi: cameras; it comes with JetPack")
    if not sensor.isdigit():
        raise RequestError(f"camera 'csi:{sensor}': expected the sensor's number")
    width, height = size
    elements = (
        f"nvarguscamerasrc sensor-id={sensor}",
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1",
        "nvvidconv",
        "video/x-raw,format=I420",
        "queue leaky=downstream max-size-buffers=1",
        "y4menc",
        "fdsink fd=1",
    )
    words = [word for element in elements for word in (*element.split(), "!")][:-1]
    return (program, "-q", *words)


def _player(path: str, size: tuple[int, int], fps: int, *, loop: bool) -> tuple[str, ...]:
    python = interpreter()
    if python is None:
        raise RequestError(NO_PYTHON)
    return (python, *as_here(PLAYER), path, f"{size[0]}x{size[1]}", str(fps), "loop" if loop else "once")
