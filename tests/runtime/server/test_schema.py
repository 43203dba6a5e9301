"""JSON schemas filled from what was found: always valid, never guessed, and not to be used as a weapon."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

pytest.importorskip("starlette", reason="the extra server")
from serving import Serving, data_uri, no_face, user

from faceinsight import Face
from faceinsight.bundle.bundle import Bundle
from faceinsight.server.errors import ApiError
from faceinsight.server.findings import Filler, Unfillable
from faceinsight.server.json_schema import read

STATES = ("yes", "no", "unsure", "not visible")


def wanted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


@pytest.fixture(scope="module")
def filler() -> Filler:
    manifest = Bundle.open("nano").manifest
    return Filler([c for c in manifest.characteristics if c.group in ("", "expression")], lambda face, q: f"about {q}")


def with_states(face: Face, **states: str) -> Face:
    """A face of which these characteristics have these states, all others none."""
    numbers = {"yes": 0.9, "no": 0.1, "unsure": 0.5, "not visible": None}
    labels = [
        dataclasses.replace(x, state=s, probability=numbers[s]) for x in face.labels for s in [states.get(x.name, "no")]
    ]
    return dataclasses.replace(face, labels=tuple(labels))


def filled(filler: Filler, schema: dict[str, Any], face: Face) -> Any:
    node = read(wanted(schema))
    filler.check(node)
    value = filler.fill(node, face, (face,))
    jsonschema.validate(value, schema)
    return value


NULLABLE = {"type": ["boolean", "null"]}
HAIR = {"type": "string", "enum": ["black", "blonde", "brown", "grey", "other", "unsure"]}


@pytest.mark.parametrize(
    ("name", "kind", "states", "expected"),
    [
        ("smiling", {"type": "boolean"}, {"Smiling": "yes"}, True),
        ("isSmiling", {"type": "boolean"}, {"Smiling": "no"}, False),
        ("not_smiling", {"type": "boolean"}, {"Smiling": "no"}, True),
        ("wearing_glasses", NULLABLE, {"Eyeglasses": "unsure"}, None),
        ("wears_hat", NULLABLE, {"Wearing_Hat": "not visible"}, None),
        ("has_beard", {"type": "boolean"}, {"No_Beard": "yes"}, False),
        ("has_beard", {"type": "boolean"}, {"No_Beard": "no"}, True),
        ("beard", {"type": "number"}, {"No_Beard": "yes"}, pytest.approx(0.1)),
        ("mouth_open", {"type": "boolean"}, {"Mouth_Slightly_Open": "yes"}, True),
        ("moustache", {"type": "boolean"}, {"Mustache": "yes"}, True),
        ("Smiling", {"type": "number", "minimum": 0, "maximum": 1}, {"Smiling": "yes"}, 0.9),
        ("happy", {"type": "string", "enum": list(STATES)}, {"Happiness": "not visible"}, "not visible"),
        ("happy", {"enum": ["yes", "no", "unknown"]}, {"Happiness": "unsure"}, "unknown"),
        ("happy", {"enum": ["yes", "no", None]}, {"Happiness": "unsure"}, None),
        ("hair_color", HAIR, {"Blond_Hair": "yes"}, "blonde"),
        ("hairColour", HAIR, {"Gray_Hair": "yes"}, "grey"),
        ("hair_color", HAIR, {}, "other"),
        ("hair_color", HAIR, {"Brown_Hair": "unsure"}, "unsure"),
        ("mood", {"enum": ["happy", "sad", "neutral", "unsure"]}, {"Sadness": "yes"}, "sad"),
        ("face_count", {"type": "integer"}, {}, 1),
        ("x", {"type": "boolean", "x-faceinsight": "Bald"}, {"Bald": "yes"}, True),
        ("features", {"type": "array", "items": {"enum": ["hat", "earrings", "bald"]}}, {"Bald": "yes"}, ["bald"]),
        ("version", {"const": "v1"}, {}, "v1"),
        ("note", {"type": "string", "description": "What is the hair like?"}, {}, "about What is the hair like?"),
        ("smiling", {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, {"Smiling": "unsure"}, None),
    ],
    ids=str,
)
def test_a_property_is_the_finding(filler, tiny_face, name: str, kind: dict, states: dict, expected: Any):
    assert filled(filler, of(**{name: kind}), with_states(tiny_face, **states)) == {name: expected}


@pytest.mark.parametrize(
    ("name", "kind", "states"),
    [
        ("smiling", {"type": "boolean"}, {"Smiling": "unsure"}),
        ("smiling", {"type": "number"}, {"Smiling": "not visible"}),
        ("smiling", {"enum": ["yes", "no"]}, {"Smiling": "unsure"}),
        ("smiling", {"type": "number", "maximum": 0.5}, {"Smiling": "yes"}),
        ("hair_color", {"enum": ["black", "brown"]}, {"Brown_Hair": "unsure"}),
        ("seen", {"type": "array", "items": {"enum": ["smiling"]}, "minItems": 1}, {"Smiling": "no"}),
        ("seen", {"type": "array", "items": {"enum": ["smiling"]}, "maxItems": 0}, {"Smiling": "yes"}),
        ("note", {"type": "string", "description": "Is she smiling?", "maxLength": 3}, {}),
        ("hair_color", {"enum": ["black", "brown"]}, {}),
    ],
    ids=str,
)
def test_what_the_schema_has_no_value_for_is_no_answer(filler, tiny_face, name: str, kind: dict, states: dict):
    face = with_states(tiny_face, **states)
    with pytest.raises(Unfillable):
        filled(filler, of(**{name: kind}), face)
    optional = of(**{name: kind}) | {"required": []}
    assert filled(filler, optional, face) == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("headwear", {"type": "boolean"}),
        ("mouth", {"type": "boolean"}),
        ("loyal", {"type": "number"}),
        ("woman", {"type": "boolean"}),
        ("smiling", {"type": "integer"}),
        ("hair_color", {"enum": ["red", "brown"]}),
        ("x", {"type": "boolean", "x-faceinsight": "Male"}),
        ("tags", {"type": "array", "items": {"type": "string"}}),
    ],
    ids=str,
)
def test_what_is_not_computed_is_not_guessed(filler, name: str, kind: dict):
    node = read(wanted(of(**{name: kind})))
    with pytest.raises(ApiError) as error:
        filler.check(node)
    assert error.value.code == "schema_property_unknown"


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "string"}, "object at its top"),
        (of(a={"type": "string", "pattern": "(a+)+b"}), "pattern"),
        (of(a={"type": "string", "format": "date"}), "format"),
        (of(a={"oneOf": [{"type": "null"}]}), "oneOf"),
        (of(a={"allOf": []}), "allOf"),
        (of(a={"not": {}}), "not"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        (of(a={"anyOf": [{"type": "string"}, {"type": "number"}]}), "anyOf"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, **of(b={"$ref": "#/$defs/a"})}, "refers to itself"),
        (of(a={"$ref": "http://evil.example/x"}), "leads nowhere"),
        (of(**{f"p{i}": {"type": "boolean"} for i in range(65)}), "64 properties"),
        (of(a={"type": "string", "description": "x" * 40_000}), "bytes"),
        (of(a={"type": ["string", "number"]}), "one type"),
        ({"type": "object", "additionalProperties": True}, "additionalProperties"),
        (of(a=of(b=of(c=of(d=of(e={"type": "boolean"}))))), "nested"),
        ({"type": "object", "required": ["a"]}, "requires"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_is_outside_of_the_subset_is_named(schema: Any, word: str):
    with pytest.raises(ApiError, match=word) as error:
        read(wanted(schema))
    assert error.value.code == "schema_unsupported"


def hostile(rng: random.Random, depth: int = 0) -> Any:
    """A schema, or what might be taken for one."""
    if depth > 5 or (depth and rng.random() < 0.15):
        return rng.choice([None, True, 5, "x", [], {}, {"type": "boolean"}, {"$ref": "#/$defs/a"}, {"enum": [1]}])
    keys = ["type", "properties", "items", "anyOf", "enum", "const", "$ref", "$defs", "required", "minimum", "pattern"]
    out: dict[str, Any] = {}
    for key in rng.sample(keys, rng.randrange(1, 4)):
        kind = rng.randrange(4)
        if kind == 0:
            out[key] = rng.choice(["object", "array", "string", "boolean", "number", "null", ["string", "null"]])
        elif kind == 1:
            out[key] = {name: hostile(rng, depth + 1) for name in rng.sample(["smiling", "a", "hat", "$ref"], 2)}
        elif kind == 2:
            out[key] = [hostile(rng, depth + 1)]
        else:
            out[key] = "#/$defs/a"
    return {"type": "object", **out} if depth == 0 else out


def test_hostile_schemas_end_soon(filler, tiny_face):
    """5,000 of them: filled validly, or refused, each at once."""
    rng, slowest, outcomes = random.Random(7), 0.0, {"filled": 0, "refused": 0, "unfillable": 0}
    for i in range(5000):
        schema = hostile(rng)
        if i % 2:
            kinds = [{"type": "boolean"}, NULLABLE, HAIR, {"type": "number"}, {"enum": list(STATES)}, hostile(rng, 8)]
            schema = of(**{n: rng.choice(kinds) for n in rng.sample(["smiling", "has_beard", "hair_color", "hat"], 2)})
        if i % 10 == 0:
            face = with_states(tiny_face, **{x.name: rng.choice(STATES) for x in tiny_face.labels})
        began = time.process_time()
        try:
            node = read(wanted(schema))
            filler.check(node)
            value = filler.fill(node, face, (face,))
            slowest = max(slowest, time.process_time() - began)
            assert jsonschema.Draft202012Validator(schema).is_valid(value)
            outcomes["filled"] += 1
        except ApiError:
            outcomes["refused"] += 1
        except Unfillable:
            outcomes["unfillable"] += 1
    assert slowest < 0.05
    assert min(outcomes.values()) > 100, outcomes


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("server"), tiny_bundle) as serving:
        serving.wait_ready()
        yield serving


def test_the_openai_client_parses(server: Serving):
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")

    class Visitor(pydantic.BaseModel):
        smiling: bool | None
        wearing_glasses: Literal["yes", "no", "unsure", "not visible"]
        has_beard: bool | None

    class Survey(pydantic.BaseModel):
        face_count: int
        visitors: list[Visitor]

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        ask = {"model": "faceinsight", "response_format": Survey}
        done = client.chat.completions.parse(messages=[user("Fill this in.", data_uri())], **ask)
        survey = done.choices[0].message.parsed
        assert survey.face_count == len(survey.visitors) == 1
        labels = server.post("/v1/faces", json={"image": data_uri()}).json()["faces"][0]["labels"]
        states = {x["name"]: x["state"] for x in labels}
        assert survey.visitors[0].wearing_glasses == states["Eyeglasses"]
        assert survey.visitors[0].smiling is {"yes": True, "no": False}.get(states["Smiling"])
        nobody = client.chat.completions.parse(messages=[user("Fill this in.", data_uri(no_face()))], **ask)
        assert nobody.choices[0].message.parsed is None
        assert "No face" in nobody.choices[0].message.refusal


def test_by_http(server: Serving):
    schema = of(smiling=NULLABLE, note={"type": "string", "description": "Hm"})
    done = server.chat(user("Go", data_uri()), response_format=wanted(schema)).json()
    message = done["choices"][0]["message"]
    jsonschema.validate(json.loads(message["content"]), schema)
    assert done["usage"]["completion_tokens"] > 0
    stream = server.chat(user("Go", data_uri()), response_format=wanted(schema), stream=True).text
    chunks = [json.loads(e.removeprefix("data: ")) for e in stream.split("\n\n")[:-2]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == message["content"]
    everything = server.chat(user("Go", data_uri()), response_format={"type": "json_object"}).json()
    found = json.loads(everything["choices"][0]["message"]["content"])["faces"][0]
    assert found["Smiling"]["state"] in STATES
    refused = server.chat(user("Go", data_uri()), response_format=wanted(of(headwear={"type": "boolean"})))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "schema_property_unknown")
    assert server.chat(user("Go", data_uri()), response_format={"type": "xml"}).status_code == 400
    text_only = server.chat(user("Go"), response_format=wanted(schema)).json()["choices"][0]["message"]
    assert text_only["content"] is None
    assert text_only["refusal"]
