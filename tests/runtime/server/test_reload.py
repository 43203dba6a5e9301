"""SIGHUP: bundle, token and options anew, and no request fails meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import BODY, Serving

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Options in a file that a test may change."""
    path = tmp_path / "serve.toml"
    path.write_text('alias = ["one"]\n')
    return path


@pytest.fixture
def server(tiny_bundle: Path, tmp_path: Path, config: Path) -> Iterator[Serving]:
    with Serving(tmp_path, tiny_bundle, "--config", str(config)) as serving:
        serving.wait_ready()
        yield serving


def reload(server: Serving, result: str = "done") -> None:
    before = server.metric("reloads_total", result=result)
    server.process.send_signal(signal.SIGHUP)
    server.wait(lambda: server.metric("reloads_total", result=result) == before + 1)


def models(server: Serving) -> list[str]:
    return [m["id"] for m in server.get("/v1/models").json()["data"]]


def test_no_request_fails_while_workers_change(server: Serving):
    expected = server.chat(*BODY["messages"]).json()["choices"][0]["message"]["content"]
    ended, answers = threading.Event(), []

    def load() -> None:
        while not ended.is_set():
            answers.append(server.chat(*BODY["messages"]))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    workers = {server.worker}
    try:
        for _ in range(3):
            reload(server)
            workers.add(server.worker)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert len(workers) == 4
    assert {a.status_code for a in answers} == {200}
    assert {a.json()["choices"][0]["message"]["content"] for a in answers} == {expected}
    assert server.metric("worker_up") == 1
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert [int(c) for c in children] == [server.worker]


def test_options_are_read_anew(server: Serving, config: Path):
    face = server.post("/v1/faces", json={"image": BODY["messages"][0]["content"][1]["image_url"]["url"]})
    assert server.metric("face_cache_faces") == 1
    config.write_text('alias = ["two", "three"]\nqueue = 2\ndeny = ["expression"]\nhost = "127.0.0.9"\n')
    reload(server)
    assert models(server) == ["faceinsight-tiny", "two", "three"]
    assert server.metric("queue_limit") == 2
    assert "--host is read at the start only" in server.log
    # What the old worker held is gone, and counted.
    assert server.get("/v1/privacy").json()["counters"] == {"faces_found": 1, "faces_held": 0, "faces_wiped": 1}
    gone = server.post(f"/v1/faces/{face.json()['faces'][0]['id']}/ask", json={"question": "Is she smiling?"})
    assert gone.json()["error"]["code"] == "face_forgotten"


def test_what_does_not_fit_changes_nothing(server: Serving, config: Path, tmp_path: Path):
    worker = server.worker
    for text in ("queue = -1\n", "this is no TOML", f'token_file = "{tmp_path}/none"\n', 'allow = ["nothing"]\n'):
        config.write_text(text)
        reload(server, "failed")
        assert "not reloaded, all stays as it was" in server.log.splitlines()[-2] + server.log.splitlines()[-1]
        assert server.worker == worker
        assert models(server) == ["faceinsight-tiny", "one"]
        assert server.chat(*BODY["messages"]).status_code == 200


def test_a_bundle_that_does_not_load_is_refused_and_a_good_one_taken(tiny_bundle: Path, tmp_path: Path):
    folder, config = tmp_path / "current", tmp_path / "serve.toml"
    shutil.copytree(tiny_bundle, folder)
    config.write_text("")
    with Serving(tmp_path, folder, "--config", str(config)) as server:
        server.wait_ready()
        before = server.get("/version").json()["bundle_sha256"]
        graph = folder / "encoder.onnx"
        whole = graph.read_bytes()
        graph.write_bytes(whole[:-1])
        reload(server, "failed")
        assert server.chat(*BODY["messages"]).status_code == 200
        graph.write_bytes(whole)
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
        reload(server)
        assert server.get("/version").json()["bundle_sha256"] != before
        assert server.chat(*BODY["messages"]).status_code == 200


def test_a_token_is_changed(tiny_bundle: Path, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("a" * 20)
    token.chmod(0o600)
    with Serving(tmp_path, tiny_bundle, "--token-file", str(token)) as server:
        server.wait_ready()

        def status(key: str) -> int:
            return server.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

        assert (status("a" * 20), status("b" * 20)) == (200, 401)
        token.write_text("b" * 20)
        server.process.send_signal(signal.SIGHUP)
        server.wait(lambda: status("b" * 20) == 200)
        assert status("a" * 20) == 401


def test_a_reload_ends_the_wait_after_too_many_deaths(server: Serving):
    for _ in range(5):
        server.wait_ready(20)
        pid = server.worker
        os.kill(pid, signal.SIGKILL)
        server.wait(lambda pid=pid: server.worker != pid, 10)
    server.wait(lambda: server.metric("degraded_level") == 1, 10)
    server.process.send_signal(signal.SIGHUP)
    assert server.wait_ready(20) < 20
    assert server.chat(*BODY["messages"]).status_code == 200
