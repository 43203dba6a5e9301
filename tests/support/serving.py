"""A running `faceinsight serve` for tests, as users start it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import httpx
from paths import PHOTO


def data_uri(data: bytes | None = None, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data or small_photo()).decode()}"


def small_photo() -> bytes:
    """The portrait as a JPEG of 40 kB: the server's own time is to be tested, not a decoder's."""
    return cv2.imencode(".jpg", cv2.imread(str(PHOTO)))[1].tobytes()


def no_face() -> bytes:
    return cv2.imencode(".png", cv2.imread(str(PHOTO))[420:, 400:])[1].tobytes()


def user(text: str, *images: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": text}] if text else []
    return {"role": "user", "content": [*parts, *({"type": "image_url", "image_url": {"url": u}} for u in images)]}


class Serving:
    """Starts a server on a free port; `log` is what it writes."""

    def __init__(self, folder: Path, bundle: Path | str, *options: str, env: dict[str, str] | None = None) -> None:
        self._stderr = folder / f"server-{time.monotonic_ns()}.log"
        place = () if "--unix" in options else ("--port", "0")
        command = [sys.executable, "-m", "faceinsight", "serve", "--bundle", str(bundle), "--device", "cpu"]
        with open(self._stderr, "w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--threads", "1", *place, *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | (env or {}),
            )
        line = self.process.stdout.readline()
        self.url = line.split()[-1].removesuffix("/v1") if line else ""

    @property
    def log(self) -> str:
        return self._stderr.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def worker(self) -> int | None:
        """Process of the worker."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(found[0]) if found else None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **more)

    def chat(self, *messages: dict[str, Any], **more: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", json={"model": "faceinsight", "messages": list(messages), **more})

    def metric(self, name: str, **labels: str) -> float:
        text = self.get("/metrics").text
        pairs = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
        wanted = f"faceinsight_{name}" + (f"{{{pairs}}}" if pairs else "")
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == wanted]
        return float(found[0]) if found else 0.0

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> float:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + seconds, f"not within {seconds} s:\n{self.log[-2000:]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_ready(self, seconds: float = 60) -> float:
        return self.wait(lambda: self.get("/readyz").status_code == 200, seconds)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 10) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


#: A chat about the photo.
Q = "Is she wearing glasses?"
BODY = {"model": "faceinsight", "messages": [user(Q, data_uri())]}


def raw_chat(server: Serving) -> socket.socket:
    """A streaming request on a socket of its own, which may be closed at any time."""
    body = json.dumps(BODY | {"stream": True}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock
