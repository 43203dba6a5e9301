"""The servers under test, started and ended; requests to them, byte for byte the same."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "speed"))
from memory import RESIDENT, memory_mb

from serve import Server as OurServer
from serve import percentiles

#: One that llama-server takes for any model, and ours for its own.
MODEL = "faceinsight"
#: Both write that many tokens: ours end by themselves only later, llama-server is told to ignore the end.
TOKENS = 8
#: Seconds after which an answer is not waited for any longer: of a question, of a malformed request, after a kill.
LONG, PATIENCE, AFTER_KILL = 120.0, 20.0, 10.0
QUESTIONS = ("Is she wearing glasses?", "Describe this face.", "Is she smiling?", "What color is the hair?")
#: Status of a request whose client did not wait.
LEFT = "left"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What came back. status: of HTTP, else "refused", "closed" (the connection, without an answer) or "none"."""

    status: str
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def data(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def raw_request(
    port: int, body: bytes = b"", headers: Mapping[str, str] = JSON, *, line: str = "POST /v1/chat/completions"
) -> bytes:
    """The bytes of a request."""
    fields = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body)), **headers}
    head = f"{line} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode() + b"\r\n" + body


def exchange(port: int, data: bytes, patience: float = PATIENCE) -> Answer:
    """Send these bytes over a connection of their own, and wait for the whole answer."""
    began = time.perf_counter()
    status = "none"
    try:
        with socket.create_connection(("127.0.0.1", port), patience) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A server may answer, and close, before it has read all.
                connection.sendall(data)
            response = http.client.HTTPResponse(connection)
            response.begin()
            body = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(str(response.status), time.perf_counter() - began, headers, body)
    except ConnectionRefusedError:
        status = "refused"
    except TimeoutError:
        status = "none"
    except (OSError, http.client.HTTPException):
        status = "closed"
    return Answer(status, time.perf_counter() - began)


class Pictures:
    """JPEGs that no cache knows: one photo, each time with another number behind its end."""

    def __init__(self, path: Path) -> None:
        photo = cv2.imread(str(path))
        if photo is None:
            raise FileNotFoundError(f"{path} is no picture that OpenCV reads")
        self.jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        self._head = "data:image/jpeg;base64," + base64.b64encode(self.jpeg + b"\0" * (-len(self.jpeg) % 3)).decode()
        self._lock, self._count = threading.Lock(), 0

    def new(self) -> str:
        """A data URI."""
        with self._lock:
            self._count += 1
            return self._head + base64.b64encode(b"%012d" % self._count).decode()


def chat(uris: Sequence[str], question: str, **more: Any) -> bytes:
    """The body of a question about pictures. They come first, so that what llama-server keeps of a prompt has them."""
    content: list[Any] = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    return json.dumps(
        {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True} | more
    ).encode()


def children(pid: int) -> list[int]:
    """All processes below this one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Arm(ABC):
    """A server under test.

    Attributes:
        name: of it.
        port: where it listens on 127.0.0.1.
        pid: of the process that was started.
    """

    name: str
    port: int
    pid: int

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """End it, and wait for that."""

    @property
    @abstractmethod
    def computing(self) -> int | None:
        """The process that computes; None while there is none."""

    def ask(self, body: bytes, patience: float = LONG) -> Answer:
        """A chat."""
        return exchange(self.port, raw_request(self.port, body), patience)

    def get(self, path: str) -> Answer:
        """GET this path."""
        return exchange(self.port, raw_request(self.port, line=f"GET {path}"))

    def wait_ready(self) -> None:
        """Until it answers."""
        until = time.monotonic() + 60
        while self.get("/health").status != "200":
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not start")
            time.sleep(0.01)

    def processes(self) -> list[int]:
        """Its own one and all below."""
        return [self.pid, *children(self.pid)]

    def resident_mb(self) -> float:
        """Resident memory of all its processes, MB of 10^6 bytes."""
        return round(sum(memory_mb(RESIDENT, pid) for pid in self.processes()), 1)

    def cpu_seconds(self) -> float:
        """CPU time that its processes have taken."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


class Ours(Arm):
    """`faceinsight serve`: a parent, and a worker that computes."""

    def __init__(self, bundle: str, threads: int) -> None:
        self.name, self._options = "faceinsight", (bundle, "--device", "cpu", "--threads", str(threads))

    def start(self) -> None:
        self._server = OurServer(*self._options)
        self.port, self.pid = self._server.port, self._server.process.pid

    def stop(self) -> None:
        _end(self._server.process)

    @property
    def computing(self) -> int | None:
        return self._server.worker


class LlamaServer(Arm):
    """llama-server: one process."""

    def __init__(self, name: str, binary: str, llm: Path, tower: Path, threads: int) -> None:
        self.name, self._binary = name, binary
        self._options = {"model": llm, "mmproj": tower, "threads": threads, "threads-batch": threads}
        self._preset = tower.with_suffix(".ini")

    def _arguments(self) -> list[str]:
        return [x for name, value in self._options.items() for x in (f"--{name}", str(value))]

    def start(self) -> None:
        self.port = free_port()
        command = [self._binary, *self._arguments(), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.wait_ready()

    def stop(self) -> None:
        _end(self._process)

    @property
    def computing(self) -> int | None:
        return self.pid if self._process.poll() is None else None


class LlamaRouter(LlamaServer):
    """llama-server in router mode: a process that passes requests on, and one that computes below it."""

    def _arguments(self) -> list[str]:
        options = "".join(f"{name} = {value}\n" for name, value in self._options.items())
        self._preset.write_text(f"[{MODEL}]\nload-on-startup = true\n{options}")
        return ["--models-preset", str(self._preset)]

    @property
    def computing(self) -> int | None:
        found = children(self.pid)
        return found[0] if found else None


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(arms: Sequence[Arm]) -> Iterator[None]:
    """All of them started; ended behind it, whatever happens."""
    started: list[Arm] = []
    try:
        for arm in arms:
            arm.start()
            started.append(arm)
        yield
    finally:
        for arm in started:
            arm.stop()


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """As serve.py's percentiles, and the worst; of none only N."""
    if not seconds:
        return {"N": 0}
    return percentiles(list(seconds)) | {"worst ms": round(max(seconds) * 1e3, 2)}


def answered(answer: Answer) -> Answer:
    """The same, if it is one. Raises RuntimeError."""
    if answer.status != "200":
        raise RuntimeError(f"expected an answer, found {answer.status}: {answer.body[:300]!r}")
    return answer


def said(answer: Answer) -> str:
    """Status, and what the client can decide by."""
    extra = [f"Retry-After {answer.headers['retry-after']}"] if "retry-after" in answer.headers else []
    with contextlib.suppress(ValueError, KeyError, TypeError):
        code = answer.data["error"]["code"]
        extra += [code] if isinstance(code, str) else []
    return " ".join([answer.status, *extra])
