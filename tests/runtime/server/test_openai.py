"""OpenAI's chat by OpenAI's client, and by hand where it is about the bytes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
openai = pytest.importorskip("openai")
from paths import PHOTO
from serving import Serving, data_uri, no_face, small_photo, user

from faceinsight import FaceInsight

#: About which the random LLM says nothing that is switched off.
Q = "Is she wearing glasses?"
IMAGE = "messages.0.content.1.image_url"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle, "--alias", "gpt-4o-mini") as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def test_an_answer_is_the_librarys(client, tiny: FaceInsight, tiny_face):
    answer = tiny.ask(tiny_face, Q)
    done = client.chat.completions.create(model="gpt-4o-mini", messages=[user(Q, data_uri(PHOTO.read_bytes()))])
    (choice,) = done.choices
    assert choice.message.content == answer.text
    assert choice.finish_reason in ("stop", "length")
    assert done.model == "faceinsight-tiny"
    assert done.id.startswith("chatcmpl-")
    found = done.model_extra["faceinsight"]
    assert found["finish"] == answer.finish_reason
    assert [x["name"] for x in found["labels"]] == [x.name for x in answer.labels] == ["Eyeglasses"]
    assert found["evidence"] == list(answer.evidence)
    assert found["face"]["of"] == 1
    assert done.usage.completion_tokens == answer.timings.tokens
    assert done.usage.prompt_tokens > done.usage.prompt_tokens_details.cached_tokens
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_another_picture_gets_another_answer(client):
    photo = cv2.imread(str(PHOTO))
    other = cv2.imencode(".png", photo[:, ::-1] // 2)[1].tobytes()
    texts = {
        client.chat.completions.create(model="faceinsight", messages=[user(Q, image)]).choices[0].message.content
        for image in (data_uri(PHOTO.read_bytes()), data_uri(other))
    }
    assert len(texts) == 2


def test_a_stream_says_the_same(client):
    messages = [user(Q, data_uri())]
    whole = client.chat.completions.create(model="faceinsight", messages=messages)
    chunks = list(
        client.chat.completions.create(
            model="faceinsight", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("include", [True, False])
def test_the_framing_of_a_stream(server: Serving, include: bool):
    body = {"model": "faceinsight", "messages": [user(Q, data_uri())], "stream": True}
    body |= {"stream_options": {"include_usage": True}} if include else {}
    done = server.post("/v1/chat/completions", json=body)
    assert done.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert done.headers["cache-control"] == "no-store"
    assert done.headers["x-accel-buffering"] == "no"
    events = done.text.split("\n\n")
    assert events.pop() == ""
    assert all(e.startswith("data: ") and "\n" not in e for e in events)
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(e.removeprefix("data: ")) for e in events]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert sum("role" in c["choices"][0]["delta"] for c in chunks if c["choices"]) == 1
    assert all("choices" in c and c["object"] == "chat.completion.chunk" for c in chunks)
    empty = [c for c in chunks if not c["choices"]]
    assert empty == chunks[-1:] if include else not empty
    assert all(("usage" in c) is include for c in chunks)
    last = chunks[-2] if include else chunks[-1]
    assert last["choices"][0]["delta"] == {}
    assert last["faceinsight"]["labels"][0]["name"] == "Eyeglasses"


def test_no_image_and_no_face_are_answers(client):
    for messages, finish, word in (
        ([{"role": "user", "content": "Hi"}], "no_image", "Send a picture"),
        ([user(Q, data_uri(no_face()))], "no_face", "No face was found"),
        ([user(Q, data_uri(), data_uri(no_face()))], "no_face", "one of the two"),
    ):
        done = client.chat.completions.create(model="faceinsight", messages=messages)
        assert word in done.choices[0].message.content
        assert done.choices[0].finish_reason == "stop"
        assert done.model_extra["faceinsight"]["finish"] == finish
        stream = client.chat.completions.create(model="faceinsight", messages=messages, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream) == done.choices[0].message.content


def test_a_picture_of_an_earlier_turn_and_a_follow_up(server: Serving, tiny: FaceInsight, tiny_face):
    expected = tiny.ask(tiny_face, "And a hat?", after=Q).text
    history = [user(Q, data_uri(PHOTO.read_bytes())), {"role": "assistant", "content": "Yes."}]
    done = server.chat(*history, {"role": "user", "content": "And a hat?"}).json()
    assert done["choices"][0]["message"]["content"] == expected
    assert done["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    long = [user("word " * 300, data_uri()), {"role": "assistant", "content": "?"}]
    done = server.chat(*long, {"role": "user", "content": Q}).json()
    assert done["faceinsight"]["ignored"] == ["history"]


def test_pictures_are_compared_or_the_best_is_taken(server: Serving):
    photo = cv2.imread(str(PHOTO))
    tiny_one = cv2.imencode(".png", cv2.resize(photo, None, fx=0.4, fy=0.4))[1].tobytes()
    done = server.chat(user("Who is smiling?", data_uri(), data_uri(tiny_one))).json()
    assert len(done["faceinsight"]["faces"]) == 2
    done = server.chat(user(Q, data_uri(tiny_one), data_uri(), data_uri(no_face()))).json()
    assert done["faceinsight"]["ignored"] == ["image 1", "image 3"]
    assert server.chat(user(Q, *[data_uri()] * 21)).status_code == 400


def test_a_turn_may_be_several_messages(server: Serving):
    """Some clients send each picture in a message of its own."""
    frames = [user(f"Frame {i} of 3 (+{i}.0s):", data_uri()) for i in range(1, 4)]
    for messages in ([*frames, user(Q)], [user(Q), *frames], [user(Q), *frames, user("These are for reference.")]):
        done = server.chat(*messages).json()["faceinsight"]
        assert [x["name"] for x in done["labels"]] == ["Eyeglasses"]
        assert len(done["ignored"]) == 2
    earlier = [user("And what is this?", data_uri(no_face())), {"role": "assistant", "content": "A wall."}]
    done = server.chat(*earlier, *frames[:1], user(Q)).json()["faceinsight"]
    assert (done["finish"] != "no_face", done["ignored"]) == (True, [])


def test_the_caption_of_a_picture_is_no_question(server: Serving):
    parts = user("Image 1:", data_uri())["content"] + [{"type": "text", "text": Q}]
    done = server.chat({"role": "user", "content": parts}).json()
    assert done["faceinsight"]["labels"][0]["name"] == "Eyeglasses"


def test_stop_and_max_tokens(server: Serving):
    text = server.chat(user(Q, data_uri())).json()["choices"][0]["message"]["content"]
    stop = text[5:8]
    done = server.chat(user(Q, data_uri()), stop=stop).json()
    assert done["choices"][0]["message"]["content"] == text[: text.index(stop)].rstrip()
    assert done["choices"][0]["finish_reason"] == "stop"
    done = server.chat(user(Q, data_uri()), max_tokens=4096, max_completion_tokens=2).json()
    assert done["choices"][0]["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] == 2
    one = server.chat(user(Q, data_uri()), max_tokens=1, stream=True)
    assert one.status_code == 200


def test_logprobs_are_those_of_the_text_or_null(server: Serving):
    done = server.chat(user("Hm", data_uri()), logprobs=True, top_logprobs=1, max_tokens=5).json()
    (choice,) = done["choices"]
    content = choice["logprobs"]["content"]
    assert "".join(x["token"] for x in content).strip() == choice["message"]["content"]
    assert all(x["logprob"] <= 0 and x["bytes"] == list(x["token"].encode()) for x in content)
    assert all(len(x["top_logprobs"]) == 1 for x in content)
    fixed = server.chat({"role": "user", "content": "Hi"}, logprobs=True).json()
    assert fixed["choices"][0]["logprobs"] is None


def test_sampling_is_reported_as_ignored(server: Serving):
    done = server.chat(
        {"role": "system", "content": "You are a pirate."}, user(Q, data_uri()), temperature=0.7, top_p=1, seed=3
    ).json()
    assert done["faceinsight"]["ignored"] == ["temperature", "seed", "system messages"]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
        ({"model": None}, 400, "missing_field", "model"),
        ({"messages": []}, 400, "missing_field", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "unsupported_content", "messages.0.role"),
        ({"n": 2}, 400, "unsupported_parameter", "n"),
        ({"n": 1000000}, 400, "unsupported_parameter", "n"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": -1}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": 2**70}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": "5"}, 400, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": True}, 400, "invalid_value", "max_completion_tokens"),
        ({"temperature": 1e308}, 400, "invalid_value", "temperature"),
        ({"top_logprobs": 3}, 400, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 20}, 400, "invalid_value", "top_logprobs"),
        ({"seed": "x"}, 400, "invalid_value", "seed"),
        ({"stop": ["x"] * 5}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"stream": "yes"}, 400, "invalid_value", "stream"),
        ({"logit_bias": {"1": 2}}, 400, "unsupported_parameter", "logit_bias"),
        ({"tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice"),
        ({"modalities": ["text", "audio"]}, 400, "unsupported_parameter", "modalities"),
        ({"faceinsight": {"face": 3}}, 400, "face_unknown", "faceinsight.face"),
        ({"faceinsight": {"fase": 3}}, 400, "invalid_value", "faceinsight"),
        ({"faceinsight": {"labels": ["Nose_Job"]}}, 400, "label_unknown", "faceinsight.labels"),
        ({"messages": [user("x " * 500, data_uri())]}, 400, "question_too_long", "messages"),
        (
            {"messages": [user(Q, "http://127.0.0.1/x.png")]},
            400,
            "unsupported_image_url",
            IMAGE,
        ),
        ({"messages": [user(Q, "file:///etc/passwd")]}, 400, "unsupported_image_url", IMAGE),
        ({"messages": [user(Q, "data:image/png;base64,@@")]}, 400, "bad_image", IMAGE),
        ({"messages": [user(Q, data_uri(b"GIF89a" + bytes(50)))]}, 400, "bad_image", None),
        ({"messages": [user(Q, data_uri(PHOTO.read_bytes()[:900]))]}, 400, "bad_image", None),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(server: Serving, change: dict, status: int, code: str, param: str | None):
    body = {"model": "faceinsight", "messages": [user(Q, data_uri())], **change}
    for stream in ({}, {"stream": True}):
        done = server.post("/v1/chat/completions", json=body | stream if "stream" not in change else body)
        error = done.json()["error"]
        assert (done.status_code, error["code"], error["param"]) == (status, code, param)
        assert done.headers["x-should-retry"] == "false"
        assert done.headers["content-type"] == "application/json"


def test_errors_are_the_clients_classes(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=[user(Q, data_uri())])
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="faceinsight", messages=[user(Q, "https://example.org/x.png")])
    assert error.value.code == "unsupported_image_url"


def test_the_async_client(server: Serving, tiny: FaceInsight):
    (face,) = tiny.perceive(small_photo())
    expected = tiny.ask(face, Q).text

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            request = {"model": "faceinsight", "messages": [user(Q, data_uri())]}
            whole = client.chat.completions.create(**request)
            streamed = await client.chat.completions.create(**request, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])
            return [(await whole).choices[0].message.content, text]

    assert asyncio.run(ask()) == [expected, expected]


def test_langchain(server: Serving, tiny: FaceInsight):
    langchain = pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage
    from pydantic import BaseModel

    class Visitor(BaseModel):
        smiling: bool | None
        face_count: int

    (face,) = tiny.perceive(small_photo())
    expected = tiny.ask(face, Q).text
    llm = langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key="any", model="faceinsight", max_retries=0)
    message = HumanMessage(user(Q, data_uri())["content"])
    assert llm.invoke([message]).content == expected
    assert "".join(chunk.content for chunk in llm.stream([message])) == expected
    for method in ("json_schema", "json_mode"):
        filled = llm.with_structured_output(Visitor, method=method, include_raw=True).invoke([message])
        assert filled["raw"].content.startswith("{")
        if method == "json_schema":
            assert filled["parsed"].face_count == 1
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        llm.with_structured_output(Visitor, method="function_calling").invoke([message])


def test_models_and_a_raw_response(client):
    assert [m.id for m in client.models.list()] == ["faceinsight-tiny", "gpt-4o-mini"]
    assert client.models.retrieve("faceinsight").id == "faceinsight"
    raw = client.chat.completions.with_raw_response.create(model="faceinsight", messages=[user(Q, data_uri())])
    assert raw.status_code == 200
    assert raw.parse().choices[0].message.content


def mutated(rng: random.Random, value: object, depth: int = 0) -> object:
    """A body with something changed in it."""
    junk = (None, True, -1, 2**63, 1e308, "", "\ud800", "x" * 1000, [], {}, [[]], {"a": {"b": []}}, "data:,", 0.5)
    if rng.random() < 0.15 or depth > 6:
        return rng.choice(junk)
    if isinstance(value, dict):
        out = {k: mutated(rng, v, depth + 1) for k, v in value.items() if rng.random() > 0.05}
        if rng.random() < 0.3:
            out[rng.choice(["n", "stop", "top_k", "faceinsight", "user"])] = rng.choice(junk)
        return out
    if isinstance(value, list):
        return [mutated(rng, v, depth + 1) for v in value for _ in range(rng.choice((1, 1, 1, 2)))]
    return value


def test_random_bodies_are_answered_and_the_worker_lives(server: Serving):
    """400 bodies with something wrong in them, as JSON and as damaged JSON: never a 5xx."""
    rng, pid = random.Random(16), server.worker
    body = {
        "model": "faceinsight",
        "messages": [{"role": "system", "content": "x"}, user(Q, data_uri(no_face())), user("Hi")],
        "max_tokens": 3,
        "stream": False,
    }
    codes = set()
    with httpx.Client(base_url=server.url, timeout=30) as http:
        for i in range(400):
            data = json.dumps(mutated(rng, body)).encode()
            if i % 4 == 0:
                cut = rng.randrange(len(data))
                data = data[:cut] + rng.randbytes(3) + data[cut + rng.randrange(4) :]
            done = http.post("/v1/chat/completions", content=data)
            codes.add(done.status_code)
            assert done.status_code < 500, data[:300]
            assert ("error" in done.json()) is (done.status_code != 200)
    assert {200, 400} <= codes
    assert server.worker == pid


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"model": NaN}',
        b'{"a":' * 100_000,
        b"[" * 10_000_000,
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b'{"model":"faceinsight","messages":' + b"[" * 40 + b"]" * 40 + b"}",
    ],
    ids=lambda b: repr(b[:20]),
)
def test_hostile_json(server: Serving, body: bytes):
    done = server.post("/v1/chat/completions", content=body)
    assert done.status_code == 400
    assert done.json()["error"]["code"] == "invalid_json"
