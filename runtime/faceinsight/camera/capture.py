"""A camera as a program has it: the newest frame, and what is wrong where there is none.

    with Camera("v4l2:0") as camera:
        for frame in camera:
            faces = insight.perceive(frame.image)

One thread reads the child process (source.py), keeps the newest frame only, and replaces a child that ends, hangs or
shows the same picture for long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from ..errors import RequestError
from ..host.child import interpreter
from . import source as sources
from .y4m import Frame, Y4mError, Y4mReader

log = logging.getLogger(__name__)

#: Seconds that a child has for its first frame: network cameras wait for a key frame.
START = 15.0
#: Seconds between two tries: doubled each time up to the longest, and up to a quarter more or less, so that many
#: kiosks do not try at the same moment.
FIRST_WAIT, LONGEST_WAIT, JITTER = 0.5, 4.0, 0.25
#: A covered lens: mean of Y, 0 to 255. Black is 16 in most videos.
DARK = 24.0
#: Bytes of a child's last words.
_WORDS = 2000
#: The child ends with the thread that started it, however that ends.
_PDEATHSIG = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a camera is.

    Attributes:
        state: "starting", "up", "dark" (its lens is covered, or the light is off), "frozen" (the same picture for
            long), "down" (no frames; it is tried again), "ended" (a video that is not played again), "off".
        reason: why it is down, in words; empty where it is up.
        age: seconds since the newest frame; None where there was none.
        frames: how many came; dropped: of these, how many nobody took before the next one.
        reconnects: how often the child was started anew.
    """

    state: str
    reason: str
    age: float | None
    frames: int
    dropped: int
    reconnects: int


class _Stalled(Exception):
    """The child says nothing, or no more. The message says which."""


class Camera:
    """A camera, a stream or a video; see `source.parse` for what they are called.

    It may be used from several threads: each frame goes to one of them.
    """

    def __init__(
        self,
        source: str,
        *,
        size: tuple[int, int] = (1280, 720),
        fps: int = 15,
        loop: bool = True,
        stall: float = 3.0,
        frozen: float = 10.0,
    ) -> None:
        """Start it.

        Args:
            source: "v4l2:0", "v4l2:/dev/v4l/by-id/...", "rtsp://...", "csi:0", "file:video.mp4", "cmd:program ...".
            size: width and height that are asked for, both even; frames say what they have.
            fps: frames a second that are asked for.
            loop: does a video begin again when it ends?
            stall: seconds without a frame after which the child is replaced.
            frozen: seconds of the same picture after which it is, and of darkness after which it is called dark.

        Raises:
            RequestError: the source or an option is none that is known.
            DependencyError: the program that reads this kind of source is not installed.
        """
        if not all(2 <= n <= 8192 and n % 2 == 0 for n in size) or not 1 <= fps <= 120:
            raise RequestError(f"size {size[0]}x{size[1]}, fps {fps}: expected even numbers up to 8192, and 1 to 120")
        self._source = sources.parse(source, size=size, fps=fps, loop=loop)
        self._loop, self._stall, self._frozen = loop, stall, frozen
        self._condition = threading.Condition()
        self._newest: Frame | None = None
        self._taken = True
        self._state, self._reason = "starting", ""
        self._frames = self._dropped = self._reconnects = 0
        self._last: float | None = None
        self._closed = threading.Event()
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The source, without user and password."""
        return self._source.name

    @property
    def status(self) -> CameraStatus:
        """Now."""
        with self._condition:
            age = None if self._last is None else time.monotonic() - self._last
            return CameraStatus(self._state, self._reason, age, self._frames, self._dropped, self._reconnects)

    def read(self, timeout: float | None = None) -> Frame | None:
        """The newest frame that was not taken yet; waits for one.

        Args:
            timeout: seconds to wait; None: until there is one.

        Returns:
            None where none came, where the video has ended, and once the camera is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: not self._taken or self._state in ("ended", "off"), timeout)
            frame, self._newest = (None if self._taken else self._newest), None
            self._taken = True
            return frame

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, the newest each time, over reconnections; until the video has ended or `close`."""
        while (frame := self.read()) is not None:
            yield frame

    def close(self) -> None:
        """End the child, and forget the newest frame."""
        with self._condition:
            first = not self._closed.is_set()
            self._closed.set()
        if first:
            os.write(self._waker, b"x")
        self._thread.join()
        if first:
            os.close(self._wake)
            os.close(self._waker)
            self._set("off", "")

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        wait, failure = FIRST_WAIT, ""
        while not self._closed.is_set():
            began, before = time.monotonic(), self._frames
            if self._source.device and not self._source.device.exists():
                failure = f"{self._source.device} is not there"
            else:
                failure = self._watch()
            if self._closed.is_set():
                break
            if not failure and not self._loop:
                self._set("ended", "")
                break
            self._set("frozen" if failure.startswith("the same picture") else "down", failure or "it ended")
            log.warning("camera %s: %s", self.name, failure or "it ended")
            if self._frames > before and time.monotonic() - began > LONGEST_WAIT:
                wait = FIRST_WAIT
            self._closed.wait(wait * random.uniform(1 - JITTER, 1 + JITTER))
            wait = min(2 * wait, LONGEST_WAIT)
            self._reconnects += 1
        with self._condition:
            self._newest, self._taken = None, True

    def _watch(self) -> str:
        """One child from its start to its end: why that was; empty where it ended by itself."""
        try:
            child = _Child(self._source.command, self._wake)
        except OSError as e:
            return f"{self._source.command[0]} cannot be started: {e.strerror}"
        if self._state != "frozen":
            self._set("starting", self._reason)
        try:
            return self._read_frames(child)
        except Y4mError as e:
            return self._scrubbed(child, str(e))
        except _Stalled as e:
            # It may have ended, and left its output to a child of its own.
            code = child.process.poll()
            return self._scrubbed(child, str(e) if code is None else f"it ended with exit code {code}")
        except EOFError:
            code = child.process.wait()
            return "" if code == 0 else self._scrubbed(child, f"it ended with exit code {code}")
        finally:
            child.end()

    def _read_frames(self, child: _Child) -> str:
        reader = Y4mReader(child.read)
        child.deadline = time.monotonic() + START
        still: tuple[bytes, float] | None = None
        bright = time.monotonic()
        while True:
            at, data = reader.next(time.monotonic)
            child.deadline = time.monotonic() + self._stall
            width, height = reader.size or (0, 0)
            self._frames += 1
            frame = Frame(self._frames, at, width, height, data)
            sample = frame.luma()
            if still is None or still[0] != sample:
                still = sample, at
            elif at - still[1] >= self._frozen and not self._source.still:
                return f"the same picture for {at - still[1]:.0f} s"
            if sum(sample) >= DARK * len(sample):
                bright = at
            with self._condition:
                self._dropped += not self._taken
                self._newest, self._taken, self._last = frame, False, at
                self._state, self._reason = "up", ""
                if at - bright >= self._frozen:
                    self._state, self._reason = "dark", f"dark for {at - bright:.0f} s"
                self._condition.notify_all()

    def _scrubbed(self, child: _Child, failure: str) -> str:
        words = child.last_words()
        return sources.scrubbed(f"{failure}: {words}" if words else failure)

    def _set(self, state: str, reason: str) -> None:
        with self._condition:
            self._state, self._reason = state, reason
            self._condition.notify_all()


class _Child:
    """A process that writes frames.

    Attributes:
        deadline: until when it must have written what is read next.
    """

    def __init__(self, command: tuple[str, ...], wake: int) -> None:
        """wake: a pipe that becomes readable when the camera is closed."""
        python = interpreter()
        if python and sys.platform == "linux":
            # -I: no file of the working directory is run.
            command = (python, "-I", "-S", "-c", _PDEATHSIG, str(os.getpid()), *command)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self.deadline = time.monotonic() + START
        self._wake, self._words, self._buffer = wake, b"", b""
        assert self.process.stdout
        assert self.process.stderr
        self._out, self._error = self.process.stdout.fileno(), self.process.stderr.fileno()
        for descriptor in (self._out, self._error):
            os.set_blocking(descriptor, False)
        self._poll = select.poll()
        for descriptor in (self._out, self._error, wake):
            self._poll.register(descriptor, select.POLLIN)
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            # A whole frame of 720p: fewer changes between two processes.
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 1 << 20)

    def read(self, count: int) -> bytes:
        """So many bytes of its output. Raises _Stalled or, at its end, EOFError."""
        if count <= len(self._buffer):
            data, self._buffer = self._buffer[:count], self._buffer[count:]
            return data
        parts, left = [self._buffer], count - len(self._buffer)
        self._buffer = b""
        while left > 0:
            # A little more than is asked for: the next marker costs no call of its own.
            part = self._some(max(left, 4096))
            parts.append(part[:left])
            self._buffer = part[left:]
            left -= len(part)
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        while True:
            seconds = self.deadline - time.monotonic()
            if seconds <= 0:
                raise _Stalled("no frame came in time")
            ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1e3)}
            if self._wake in ready:
                raise _Stalled("closed")
            if self._error in ready and not self._hear():
                self._poll.unregister(self._error)
            if self._out in ready:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(self._out, most)
                    if not data:
                        raise EOFError
                    return data

    def _hear(self) -> bool:
        """What it writes to its error output; False at the end of that."""
        try:
            data = os.read(self._error, 65536)
        except BlockingIOError:
            return True
        self._words = (self._words + data)[-_WORDS:]
        return bool(data)

    def last_words(self) -> str:
        """The last line of its error output."""
        self._hear()
        lines = [line.strip() for line in self._words.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else ""

    def end(self) -> None:
        """At once, with all that it started. No zombie stays."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
