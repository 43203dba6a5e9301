"""The ways by which figures leave: a queue that never makes anybody wait, a webhook, a file of lines."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving

from faceinsight.errors import RequestError
from faceinsight.server.audience.figures import Audience
from faceinsight.server.metrics import OUTLETS, Metrics
from faceinsight.server.options import Options, gather
from faceinsight.server.outlets.channel import Channel, Rejected
from faceinsight.server.outlets.gather import Outlets, device_name
from faceinsight.server.outlets.webhook import Webhook
from faceinsight.server.outlets.window_log import WindowLog


def count(metrics: Metrics, name: str, outlet: str) -> float:
    return metrics.registry.get_sample_value(f"faceinsight_outlet_{name}_total", {"outlet": outlet})


def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that try again at once."""
    monkeypatch.setitem(Channel.__init__.__kwdefaults__, "shortest", 0.02)
    monkeypatch.setitem(Channel.__init__.__kwdefaults__, "longest", 0.1)


def window(number: int) -> dict[str, Any]:
    return {"start": "2026-11-25T10:00:00+00:00", "window_s": 900, "watchers": number, "contents": {}}


def number(found: dict[str, Any]) -> int:
    return found["watchers"]


# --- the queue ---


def test_a_channel_drops_the_oldest_and_makes_nobody_wait():
    metrics, taken, go = Metrics(), [], threading.Event()

    def deliver(message: bytes) -> None:
        go.wait(10)
        taken.append(message)

    channel = Channel("webhook", deliver, metrics, limit=3)
    began = time.monotonic()
    for i in range(10):
        channel.put(b"%d" % i)
    assert time.monotonic() - began < 0.5
    assert count(metrics, "dropped", "webhook") == 7
    go.set()
    wait(lambda: taken[-1:] == [b"9"])
    # The first may have been under way already.
    assert [m for m in taken if m != b"0"] == [b"7", b"8", b"9"]
    assert count(metrics, "failures", "webhook") == 0


def test_a_channel_tries_again_in_order_and_says_so_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    metrics, taken, tries = Metrics(), [], []

    def deliver(message: bytes) -> None:
        tries.append(time.monotonic())
        if len(tries) <= 3:
            raise OSError("away")
        if message == b"bad":
            raise Rejected("no")
        taken.append(message)

    channel = Channel("mqtt", deliver, metrics, shortest=0.05, longest=0.1)
    for message in (b"1", b"bad", b"2"):
        channel.put(message)
    wait(lambda: taken == [b"1", b"2"])
    assert count(metrics, "failures", "mqtt") == 4
    assert count(metrics, "dropped", "mqtt") == 1
    first, second, third = (b - a for a, b in itertools.pairwise(tries[:4]))
    assert first >= 0.05
    assert second >= 0.1
    assert 0.1 <= third < 0.19
    assert [r.message for r in caplog.records] == [
        "mqtt: away; tried again until it works",
        "mqtt: works again",
        "mqtt: a message was dropped: no",
    ]


@pytest.mark.parametrize("works", [True, False])
def test_a_channel_ends_in_time(works: bool):
    taken: list[bytes] = []

    def deliver(message: bytes) -> None:
        time.sleep(0.05)
        if not works:
            raise OSError("away")
        taken.append(message)

    async def run() -> float:
        channel = Channel("webhook", deliver, Metrics())
        for i in range(5):
            channel.put(b"%d" % i)
        began = time.monotonic()
        await channel.close()
        return time.monotonic() - began

    assert asyncio.run(run()) < 1.2
    assert len(taken) == (5 if works else 0)


# --- the file ---


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_take_turns_and_have_whole_lines(tmp_path: Path):
    metrics, path = Metrics(), tmp_path / "audience.jsonl"
    size = len(json.dumps(window(10), separators=(",", ":"))) + 1

    async def run() -> None:
        log = WindowLog(path, metrics, files=3, size=4 * size)
        for i in range(10, 40):
            log.window(window(i))
        log.state({"ready": True})
        await log.close()

    asyncio.run(run())
    names = [path, path.with_name("audience.jsonl.1"), path.with_name("audience.jsonl.2")]
    assert sorted(tmp_path.iterdir()) == sorted(names)
    found = [[number(x) for x in lines(name)] for name in names]
    assert found == [[38, 39], [34, 35, 36, 37], [30, 31, 32, 33]]
    assert path.stat().st_mode & 0o777 == 0o600
    assert count(metrics, "failures", "window_log") == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1}\n{"b":', [{"a": 1}]),
        (b'{"b":', []),
        (b'{"a":1}\n', [{"a": 1}]),
    ],
)
def test_a_line_that_a_power_failure_cut_goes(tmp_path: Path, before: bytes, after: list[Any]):
    path = tmp_path / "audience.jsonl"
    path.write_bytes(before)

    async def run() -> None:
        log = WindowLog(path, Metrics())
        log.window(window(7))
        await log.close()

    asyncio.run(run())
    assert lines(path) == [*after, window(7)]


#: A limit of the size of files stands in for a full disk: writes come back short, as there.
FULL = """
import asyncio, resource, sys
from pathlib import Path
from faceinsight.server.metrics import Metrics
from faceinsight.server.outlets.window_log import WindowLog

async def main():
    metrics, path = Metrics(), Path(sys.argv[1])
    count = lambda: metrics.registry.get_sample_value("faceinsight_outlet_failures_total", {"outlet": "window_log"})
    log = WindowLog(path, metrics)
    log.window({"number": 1})
    while not path.exists() or path.stat().st_size < 13:
        await asyncio.sleep(0.01)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    log.window({"number": 2})
    log.window({"number": 3})
    while count() < 1:
        await asyncio.sleep(0.01)
    print(path.read_bytes())
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    await asyncio.sleep(1.5)
    await log.close()

asyncio.run(main())
"""


def test_a_full_disk_loses_nothing_but_time(tmp_path: Path):
    path = tmp_path / "audience.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # No part of a line was left.
    assert done.stdout.strip() == str(b'{"number":1}\n')
    assert "window_log: " in done.stderr
    assert lines(path) == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_a_folder_that_vanishes_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture, impatient: None):
    metrics, folder = Metrics(), tmp_path / "usb"
    folder.mkdir()

    async def run() -> None:
        log = WindowLog(folder / "audience.jsonl", metrics)
        log.window(window(1))
        await asyncio.sleep(0.2)
        (folder / "audience.jsonl").unlink()
        folder.rmdir()
        log.window(window(2))
        await asyncio.sleep(0.3)
        assert count(metrics, "failures", "window_log") >= 2
        folder.mkdir()
        await asyncio.sleep(0.3)
        await log.close()

    asyncio.run(run())
    assert lines(folder / "audience.jsonl") == [window(2)]
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_a_file_that_cannot_be_is_refused(tmp_path: Path):
    for path in (tmp_path / "none" / "x.jsonl", tmp_path):
        with pytest.raises(RequestError, match="--window-log"):
            WindowLog(path, Metrics())


# --- the webhook ---


class Receiver:
    """An HTTP server that answers with these statuses, then with 204; `bodies` are those of 204."""

    def __init__(self, *statuses: int, port: int = 0) -> None:
        left, bodies, headers = list(statuses), [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers.append(dict(self.headers))
                status = left.pop(0) if left else 204
                if status == 204:
                    bodies.append(json.loads(body))
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.bodies, self.headers = bodies, headers
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?kiosk=1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*statuses: int, port: int = 0) -> Receiver:
        made.append(Receiver(*statuses, port=port))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


def numbers(receiver: Receiver) -> list[int]:
    assert {body["device"] for body in receiver.bodies} <= {"kiosk"}
    return [number(body["window"]) for body in receiver.bodies]


def test_windows_come_in_order_and_again_where_they_may(receivers: Callable[..., Receiver], impatient: None):
    metrics, receiver = Metrics(), receivers(503, 500, 429, 204, 503)
    hook = Webhook(receiver.url, name="kiosk", token="s" * 20, metrics=metrics)
    for i in range(4):
        hook.window(window(i))
        hook.state({"ready": True})
    wait(lambda: len(receiver.bodies) == 4)
    assert numbers(receiver) == [0, 1, 2, 3]
    assert count(metrics, "failures", "webhook") == 4
    assert count(metrics, "dropped", "webhook") == 0
    assert {h["authorization"] for h in receiver.headers} == {"Bearer " + "s" * 20}
    assert {h["content-type"] for h in receiver.headers} == {"application/json"}


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_what_is_refused_is_not_sent_again(receivers: Callable[..., Receiver], impatient: None, status: int):
    metrics, receiver = Metrics(), receivers(status)
    hook = Webhook(receiver.url, name="kiosk", token=None, metrics=metrics)
    for i in range(2):
        hook.window(window(i))
    wait(lambda: len(receiver.bodies) == 1)
    assert numbers(receiver) == [1]
    assert len(receiver.headers) == 2
    assert count(metrics, "dropped", "webhook") == 1
    assert "authorization" not in receiver.headers[0]


def test_one_window_that_the_receiver_cannot_take_does_not_hold_up_all(
    receivers: Callable[..., Receiver], impatient: None
):
    metrics, receiver = Metrics(), receivers(*[500] * 10)
    hook = Webhook(receiver.url, name="kiosk", token=None, metrics=metrics)
    for i in range(2):
        hook.window(window(i))
    wait(lambda: len(receiver.bodies) == 1)
    assert numbers(receiver) == [1]
    assert count(metrics, "dropped", "webhook") == 1


def test_a_receiver_that_is_away_gets_the_newest(receivers: Callable[..., Receiver], impatient: None):
    metrics, receiver = Metrics(), receivers()
    port = receiver.port
    receiver.close()
    hook = Webhook(receiver.url, name="kiosk", token=None, metrics=metrics)
    for i in range(130):
        hook.window(window(i))
    wait(lambda: count(metrics, "failures", "webhook") > 2)
    assert count(metrics, "dropped", "webhook") == 30
    again = receivers(port=port)
    wait(lambda: len(again.bodies) == 100)
    assert numbers(again) == list(range(30, 130))


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http://", "http://user:pw5@x/", "https://user@x/", "http://x:99999/", "http://x/a b", "x"]
)
def test_a_url_that_does_not_fit_is_refused_and_not_repeated(url: str):
    with pytest.raises(RequestError, match="--webhook: expected") as error:
        Webhook(url, name="kiosk", token=None, metrics=Metrics())
    assert "pw5" not in str(error.value)


# --- all of them ---


class Counts:
    """An audience whose windows end when they are put in."""

    def __init__(self) -> None:
        self.closed: list[dict[str, Any]] = []

    def roll(self, now: float) -> dict[str, Any] | None:
        return self.closed.pop(0) if self.closed else None


def state_of(audience: Counts | None = None) -> Any:
    supervisor = SimpleNamespace(state="ready", info={"bundle": "tiny"})
    return SimpleNamespace(supervisor=supervisor, camera=None, audience=audience, metrics=Metrics())


def test_every_window_reaches_every_outlet(tmp_path: Path, receivers: Callable[..., Receiver], impatient: None):
    receiver, path, audience = receivers(), tmp_path / "audience.jsonl", Counts()
    options = Options(window_log=str(path), webhook=receiver.url, mqtt_name="kiosk")

    async def run() -> None:
        outlets = Outlets(options, state_of(audience))
        task = asyncio.create_task(outlets.run())
        audience.closed += [window(1), window(2)]
        await asyncio.sleep(1.2)
        task.cancel()
        await outlets.close()

    asyncio.run(run())
    assert lines(path) == [window(1), window(2)]
    assert numbers(receiver) == [1, 2]


def keys(value: Any) -> Iterator[str]:
    """Of all objects in it."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from keys(part)


def test_a_window_is_of_nobody_in_particular(tmp_path: Path):
    """The audience's real windows, of people whose every value is one that occurs nowhere else."""
    at, path = [time.monotonic() - 1000], tmp_path / "audience.jsonl"
    characteristic = {"name": "Smiling", "phrase": "is smiling", "group": "expression", "region": "mouth"}
    facts = {"bundle_sha256": "0" * 64, "characteristics": [characteristic], "choices": []}
    audience = Audience(lambda: facts, clock=lambda: at[0])

    async def run() -> None:
        outlets = Outlets(Options(window_log=str(path)), state_of(audience))
        for i in range(15):
            at[0] += 30
            labels = {"Smiling": ("yes", 0.90123)}
            values = {"dwell_s": 7.5 + i, "attention_s": 3.25 * (i < 9), "glances": 77, "labels": labels}
            audience.left({"event": "left", "track": f"trackid{i}", "time": at[0], **values})
        at[0] = time.monotonic()
        task = asyncio.create_task(outlets.run())
        await asyncio.sleep(0.2)
        task.cancel()
        await outlets.close()

    asyncio.run(run())
    (found,) = lines(path)
    assert found["watchers"] == found["contents"]["none"]["watchers"] == 9
    assert not {"track", "tracks", "box", "id", "face", "glances", "jpeg", "labels"} & set(keys(found))
    text = path.read_text()
    assert not [x for x in ("trackid", "0.90123", "3.25", "77") if x in text]


def test_a_fault_in_the_figures_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, impatient: None):
    path, audience = tmp_path / "audience.jsonl", Counts()
    state = state_of(audience)

    async def run() -> None:
        outlets = Outlets(Options(window_log=str(path)), state)
        task = asyncio.create_task(outlets.run())
        audience.closed += [{"window_s": 900}, window(2)]
        await asyncio.sleep(1.2)
        assert not task.done()
        task.cancel()
        await outlets.close()

    asyncio.run(run())
    assert [number(x) for x in lines(path)] == [2]
    assert "outlets: KeyError at" in caplog.text


def test_files_of_secrets_are_read_with_care(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "token"
    for text in ("", "one\ntwo\n"):
        path.write_text(text)
        with pytest.raises(RequestError, match="expected one line"):
            Outlets(Options(webhook="http://127.0.0.1:9/", webhook_token_file=str(path)), state_of())
    path.write_text("geheim5\n")
    path.chmod(0o644)
    Outlets(Options(webhook="http://127.0.0.1:9/", webhook_token_file=str(path)), state_of())
    assert "chmod 600" in caplog.text
    assert "geheim5" not in caplog.text
    with pytest.raises(RequestError, match="cannot be read"):
        Outlets(Options(webhook="http://127.0.0.1:9/", webhook_token_file=str(tmp_path / "none")), state_of())


def test_options():
    assert gather({"mqtt_name": "kiosk-7_a"}, {"FACEINSIGHT_SERVE_WEBHOOK": "http://x/"}, None).webhook == "http://x/"
    for name in ("Kiosk", "a" * 33, "a/b", "+", ""):
        with pytest.raises(RequestError, match="mqtt_name"):
            gather({"mqtt_name": name}, {}, None)
    assert device_name() == device_name()
    assert set(device_name()) <= set("0123456789abcdef")


def test_series_are_there_from_the_start():
    metrics = Metrics()
    for outlet in OUTLETS:
        assert count(metrics, "dropped", outlet) == count(metrics, "failures", outlet) == 0


def test_a_server_without_mqtt_imports_no_paho():
    code = "import sys, faceinsight, faceinsight.server.run; assert not [m for m in sys.modules if 'paho' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_server_with_faulty_outlets_does_not_start(tiny_bundle: Path, tmp_path: Path):
    for options, text in (
        (("--window-log", str(tmp_path / "none" / "x")), "--window-log"),
        (("--webhook", "ftp://x"), "--webhook: expected"),
    ):
        with Serving(tmp_path, tiny_bundle, *options) as server:
            assert server.process.wait(30) == 1
            assert text in server.log.splitlines()[-1]


@pytest.mark.slow
def test_a_log_that_cannot_be_written_stops_no_server(tiny_bundle: Path, tmp_path: Path):
    folder = tmp_path / "usb"
    folder.mkdir()
    with Serving(tmp_path, tiny_bundle, "--window-log", str(folder / "audience.jsonl")) as server:
        server.wait_ready()
        folder.rmdir()
        assert server.get("/readyz").status_code == 200
        assert "closed audience windows" in server.get("/v1/privacy").json()["held"]["disk"]
        assert server.stop() == 0
