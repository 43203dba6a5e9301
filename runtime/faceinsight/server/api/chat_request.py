"""A body of POST /v1/chat/completions -> what is asked about which pictures.

What cannot be done is refused by name, what makes no difference here is listed as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .. import json_schema
from ..errors import ApiError, bad_request
from .schemas import clean, data_uri, flag, number, require, tokens, whole

MAX_MESSAGES, MAX_IMAGES, MAX_STOPS, MAX_STOP = 64, 20, 4, 64
DESCRIBE = "Describe this face."
#: Sampling options -> their range, and the values that ask for what happens anyway. Decoding is greedy.
SAMPLING: Mapping[str, tuple[float, float, tuple[float, ...]]] = {
    "temperature": (0, 2, (0,)),
    "top_p": (0, 1, (1,)),
    "top_k": (-1, 2**31, (1,)),
    "min_p": (0, 1, (0,)),
    "frequency_penalty": (-2, 2, (0,)),
    "presence_penalty": (-2, 2, (0,)),
    "repeat_penalty": (0, 10, (1,)),
    "repetition_penalty": (0, 10, (1,)),
}
#: Options that would change the answer in a way that is not there.
_REFUSED = ("logit_bias", "functions", "function_call", "audio", "prediction")
#: What some clients write before a picture: "Image 1:", "Frame 2 of 3 (+4.0s):", a name.
_CAPTION = re.compile(r"\s*(?:image\s*\d*|[^\n?]{1,60}:)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked.

    Attributes:
        model: as the client names it.
        question: the user's last one.
        after: the user's text before it.
        images: of the newest turn that has any.
        face: number of the face, if the client says; labels: of which characteristics it wants the findings.
        max_tokens, stop: where the answer ends.
        logprobs: are they wanted? top_logprobs: how many of each.
        schema: of the JSON that is wanted, as json_schema.py reads it; None for text.
        stream, include_usage: how it is sent.
        ignored: what makes no difference.
    """

    model: str
    question: str
    after: str | None
    images: tuple[bytes, ...]
    face: int | None
    labels: tuple[str, ...] | None
    max_tokens: int | None
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int
    schema: dict[str, Any] | None
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]


def parse(body: Mapping[str, Any], models: Collection[str]) -> ChatRequest:
    """Check a body field by field. models: names that are known here. Raises ApiError."""
    model = body.get("model")
    if not isinstance(model, str):
        raise bad_request("missing_field", "model: expected a string.", "model")
    if model not in models:
        known = ", ".join(sorted(models))
        raise ApiError(404, "model_not_found", f"There is no such model here; there are {known}.", param="model")
    _refuse(body)
    ignored = _ignored(body)
    question, after, images, systems = _conversation(body.get("messages"))
    face, labels = _extension(body.get("faceinsight"))
    stream = flag(body.get("stream"), "stream")
    options = body.get("stream_options")
    require(
        options is None or isinstance(options, dict),
        "invalid_value",
        "stream_options: expected an object.",
        "stream_options",
    )
    logprobs = flag(body.get("logprobs"), "logprobs")
    top = whole(body.get("top_logprobs"), "top_logprobs", 0, 8) or 0
    require(logprobs or not top, "invalid_value", "top_logprobs needs logprobs.", "top_logprobs")
    if systems:
        ignored.append("system messages")
    if logprobs and stream:
        ignored.append("logprobs")
    limits = [tokens(body.get(name), name) for name in ("max_completion_tokens", "max_tokens")]
    return ChatRequest(
        model=model,
        question=question,
        after=after,
        images=images,
        face=face,
        labels=labels,
        max_tokens=limits[0] if limits[0] is not None else limits[1],
        stop=_stops(body.get("stop")),
        logprobs=logprobs,
        top_logprobs=top,
        schema=json_schema.read(body.get("response_format")),
        stream=stream,
        include_usage=stream and flag((options or {}).get("include_usage"), "stream_options.include_usage"),
        ignored=tuple(ignored),
    )


def _refuse(body: Mapping[str, Any]) -> None:
    """Raises ApiError for what cannot be done."""
    refused = [name for name in _REFUSED if body.get(name)]
    if body.get("tool_choice") not in (None, "none", "auto"):
        refused.append("tool_choice")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and any(m != "text" for m in modalities):
        refused.append("modalities")
    if refused:
        raise bad_request("unsupported_parameter", f"{refused[0]} is not supported here.", refused[0])
    if body.get("n") is not None and (isinstance(body["n"], bool) or body["n"] != 1):
        raise bad_request("unsupported_parameter", "n: only one answer is given.", "n")


def _ignored(body: Mapping[str, Any]) -> list[str]:
    """Options of the right type that make no difference. Raises ApiError for one of a wrong type."""
    ignored = []
    for name, (low, high, same) in SAMPLING.items():
        value = number(body.get(name), name, low, high)
        if value is not None and value not in same:
            ignored.append(name)
    if whole(body.get("seed"), "seed", -(2**63), 2**64) is not None:
        ignored.append("seed")
    return ignored + [name for name in ("tools",) if body.get(name)]


def _conversation(messages: Any) -> tuple[str, str | None, tuple[bytes, ...], bool]:
    """The question, the one before it, the newest pictures, and whether there are system messages.

    What a user says between two answers is one turn: some clients send each picture in a message of its own, and the
    question before or after them.
    """
    require(isinstance(messages, list) and bool(messages), "missing_field", "messages: expected a list.", "messages")
    require(len(messages) <= MAX_MESSAGES, "too_many", f"messages: at most {MAX_MESSAGES}.", "messages")
    turns: list[list[str]] = [[]]
    images: tuple[bytes, ...] = ()
    pictured, systems = 0, False
    for i, message in enumerate(messages):
        param = f"messages.{i}"
        require(isinstance(message, dict), "invalid_value", f"{param}: expected an object.", param)
        role = message.get("role")
        if role in ("system", "developer"):
            systems = True
        elif role == "user":
            text, found = _content(message.get("content"), f"{param}.content")
            turns[-1].append(text)
            if found:
                images = found if pictured != len(turns) else images + found
                pictured = len(turns)
                fits = len(images) <= MAX_IMAGES
                require(fits, "too_many", f"{param}: at most {MAX_IMAGES} pictures.", f"{param}.content")
        elif role == "assistant":
            turns.append([])
        else:
            raise bad_request(
                "unsupported_content", f"{param}.role: expected user, assistant or system.", f"{param}.role"
            )
    turns = [turn for turn in turns if turn]
    require(bool(turns), "missing_field", "messages: there is none of the user's.", "messages")
    *earlier, last = turns
    said = [text for text in last if text] or [DESCRIBE]
    question = next((text for text in reversed(said) if "?" in text), said[-1])
    after = next((text for turn in reversed(earlier) for text in reversed(turn) if text), None)
    return question, after, images, systems


def _content(content: Any, param: str) -> tuple[str, tuple[bytes, ...]]:
    """Text and pictures of one message."""
    if isinstance(content, str):
        return clean(content, param).strip(), ()
    require(isinstance(content, list), "missing_field", f"{param}: expected a string or a list of parts.", param)
    texts: list[str] = []
    images: list[bytes] = []
    for i, part in enumerate(content):
        where = f"{param}.{i}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(clean(part["text"], where))
        elif kind == "image_url":
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if not isinstance(url, str):
                raise bad_request("unsupported_image_url", f"{where}.image_url: expected a URL.", where)
            images.append(data_uri(url, f"{where}.image_url"))
            # "Image 1:" before a picture is a caption of it, not a question.
            if texts and _CAPTION.fullmatch(texts[-1]):
                texts.pop()
        else:
            raise bad_request("unsupported_content", f"{where}: only parts of type text and image_url are read.", where)
    return "\n".join(t.strip() for t in texts if t.strip()), tuple(images)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    fits = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not fits or not all(isinstance(s, str) and 1 <= len(s) <= MAX_STOP for s in stops):
        raise bad_request(
            "invalid_value", f"stop: expected up to {MAX_STOPS} strings of 1 to {MAX_STOP} characters.", "stop"
        )
    return tuple(stops)


def _extension(value: Any) -> tuple[int | None, tuple[str, ...] | None]:
    """Our own field: which face, and which labels."""
    if value is None:
        return None, None
    require(isinstance(value, dict), "invalid_value", "faceinsight: expected an object.", "faceinsight")
    require(
        set(value) <= {"face", "labels"}, "invalid_value", "faceinsight: it has face and labels only.", "faceinsight"
    )
    labels = value.get("labels")
    fits = labels is None or (isinstance(labels, list) and all(isinstance(x, str) for x in labels))
    require(fits, "invalid_value", "faceinsight.labels: expected a list of strings.", "faceinsight.labels")
    return whole(value.get("face"), "faceinsight.face", 0, 10_000), None if labels is None else tuple(labels)
