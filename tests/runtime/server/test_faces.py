"""The native API, and what the server says of itself."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest

pytest.importorskip("starlette", reason="the extra server")
from paths import PHOTO
from serving import Serving, data_uri, no_face, small_photo, user

from faceinsight import FaceInsight

Q = "Is she wearing glasses?"
PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--forget-after", "5") as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def face(server: Serving) -> str:
    return server.post("/v1/faces", content=PHOTO.read_bytes(), headers=PNG).json()["faces"][0]["id"]


def test_a_report_is_the_librarys(server: Serving, tiny: FaceInsight, tiny_face):
    report = json.loads(json.dumps(tiny.report(tiny_face).to_dict()))
    done = server.post("/v1/faces", content=PHOTO.read_bytes(), headers=PNG).json()
    (found,) = done["faces"]
    assert found["labels"] == report["labels"]
    assert found["box"] == pytest.approx(report["box"])
    assert len(found["landmarks"]) == 5
    assert done["image"] == {"width": 512, "height": 512}
    assert done["bundle"]["name"] == "tiny"
    as_json = server.post("/v1/faces", json={"image": data_uri(PHOTO.read_bytes()), "labels": ["Smiling"]}).json()
    assert [x["name"] for x in as_json["faces"][0]["labels"]] == ["Smiling"]
    assert as_json["faces"][0]["id"] == found["id"]
    assert server.post("/v1/faces", content=no_face(), headers=PNG).json()["faces"] == []


def test_questions_about_a_face(server: Serving, face: str, tiny: FaceInsight, tiny_face):
    expected = tiny.ask(tiny_face, Q)
    done = server.post(f"/v1/faces/{face}/ask", json={"question": Q}).json()
    assert done["text"] == expected.text
    assert done["labels"][0]["name"] == "Eyeglasses"
    events = server.post(f"/v1/faces/{face}/ask", json={"question": Q, "stream": True}).text.split("\n\n")[:-1]
    parts = [json.loads(e.removeprefix("data: ")) for e in events]
    assert "".join(p.get("text", "") for p in parts) == expected.text
    assert parts[-1]["answer"]["finish_reason"] == expected.finish_reason
    follow = server.post(f"/v1/faces/{face}/ask", json={"question": "And a hat?", "after": Q}).json()
    assert follow["text"] == tiny.ask(tiny_face, "And a hat?", after=Q).text
    two = server.post(f"/v1/faces/{face}/ask", json={"question": Q, "other": face}).json()
    assert len(two["faces"]) == 2
    scores = tiny.choose(tiny_face, [Q])
    chosen = server.post(f"/v1/faces/{face}/choose", json={"questions": [Q]}).json()["choices"]
    assert chosen[0]["probabilities"] == pytest.approx(scores[0].probabilities)
    gender = server.post(f"/v1/faces/{face}/choose", json={"questions": ["Is this a woman?"]})
    assert (gender.status_code, gender.json()["error"]["code"]) == (403, "policy")


@pytest.mark.slow
def test_a_face_is_wiped_when_asked_to_and_when_nobody_asks(server: Serving, face: str):
    assert server.metric("face_cache_faces") >= 1
    assert httpx.delete(f"{server.url}/v1/faces/{face}").json() == {"wiped": 1}
    gone = server.post(f"/v1/faces/{face}/ask", json={"question": Q})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "face_forgotten")
    server.post("/v1/faces", content=small_photo(), headers=JPEG)
    assert httpx.delete(f"{server.url}/v1/faces").json()["wiped"] >= 1
    found = server.post("/v1/faces", content=small_photo(), headers=JPEG).json()["faces"][0]["id"]
    assert server.metric("face_cache_faces") == 1
    time.sleep(5)
    # Nobody asks meanwhile: the worker wipes by itself, and says so.
    server.wait(lambda: server.metric("face_cache_faces") == 0, 10)
    assert server.metric("face_wipes_total", reason="expired") >= 1
    assert server.post(f"/v1/faces/{found}/ask", json={"question": Q}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/faces", {"image": "x"}, 400, "unsupported_image_url", "image"),
        ("/v1/faces", {}, 400, "missing_field", None),
        ("/v1/faces", {"image": 5}, 400, "invalid_value", "image"),
        ("/v1/faces", {"image": data_uri(), "labels": ["Nobody"]}, 400, "label_unknown", "labels"),
        ("/v1/faces/0/ask", {"question": "Hm"}, 404, "face_forgotten", None),
        ("/v1/faces/0/ask", {"question": " "}, 400, "missing_field", "question"),
        ("/v1/faces/0/ask", {"question": 3}, 400, "invalid_value", "question"),
        ("/v1/faces/0/ask", {"question": "Hm", "fast": 1}, 400, "invalid_value", None),
        ("/v1/faces/0/ask", {"question": "Hm", "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ("/v1/faces/0/choose", {"questions": []}, 400, "too_many", "questions"),
        ("/v1/embeddings", {}, 404, "unknown_path", None),
        ("/v1/models", {}, 405, "method_not_allowed", None),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(server: Serving, path: str, body: dict, status: int, code: str, param: str | None):
    done = server.post(path, json=body)
    error = done.json()["error"]
    assert (done.status_code, error["code"], error["param"]) == (status, code, param)
    assert done.headers["x-should-retry"] == "false"


def test_image_traps(server: Serving):
    """No picture ends the worker: a bomb, an empty one, shapes that stand on their edge."""

    def png(width: int, height: int, data: bytes) -> bytes:
        def chunk(name: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    def flat(width: int, height: int) -> bytes:
        return png(width, height, zlib.compress((b"\0" + bytes(3 * width)) * height))

    bomb = png(64, 64, b"")[:-24] + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + bytes(8)
    pid = server.worker
    for data in (b"", bomb, b"GIF89a" + bytes(40), png(40_000, 40_000, b"x"), small_photo()[:500]):
        done = server.post("/v1/faces", content=data, headers=PNG)
        assert done.status_code == 400, done.text
        assert "cv2" not in done.text
        assert "OpenCV" not in done.text
    for shape in ((1, 1), (1, 5000), (5000, 1), (3, 64), (64, 3)):
        assert server.post("/v1/faces", content=flat(*shape), headers=PNG).json()["faces"] == []
    assert server.post("/v1/faces", content=b"x", headers={"content-type": "text/html"}).status_code == 415
    assert server.worker == pid


def test_too_large_a_body_is_refused_before_it_is_read(server: Serving):
    began = time.monotonic()
    done = server.post("/v1/faces", content=bytes(25_000_000), headers=PNG)
    assert (done.status_code, done.json()["error"]["code"]) == (413, "too_large")
    assert time.monotonic() - began < 5

    def chunked() -> Iterator[bytes]:
        for _ in range(30):
            yield bytes(1_000_000)

    # The connection may close while the client still sends.
    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):
        assert server.post("/v1/faces", content=chunked(), headers=PNG).status_code == 413


def test_what_the_server_says_of_itself(server: Serving):
    assert server.get("/livez").json() == server.get("/health").json() == {"status": "ok"}
    assert server.get("/version").json()["bundle"] == "tiny"
    model = server.get("/v1/models").json()["data"][0]
    assert model["max_model_len"] == 512
    assert model["faceinsight"]["switches"]["gender"] is False
    assert server.get("/v1/models/nothing").status_code == 404
    privacy = server.get("/v1/privacy").json()
    assert "Male" not in privacy["computed"]
    assert "expression" in privacy["notice"]
    assert privacy["licences"]
    schema = server.get("/v1/report/schema").json()
    jsonschema.Draft202012Validator.check_schema(schema)
    faces = server.post("/v1/faces", content=small_photo(), headers=JPEG).json()["faces"]
    jsonschema.validate({x["name"]: x["state"] for x in faces[0]["labels"]}, schema)


@pytest.mark.slow
def test_metrics_count_what_was_done(server: Serving):
    names = {
        "answers": ("answers_total", {"finish": "length"}),
        "requests": ("requests_total", {"route": "/v1/chat/completions", "code": "200"}),
        "tokens": ("generation_tokens_total", {}),
        "hits": ("face_cache_hits_total", {}),
    }
    before = {k: server.metric(n, **labels) for k, (n, labels) in names.items()}
    server.post("/v1/faces", content=small_photo(), headers=JPEG)
    for _ in range(2):
        assert server.chat(user(Q, data_uri()), max_tokens=3).status_code == 200
    after = {k: server.metric(n, **labels) for k, (n, labels) in names.items()}
    change = {k: after[k] - before[k] for k in names}
    assert change.pop("hits") >= 2
    assert change == {"answers": 2, "requests": 2, "tokens": 6}
    series = len(server.get("/metrics").text.splitlines())
    for i in range(50):
        server.get(f"/unknown/{i}")
        server.get(f"/v1/models/m{i}")
    # Two routes and their histograms, however many paths.
    assert len(server.get("/metrics").text.splitlines()) <= series + 60
    assert "unknown/" not in server.get("/metrics").text


def test_the_parent_holds_nothing_that_can_crash(server: Serving):
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "cv2" not in maps
    assert "onnxruntime" not in maps
    assert "llama" not in maps
    assert "onnxruntime" in Path(f"/proc/{server.worker}/maps").read_text()
    code = (
        "import sys, faceinsight.server.run, faceinsight.cli.serve\n"
        "print([m for m in ('cv2', 'onnxruntime', 'llama_cpp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_shipped_bundle_end_to_end(tmp_path: Path):
    with Serving(tmp_path, "nano") as server:
        server.wait_ready()
        done = server.chat(user("Is she smiling?", data_uri(PHOTO.read_bytes())), logprobs=True).json()
        (choice,) = done["choices"]
        assert choice["message"]["content"].startswith("Yes")
        tokens = choice["logprobs"]["content"]
        assert "".join(x["token"] for x in tokens).strip() == choice["message"]["content"]
        again = server.chat(user("Is she wearing glasses?", data_uri(PHOTO.read_bytes()))).json()
        assert again["choices"][0]["message"]["content"].startswith("No")
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
        declined = server.chat(user("Who is she?", data_uri(PHOTO.read_bytes()))).json()
        assert declined["faceinsight"]["outcome"] == "declined"
        assert declined["usage"]["completion_tokens"] == 0


def test_small_answers_leave_at_once(server: Serving):
    """Without TCP_NODELAY each would wait 40 ms for the client's acknowledgement."""
    times = []
    with httpx.Client(base_url=server.url) as http:
        for _ in range(20):
            began = time.monotonic()
            http.get("/livez")
            times.append(time.monotonic() - began)
    assert min(times) < 0.03
