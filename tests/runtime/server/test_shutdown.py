"""The end of a server: within five seconds, whatever is open."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import BODY, Serving, data_uri, raw_chat, user

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tiny_bundle: Path, tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, tiny_bundle) as serving:
        serving.wait_ready()
        yield serving


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_idle_server_ends_at_once(server: Serving, number: int, code: int):
    worker = server.worker
    with httpx.Client(base_url=server.url) as http:
        http.get("/livez")
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        assert server.stop(number) == code
        assert time.monotonic() - began < 5
        half.close()
    assert gone(worker)
    assert "Traceback" not in server.log


def test_open_streams_end_with_an_event(server: Serving):
    """The worker is stopped, so none of the eight can finish: those that stream are told, the others get a 503."""
    os.kill(server.worker, signal.SIGSTOP)
    streams = [raw_chat(server) for _ in range(8)]
    server.wait(lambda: server.metric("queue_depth") == 7, 10)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    turned_away = server.chat(*BODY["messages"])
    assert (turned_away.status_code, turned_away.json()["error"]["code"]) == (503, "shutting_down")
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 5
    for sock in streams:
        data = b""
        while part := sock.recv(65536):
            data += part
        assert b"shutting_down" in data
        sock.close()
    assert "Traceback" not in server.log


def test_who_is_being_answered_gets_the_answer(server: Serving):
    worker = server.worker
    os.kill(worker, signal.SIGSTOP)
    sock = raw_chat(server)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    os.kill(worker, signal.SIGCONT)
    data = b""
    while part := sock.recv(65536):
        data += part
    sock.close()
    assert b"data: [DONE]" in data
    assert server.process.wait(5) == 0


def test_the_second_signal_ends_it_at_once(server: Serving):
    worker = server.worker
    os.kill(worker, signal.SIGSTOP)
    sock = raw_chat(server)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    began = time.monotonic()
    assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 1
    sock.close()
    time.sleep(0.2)
    assert gone(worker) or ") Z " in Path(f"/proc/{worker}/stat").read_text()


def test_while_it_loads(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle) as server:
        done = server.chat(user("Hm", data_uri()))
        if done.status_code != 200:
            assert done.json()["error"]["code"] == "loading"
            assert done.headers["retry-after"] == "1"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
