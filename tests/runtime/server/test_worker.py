"""The worker may die, hang or be given up on: nobody else is harmed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO
from serving import BODY, Serving, data_uri, raw_chat, user

pytestmark = pytest.mark.slow

Q = "Is she wearing glasses?"


@pytest.fixture
def server(tiny_bundle: Path, tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, tiny_bundle, "--queue", "3", "--timeout", "20") as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(8) as made:
        yield made


def descriptors(server: Serving) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def zombies(server: Serving) -> int:
    pids = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return sum(") Z " in Path(f"/proc/{p}/stat").read_text() for p in pids)


def waiting(server: Serving, n: int) -> None:
    server.wait(lambda: server.metric("queue_depth") == n, 10)


def text(done: httpx.Response) -> str:
    return done.json()["choices"][0]["message"]["content"]


def test_too_many_are_turned_away_with_a_time(server: Serving, pool):
    expected = text(server.chat(*BODY["messages"]))
    os.kill(server.worker, signal.SIGSTOP)
    running = [pool.submit(server.chat, *BODY["messages"]) for _ in range(4)]
    waiting(server, 3)
    for _ in range(3):
        began = time.monotonic()
        turned_away = server.chat(*BODY["messages"])
        assert turned_away.status_code == 429
        assert turned_away.json()["error"]["code"] == "queue_full"
        assert int(turned_away.headers["retry-after"]) >= 1
        assert turned_away.headers["x-should-retry"] == "true"
        assert time.monotonic() - began < 2
    os.kill(server.worker, signal.SIGCONT)
    assert [text(r.result()) for r in running] == [expected] * 4
    assert server.metric("requests_rejected_total", reason="queue_full") == 3


def test_the_body_of_who_is_turned_away_is_not_kept(server: Serving, pool):
    """The answer comes before the body has, which is then dropped: an overload costs no memory, and the connection
    stays usable."""
    os.kill(server.worker, signal.SIGSTOP)
    running = [pool.submit(server.chat, *BODY["messages"]) for _ in range(4)]
    waiting(server, 3)
    large = b'{"model": "faceinsight", "messages": "' + bytes(20_000_000)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        for _ in range(5):
            assert http.post("/v1/chat/completions", content=large).status_code == 429
            assert http.get("/livez").status_code == 200
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"POST /v1/faces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 429")
    # A wipe is never turned away, and a batch gives way to whoever waits for an answer.
    wiped = pool.submit(httpx.delete, f"{server.url}/v1/faces", timeout=30)
    time.sleep(0.3)
    os.kill(server.worker, signal.SIGCONT)
    assert wiped.result().status_code == 200
    assert {r.result().status_code for r in running} == {200}


def test_a_batch_gives_way(server: Serving, pool):
    def batch() -> httpx.Response:
        body = {"model": "faceinsight", "messages": BODY["messages"]}
        return server.post("/v1/chat/completions", json=body, headers={"priority": "u=7, i"})

    os.kill(server.worker, signal.SIGSTOP)
    running = [pool.submit(batch) for _ in range(4)]
    waiting(server, 3)
    other = pool.submit(server.chat, *BODY["messages"])
    turned_away = next(concurrent.futures.as_completed(running, 10)).result()
    os.kill(server.worker, signal.SIGCONT)
    assert turned_away.json()["error"]["code"] == "queue_full"
    assert other.result().status_code == 200
    assert sorted(r.result().status_code for r in running) == [200, 200, 200, 429]


def test_who_waits_and_leaves_does_not_touch_who_is_answered(server: Serving, pool):
    expected = text(server.chat(*BODY["messages"]))
    pid = server.worker
    for _ in range(5):
        os.kill(pid, signal.SIGSTOP)
        running = pool.submit(server.chat, *BODY["messages"])
        time.sleep(0.3)
        gone = raw_chat(server)
        waiting(server, 1)
        gone.close()
        waiting(server, 0)
        os.kill(pid, signal.SIGCONT)
        assert text(running.result()) == expected
    assert server.worker == pid


def test_a_client_that_vanishes_frees_the_worker(server: Serving):
    pid = server.worker
    server.chat(*BODY["messages"])
    for _ in range(5):
        os.kill(pid, signal.SIGSTOP)
        sock = raw_chat(server)
        time.sleep(0.2)
        sock.close()
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        assert server.chat(*BODY["messages"], max_tokens=1).status_code == 200
    assert server.metric("answers_total", finish="cancelled") == 5
    assert server.worker == pid


def test_a_client_that_vanishes_while_pictures_are_looked_at_frees_the_worker(server: Serving):
    """Not only while words are written: the next request waits for one picture, not for twenty."""
    large = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(PHOTO)), (2500, 2500)))[1].tobytes()

    def body(n: int) -> bytes:
        pictures = [data_uri(large + bytes([n, i]), "jpeg") for i in range(12)]
        return json.dumps({"model": "faceinsight", "messages": [user(Q, *pictures)], "stream": True}).encode()

    def seconds(leaves: bool, n: int) -> float:
        data = body(n)
        sock = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)
        time.sleep(0.2)
        if leaves:
            sock.close()
        began = time.monotonic()
        assert server.chat(*BODY["messages"]).status_code == 200
        taken = time.monotonic() - began
        sock.close()
        return taken

    server.chat(*BODY["messages"])
    stays, left = seconds(False, 1), seconds(True, 2)
    assert left < stays / 2
    assert server.metric("answers_total", finish="cancelled") == 1


def test_a_worker_that_dies_is_replaced(server: Serving, pool):
    expected = text(server.chat(*BODY["messages"]))
    before = descriptors(server)
    for number in (signal.SIGKILL, signal.SIGSEGV):
        pid = server.worker
        os.kill(pid, signal.SIGSTOP)
        first = pool.submit(server.chat, *BODY["messages"])
        time.sleep(0.3)
        others = [pool.submit(server.chat, *BODY["messages"]) for _ in range(2)]
        waiting(server, 2)
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        lost = first.result()
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "worker_lost")
        assert lost.headers["x-should-retry"] == "true"
        assert [text(o.result()) for o in others] == [expected] * 2
        assert server.worker != pid
        assert zombies(server) == 0
    assert server.wait_ready(10) < 10
    server.wait(lambda: descriptors(server) <= before, 5)
    assert server.metric("worker_restarts_total", reason="killed") == 1
    assert server.metric("worker_restarts_total", reason="crashed") == 1


def test_a_worker_that_hangs_is_replaced(server: Serving, pool):
    """Also while a request streams: its event says what happened."""
    expected = text(server.chat(*BODY["messages"]))
    pid = server.worker
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    done = server.chat(*BODY["messages"])
    assert (done.status_code, done.json()["error"]["code"]) == (503, "worker_lost")
    assert time.monotonic() - began < 12
    assert text(server.chat(*BODY["messages"])) == expected
    assert server.metric("worker_restarts_total", reason="heartbeat") == 1
    assert zombies(server) == 0


def test_a_request_without_progress_ends_its_worker(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--timeout", "2") as server:
        server.wait_ready()
        os.kill(server.worker, signal.SIGSTOP)
        done = server.chat(*BODY["messages"])
        assert (done.status_code, done.json()["error"]["code"]) == (503, "worker_lost")
        server.wait_ready()
        assert server.metric("worker_restarts_total", reason="hang") == 1


def test_workers_that_die_at_once_are_not_started_for_ever(server: Serving):
    for _ in range(5):
        server.wait_ready(20)
        pid = server.worker
        os.kill(pid, signal.SIGKILL)
        server.wait(lambda pid=pid: server.worker != pid, 10)
    server.wait(lambda: server.metric("degraded_level") == 1, 10)
    done = server.chat(*BODY["messages"])
    assert (done.status_code, done.json()["error"]["code"]) == (503, "degraded")
    assert done.headers["x-should-retry"] == "false"
    assert int(done.headers["retry-after"]) > 30
    assert server.get("/readyz").json()["reasons"] == ["degraded"]
    assert server.get("/livez").status_code == 200


def test_a_parent_that_is_killed_takes_its_worker_along(server: Serving):
    pid = server.worker
    server.process.kill()
    server.process.wait()
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_bundle_that_does_not_load_is_one_line(tmp_path: Path):
    with Serving(tmp_path, tmp_path / "nothing") as server:
        assert server.process.wait(30) == 1
        last = server.log.strip().splitlines()[-1]
        assert last.startswith("faceinsight: no bundle")
        assert "Traceback" not in server.log
