"""What systemd is told, by a socket that stands in for it, and what it says of the unit."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import BODY, Serving

from faceinsight.server.systemd import unit, watchdog_seconds


class Manager:
    """Listens where systemd would; `lines` are what came so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def hear(self, seconds: float = 0.0) -> list[str]:
        """What comes within so many seconds."""
        until, found = time.monotonic() + seconds, []
        while True:
            try:
                found += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                if time.monotonic() >= until:
                    self.lines += found
                    return found
                time.sleep(0.02)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def server(tiny_bundle: Path, tmp_path: Path, manager: Manager) -> Iterator[Serving]:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
    with Serving(tmp_path, tiny_bundle, env=env) as serving:
        yield serving


@pytest.mark.slow
def test_ready_is_said_once_and_only_when_it_is(server: Serving, manager: Manager):
    while "READY=1" not in manager.hear(0.2):
        ready = server.get("/readyz").status_code
        assert "READY=1" in manager.hear(0.5) or ready == 503
        assert "WATCHDOG=1" not in manager.lines or "READY=1" in manager.lines
        if "READY=1" in manager.lines:
            break
    assert server.get("/readyz").status_code == 200
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in manager.lines)
    pings = manager.hear(4.2).count("WATCHDOG=1")
    assert 3 <= pings <= 5
    server.process.send_signal(signal.SIGHUP)
    server.wait(lambda: server.metric("reloads_total", result="done") == 1)
    reloading = manager.hear(0.5)
    assert reloading[0] == "RELOADING=1" or "RELOADING=1" in reloading
    assert server.stop() == 0
    assert "STOPPING=1" in manager.hear(0.1)


@pytest.mark.slow
def test_pings_end_where_the_worker_hangs_and_go_on_with_the_next(server: Serving, manager: Manager):
    server.wait_ready()
    manager.hear(1)
    worker = server.worker
    os.kill(worker, signal.SIGSTOP)
    manager.hear(2.2)
    assert "WATCHDOG=1" not in manager.hear(2)
    server.wait(lambda: server.worker not in (None, worker), 10)
    server.wait_ready()
    assert "WATCHDOG=1" in manager.hear(2)


@pytest.mark.slow
def test_pings_end_where_the_server_itself_hangs(server: Serving, manager: Manager):
    server.wait_ready()
    os.kill(server.pid, signal.SIGSTOP)
    manager.hear(0.2)
    assert manager.hear(3) == []
    os.kill(server.pid, signal.SIGCONT)
    assert "WATCHDOG=1" in manager.hear(2)
    assert server.chat(*BODY["messages"]).status_code == 200


def test_the_watchdogs_time_is_read():
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}, 7) == 30
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 30
    for environ in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}):
        assert watchdog_seconds(environ, 7) is None


def print_unit(*options: str) -> str:
    command = [sys.executable, "-m", "faceinsight", "serve", "--print-unit", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_unit_starts_what_was_asked_for(tmp_path: Path):
    config, token = tmp_path / "serve.toml", tmp_path / "token"
    config.write_text("port = 8081\n")
    text = print_unit(
        "--config", str(config), "--token-file", str(token), "--alias", "a b", "--alias", "50%", "--queue", "3"
    )
    (line,) = [x for x in text.splitlines() if x.startswith("ExecStart=")]
    assert line.endswith(
        f'serve --config {config} --alias "a b" --alias 50%% --queue 3 --token-file ${{CREDENTIALS_DIRECTORY}}/token'
    )
    assert f"LoadCredential=token:{token}" in text
    assert "IPAddressAllow=localhost" in text
    assert "SupplementaryGroups=video render" in text
    devices = {
        "v4l2:0": "DeviceAllow=char-video4linux rw",
        "csi:0": "PrivateTmp=no",
        "file:x.mp4": "PrivateDevices=yes",
    }
    for camera, line in devices.items():
        assert line in unit(["/opt/x"], secrets={}, local=True, device="cpu", camera=camera).splitlines()
    assert "IPAddress" not in unit(["/opt/x"], secrets={}, local=True, device="cpu", camera="rtsp://cam/1")
    # Figures that leave need the network, and their secrets are credentials too.
    for option in (("--mqtt", "mqtt://kiosk@broker"), ("--webhook", "https://example.org/")):
        assert "IPAddress" not in print_unit(*option)
    assert "IPAddressDeny=any" in print_unit("--window-log", "audience.jsonl")
    password = tmp_path / "password"
    text = print_unit("--mqtt", "mqtt://kiosk@broker", "--mqtt-password-file", str(password))
    assert "serve --mqtt mqtt://kiosk@broker --mqtt-password-file ${CREDENTIALS_DIRECTORY}/mqtt-password\n" in text
    assert f"LoadCredential=mqtt-password:{password}\n" in text
    beyond = unit(["/opt/x"], secrets={"token": "/etc/t"}, local=False, device="cpu")
    assert "IPAddress" not in beyond
    assert "PrivateDevices=yes" in beyond


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path, device: str):
    path = tmp_path / "faceinsight-test.service"
    path.write_text(print_unit("--device", device))
    verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", path]
    exposure = subprocess.run(command, capture_output=True, text=True, check=False)
    assert exposure.returncode == 0, exposure.stdout[-200:]
