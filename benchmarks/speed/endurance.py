"""What the server stands for months, in an hour: workers killed, servers ended, a long soak, malformed requests.

    python benchmarks/speed/endurance.py --out work/endurance.json                      (about 70 minutes on two cores)
    python benchmarks/speed/endurance.py --out work/endurance.json --only soak --requests 2000
    python benchmarks/speed/endurance.py --out work/endurance.json --only kills ends --kills 4 --ends 9

Each part runs a server of its own, as users start it, and is written when it is done; parts that are in the file are
left as they are unless `--only` names them. Latencies of the soak want an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceinsight import __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from hostile_requests import malformed, pictures, schemas
from serve import JSON, PHOTO, Server, as_jpeg, chat_body, percentiles, serving

QUESTIONS = (
    "Is she smiling?",
    "Is she wearing glasses?",
    "What color is the hair?",
    "Describe this face.",
    "Who is it?",
)
JPEG = {"content-type": "image/jpeg"}
#: Ways in which a worker ends; "memory": the next request finds none left.
WAYS = ("SIGKILL", "SIGSEGV", "SIGSTOP", "memory")
#: Seconds between two ends: more than four a minute would be taken for a fault of the bundle.
DISTANCE = 16.0
#: The soak's criteria: growth after warm-up, and the p99 of the last tenth against the first.
GROWTH, SLOWER = 0.01, 1.2


def post(server: Server, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = server.connect()
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombies(pid: int) -> int:
    return sum(") Z " in Path(f"/proc/{child}/stat").read_text() for child in children(pid))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def end_worker(pid: int, way: str) -> None:
    if way != "memory":
        os.kill(pid, getattr(signal, way))
        return
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))


def kills(bundle: str, count: int) -> dict[str, Any]:
    """A worker that ends while it works on a request and another one waits: how long until a new one is ready, and
    whether the other request gets what it would have got."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    codes: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    harmed = most_zombies = 0
    largest = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(PHOTO)), (4000, 4000)))[1].tobytes()
    with serving(bundle, "--timeout", "20") as server:
        body = chat_body(as_jpeg(PHOTO), QUESTIONS[0])
        expected = json.loads(post(server, "/v1/chat/completions", body, JSON)[1])["choices"][0]["message"]["content"]
        at_first = descriptors(server.process.pid)
        for i in tqdm(range(count), desc="kills"):
            began, way, pid = time.monotonic(), WAYS[i % len(WAYS)], server.worker
            assert pid
            found: dict[str, tuple[int, bytes]] = {}

            def ask(name: str, image: bytes, found: dict[str, tuple[int, bytes]] = found) -> None:
                found[name] = post(server, "/v1/chat/completions", chat_body(image, QUESTIONS[0]), JSON)

            # A crowd of pixels takes the worker a while: it ends in the middle of that.
            large = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(PHOTO)), (3000, 3000)))[1].tobytes() + b"%d" % i
            threads = [threading.Thread(target=ask, args=("first", large))]
            threads[0].start()
            time.sleep(0.15)
            threads.append(threading.Thread(target=ask, args=("second", as_jpeg(PHOTO))))
            threads[1].start()
            time.sleep(0.05)
            ended = time.perf_counter()
            end_worker(pid, way)
            for k in itertools.count():
                if server.worker not in (None, pid):
                    break
                if way == "memory":
                    # Some requests still find room in what the process has already: larger ones do not.
                    post(server, "/v1/faces", largest + b" %d" % k, JPEG)
                time.sleep(0.01)
                if time.perf_counter() > ended + 60:
                    raise SystemExit(f"{way}: the worker was not replaced")
            server.wait_ready()
            times[way].append(time.perf_counter() - ended)
            for thread in threads:
                thread.join()
            codes[way][str(found["first"][0])] += 1
            answer = found["second"]
            same = answer[0] == 200 and json.loads(answer[1])["choices"][0]["message"]["content"] == expected
            harmed += not same
            most_zombies = max(most_zombies, zombies(server.process.pid))
            time.sleep(max(0.0, DISTANCE - (time.monotonic() - began)))
        leaked = descriptors(server.process.pid) - at_first
    return {
        "kills": count,
        "ready again": {way: percentiles(found) for way, found in times.items() if found},
        "status of the request under way": {way: dict(found) for way, found in codes.items()},
        "answers of others that were harmed": harmed,
        "zombies at most": most_zombies,
        "descriptors leaked": leaked,
    }


def ends(bundle: str, count: int) -> dict[str, Any]:
    """SIGTERM with 0, 1 or 8 open streams, and under load: how long until the process is gone, and its exit code."""
    times: dict[str, list[float]] = {}
    codes: Counter[str] = Counter()
    cut = 0
    body = chat_body(as_jpeg(PHOTO), "Describe this face.", stream=True)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for i in tqdm(range(count), desc="ends"):
        streams = (0, 1, 8, 8)[i % 4]
        with serving(bundle) as server:
            held = i % 4 == 3
            if held:
                # Nothing can finish.
                os.kill(server.worker or 0, signal.SIGSTOP)
            open_ones = []
            for _ in range(streams):
                sock = socket.create_connection(("127.0.0.1", server.port))
                sock.sendall(head + body)
                open_ones.append(sock)
            time.sleep(random.Random(i).uniform(0, 0.2))
            began = time.perf_counter()
            server.process.terminate()
            code = server.process.wait(30)
            name = f"{streams} streams" + (" that cannot end" if held else "")
            times.setdefault(name, []).append(time.perf_counter() - began)
            codes[str(code)] += 1
            for sock in open_ones:
                data = b""
                while part := sock.recv(65536):
                    data += part
                sock.close()
                whole = b"[DONE]" in data or b'"error"' in data
                cut += not whole
    return {
        "trials": count,
        "seconds": {name: round(max(found), 2) for name, found in times.items()},
        "exit codes": dict(codes),
        "streams cut without a word": cut,
    }


def leavers(bundle: str, count: int) -> dict[str, Any]:
    """Clients that leave at a random moment, waiting or being answered, streaming or not: is the worker free then, and
    did those who stayed get what they would have got?"""
    rng, body = random.Random(16), chat_body(as_jpeg(PHOTO), "Describe this face.")
    streamed = chat_body(as_jpeg(PHOTO), "Describe this face.", stream=True)
    line = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
    with serving(bundle, "--queue", "16") as server:
        worker = server.worker
        expected = json.loads(post(server, "/v1/chat/completions", body, JSON)[1])["choices"][0]["message"]["content"]
        harmed = 0
        free: list[float] = []
        for _ in tqdm(range(count // 4), desc="leavers"):
            found: list[tuple[int, bytes]] = []
            stays = threading.Thread(
                target=lambda found=found: found.append(post(server, "/v1/chat/completions", body, JSON))
            )
            leaving = []
            for k in range(4):
                if k == 2:
                    stays.start()
                data = rng.choice((body, streamed))
                sock = socket.create_connection(("127.0.0.1", server.port))
                sock.sendall(line.format(len(data)).encode() + data)
                leaving.append(sock)
            for sock in rng.sample(leaving, 4):
                time.sleep(rng.uniform(0, 0.06))
                sock.close()
            stays.join()
            answer = json.loads(found[0][1])
            harmed += found[0][0] != 200 or answer["choices"][0]["message"]["content"] != expected
            began = time.perf_counter()
            while server.metric("queue_depth"):
                time.sleep(0.001)
            post(server, "/v1/chat/completions", chat_body(as_jpeg(PHOTO), "Hm?", max_tokens=1), JSON)
            free.append(time.perf_counter() - began)
        return {
            "clients": count // 4 * 4,
            "answers of those who stayed that were harmed": harmed,
            "then the next answer": percentiles(free),
            "waiting at the end": server.metric("queue_depth"),
            "same worker": server.worker == worker,
        }


def soak(bundle: str, count: int, planted: Path | None = None) -> dict[str, Any]:
    """A day at a kiosk: people come, are asked about, leave; some are sent as chats, some streams are left.

    planted: a folder whose `sitecustomize.py` every process of the server runs first.
    """
    before = os.environ.get("PYTHONPATH")
    if planted:
        os.environ["PYTHONPATH"] = str(planted)
    try:
        with serving(bundle, "--forget-after", "20") as server:
            return _soak(server, count)
    finally:
        if planted:
            os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def _soak(server: Server, count: int) -> dict[str, Any]:
    image, numbers, worker = as_jpeg(PHOTO), itertools.count(), server.worker
    times: dict[str, list[tuple[int, float]]] = {}
    memory: list[dict[str, float]] = []
    codes: Counter[str] = Counter()
    connection, face = server.connect(), ""
    for i in tqdm(range(count), desc="soak"):
        kind = "new face" if i % 10 == 0 else "chat" if i % 10 == 5 else "known photo" if i % 2 else "ask"
        path, body, headers = "/v1/faces", image, JPEG
        if kind == "new face":
            image = image[: len(as_jpeg(PHOTO))] + b"%d" % next(numbers)
            body = image
        elif kind == "chat":
            path, body, headers = "/v1/chat/completions", chat_body(image, QUESTIONS[i % 5], stream=i % 20 == 5), JSON
        elif kind == "ask":
            path, headers = f"/v1/faces/{face}/ask", JSON
            body = json.dumps({"question": QUESTIONS[i // 2 % 5]}).encode()
        began = time.perf_counter()
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        data = response.read()
        times.setdefault(kind, []).append((i, time.perf_counter() - began))
        codes[str(response.status)] += 1
        if kind == "new face":
            face = json.loads(data)["faces"][0]["id"]
        if i % max(1, count // 200) == 0:
            memory.append(server.resident())
    tenth = count // 10
    first = {k: [s for i, s in found if tenth <= i < 2 * tenth] for k, found in times.items()}
    last = {k: [s for i, s in found if i >= count - tenth] for k, found in times.items()}
    slower = {k: float(np.percentile(last[k], 99) / np.percentile(first[k], 99)) for k in times}
    growth = {name: growth_of([m[name] for m in memory]) for name in ("parent", "worker")}
    return {
        "requests": count,
        "statuses": dict(codes),
        "same worker to the end": server.worker == worker,
        "second tenth": {k: percentiles(found) for k, found in first.items()},
        "last tenth": {k: percentiles(found) for k, found in last.items()},
        "p99 of the last against the second tenth": {k: round(x, 2) for k, x in slower.items()},
        "resident MB": {"first": memory[len(memory) // 10], "last": memory[-1]},
        "growth of resident memory": growth,
        "holds": max(growth.values()) < GROWTH and max(slower.values()) <= SLOWER,
    }


def growth_of(memory: list[float]) -> float:
    """Of resident memory after the first tenth, in which caches fill: the median of the last tenth against that of the
    second."""
    n = max(1, len(memory) // 10)
    return round(float(np.median(memory[-n:]) / np.median(memory[n : 2 * n]) - 1), 4)


LEAK = """
import threading, time
kept = []
def leak():
    while True:
        kept.append(bytearray(b"x" * 20_000))
        time.sleep(0.01)
threading.Thread(target=leak, daemon=True).start()
"""


def planted_leak(bundle: str, count: int) -> dict[str, Any]:
    """The same soak with a leak of 2 MB a second planted: it must be caught."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(LEAK)
        found = soak(bundle, count, Path(folder))
    return {"requests": count, "growth of resident memory": found["growth of resident memory"], "holds": found["holds"]}


#: Part -> function of the bundle and the number of its option.
PARTS = {
    "schemas": (schemas, 5000),
    "pictures": (pictures, 2000),
    "malformed": (malformed, 20_000),
    "ends": (ends, 200),
    "leavers": (leavers, 200),
    "kills": (kills, 100),
    "soak": (soak, 50_000),
    "planted_leak": (planted_leak, 3000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    for name, (_, count) in PARTS.items():
        parser.add_argument(f"--{'requests' if name == 'soak' else name.replace('_', '-')}", type=int, default=count)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {
        "faceinsight": __version__,
        "machine": machine(),
        "bundle": args.bundle,
        "bundle_sha256": Bundle.open(args.bundle).sha256,
    }
    for name, (part, _) in PARTS.items():
        if name in args.only if args.only else name not in result:
            result[name] = part(args.bundle, vars(args)["requests" if name == "soak" else name])
            print(name, json.dumps(result[name], indent=1), flush=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
