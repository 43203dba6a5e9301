"""What the server costs, and what it stands: latency added over the library, an overload, killed workers.

    python benchmarks/speed/serve.py --out work/serve.json     (about two minutes on two cores)
    python benchmarks/speed/serve.py --out serve.json --repeats 10 --clients 8 --seconds 3 --kills 2

The library and a server of its own run in turn, request by request, each with all threads; a picture is another one
each time (a counter behind its last byte), so no cache answers. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceinsight import FaceInsight, __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
QUESTION = "Is she wearing glasses?"
JSON, PNG = {"content-type": "application/json"}, {"content-type": "image/png"}


class Server:
    """`faceinsight serve` on a free port."""

    def __init__(self, bundle: str, *options: str) -> None:
        command = [sys.executable, "-m", "faceinsight", "serve", "--port", "0", "--bundle", bundle, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline().rpartition(":")[2].partition("/")[0])
        self.wait_ready()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def get(self, path: str) -> tuple[int, str]:
        connection = self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        found = response.status, response.read().decode()
        connection.close()
        return found

    def metric(self, name: str) -> float:
        lines = self.get("/metrics")[1].splitlines()
        return next(float(x.split()[1]) for x in lines if x.startswith(f"faceinsight_{name} "))

    def wait_ready(self) -> float:
        began = time.perf_counter()
        while self.get("/readyz")[0] != 200:
            time.sleep(0.01)
        return time.perf_counter() - began

    @property
    def worker(self) -> int | None:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else None

    def resident(self) -> dict[str, float]:
        """Megabytes of parent and worker."""
        out = {}
        for name, pid in (("parent", self.process.pid), ("worker", self.worker)):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            out[name] = round(next(int(x.split()[1]) for x in lines if x.startswith("VmRSS:")) / 1024, 1)
        return out


@contextmanager
def serving(bundle: str, *options: str) -> Iterator[Server]:
    """A server that is killed at the end."""
    server = Server(bundle, "--device", "cpu", *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def chat_body(image: bytes, question: str, kind: str = "jpeg", **more: Any) -> bytes:
    """A chat about a picture."""
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps({"model": "faceinsight", "messages": [{"role": "user", "content": parts}], **more}).encode()


def percentiles(seconds: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.array(seconds) * 1e3, (10, 50, 99))
    return {"p10 ms": round(low, 2), "p50 ms": round(middle, 2), "p99 ms": round(high, 2), "N": len(seconds)}


def compare(arms: dict[str, Callable[[int], float]], repeats: int) -> dict[str, Any]:
    """Both arms in turn; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(repeats + 2):
        for name, arm in list(arms.items())[:: 1 if i % 2 else -1]:
            seconds = arm(i)
            if i >= 2:
                times[name].append(seconds)
    out: dict[str, Any] = {name: percentiles(found) for name, found in times.items()}
    out["added p50 ms"] = round(out["server"]["p50 ms"] - out["library"]["p50 ms"], 2)
    out["added p99 ms"] = round(out["server"]["p99 ms"] - out["library"]["p99 ms"], 2)
    return out


def report_latency(insight: FaceInsight, server: Server, photo: bytes, repeats: int) -> dict[str, Any]:
    """A picture to the report of its faces."""
    connection = server.connect()

    def of_library(i: int) -> float:
        data = photo + b"library %d" % i
        began = time.perf_counter()
        [insight.report(f).to_dict() for f in insight.perceive(data)]
        return time.perf_counter() - began

    def of_server(i: int) -> float:
        data = photo + b"server %d" % i
        began = time.perf_counter()
        connection.request("POST", "/v1/faces", data, PNG)
        response = connection.getresponse()
        found = json.loads(response.read())
        assert found["faces"]
        return time.perf_counter() - began

    return compare({"library": of_library, "server": of_server}, repeats)


def as_jpeg(path: Path) -> bytes:
    """The photo as cameras send it: a tenth of the bytes."""
    return bytes(cv2.imencode(".jpg", cv2.imread(str(path)))[1])


def token_latency(insight: FaceInsight, server: Server, photo: bytes, repeats: int) -> dict[str, Any]:
    """A question about a known face to the first text that may leave."""
    face, connection = insight.perceive(photo)[0], server.connect()
    connection.request("POST", "/v1/faces", photo, PNG)
    face_id = json.loads(connection.getresponse().read())["faces"][0]["id"]

    def of_library(i: int) -> float:
        began = time.perf_counter()
        stream = insight.stream(face, QUESTION)
        next(stream)
        seconds = time.perf_counter() - began
        list(stream)
        return seconds

    def of_server(i: int) -> float:
        body = json.dumps({"question": QUESTION, "stream": True})
        began = time.perf_counter()
        connection.request("POST", f"/v1/faces/{face_id}/ask", body, JSON)
        response = connection.getresponse()
        response.readline()
        seconds = time.perf_counter() - began
        response.read()
        return seconds

    return compare({"library": of_library, "server": of_server}, repeats)


def served(server: Server) -> tuple[float, float]:
    """Seconds that the worker has spent on whole requests, and how many those were."""
    seconds = sum(server.metric(f'stage_duration_seconds_sum{{stage="{stage}"}}') for stage in ("perceive", "answer"))
    return seconds, server.metric('stage_duration_seconds_count{stage="answer"}')


def overload(server: Server, photo: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask again as soon as they have an answer, or are turned away."""
    body = chat_body(photo, QUESTION, "png")
    codes: Counter[str] = Counter()
    times: list[float] = []
    alone = []
    connection = server.connect()
    for _ in range(10):
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, JSON)
        connection.getresponse().read()
        alone.append(time.perf_counter() - began)
    until = time.perf_counter() + seconds

    def client() -> None:
        connection = server.connect()
        while time.perf_counter() < until:
            began = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body, JSON)
            response = connection.getresponse()
            response.read()
            named = str(response.status)
            if response.status == 200:
                times.append(time.perf_counter() - began)
            elif response.status == 429:
                named += " with Retry-After" if response.getheader("retry-after") else " without Retry-After"
                time.sleep(0.05)
            codes[named] += 1

    before, depths, service = server.resident(), [], served(server)
    memory: list[dict[str, float]] = []
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        depths.append(server.metric("queue_depth"))
        memory.append(server.resident())
        time.sleep(0.2)
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": dict(codes),
        "alone": percentiles(alone),
        "admitted": percentiles(times),
        "service ms": round((served(server)[0] - service[0]) / (served(server)[1] - service[1]) * 1e3, 1),
        "queue limit": server.metric("queue_limit"),
        "queue at most": max(depths),
        "resident MB before": before,
        "resident MB after a third": memory[len(memory) // 3],
        "resident MB after": memory[-1],
    }


def kills(server: Server, count: int) -> dict[str, Any]:
    """SIGKILL to the worker, until requests are answered again. More than 4 in a minute would be taken for a fault of
    the bundle (the server then waits), so they keep a distance."""
    times = []
    for i in range(count):
        if i:
            time.sleep(16)
        pid = server.worker
        assert pid
        os.kill(pid, signal.SIGKILL)
        began = time.perf_counter()
        while server.worker in (None, pid):
            time.sleep(0.005)
        server.wait_ready()
        times.append(time.perf_counter() - began)
    return percentiles(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photo, server = args.photo.read_bytes(), Server(args.bundle, "--device", "cpu")
    try:
        with FaceInsight.load(args.bundle, device="cpu") as insight:
            result = {
                "faceinsight": __version__,
                "machine": machine(),
                "bundle": args.bundle,
                "bundle_sha256": Bundle.open(args.bundle).sha256,
                "report": report_latency(insight, server, photo, args.repeats),
                "report of a JPEG": report_latency(insight, server, as_jpeg(args.photo), args.repeats),
                "first token of a known face": token_latency(insight, server, photo, args.repeats),
            }
        result["overload"] = overload(server, photo, args.clients, args.seconds)
        result["killed, then ready again"] = kills(server, args.kills) if args.kills else None
        began = time.perf_counter()
        server.process.terminate()
        result["exit code"] = server.process.wait(10)
        result["exit s"] = round(time.perf_counter() - began, 2)
    finally:
        if server.process.poll() is None:
            server.process.kill()
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
