"""Who is answered, what is logged, and that nothing leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving, data_uri, small_photo, user

from faceinsight.cli.main import main
from faceinsight.errors import RequestError
from faceinsight.server.security import gate

TOKEN = "a-token-of-32-characters-or-more"
KEY = {"authorization": f"Bearer {TOKEN}"}
CANARY = "Quetzalcoatlus"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    (folder / "serve.toml").write_text(f'token_file = "{folder / "token"}"\nqueue = 2\nport = 1\n')
    env = {"FACEINSIGHT_SERVE_HOSTNAME": "kiosk.local,other.local", "FACEINSIGHT_SERVE_QUEUE": "5"}
    with Serving(folder, tiny_bundle, "--config", str(folder / "serve.toml"), env=env) as serving:
        serving.wait_ready()
        yield serving


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 200, None),
        ({"host": "localhost"}, 200, None),
        ({"host": "KIOSK.local:99"}, 200, None),
        ({"host": "[::1]:8080"}, 200, None),
        ({"host": "evil.example"}, 403, "bad_host"),
        ({"host": "127.0.0.1.evil.example"}, 403, "bad_host"),
        ({"host": "localhost.evil.example:8080"}, 403, "bad_host"),
        ({"host": ""}, 403, "bad_host"),
        ({"origin": "https://evil.example"}, 403, "bad_origin"),
        ({"origin": "null"}, 403, "bad_origin"),
        ({"host": "localhost:5", "origin": "http://localhost:5"}, 200, None),
        ({"host": "localhost:5", "origin": "http://localhost:6"}, 403, "bad_origin"),
        ({"sec-fetch-site": "cross-site"}, 403, "bad_origin"),
        ({"sec-fetch-site": "same-origin"}, 200, None),
        ({"authorization": ""}, 401, "invalid_api_key"),
        ({"authorization": f"Basic {TOKEN}"}, 401, "invalid_api_key"),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401, "invalid_api_key"),
    ],
    ids=str,
)
def test_who_is_answered(server: Serving, headers: dict[str, str], status: int, code: str | None):
    done = server.get("/v1/models", headers=KEY | headers)
    assert done.status_code == status
    assert done.json().get("error", {}).get("code") == code
    assert not [h for h in done.headers if h.startswith("access-control")]
    assert done.headers["x-content-type-options"] == "nosniff"


def test_health_needs_no_token_and_metrics_do(server: Serving):
    assert [server.get(p).status_code for p in ("/livez", "/readyz", "/health", "/metrics")] == [200, 200, 200, 401]
    assert server.get("/livez", headers={"host": "evil.example"}).status_code == 403
    assert httpx.request("OPTIONS", server.url + "/v1/faces", headers=KEY).status_code == 405


def test_the_environment_wins_over_the_file(server: Serving):
    limit = [
        x for x in server.get("/metrics", headers=KEY).text.splitlines() if x.startswith("faceinsight_queue_limit")
    ]
    assert limit == ["faceinsight_queue_limit 5.0"]


def test_logs_hold_no_content(server: Serving):
    photo = small_photo() + CANARY.encode()
    body = {"model": "faceinsight", "messages": [user(f"Is {CANARY} smiling?", data_uri(photo, "jpeg"))]}
    assert server.post("/v1/chat/completions", json=body, headers=KEY).status_code == 200
    assert server.post("/v1/chat/completions", json=body | {"model": CANARY}, headers=KEY).status_code == 404
    assert server.post(f"/v1/faces/{CANARY}/ask", json={"question": CANARY}, headers=KEY).status_code == 404
    assert server.get(f"/{CANARY}?{CANARY}", headers=KEY | {"x-a": CANARY}).status_code == 404
    assert CANARY not in server.log
    assert TOKEN not in server.log
    assert "POST /v1/chat/completions 200" in server.log
    assert CANARY not in server.get("/metrics", headers=KEY).text


def test_content_is_logged_where_the_user_says_so(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--log-content") as server:
        server.wait_ready()
        server.chat(user(f"Is {CANARY} smiling?", data_uri()))
        # The line is written once the answer has been sent.
        server.wait(lambda: CANARY in server.log, 5)
        assert data_uri()[30:90] not in server.log


def test_half_requests_and_rubbish(server: Serving):
    """Raw bytes on the socket: an answer of 4xx or a closed connection, and the server goes on."""
    for data in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"POST /v1/faces HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/faces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a: b\r\n" * 5_000 + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            first = b""
            # The server may have closed the connection before all was sent.
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                first = sock.recv(100)
            assert not first or first.split()[1].startswith(b"4"), (data[:60], first)
    assert server.get("/livez").status_code == 200


def test_beyond_this_machine_a_token_is_needed(tmp_path: Path):
    for host in ("0.0.0.0", "::"):
        with pytest.raises(RequestError, match="--token-file"):
            gate(host, (), None, unix=False)
    (tmp_path / "short").write_text("short")
    (tmp_path / "good").write_text(TOKEN)
    with pytest.raises(RequestError, match="at least 16"):
        gate("0.0.0.0", (), tmp_path / "short", unix=False)
    with pytest.raises(RequestError, match="cannot be read"):
        gate("0.0.0.0", (), tmp_path / "none", unix=False)
    assert gate("0.0.0.0", ("kiosk",), tmp_path / "good", unix=False).hosts[-1] == "kiosk"
    assert gate("127.0.0.1", (), None, unix=False).token is None


def test_a_unix_socket(tiny_bundle: Path, tmp_path: Path):
    path = tmp_path / "s.sock"
    with Serving(tmp_path, tiny_bundle, "--unix", str(path)) as server:
        assert path.stat().st_mode & 0o777 == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as http:
            server.wait(lambda: http.get("/readyz").status_code == 200)
            assert http.get("/v1/models").json()["data"][0]["id"] == "faceinsight-tiny"
            with Serving(tmp_path, tiny_bundle, "--unix", str(path)) as second:
                assert second.process.wait(30) == 1
                assert "another server listens there" in second.log
            assert http.get("/livez").status_code == 200
        assert server.stop() == 0
        assert not path.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--port", "99999"], "port: expected 0 to 65535"),
        (["--queue", "-1"], "queue"),
        (["--config", "nothing.toml"], "nothing.toml"),
    ],
    ids=str,
)
def test_wrong_options_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "faceinsight.server.run", raising=False)
    assert main(["serve"]) == 1
    assert "pip install 'starlette>=1.7,<2'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_connects_to_anywhere(tiny_bundle: Path, tmp_path: Path):
    """strace sees every connect() of the parent and its worker, from the start to an answer."""
    trace = tmp_path / "trace"
    with Serving(tmp_path, tiny_bundle) as server:
        tracer = subprocess.Popen(
            ["strace", "-f", "-e", "trace=connect", "-o", str(trace), "-p", str(server.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if "attached" not in tracer.stderr.readline():
                pytest.skip("strace may not attach here")
            server.wait_ready()
            worker = server.worker
            # The next one is followed from its start.
            os.kill(worker, signal.SIGKILL)
            server.wait(lambda: server.worker not in (None, worker))
            server.wait_ready()
            assert server.chat(user("Hm", data_uri())).status_code == 200
        finally:
            server.stop()
            tracer.wait(10)
            tracer.stderr.close()
    found = [line for line in trace.read_text().splitlines() if "connect(" in line and "AF_INET" in line]
    assert [line for line in found if "127.0.0.1" not in line and "::1" not in line] == []
