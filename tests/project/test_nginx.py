"""nginx with the shipped file, in front of a real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from paths import PHOTO, ROOT

pytest.importorskip("starlette", reason="the extra server")
from serving import BODY, Serving, data_uri, user

from faceinsight.server.web import MAX_BODY

NGINX = ROOT / "deploy" / "nginx" / "faceinsight.conf"
NAME = "faceinsight.example"


def test_nginx_has_the_limit_of_the_server():
    text = NGINX.read_text()
    assert f"client_max_body_size {MAX_BODY};" in text
    assert f"{MAX_BODY:,} bytes" in text
    assert int(re.search(r"client_body_buffer_size (\d+)m;", text)[1]) << 20 > MAX_BODY


class Proxy:
    """nginx with the shipped file, at a free port, in front of a server."""

    def __init__(self, folder: Path, server: Serving, changes: dict[str, str] | None = None) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.host, self.log, self.access = f"{NAME}:{self.port}", folder / "error.log", folder / "access.log"
        cert, key, conf = (folder / name for name in ("cert.pem", "key.pem", "faceinsight.conf"))
        certify = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}"
        subprocess.run([*certify.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
        here = {
            "    listen [::]:443 ssl default_server;\n": "",
            "    listen [::]:443 ssl;\n": "",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{server.port};",
            "/etc/ssl/certs/faceinsight.pem": str(cert),
            "/etc/ssl/private/faceinsight.key": str(key),
            "/var/log/nginx/faceinsight.log": str(self.access),
        }
        text = NGINX.read_text()
        for old, new in (here | (changes or {})).items():
            assert old in text, old
            text = text.replace(old, new)
        conf.write_text(text)
        places = "".join(f"{n}_temp_path {folder / n};\n" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            ("user root;\n" if os.geteuid() == 0 else "")
            + f"daemon off;\npid {folder / 'pid'};\nerror_log {self.log} info;\nevents {{}}\n"
            + f"http {{\n{places}include {conf};\n}}\n"
        )
        command = ["nginx", "-e", str(self.log), "-p", str(folder), "-c", str(folder / "nginx.conf")]
        tried = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stderr
        assert "[warn]" not in tried.stderr
        self.trust = ssl.create_default_context(cafile=str(cert))
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        server.wait(self._listens)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stream(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        client = httpx.Client(verify=self.trust, timeout=60, headers={"host": self.host, **(headers or {})})
        url, sni = f"https://127.0.0.1:{self.port}{path}", {"sni_hostname": NAME}
        return client.stream(method, url, extensions=sni, **more)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self.stream(method, path, **more) as done:
            done.read()
        return done

    def connect(self, name: str = NAME) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return self.trust.wrap_socket(sock, server_hostname=name)

    def send(self, sock: ssl.SSLSocket, line: str, body: bytes = b"", host: str = "", **headers: Any) -> None:
        """A request by hand: method and path, and what of its body is sent now."""
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        sock.sendall(f"{line} HTTP/1.1\r\nHost: {host or self.host}\r\n{more}\r\n".encode() + body)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def answer(sock: ssl.SSLSocket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, body."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


@contextlib.contextmanager
def slowed_down(pid: int) -> Iterator[None]:
    """A process that runs for 2 ms of every 32."""
    over = threading.Event()

    def slow() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.03)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def with_nginx(test: Callable[..., None]) -> Callable[..., None]:
    for name, package in (("nginx", "nginx-light"), ("openssl", "openssl")):
        reason = f"{name} is not installed: apt-get install {package}"
        test = pytest.mark.skipif(not shutil.which(name), reason=reason)(test)
    return pytest.mark.slow(test)


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--hostname", NAME) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture(scope="module")
def proxy(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy") / "nginx", server) as made:
        yield made


JPEG = {"content-type": "image/jpeg"}


@with_nginx
def test_an_answer_passes(proxy: Proxy, server: Serving):
    done = proxy.request("POST", "/v1/chat/completions", json=BODY)
    assert done.status_code == 200
    assert done.json()["choices"] == server.chat(*BODY["messages"]).json()["choices"]


@with_nginx
@pytest.mark.parametrize(
    ("changes", "unbuffered"),
    [
        ({}, True),
        ({"proxy_buffering off;": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"}, False),
    ],
    ids=["shipped", "fault"],
)
def test_a_stream_arrives_as_it_is_written(tmp_path: Path, changes: dict[str, str], unbuffered: bool):
    """Sentences of the shipped bundle, whose worker is slowed down: the first is whole long before the end."""
    body = {"model": "faceinsight", "stream": True, "messages": [user("Describe this face.", data_uri())]}
    arrived = []
    with Serving(tmp_path, "nano", "--hostname", NAME) as server, Proxy(tmp_path / "nginx", server, changes) as proxy:
        server.wait_ready()
        with slowed_down(server.worker), proxy.stream("POST", "/v1/chat/completions", json=body) as done:
            for line in done.iter_lines():
                arrived.append((time.monotonic(), line))
    sentence = next(when for when, line in arrived if re.search(r'"content":"[^"]*\.', line))
    end = next(when for when, line in arrived if line == "data: [DONE]")
    assert (end - sentence > 0.15) is unbuffered


@with_nginx
def test_a_client_that_leaves_frees_the_worker(proxy: Proxy, server: Serving):
    before, worker = server.metric("answers_total", finish="cancelled"), server.worker
    body = json.dumps(BODY | {"stream": True}).encode()
    os.kill(worker, signal.SIGSTOP)
    try:
        with proxy.connect() as sock:
            proxy.send(sock, "POST /v1/chat/completions", body, content_length=len(body))
            time.sleep(0.3)
        time.sleep(0.3)
    finally:
        os.kill(worker, signal.SIGCONT)
    server.wait(lambda: server.metric("answers_total", finish="cancelled") == before + 1, 10)
    assert server.worker == worker


@with_nginx
def test_a_body_that_is_too_large_ends_at_nginx(proxy: Proxy, server: Serving):
    with proxy.connect() as sock:
        proxy.send(sock, "POST /v1/faces", content_length=MAX_BODY + 1)
        status, headers, said = answer(sock)
    assert (status, json.loads(said)["error"]["code"]) == (413, "too_large")
    assert headers["x-should-retry"] == "false"
    chunked = proxy.request("POST", "/v1/faces", headers=JPEG, content=(bytes(1_000_000) for _ in range(25)))
    assert chunked.status_code == 413
    assert " 413 " not in server.log


@with_nginx
def test_the_largest_body_passes_and_is_never_on_disk(proxy: Proxy, server: Serving):
    for content in (bytes(MAX_BODY), (bytes(100_000) for _ in range(MAX_BODY // 100_000))):
        done = proxy.request("POST", "/v1/faces", headers=JPEG, content=content)
        assert (done.status_code, done.json()["error"]["code"]) == (400, "bad_image")
    server.wait(lambda: server.log.count(f"{MAX_BODY} B") == 2)
    assert "temporary file" not in proxy.log.read_text()


@with_nginx
def test_a_slow_client_holds_nginx_and_not_the_server(server: Serving, tmp_path: Path):
    photo, descriptors = PHOTO.read_bytes(), Path(f"/proc/{server.pid}/fd")
    # An nginx of its own: it has no connection to the server yet.
    with Proxy(tmp_path / "nginx", server) as proxy, proxy.connect() as sock:
        before = len(list(descriptors.iterdir()))
        proxy.send(sock, "POST /v1/faces", photo[:-1], content_length=len(photo), content_type="image/png")
        time.sleep(0.5)
        assert len(list(descriptors.iterdir())) <= before
        sock.sendall(photo[-1:])
        assert answer(sock)[0] == 200


@with_nginx
def test_other_names_are_refused(proxy: Proxy, server: Serving):
    with pytest.raises(ssl.SSLError):
        proxy.connect("evil.example")
    with proxy.connect() as sock:
        proxy.send(sock, "DELETE /v1/faces", host="evil.example")
        assert answer(sock)[0] == 421
    assert "DELETE" not in server.log
    # With the right name in the line of the request nginx does not look at Host; the server does.
    with proxy.connect() as sock:
        proxy.send(sock, f"GET https://{NAME}/v1/models", host="evil.example")
        status, _, said = answer(sock)
    assert (status, json.loads(said)["error"]["code"]) == (403, "bad_host")


@with_nginx
def test_pages_of_the_same_origin_are_answered(proxy: Proxy):
    """Origin has the port, which nginx's $host has not."""
    for origin, status in ((proxy.host, 200), (NAME, 403), ("evil.example", 403)):
        done = proxy.request("GET", "/v1/models", headers={"origin": f"https://{origin}"})
        assert done.status_code == status


@with_nginx
def test_what_was_asked_is_not_logged(proxy: Proxy, server: Serving):
    assert proxy.request("GET", "/v1/Quetzal?labels=Coatlus").status_code == 404
    server.wait(lambda: " 404 " in proxy.access.read_text())
    log = proxy.access.read_text()
    assert "Quetzal" not in log
    assert "Coatlus" not in log


@with_nginx
def test_a_server_that_is_away_is_an_error_to_try_again(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle) as server, Proxy(tmp_path / "nginx", server) as proxy:
        server.stop()
        done = proxy.request("GET", "/v1/models")
    assert (done.status_code, done.json()["error"]["code"]) == (503, "unavailable")
    assert done.headers["retry-after"] == "2"
