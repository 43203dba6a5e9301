"""What leaves the device, and by which ways: its state, and closed audience windows. Never anything of one person."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ...errors import FaceInsightError, RequestError
from ...host.thermal import temperatures
from ..api.status import reasons
from ..errors import ApiError, where
from ..lane import SERVER
from ..metrics import OUTLETS
from ..options import Options
from ..security import read_secret
from ..state import State
from .mqtt import Mqtt
from .webhook import Webhook
from .window_log import WindowLog

log = logging.getLogger(__name__)

#: Seconds between two states, and between two looks at the thermometers.
TICK, HEAT = 0.5, 10.0
#: Commands from outside that may be under way.
MAX_COMMANDS = 8


class Outlet(Protocol):
    """A way out. Nothing of it waits for whoever is at the other end."""

    def window(self, window: Mapping[str, Any]) -> None:
        """A closed audience window."""

    def state(self, state: Mapping[str, Any]) -> None:
        """The device's state, twice a second."""

    async def close(self) -> None:
        """The server ends: a second is left."""


class Outlets:
    """Gathers state and windows, and gives them to every outlet."""

    def __init__(self, options: Options, state: State) -> None:
        """Raises RequestError or DependencyError where an outlet's options do not fit."""
        self._state = state
        self._commands: set[asyncio.Task[None]] = set()
        self._watchers: int | None = None
        self._temperature: float | None = None
        self._read_at = -HEAT
        self._outlets = self._build(options)
        state.outlets = tuple(name for name in OUTLETS if getattr(options, name))

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._outlets or self._state.audience:
            try:
                await self._tick(time.monotonic())
            except Exception as e:  # noqa: BLE001 -- figures must never end what they are about
                log.error("outlets: %s at %s", type(e).__name__, where(e))
            await asyncio.sleep(TICK)

    async def close(self) -> None:
        """The server ends."""
        await asyncio.gather(*(outlet.close() for outlet in self._outlets))

    async def _tick(self, now: float) -> None:
        audience = self._state.audience
        window = audience.roll(now) if audience else None
        if window is not None:
            # Of a closed window: a count that slides would tell of single persons by its steps.
            self._watchers = window["watchers"]
            for outlet in self._outlets:
                outlet.window(window)
        if self._outlets and now - self._read_at >= HEAT:
            self._read_at = now
            self._temperature = await asyncio.to_thread(_hottest)
        state = self._describe()
        for outlet in self._outlets:
            outlet.state(state)

    def _describe(self) -> dict[str, Any]:
        info, camera = self._state.supervisor.info, self._state.camera
        return {
            "ready": not reasons(self._state),
            "camera": camera.status["state"] if camera else None,
            "people": camera.people if camera else None,
            "watchers": self._watchers,
            "temperature": self._temperature,
            "bundle": info["bundle"] if info else None,
        }

    def _build(self, options: Options) -> list[Outlet]:
        metrics = self._state.metrics
        name = options.mqtt_name or device_name()
        outlets: list[Outlet] = []
        if options.window_log:
            outlets.append(WindowLog(Path(options.window_log), metrics))
        if options.webhook:
            token = _secret("--webhook-token-file", options.webhook_token_file)
            outlets.append(Webhook(options.webhook, name=name, token=token, metrics=metrics))
        if options.mqtt:
            mqtt = Mqtt(
                options.mqtt,
                name=name,
                password=_secret("--mqtt-password-file", options.mqtt_password_file),
                ca_file=options.mqtt_ca_file,
                counts=options.audience,
                camera=options.camera is not None,
                act=self._act,
                metrics=metrics,
            )
            outlets.append(mqtt)
        return outlets

    def _act(self, command: str) -> None:
        """Do what somebody outside wants, in order, and not too much of it at a time."""
        if len(self._commands) >= MAX_COMMANDS:
            log.warning("%s: ignored, %d commands are under way", command, MAX_COMMANDS)
            return
        task = asyncio.get_running_loop().create_task(self._perform(command))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _perform(self, command: str) -> None:
        camera = self._state.camera
        try:
            if command == "wipe":
                await (camera.forget_all() if camera else self._forget_photos())
            elif camera and command == "pause":
                await camera.stop()
            elif camera and command == "resume":
                await camera.start()
        except (FaceInsightError, ApiError) as e:
            log.warning("%s: %s", command, e)

    async def _forget_photos(self) -> None:
        async for event in self._state.supervisor.events("forget", {"face": None}, rank=SERVER):
            self._state.metrics.take(event)


def device_name() -> str:
    """A name of this device that stays, and does not tell its host's."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def _hottest() -> float | None:
    """Degrees Celsius, whole ones: others would be news twice a second. None where nothing can be read."""
    return max(map(round, temperatures().values()), default=None)


def _secret(option: str, path: str | None) -> str | None:
    """The line in a file. Raises RequestError."""
    if path is None:
        return None
    text = read_secret(option, Path(path))
    if not text or "\n" in text:
        raise RequestError(f"{option} {path}: expected one line")
    return text
