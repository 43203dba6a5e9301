"""Ollama's API by Ollama's client, and by hand where it is about the bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
ollama = pytest.importorskip("ollama")
from serving import Serving, no_face, small_photo

from faceinsight import FaceInsight

Q = "Is she wearing glasses?"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--alias", "llava") as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture(scope="module")
def client(server: Serving):
    return ollama.Client(host=server.url)


def user(text: str, *images: bytes) -> dict:
    return {"role": "user", "content": text, "images": list(images)}


def test_models(client):
    assert [m.model for m in client.list().models] == ["faceinsight-tiny:latest", "llava:latest"]
    assert [m.model for m in client.ps().models] == ["faceinsight-tiny:latest"]
    shown = client.show("llava:latest")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo["faceinsight.context_length"] > 0
    with pytest.raises(ollama.ResponseError) as error:
        client.show("llama3")
    assert error.value.status_code == 404


def test_an_answer_is_the_librarys(client, tiny: FaceInsight):
    (face,) = tiny.perceive(small_photo())
    expected = tiny.ask(face, Q).text
    done = client.chat(model="llava:latest", messages=[user(Q, small_photo())])
    assert done.message.content == expected
    assert (done.model, done.message.role, done.done) == ("llava:latest", "assistant", True)
    assert done.done_reason in ("stop", "length")
    assert min(done.total_duration, done.prompt_eval_count, done.eval_count) > 0
    assert client.generate(model="faceinsight", prompt=Q, images=[small_photo()]).response == expected
    streamed = list(client.chat(model="faceinsight", messages=[user(Q, small_photo())], stream=True))
    assert "".join(part.message.content for part in streamed) == expected
    assert [part.done for part in streamed] == [False] * (len(streamed) - 1) + [True]
    streamed = list(client.generate(model="faceinsight", prompt=Q, images=[small_photo()], stream=True))
    assert "".join(part.response for part in streamed) == expected


def test_it_streams_lines_of_json_unless_told_otherwise(server: Serving):
    done = server.post("/api/chat", json={"model": "llava", "messages": [{"role": "user", "content": "Hi"}]})
    assert done.headers["content-type"] == "application/x-ndjson"
    first, last = (json.loads(line) for line in done.text.splitlines())
    assert first["message"] == {"role": "assistant", "content": "Send a picture of a face."}
    assert (first["done"], last["done"], last["message"]["content"]) == (False, True, "")
    assert done.text.endswith("}\n")
    whole = server.post("/api/generate", json={"model": "llava", "prompt": "Hi", "stream": False})
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["response"] == "Send a picture of a face."


def test_options(client):
    messages = [user(Q, small_photo())]
    done = client.chat(
        model="llava", messages=messages, options={"num_predict": 2, "num_ctx": 8192, "temperature": 0.5}
    )
    assert (done.eval_count, done.done_reason) == (2, "length")
    whole = client.chat(model="llava", messages=messages, options={"num_predict": -1}, keep_alive=-1, think=False)
    stop = whole.message.content[4:6]
    cut = client.chat(model="llava", messages=messages, options={"stop": [stop]}).message.content
    assert cut == whole.message.content[: whole.message.content.index(stop)].rstrip()


def test_json_is_filled(client):
    schema = {
        "type": "object",
        "properties": {"smiling": {"type": ["boolean", "null"]}, "face_count": {"type": "integer"}},
        "required": ["smiling", "face_count"],
    }
    for stream in (False, True):
        done = client.chat(model="llava", messages=[user("?", small_photo())], format=schema, stream=stream)
        text = "".join(p.message.content for p in done) if stream else done.message.content
        assert json.loads(text)["face_count"] == 1
    assert "faces" in json.loads(
        client.generate(model="llava", prompt="?", images=[small_photo()], format="json").response
    )
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="No face was found") as error:
            list(client.chat(model="llava", messages=[user("?", no_face())], format=schema, stream=stream))
        assert error.value.status_code == 422


def test_a_model_is_loaded_and_stays(client, server: Serving):
    assert client.generate(model="llava").done_reason == "load"
    assert client.chat(model="llava", messages=[], keep_alive=0).done_reason == "unload"
    assert client.chat(model="llava", messages=[user(Q, small_photo())]).message.content


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}, 404, "no such model"),
        ("/api/chat", {"messages": []}, 400, "model"),
        ("/api/chat", {"model": "llava", "messages": "x"}, 400, "messages"),
        ("/api/chat", {"model": "llava", "messages": [1]}, 400, "messages"),
        ("/api/chat", {"model": "llava", "messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ("/api/chat", {"model": "llava", "messages": [{"role": "user", "images": "x"}]}, 400, "images"),
        ("/api/chat", {"model": "llava", "messages": [{"role": "user", "images": ["@"]}]}, 400, "base64"),
        (
            "/api/chat",
            {"model": "llava", "messages": [{"role": "user", "content": "x"}], "format": "xml"},
            400,
            "format",
        ),
        ("/api/generate", {"model": "llava", "prompt": 3}, 400, "prompt"),
        ("/api/generate", {"model": "llava", "prompt": "x", "options": 3}, 400, "options"),
        ("/api/generate", {"model": "llava", "prompt": "x", "options": {"num_predict": -7}}, 400, "max_tokens"),
        ("/api/generate", {"model": "llava", "prompt": "x", "stream": 1}, 400, "stream"),
        ("/api/pull", {"model": "llama3"}, 403, "no network"),
        ("/api/push", {"model": "llama3"}, 403, "no network"),
        ("/api/embed", {"model": "llava", "input": "x"}, 404, "no such path"),
    ],
    ids=str,
)
def test_errors_are_in_ollamas_shape(server: Serving, path: str, body: dict, status: int, words: str):
    done = server.post(path, json=body)
    assert (done.status_code, list(done.json())) == (status, ["error"])
    assert words in done.json()["error"]
