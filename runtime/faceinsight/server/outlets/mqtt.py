"""MQTT: the device's state and closed audience windows to a broker, and Home Assistant's discovery of it.

Topics: homeassistant/device/faceinsight_NAME/config, faceinsight/NAME/{availability,state,audience,pause/set,wipe/set}.
The keys of the discovery message are those of Home Assistant's components/mqtt/schemas.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..._version import __version__
from ...errors import DependencyError, RequestError
from ..metrics import Metrics
from .channel import CLOSING, LIMIT

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

INSTALL = "pip install 'paho-mqtt>=2.0'"
#: Seconds without a message after which broker and client ask for a sign of life; between two tries to connect, at
#: first and at most; after which a state is published that has not changed.
KEEPALIVE, SHORTEST, LONGEST, REPEAT = 30, 1, 4, 60.0
#: Home Assistant says here that it has started, and wants to be told again of all devices, not by all at once.
BIRTH, BIRTH_SECONDS = "homeassistant/status", 5.0
#: States of a camera; Home Assistant takes no others.
CAMERA_STATES = ("starting", "up", "dark", "frozen", "down", "ended", "off", "waiting_for_consent")
#: What paho returns where it takes no message more.
_QUEUE_FULL = 15
_URL = "--mqtt: expected mqtt://[user@]host[:1883] or mqtts://[user@]host[:8883]"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is. tls: is the connection encrypted?"""

    host: str
    port: int
    user: str | None
    tls: bool


def parse(text: str) -> Broker:
    """A broker's URL. Raises RequestError, which does not repeat it: it may hold a password."""
    try:
        url = urlsplit(text)
        port, user, password = url.port, url.username, url.password
        # Paho's thread would end with a name that cannot be one.
        (url.hostname or "").encode("idna")
    except ValueError as e:
        raise RequestError(f"{_URL}: {e}") from None
    if password is not None:
        raise RequestError("--mqtt: a password in a URL can be read by others; put it into --mqtt-password-file")
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or url.path.strip("/") or url.query or url.fragment:
        raise RequestError(_URL)
    tls = url.scheme == "mqtts"
    return Broker(url.hostname, port or (8883 if tls else 1883), user or None, tls)


def discovery(name: str, *, camera: bool, counts: bool) -> dict[str, Any]:
    """Home Assistant's discovery message of a device with this name. camera: does it have one? counts: of people?"""
    topic = f"faceinsight/{name}"

    def component(platform: str, key: str, text: str, **more: str | list[str]) -> dict[str, Any]:
        return {"platform": platform, "unique_id": f"faceinsight_{name}_{key}", "name": text, **more}

    def sensor(key: str, text: str, **more: str | list[str]) -> dict[str, Any]:
        # null becomes "None", which Home Assistant reads as unknown.
        return component("sensor", key, text, value_template=f"{{{{ value_json.{key} }}}}", **more)

    ready = "{{ 'ON' if value_json.ready else 'OFF' }}"
    heat = {"device_class": "temperature", "unit_of_measurement": "°C", "state_class": "measurement"}
    components = {
        "ready": component("binary_sensor", "ready", "Ready", device_class="connectivity", value_template=ready),
        "temperature": sensor("temperature", "Temperature", **heat, entity_category="diagnostic"),
        "bundle": sensor("bundle", "Bundle", entity_category="diagnostic"),
        "wipe": component("button", "wipe", "Forget all faces", command_topic=f"{topic}/wipe/set"),
    }
    if camera:
        paused = "{{ 'ON' if value_json.camera == 'off' else 'OFF' }}"
        components |= {
            "people": sensor("people", "People now", state_class="measurement"),
            "camera": sensor("camera", "Camera", device_class="enum", options=list(CAMERA_STATES)),
            "pause": component("switch", "pause", "Pause", command_topic=f"{topic}/pause/set", value_template=paused),
        }
    if counts:
        watchers = sensor("watchers", "Watchers in the last window", state_class="measurement")
        components["watchers"] = watchers
    return {
        "device": {
            "identifiers": [f"faceinsight_{name}"],
            "name": f"FaceInsight {name}",
            "model": "FaceInsight",
            "sw_version": __version__,
        },
        "origin": {"name": "faceinsight", "sw_version": __version__},
        "availability": [{"topic": f"{topic}/availability"}],
        "state_topic": f"{topic}/state",
        "components": components,
    }


class Mqtt:
    """A client of one broker.

    Paho's thread has the network; what happens there is handed to the event loop, where all else runs. A broker that
    cannot be reached is tried again and again, and nobody waits for it.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        password: str | None,
        ca_file: str | None,
        camera: bool,
        counts: bool,
        act: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        """Begin to connect; an event loop runs.

        Args:
            url: mqtt://[user@]host[:port], or mqtts.
            name: of this device at the broker.
            password: of the user.
            ca_file: certificates that the broker's is signed by; None: those of the system.
            camera: is there one?
            counts: are people counted?
            act: called with "pause", "resume" or "wipe" where somebody at the broker wants it.
            metrics: count.

        Raises:
            RequestError: the URL, the password or the certificates do not fit.
            DependencyError: paho-mqtt is missing.
        """
        broker = parse(url)
        self._topic, self._config = f"faceinsight/{name}", json.dumps(discovery(name, camera=camera, counts=counts))
        self._config_topic = f"homeassistant/device/faceinsight_{name}/config"
        self._commands = {(f"{self._topic}/wipe/set", b"PRESS"): "wipe"}
        if camera:
            self._commands |= {(f"{self._topic}/pause/set", b"ON"): "pause"}
            self._commands |= {(f"{self._topic}/pause/set", b"OFF"): "resume"}
        self._act, self._metrics = act, metrics
        self._loop = asyncio.get_running_loop()
        self._windows: deque[str] = deque()
        self._state, self._published = "", 0.0
        self._online, self._failure, self._availability = False, "", "online"
        self._birth: asyncio.TimerHandle | None = None
        self._client = _client(broker, f"faceinsight_{name}", password, ca_file)
        self._client.will_set(f"{self._topic}/availability", "offline", qos=1, retain=True)
        self._listen(tls=broker.tls)
        self._client.connect_async(broker.host, broker.port, keepalive=KEEPALIVE)
        self._client.loop_start()

    def state(self, state: Mapping[str, Any]) -> None:
        """Is published where it has changed, and once a minute."""
        text, now = json.dumps(state), time.monotonic()
        if text != self._state or now - self._published >= REPEAT:
            self._state, self._published = text, now
            self._publish("state", text)
        self._send_windows()

    def window(self, window: Mapping[str, Any]) -> None:
        """Is published once the broker is there; while it is not, the newest LIMIT wait."""
        if len(self._windows) >= LIMIT:
            self._windows.popleft()
            self._metrics.outlet_dropped.labels("mqtt").inc()
        self._windows.append(json.dumps(window))
        self._send_windows()

    async def close(self) -> None:
        """Say that the device is offline, and leave."""
        if self._birth:
            self._birth.cancel()
        self._online, self._availability = False, "offline"
        said = self._client.publish(f"{self._topic}/availability", "offline", qos=1, retain=True)
        until = time.monotonic() + CLOSING
        while said.rc == 0 and not said.is_published() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self._client.disconnect()
        # Paho's thread ends by itself; one that waits for a dead broker is not waited for.
        while self._client.is_connected() and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def _listen(self, *, tls: bool) -> None:
        """Have the event loop do what paho's thread learns."""

        def later(call: Callable[..., None], *arguments: object) -> None:
            # At the end of the server the loop may be gone before paho's thread is.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *arguments)

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
            later(*((self._failed, f"refuses: {reason}") if reason.is_failure else (self._connected,)))

        def on_connect_fail(_client: Any, _data: Any) -> None:
            later(self._failed, f"cannot be reached{', or its certificate does not fit' if tls else ''}")

        def on_disconnect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
            later(self._disconnected, str(reason))

        def on_message(_client: Any, _data: Any, message: MQTTMessage) -> None:
            later(self._received, message.topic, bytes(message.payload), message.retain)

        self._client.on_connect, self._client.on_connect_fail = on_connect, on_connect_fail
        self._client.on_disconnect, self._client.on_message = on_disconnect, on_message

    def _connected(self) -> None:
        log.info("mqtt: connected")
        self._online, self._failure = True, ""
        self._metrics.mqtt_connected.set(1)
        topics = sorted({topic for topic, _ in self._commands})
        self._client.subscribe([*((topic, 1) for topic in topics), (BIRTH, 0)])
        self._announce()
        self._send_windows()

    def _failed(self, reason: str) -> None:
        """Once a reason in the log: it is tried again every few seconds."""
        self._metrics.outlet_failures.labels("mqtt").inc()
        if reason != self._failure:
            log.warning("mqtt: the broker %s; tried again until it works", reason)
        self._failure = reason

    def _disconnected(self, reason: str) -> None:
        self._metrics.mqtt_connected.set(0)
        if self._online:
            log.warning("mqtt: disconnected: %s", reason)
        self._online = False

    def _announce(self) -> None:
        """What a broker that forgets, or a new listener, must know."""
        self._birth = None
        self._client.publish(self._config_topic, self._config, retain=True)
        self._publish("availability", self._availability)
        if self._state:
            self._publish("state", self._state)

    def _publish(self, name: str, text: str) -> None:
        """Retained. Not at QoS 1: paho would send what has waited after a newer one."""
        self._client.publish(f"{self._topic}/{name}", text, retain=True)

    def _send_windows(self) -> None:
        while self._windows and self._client.is_connected():
            if self._client.publish(f"{self._topic}/audience", self._windows[0], qos=1).rc == _QUEUE_FULL:
                return
            self._windows.popleft()

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:
        """A command, or Home Assistant's birth."""
        if topic == BIRTH:
            if payload == b"online" and self._birth is None:
                self._birth = self._loop.call_later(random.uniform(0, BIRTH_SECONDS), self._announce)
            return
        # A retained command would come again with each connection.
        command = None if retained else self._commands.get((topic, payload))
        self._metrics.mqtt_commands.labels(command or "ignored").inc()
        if command:
            log.info("mqtt: %s", command)
            self._act(command)


def _client(broker: Broker, name: str, password: str | None, ca_file: str | None) -> Client:
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
    except ImportError as e:
        raise DependencyError(f"--mqtt needs paho-mqtt 2: {INSTALL}") from e
    if password is not None and broker.user is None:
        raise RequestError("--mqtt-password-file: expected a user too (mqtt://USER@host), found none")
    if ca_file is not None and not broker.tls:
        raise RequestError("--mqtt-ca-file: expected mqtts://, found mqtt://, which is not encrypted")
    client = Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.username_pw_set(broker.user, password)
    if broker.tls:
        try:
            client.tls_set(ca_certs=ca_file)
        except OSError as e:
            raise RequestError(f"--mqtt-ca-file {ca_file} cannot be read: {e.strerror or e}") from None
    client.reconnect_delay_set(SHORTEST, LONGEST)
    client.max_queued_messages_set(LIMIT)
    client.connect_timeout = 5.0
    return client
