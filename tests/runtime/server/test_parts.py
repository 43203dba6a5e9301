"""Parts of the server that need no running one."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from pathlib import Path

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")

from faceinsight.errors import RequestError
from faceinsight.server import protocol
from faceinsight.server.app import build
from faceinsight.server.errors import ApiError
from faceinsight.server.lane import BATCH, INTERACTIVE, SERVER, Lane
from faceinsight.server.metrics import Metrics
from faceinsight.server.options import Options, gather
from faceinsight.server.security import Gate
from faceinsight.server.state import State
from faceinsight.server.stops import StopCutter


@pytest.mark.parametrize("stops", [(), ("ab",), ("b", "abc"), ("ccc",), (" ",)])
def test_a_text_is_cut_alike_however_it_comes(stops: tuple[str, ...]):
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choice("abc ") for _ in range(rng.randrange(1, 20)))
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(6)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        cutter = StopCutter(stops)
        left = "".join(map(cutter.feed, parts)) + cutter.rest()
        whole = text.lstrip()
        ends = [(whole.find(s) + len(s), whole.find(s)) for s in stops if s in whole]
        assert left == cutter.text == (whole[: min(ends)[1]] if ends else whole).rstrip()


def test_frames_survive_any_split():
    frame = protocol.encode({"op": "x", "text": "\ud800ä"}, [b"", b"abc", bytes(1000)])

    async def read(step: int) -> protocol.Frame | None:
        reader = asyncio.StreamReader()
        for i in range(0, len(frame), step):
            reader.feed_data(frame[i : i + step])
        reader.feed_eof()
        return await protocol.read(reader)

    for step in (1, 7, 5000):
        found = asyncio.run(read(step))
        assert protocol.split(found) == [b"", b"abc", bytes(1000)]
        assert found[0]["text"] == "\ud800ä"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame)
        assert protocol.receive(theirs)[0]["op"] == "x"
        ours.sendall(b"\xff" * 8)
        with pytest.raises(protocol.FrameError):
            protocol.receive(theirs)
        ours.close()
        assert protocol.receive(theirs) is None


def test_the_lane_is_first_come_first_served():
    async def run() -> None:
        lane, order = Lane(3), []

        async def use(name: int) -> None:
            await lane.acquire()
            order.append(name)
            await asyncio.sleep(0.01)
            lane.release()

        tasks = [asyncio.create_task(use(i)) for i in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as error:
            await lane.acquire()
        assert error.value.status == 429
        assert error.value.retry_after >= 1
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert order == [0, 1, 3]
        assert lane.idle

    asyncio.run(run())


def test_batches_wait_for_all_others():
    async def run() -> None:
        lane, order = Lane(3), []

        async def use(name: str, rank: int) -> str:
            try:
                await lane.acquire(rank)
            except ApiError as e:
                return e.code
            order.append(name)
            await asyncio.sleep(0.01)
            lane.release()
            return "served"

        wanted = (("first", BATCH), ("batch 1", BATCH), ("batch 2", BATCH), ("a", INTERACTIVE), ("b", INTERACTIVE))
        tasks = []
        for name, rank in wanted:
            tasks.append(asyncio.create_task(use(name, rank)))
            await asyncio.sleep(0)
        # There was room for three: the last batch gave way, and another one is turned away.
        with pytest.raises(ApiError) as error:
            lane.require_room(BATCH)
        assert error.value.code == "queue_full"
        lane.require_room(INTERACTIVE)
        lane.require_room(SERVER)
        await lane.acquire(SERVER)
        order.append("server")
        lane.release()
        assert [await task for task in tasks] == ["served", "served", "queue_full", "served", "served"]
        assert order == ["first", "server", "a", "b", "batch 1"]
        assert lane.idle

    asyncio.run(run())


def test_a_turn_that_is_cancelled_as_it_comes_goes_to_the_next():
    async def run() -> None:
        lane = Lane(3)
        await lane.acquire()
        first, second = (asyncio.create_task(lane.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        lane.release()
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert first.cancelled() or await asyncio.wait([first])
        lane.release()
        assert lane.idle

    asyncio.run(run())


def test_options_come_from_four_places(tmp_path: Path):
    (tmp_path / "c.toml").write_text('port = 1\nalias = ["a"]\nqueue = 2\n')
    env = {"QUEUE": "3", "ALLOW": "age, race", "LOG_CONTENT": "true"}
    env = {f"FACEINSIGHT_SERVE_{name}": value for name, value in env.items()}
    found = gather({"queue": 4, "port": None}, env, tmp_path / "c.toml")
    assert found == Options(port=1, alias=("a",), queue=4, allow=("age", "race"), log_content=True)
    for env in ({"FACEINSIGHT_SERVE_PORT": "x"}, {"FACEINSIGHT_SERVE_LOG_CONTENT": "maybe"}):
        with pytest.raises(RequestError, match=next(iter(env))):
            gather({}, env, None)
    (tmp_path / "bad.toml").write_text("prot = 1\n")
    with pytest.raises(RequestError, match="prot"):
        gather({}, {}, tmp_path / "bad.toml")


def test_a_fault_of_ours_is_a_number(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """No text of an exception leaves, neither to the client nor into the log."""

    class Broken:
        @property
        def state(self) -> str:
            raise KeyError("a secret")

    door = build(State(Broken(), Metrics()), Gate(("localhost",), None))

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=door, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get("/readyz")

    done = asyncio.run(get())
    assert (done.status_code, done.json()["error"]["code"]) == (500, "internal")
    number = done.json()["error"]["message"].split()[-1].rstrip(".")
    assert f"error {number}: KeyError at" in caplog.text
    assert "secret" not in done.text + caplog.text


def test_heat_is_shown_where_it_can_be_read(tmp_path: Path):
    """Files that are missing, no numbers, or hang as FIFOs do: no series, and no waiting."""
    thermal = tmp_path / "sys/class/thermal"
    for i, (kind, temperature) in enumerate([("cpu-thermal", "51500"), ("gpu-thermal", "rubbish"), ("fifo", None)]):
        zone = thermal / f"thermal_zone{i}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind)
        if temperature:
            (zone / "temp").write_text(temperature)
        else:
            os.mkfifo(zone / "temp")
    cooling = thermal / "cooling_device0"
    cooling.mkdir()
    (cooling / "type").write_text("cpu-throttle-alert")
    metrics = Metrics()
    for level in ("0", "2"):
        (cooling / "cur_state").write_text(level)
        metrics.read_machine(tmp_path)
        text = metrics.text().decode()
        assert [x for x in text.splitlines() if x.startswith("faceinsight_temperature")] == [
            'faceinsight_temperature_celsius{zone="cpu-thermal"} 51.5'
        ]
        assert f"faceinsight_throttled {float(level != '0')}" in text
    metrics.read_machine(tmp_path / "nothing")
    assert 'zone="' not in metrics.text().decode()
