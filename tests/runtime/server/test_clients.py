"""What real clients send (tests/data/clients), as they send it: each request gets the status that its client expects,
and an answer that has what it reads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving, small_photo

CLIENTS = sorted((Path(__file__).parents[2] / "data" / "clients").glob("*.json"))
REQUESTS = [
    pytest.param(request, id=f"{path.stem}: {request['name']}")
    for path in CLIENTS
    for request in json.loads(path.read_text())["requests"]
]
#: Paths that clients read where they are there; their absence is nothing to them.
OPTIONAL = (
    "aliases", "N.status", "reasoning_content", "thinking", "tool_calls", "parsed", "timings", "usage", "error",
    "expires_at", "data.N.name", "logprobs", "refusal",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--alias", "MODEL") as serving:
        serving.wait_ready()
        yield serving


def filled(value: Any) -> Any:
    """A body with its picture."""
    if isinstance(value, str):
        return value.replace("IMAGE_BASE64", base64.b64encode(small_photo()).decode())
    if isinstance(value, list):
        return [filled(x) for x in value]
    return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else value


def send(server: Serving, request: dict[str, Any]) -> httpx.Response:
    body = request["body"]
    content = None if body is None else small_photo() if body == "IMAGE_BYTES" else filled(body)
    if not isinstance(content, (bytes, type(None))):
        content = json.dumps(content).encode()
    # As it is: httpx adds no content type to bytes.
    with httpx.Client(timeout=60) as http:
        return http.send(
            httpx.Request(request["method"], server.url + request["path"], headers=request["headers"], content=content)
        )


def parts(done: httpx.Response) -> list[Any]:
    """The JSON values of an answer: one, or all of a stream."""
    kind = done.headers["content-type"]
    if kind.startswith("text/event-stream"):
        lines = [x.removeprefix("data: ") for x in done.text.splitlines() if x.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]
    return [json.loads(line) for line in done.text.splitlines()] if "ndjson" in kind else [done.json()]


def has(value: Any, path: str) -> bool:
    """Is there a value at a path like "choices.0.message.content"?"""
    for key in path.split("."):
        if isinstance(value, list):
            if not value:
                return False
            value = value[0]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return False
    return True


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_client_gets_what_it_reads(server: Serving, request_: dict[str, Any]):
    done, expected = send(server, request_), request_["expect"]
    assert done.status_code == expected["status"], done.text[:300]
    found = parts(done)
    assert (len(found) > 1) is expected["stream"]
    assert (done.status_code != 200) is ("error" in found[0])
    for path in expected["reads"] if done.status_code == 200 else ():
        if not any(word in path for word in OPTIONAL):
            assert any(has(part, path) for part in found), path


def test_nine_clients_are_there():
    assert len(CLIENTS) == 9
    assert len(REQUESTS) > 100


def by_name(client: str, name: str) -> dict[str, Any]:
    (path,) = [p for p in CLIENTS if p.stem == client]
    (found,) = [r for r in json.loads(path.read_text())["requests"] if r["name"] == name]
    return found


@pytest.mark.parametrize(
    ("client", "name", "labels"),
    [
        ("open_webui", "chat with a picture, streamed", ["Smiling"]),
        ("ha_llmvision", "Custom OpenAI: three frames", ["Smiling"]),
        ("ha_llmvision", "Ollama: three frames", ["Smiling"]),
        ("node_red", "a picture", None),
    ],
)
def test_what_is_answered_is_the_question(server: Serving, client: str, name: str, labels: list[str] | None):
    """Not a caption, a system prompt or the name of a picture."""
    last = parts(send(server, by_name(client, name)))[-1]["faceinsight"]
    assert last["finish"] not in ("no_image", "no_face")
    assert labels is None or [x["name"] for x in last["labels"]] == labels
    frames = json.dumps(by_name(client, name)["body"]).count("IMAGE_BASE64")
    assert sum(x.startswith("image") for x in last["ignored"]) == (frames - 1 if frames > 2 else 0)


def test_home_assistants_structure_is_filled(server: Serving):
    request = by_name("home_assistant_ollama", "AI task with a camera and a structure")
    text = "".join(part["message"]["content"] for part in parts(send(server, request)))
    schema, found = request["body"]["format"], json.loads(text)
    assert set(schema.get("required", ())) <= set(found) <= set(schema["properties"])
    assert found["wearing_glasses"] in schema["properties"]["wearing_glasses"]["enum"]
