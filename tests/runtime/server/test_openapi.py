"""/openapi.json, and requests made from it by schemathesis."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving, data_uri, user

from faceinsight.server.app import ROUTES


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--alias", "gpt-4o-mini") as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture(scope="module")
def document(server: Serving) -> dict:
    return server.get("/openapi.json").json()


def body_of(document: dict, path: str) -> dict:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_every_route_is_there_with_a_sentence(document: dict):
    described = {(m.upper(), p): o for p, ops in document["paths"].items() for m, o in ops.items()}
    known = {(m, path.replace(":path", "")) for methods, path, _ in ROUTES for m in methods.split()}
    assert set(described) == known
    assert all(
        len(o["summary"]) > 10 and not o["summary"].startswith(("GET", "POST", "Partial")) for o in described.values()
    )
    assert {p["name"] for p in described["POST", "/v1/faces/{id}/ask"]["parameters"]} == {"id"}


def test_what_the_schemas_say_is_what_is_read(server: Serving, document: dict):
    """Bodies that fit are answered, those that do not are refused."""
    chat = body_of(document, "/v1/chat/completions")
    jsonschema.Draft202012Validator.check_schema(chat)
    assert chat["properties"]["model"] == {"enum": ["faceinsight", "faceinsight-tiny", "gpt-4o-mini"]}
    good = {"model": "gpt-4o-mini", "messages": [user("Hm", data_uri())], "max_tokens": 2, "temperature": 0.5}
    for change, fits in (
        ({}, True),
        ({"stop": ["a", "b"], "n": 1, "unknown": [1]}, True),
        ({"max_tokens": 0}, False),
        ({"temperature": 3}, False),
        ({"top_logprobs": 9, "logprobs": True}, False),
        ({"stop": [""]}, False),
        ({"n": 2}, False),
        ({"messages": []}, False),
        ({"messages": [user("Hm", "https://example.org/a.png")]}, False),
        ({"messages": [{"role": "tool", "content": "x"}]}, False),
        ({"faceinsight": {"fase": 1}}, False),
    ):
        body = good | change
        assert jsonschema.Draft202012Validator(chat).is_valid(body) is fits, change
        assert (server.post("/v1/chat/completions", json=body).status_code == 200) is fits, change
    ask = body_of(document, "/v1/faces/{id}/ask")
    assert ask["required"] == ["question"]
    assert not jsonschema.Draft202012Validator(ask).is_valid({"question": "x", "stroem": True})


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("schemathesis", path=Path(sys.executable).parent), reason="schemathesis is not installed"
)
def test_requests_made_from_it_never_fail_the_server(server: Serving, tmp_path: Path):
    worker = server.worker
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        f"{server.url}/openapi.json",
        "--max-examples",
        "40",
    ]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [*command, "--phases", "examples,coverage,fuzzing", "--checks", checks, "--suppress-health-check", "all"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) generated, \1 passed", done.stdout)[1])
    assert passed > 800
    assert server.worker == worker
