"""The client, against a real server."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO
from serving import Serving, no_face

from faceinsight import FaceInsight, RequestError
from faceinsight.client import Client, RemoteAnswer, ServerError, ServerNotReachedError

Q = "Is she wearing glasses?"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def client(server: Serving) -> Client:
    return Client(server.url)


def test_faces_are_the_librarys(client: Client, tiny: FaceInsight, tiny_face):
    (face,) = client.faces(PHOTO)
    assert face.box == pytest.approx(tiny_face.box)
    assert len(face.landmarks) == 5
    assert [(x.name, x.state, x.probability) for x in face.labels] == [
        (x.name, x.state, x.probability) for x in tiny_face.labels
    ]
    assert face.label("Smiling").phrase == tiny_face.label("Smiling").phrase
    assert face.label("Nothing") is None
    assert face.report["areas"] == pytest.approx(tiny.report(tiny_face).areas)
    for photo in (str(PHOTO), PHOTO.read_bytes(), io.BytesIO(PHOTO.read_bytes())):
        assert client.faces(photo)[0].id == face.id
    assert [x.name for x in client.faces(PHOTO, labels=["Smiling"])[0].labels] == ["Smiling"]
    assert client.faces(no_face()) == []


def test_answers_are_the_librarys(client: Client, tiny: FaceInsight, tiny_face):
    (face,) = client.faces(PHOTO)
    expected = tiny.ask(tiny_face, Q)
    answer = client.ask(face, Q)
    assert str(answer) == expected.text
    assert (answer.outcome, answer.finish_reason) == (expected.outcome, expected.finish_reason)
    assert [x.name for x in answer.labels] == ["Eyeglasses"]
    *pieces, last = client.stream(face.id, Q)
    assert isinstance(last, RemoteAnswer)
    assert "".join(pieces) == last.text == expected.text
    followed = tiny.ask(tiny_face, "And a hat?", after=Q).text
    assert client.ask(face, "And a hat?", after=Q).text == followed
    assert client.ask(face, "Who is smiling?", other=face).text
    assert client.ask(face, Q, max_tokens=2).finish_reason == "length"
    assert len(client.choose(face, [Q], ["Yes", "No", "Perhaps"])) == 1


def test_what_is_forgotten_is_an_error_with_a_code(client: Client):
    (face,) = client.faces(PHOTO)
    assert client.forget(face) == 1
    for call in (client.ask, lambda *a: list(client.stream(*a))):
        with pytest.raises(ServerError, match="send the picture again") as error:
            call(face, Q)
        assert (error.value.status, error.value.code, error.value.retry_after) == (404, "face_forgotten", None)
    client.faces(PHOTO)
    assert client.forget() == 1
    with pytest.raises(ServerError) as error:
        client.faces(b"no picture")
    assert error.value.code == "bad_image"


def test_what_the_server_says_of_itself(client: Client):
    assert client.is_ready()
    assert client.version()["bundle"] == "tiny"
    assert "Smiling" in client.report_schema()["properties"]
    assert client.privacy()["held"]["disk"] == "nothing"


def test_closing_a_stream_frees_the_worker(client: Client, server: Serving):
    (face,) = client.faces(PHOTO)
    before = server.metric("answers_total", finish="cancelled")
    os.kill(server.worker, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (server.worker, signal.SIGCONT)).start()
    stream = client.stream(face, "Describe this face.")
    next(stream)
    stream.close()
    assert client.ask(face, Q).text
    server.wait(lambda: server.metric("answers_total", finish="cancelled") >= before, 5)


def test_a_busy_server_is_asked_again(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--queue", "0") as server:
        server.wait_ready()
        os.kill(server.worker, signal.SIGSTOP)
        first = threading.Thread(target=Client(server.url).faces, args=(PHOTO,))
        first.start()
        time.sleep(0.3)
        with pytest.raises(ServerError) as error:
            Client(server.url, retries=0).faces(PHOTO)
        assert (error.value.code, error.value.status) == ("queue_full", 429)
        assert error.value.retry_after >= 1
        threading.Timer(0.3, os.kill, (server.worker, signal.SIGCONT)).start()
        assert len(Client(server.url).faces(PHOTO)) == 1
        first.join()


def test_a_unix_socket_and_a_token(tiny_bundle: Path, tmp_path: Path):
    path, token = tmp_path / "socket", tmp_path / "token"
    token.write_text("t" * 20)
    with Serving(tmp_path, tiny_bundle, "--unix", str(path), "--token-file", str(token)) as server:
        client = Client(f"unix:{path}", token="t" * 20)
        server.wait(client.is_ready)
        assert len(client.faces(PHOTO)) == 1
        with pytest.raises(ServerError) as error:
            Client(f"unix:{path}").faces(PHOTO)
        assert error.value.code == "invalid_api_key"


def test_nobody_there(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for address in (f"http://127.0.0.1:{port}", f"unix:{tmp_path}/none"):
            client = Client(address)
            assert not client.is_ready()
            with pytest.raises(ServerNotReachedError, match="does not answer"):
                client.version()
    for address in ("localhost:8080", "ftp://x", "http://", ""):
        with pytest.raises(RequestError, match="expected http"):
            Client(address)


def test_a_server_that_breaks_off():
    """Half an answer is an error, not half a result."""
    for answer in (
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{",
        b"junk\r\n\r\n",
        b"HTTP/1.1 502 X\r\n\r\n<html>",
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(listener=listener, answer=answer) -> None:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises((ServerNotReachedError, ServerError)):
                Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=5).version()
            thread.join()


def test_it_needs_nothing_but_python():
    code = "import faceinsight.client, sys; print({'numpy', 'cv2', 'starlette', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
