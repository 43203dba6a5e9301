"""How soon Home Assistant has a device back after its MQTT broker has died, and what waits while there is no broker.

    python benchmarks/speed/broker.py --out work/broker.json     (about five minutes; needs mosquitto and paho-mqtt)
    python benchmarks/speed/broker.py --out broker.json --kills 5

A mosquitto without persistence is killed in front of a running server, is away for 0 to 3 seconds, and starts again.
The time is from its start until another client, which subscribes to everything, has `online`, the discovery message
and the state.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from tqdm import tqdm

from faceinsight import __version__
from faceinsight.bench.state import machine
from faceinsight.server.metrics import Metrics
from faceinsight.server.outlets.mqtt import Mqtt
from serve import Server, serving

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NAME = "kiosk"
DEVICE = {
    "config": f"homeassistant/device/faceinsight_{NAME}/config",
    **{name: f"faceinsight/{NAME}/{name}" for name in ("availability", "state", "audience")},
}
#: Topics without which Home Assistant does not have the device.
NEEDED = ("config", "availability", "state")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """A broker at 127.0.0.1 that remembers nothing.

    users: names and passwords; none: everybody may come. listener: further lines of its configuration.
    """

    def __init__(self, folder: Path, users: dict[str, str] | None = None, listener: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", *listener, "persistence false", "user root"]
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{user}:{password}\n" for user, password in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines += ["allow_anonymous true"]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(MOSQUITTO), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class Subscriber:
    """Hears all that a broker has; `messages` are topic, payload and whether it was retained, as they came."""

    def __init__(self, broker: Mosquitto, user: str | None = None, password: str | None = None) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(user, password)
        self.client.on_message = lambda _client, _data, message: self.messages.append(
            (message.topic, bytes(message.payload), message.retain)
        )
        self._subscribed = False
        self.client.on_subscribe = self._on_subscribe
        self.client.connect("127.0.0.1", broker.port)
        self.client.subscribe("#", 1)
        self.client.loop_start()
        self.wait(lambda: self._subscribed)

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True

    def of(self, name: str) -> list[str]:
        """Payloads of one of the DEVICE's topics."""
        return [payload.decode() for topic, payload, _ in list(self.messages) if topic == DEVICE[name]]

    def has_device(self) -> bool:
        return all(map(self.of, NEEDED)) and self.of("availability")[-1] == "online"

    def wait(self, condition: Callable[[], bool], seconds: float = 15) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + seconds:
                raise TimeoutError(f"not within {seconds} s; heard {self.messages[-20:]}")
            time.sleep(0.01)
        return time.monotonic() - began

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def killed(broker: Mosquitto, server: Server, kills: int) -> dict[str, Any]:
    """The broker is killed and comes back, again and again."""
    rng = random.Random(17)
    seconds, resident = [], server.resident()["parent"]
    for _ in tqdm(range(kills), desc="kills"):
        broker.kill()
        time.sleep(rng.uniform(0, 3))
        broker.start()
        began = time.monotonic()
        subscriber = Subscriber(broker)
        subscriber.wait(subscriber.has_device)
        seconds.append(time.monotonic() - began)
        subscriber.close()
        # Connected for a while, as in life.
        time.sleep(0.5)
    p50, p90 = np.percentile(seconds, (50, 90))
    return {
        "kills": kills,
        "seconds": {"p50": round(p50, 2), "p90": round(p90, 2), "max": round(max(seconds), 2), "N": len(seconds)},
        "all": [round(s, 3) for s in seconds],
        "server's resident MB before and after": [resident, server.resident()["parent"]],
    }


def without_broker(broker: Mosquitto, windows: int) -> dict[str, Any]:
    """Windows that are published while nobody is there, and what arrives when somebody is."""

    async def run() -> dict[str, Any]:
        metrics = Metrics()
        client = Mqtt(
            broker.url,
            name=NAME,
            password=None,
            ca_file=None,
            camera=True,
            counts=True,
            act=lambda _: None,
            metrics=metrics,
        )
        await asyncio.sleep(0.2)
        tracemalloc.start()
        before, seconds = tracemalloc.get_traced_memory()[0], []
        for i in range(windows):
            began = time.perf_counter()
            client.window({"number": i, "text": "x" * 2000})
            seconds.append(time.perf_counter() - began)
            # Paho's thread has its turn.
            await asyncio.sleep(0)
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        broker.start()
        subscriber = await asyncio.to_thread(Subscriber, broker)
        client.state({"ready": True})
        await asyncio.to_thread(subscriber.wait, subscriber.has_device)
        await asyncio.sleep(1)
        numbers = [json.loads(text)["number"] for text in subscriber.of("audience")]
        subscriber.close()
        await client.close()
        return {
            "windows": windows,
            "held kB": round(held / 1e3),
            "publish p50, p99 ms": [round(float(np.percentile(seconds, p)) * 1e3, 3) for p in (50, 99)],
            "dropped": metrics.registry.get_sample_value("faceinsight_outlet_dropped_total", {"outlet": "mqtt"}),
            "arrived": len(numbers),
            "the newest, in order": numbers == list(range(windows - len(numbers), windows)),
        }

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if MOSQUITTO is None:
        raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        broker.start()
        try:
            with serving(args.bundle, "--mqtt", broker.url, "--mqtt-name", NAME) as server:
                back = killed(broker, server, args.kills)
            broker.kill()
            offline = without_broker(broker, args.windows)
        finally:
            broker.kill()
    version = subprocess.run([str(MOSQUITTO), "-h"], capture_output=True, text=True).stdout.partition("\n")[0]
    result = {
        "faceinsight": __version__,
        "machine": machine(),
        "cores": os.cpu_count(),
        "broker": version,
        "killed": back,
        "without a broker": offline,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
