"""MQTT at a real broker: what Home Assistant finds there, whatever becomes of the broker or of the server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from paths import PHOTO

pytest.importorskip("starlette", reason="the extra server")
pytest.importorskip("paho.mqtt.enums", reason="the extra mqtt")
from serving import Serving, small_photo

from broker import DEVICE, MOSQUITTO, NAME, Mosquitto, Subscriber
from faceinsight.camera.capture import CameraStatus
from faceinsight.errors import DependencyError, RequestError
from faceinsight.server.metrics import Metrics
from faceinsight.server.outlets import mqtt as module
from faceinsight.server.outlets.mqtt import CAMERA_STATES, Mqtt, discovery, parse

SCHEMA = json.loads((PHOTO.parent / "home_assistant_mqtt.json").read_text())
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
PAUSE, WIPE = f"faceinsight/{NAME}/pause/set", f"faceinsight/{NAME}/wipe/set"
STATE = {"ready", "camera", "people", "watchers", "temperature", "bundle"}
FPS, SIZE = 10, (640, 512)


# --- what Home Assistant reads ---


def faults(message: dict[str, Any]) -> list[str]:
    """Keys that Home Assistant does not know, and such as it wants and does not find."""
    found = []
    parts = {"message": message, "device": message["device"], "origin": message["origin"]}
    parts |= {f"availability {i}": x for i, x in enumerate(message["availability"])}
    parts |= {f"component {name}": x for name, x in message["components"].items()}
    shared = {key for key in SCHEMA["shared"] if key in message}
    for where, part in parts.items():
        kind = where.partition(" ")[0]
        schema = SCHEMA["components"][part["platform"]] if kind == "component" else SCHEMA[kind]
        found += [f"{where}: {key} is unknown" for key in part.keys() - set(schema["accepted"])]
        missing = set(schema["required"]) - part.keys() - (shared if kind == "component" else set())
        found += [f"{where}: {key} is missing" for key in missing]
    return found


@pytest.mark.parametrize("camera", [True, False])
def test_home_assistant_knows_every_key(camera: bool):
    message = discovery(NAME, camera=camera, counts=camera)
    assert faults(message) == []
    names = {"ready", "temperature", "bundle", "wipe", *(("people", "watchers", "camera", "pause") if camera else ())}
    assert message["components"].keys() == names
    ids = [c["unique_id"] for c in message["components"].values()]
    assert len(set(ids)) == len(ids)
    # Its pattern of a discovery topic.
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", DEVICE["config"])


def test_a_wrong_key_is_caught():
    message = discovery(NAME, camera=True, counts=True)
    message["components"]["people"]["unit"] = "people"
    del message["components"]["wipe"]["command_topic"]
    message["origin"].pop("name")
    message["state_topics"] = message.pop("state_topic")
    assert set(faults(message)) >= {
        "component people: unit is unknown",
        "component wipe: command_topic is missing",
        "origin: name is missing",
        "message: state_topics is unknown",
        "component people: state_topic is missing",
    }


def test_home_assistant_knows_every_state_of_a_camera():
    """An enum sensor ignores others."""
    documented = CameraStatus.__doc__.partition("state:")[2].partition("reason:")[0]
    assert {*re.findall(r'"(\w+)"', documented), "waiting_for_consent"} == set(CAMERA_STATES)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mqtt://broker", ("broker", 1883, None, False)),
        ("mqtt://kiosk@broker:1884", ("broker", 1884, "kiosk", False)),
        ("mqtts://kiosk@[::1]", ("::1", 8883, "kiosk", True)),
    ],
)
def test_urls(url: str, found: tuple[Any, ...]):
    broker = parse(url)
    assert (broker.host, broker.port, broker.user, broker.tls) == found


@pytest.mark.parametrize(
    "url",
    [
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://u:geheim5@broker",
        "mqtt://b/t",
        "mqtt://b:0x",
        "mqtt://b?x",
        "mqtt://a..b",
    ],
)
def test_a_url_that_does_not_fit_is_refused_and_not_repeated(url: str):
    with pytest.raises(RequestError, match="--mqtt") as error:
        parse(url)
    assert "geheim5" not in str(error.value)


# --- a client alone ---


def client(url: str, **more: Any) -> Mqtt:
    settings = {"name": NAME, "password": None, "ca_file": None, "camera": True, "counts": True, "act": lambda _: None}
    return Mqtt(url, **{**settings, "metrics": Metrics(), **more})


@pytest.mark.parametrize(
    ("url", "more", "text"),
    [
        ("mqtt://b", {"password": "x"}, "--mqtt-password-file: expected a user"),
        ("mqtt://b", {"ca_file": "/x"}, "expected mqtts://"),
        ("mqtts://b", {"ca_file": "/none"}, "--mqtt-ca-file /none cannot be read"),
        ("mqtts://b", {"ca_file": __file__}, "--mqtt-ca-file"),
    ],
)
def test_options_that_do_not_fit_are_refused(url: str, more: dict[str, Any], text: str):
    async def run() -> None:
        client(url, **more)

    with pytest.raises(RequestError, match=text):
        asyncio.run(run())


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt.enums", None)

    async def run() -> None:
        client("mqtt://b")

    with pytest.raises(DependencyError, match=r"pip install 'paho-mqtt>=2\.0'"):
        asyncio.run(run())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path)
    made.start()
    yield made
    made.kill()


@needs_broker
def test_windows_wait_for_a_broker_but_not_all_of_them(tmp_path: Path):
    broker, metrics = Mosquitto(tmp_path), Metrics()

    async def run() -> None:
        mqtt = client(broker.url, metrics=metrics)
        await asyncio.sleep(0.1)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(1000):
            mqtt.window({"number": i, "text": "x" * 10_000})
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        # 100 of 10 kB, not 1,000.
        assert 0.5e6 < grown < 1.5e6
        dropped = metrics.registry.get_sample_value("faceinsight_outlet_dropped_total", {"outlet": "mqtt"})
        assert dropped == 900
        broker.start()
        subscriber = await asyncio.to_thread(Subscriber, broker)
        await asyncio.to_thread(subscriber.wait, lambda: len(subscriber.of("audience")) >= 100)
        await asyncio.sleep(0.5)
        assert [json.loads(x)["number"] for x in subscriber.of("audience")] == list(range(900, 1000))
        # Not retained: a new subscriber has none.
        assert not [m for m in subscriber.messages if m[0] == DEVICE["audience"] and m[2]]
        subscriber.close()
        await mqtt.close()

    try:
        asyncio.run(run())
    finally:
        broker.kill()


@needs_broker
def test_a_state_is_published_when_it_changes_and_once_a_minute(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REPEAT", 0.5)
    subscriber = Subscriber(broker)

    async def run() -> None:
        mqtt = client(broker.url)
        await asyncio.sleep(0.5)
        for _ in range(20):
            mqtt.state({"ready": True})
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
        mqtt.state({"ready": True})
        mqtt.state({"ready": False})
        await asyncio.sleep(0.3)
        await mqtt.close()

    asyncio.run(run())
    subscriber.wait(lambda: subscriber.of("availability")[-1:] == ["offline"])
    assert [json.loads(x)["ready"] for x in subscriber.of("state")] == [True, True, False]
    subscriber.close()


@needs_broker
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a_certificate_must_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certify = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*certify.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    broker = Mosquitto(tmp_path, listener=[f"certfile {cert}", f"keyfile {key}"])
    broker.start()
    connected = []

    async def run() -> None:
        for host, ca_file in (("localhost", str(cert)), ("localhost", None), ("127.0.0.1", str(cert))):
            metrics = Metrics()
            mqtt = client(f"mqtts://{host}:{broker.port}", ca_file=ca_file, metrics=metrics)
            await asyncio.sleep(1)
            connected.append(metrics.registry.get_sample_value("faceinsight_mqtt_connected"))
            await mqtt.close()

    try:
        asyncio.run(run())
    finally:
        broker.kill()
    assert connected == [1, 0, 0]
    assert caplog.text.count("cannot be reached, or its certificate does not fit") == 2


# --- a server ---


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody who stands there."""
    path = tmp_path_factory.mktemp("video") / "face.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, SIZE)
    photo, rng = cv2.imread(str(PHOTO)), np.random.default_rng(17)
    for _ in range(3 * FPS):
        frame = np.full((SIZE[1], SIZE[0], 3), 90, np.int16)
        frame[:, 64:576] = photo
        out.write(np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8))
    out.release()
    return path


@pytest.fixture
def start(tiny_bundle: Path, tmp_path: Path, video: Path) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def start(url: str, *options: str, camera: bool = True) -> Serving:
        watched = (
            ("--camera", f"file:{video}", "--camera-size", "640x512", "--camera-fps", str(FPS), "--audience")
            if camera
            else ()
        )
        made.append(Serving(tmp_path, tiny_bundle, "--mqtt", url, "--mqtt-name", NAME, *watched, *options))
        return made[-1]

    yield start
    for serving in made:
        serving.__exit__(None, None, None)


def last_state(subscriber: Subscriber) -> dict[str, Any]:
    found = subscriber.of("state")
    return json.loads(found[-1]) if found else {}


@needs_broker
@pytest.mark.slow
def test_a_device_appears_lives_and_leaves(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    server = start(broker.url)
    subscriber.wait(subscriber.has_device, 30)
    subscriber.wait(lambda: last_state(subscriber).get("people") == 1, 60)
    state = last_state(subscriber)
    assert state.keys() == STATE
    assert (state["ready"], state["camera"], state["bundle"]) == (True, "up", "tiny")
    assert state["watchers"] is None
    assert json.loads(subscriber.of("config")[-1]) == discovery(NAME, camera=True, counts=True)
    assert server.metric("mqtt_connected") == 1
    # Whoever comes later has it, too.
    later = Subscriber(broker)
    later.wait(later.has_device)
    assert all(retained for topic, _, retained in later.messages)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    subscriber.wait(lambda: subscriber.of("availability")[-1] == "offline")
    assert "Traceback" not in server.log
    for s in (subscriber, later):
        s.close()


@needs_broker
@pytest.mark.slow
def test_a_killed_server_is_offline(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    server = start(broker.url, camera=False)
    subscriber.wait(subscriber.has_device, 30)
    assert json.loads(subscriber.of("config")[-1]) == discovery(NAME, camera=False, counts=False)
    server.process.send_signal(signal.SIGKILL)
    assert subscriber.wait(lambda: subscriber.of("availability")[-1] == "offline") < 3
    subscriber.close()


@needs_broker
@pytest.mark.slow
def test_a_broker_that_forgot_everything_has_it_again(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    server = start(broker.url, camera=False)
    subscriber.wait(subscriber.has_device, 30)
    for away in (0.0, 4.0):
        broker.kill()
        server.wait(lambda: server.metric("mqtt_connected") == 0)
        time.sleep(away)
        broker.start()
        again = Subscriber(broker)
        assert again.wait(again.has_device) < 10
        again.close()
    assert server.get("/readyz").status_code == 200
    assert server.metric("outlet_failures_total", outlet="mqtt") > 0
    subscriber.close()


@needs_broker
@pytest.mark.slow
def test_home_assistants_start_is_answered(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    start(broker.url, camera=False)
    subscriber.wait(subscriber.has_device, 30)
    before = {name: len(subscriber.of(name)) for name in ("config", "availability")}
    for payload in ("offline", "online", "online"):
        subscriber.client.publish("homeassistant/status", payload)
    subscriber.wait(lambda: len(subscriber.of("config")) > before["config"], 7)
    time.sleep(0.5)
    # Once, though it was said twice.
    assert {name: len(subscriber.of(name)) for name in before} == {name: n + 1 for name, n in before.items()}
    subscriber.close()


@needs_broker
@pytest.mark.slow
def test_commands_do_what_they_say(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    server = start(broker.url)
    subscriber.wait(lambda: last_state(subscriber).get("people") == 1, 60)

    def send(topic: str, payload: str, retain: bool = False) -> None:
        subscriber.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    send(PAUSE, "ON")
    subscriber.wait(lambda: last_state(subscriber)["camera"] == "off")
    assert last_state(subscriber)["people"] is None
    assert server.get("/v1/camera").json()["state"] == "off"
    send(PAUSE, "OFF")
    subscriber.wait(lambda: last_state(subscriber)["people"] == 1)
    (face,) = server.post("/v1/faces", content=small_photo(), headers={"content-type": "image/jpeg"}).json()["faces"]
    ask = {"question": "Is she smiling?"}
    assert server.post(f"/v1/faces/{face['id']}/ask", json=ask).status_code == 200
    send(WIPE, "PRESS")
    server.wait(lambda: server.metric("mqtt_commands_total", command="wipe") == 1)
    server.wait(lambda: server.post(f"/v1/faces/{face['id']}/ask", json=ask).status_code == 404, 5)
    for topic, payload in ((PAUSE, "on"), (PAUSE, ""), (WIPE, "ON"), (PAUSE, "x" * 100_000), (WIPE, "\0")):
        send(topic, payload)
    server.wait(lambda: server.metric("mqtt_commands_total", command="ignored") == 5)
    # A retained command would come again with every connection.
    send(PAUSE, "ON", retain=True)
    server.wait(lambda: server.metric("mqtt_commands_total", command="pause") == 2)
    send(PAUSE, "OFF", retain=True)
    server.wait(lambda: server.metric("mqtt_commands_total", command="resume") == 2)
    assert server.stop() == 0
    commands = server.log.count("mqtt: pause")
    again = start(broker.url)
    again.wait(lambda: again.metric("mqtt_commands_total", command="ignored") == 1)
    assert again.metric("mqtt_commands_total", command="resume") == 0
    assert commands == 2
    subscriber.close()


@needs_broker
@pytest.mark.slow
def test_a_password_is_in_a_file_only(tmp_path: Path, start: Callable[..., Serving]):
    password = "geheim5-3f9a"
    broker = Mosquitto(tmp_path, {NAME: password, "home": "assistant"})
    broker.start()
    file = tmp_path / "password"
    url = broker.url.replace("//", f"//{NAME}@")
    try:
        file.write_text("wrong\n")
        file.chmod(0o600)
        server = start(url, "--mqtt-password-file", str(file), camera=False)
        server.wait_ready()
        server.wait(lambda: server.metric("outlet_failures_total", outlet="mqtt") >= 2)
        assert server.metric("mqtt_connected") == 0
        assert server.log.count("mqtt: the broker refuses: ") == 1
        assert server.stop() == 0
        file.write_text(password + "\n")
        server = start(url, "--mqtt-password-file", str(file), camera=False)
        subscriber = Subscriber(broker, "home", "assistant")
        subscriber.wait(subscriber.has_device, 30)
        processes = [Path(f"/proc/{pid}") for pid in (server.pid, server.worker)]
        assert all(password.encode() not in (p / "cmdline").read_bytes() for p in processes)
        assert password not in server.log
        assert not [m for m in subscriber.messages if password.encode() in m[1]]
        subscriber.close()
    finally:
        broker.kill()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1:9", "192.0.2.1", "no-such-host.invalid"])
def test_a_broker_that_cannot_be_reached_holds_up_nothing(start: Callable[..., Serving], host: str):
    server = start(f"mqtt://{host}", camera=False)
    server.wait_ready()
    assert (
        server.get("/v1/privacy")
        .json()["held"]["network"]
        .endswith("by mqtt the device's state and closed audience windows")
    )
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in server.log


@needs_broker
@pytest.mark.slow
def test_nothing_of_a_person_leaves(broker: Mosquitto, start: Callable[..., Serving]):
    subscriber = Subscriber(broker)
    server = start(broker.url)
    subscriber.wait(lambda: last_state(subscriber).get("people") == 1, 60)
    tracks: set[str] = set()
    until = time.monotonic() + 8
    with httpx.stream("GET", f"{server.url}/v1/camera/events", timeout=30) as stream:
        for line in stream.iter_lines():
            tracks |= set(re.findall(r'"track":"(\w+)"', line))
            if time.monotonic() > until:
                break
    assert tracks
    assert server.stop() == 0
    subscriber.wait(lambda: subscriber.of("availability")[-1] == "offline")
    config = json.dumps(discovery(NAME, camera=True, counts=True))
    for topic, payload, _ in subscriber.messages:
        text = payload.decode()
        assert topic in DEVICE.values()
        assert not [t for t in tracks if t in text]
        if topic == DEVICE["config"]:
            assert text == config
        elif topic == DEVICE["availability"]:
            assert text in ("online", "offline")
        else:
            assert topic == DEVICE["state"]
            state = json.loads(text)
            assert state.keys() == STATE
            assert state["camera"] in CAMERA_STATES
            assert state["people"] in (None, 0, 1)
            assert state["bundle"] in (None, "tiny")
            assert isinstance(state["ready"], bool)
            assert state["watchers"] is None
            assert state["temperature"] is None or isinstance(state["temperature"], int)
    subscriber.close()


@needs_broker
def test_a_lost_broker_is_said_once(broker: Mosquitto, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "faceinsight.server.outlets.mqtt")

    async def run() -> None:
        mqtt = client(broker.url)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(4)
        await mqtt.close()

    asyncio.run(run())
    found = [r.message.partition(":")[2].split(":")[0].strip() for r in caplog.records]
    assert found == ["connected", "disconnected", "the broker cannot be reached; tried again until it works"]
