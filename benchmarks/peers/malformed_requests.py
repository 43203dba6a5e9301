"""Requests with something wrong in them: what each server says, and whether it goes on."""

from __future__ import annotations

import base64
import contextlib
import http.server
import math
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from chat_servers import (
    AFTER_KILL,
    JSON,
    LEFT,
    PATIENCE,
    QUESTIONS,
    Answer,
    Arm,
    Pictures,
    answered,
    chat,
    exchange,
    raw_request,
    said,
    spread,
)

FOREIGN = "http://somewhere-else.example"


@dataclass(frozen=True)
class Case:
    """A malformed or hostile request. data: its bytes; half: the connection is closed behind them, without waiting."""

    name: str
    data: bytes
    half: bool = False


class Listener:
    """A web server on the loopback interface that gives a picture to whoever asks, and counts."""

    def __init__(self, picture: bytes) -> None:
        self.contacts = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.contacts += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(picture)))
                self.end_headers()
                self.wfile.write(picture)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

            do_HEAD = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/picture.jpg"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def png(width: int, height: int, rows: int) -> bytes:
    """A grey PNG that claims this size and has so many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    packed = b"".join([packer.compress(bytes(width + 1)) for _ in range(rows)]) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def in_object(schema: Any) -> Any:
    """A JSON schema of an object with one property."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


def cases(port: int, pictures: Pictures, url: str) -> list[Case]:
    """The list, the same for all servers. url: of a picture that must be fetched."""
    good = pictures.new()
    text = "Is she smiling?"

    def sent(name: str, body: bytes, **headers: str) -> Case:
        return Case(name, raw_request(port, body, JSON | headers))

    def fields(name: str, **more: Any) -> Case:
        return sent(name, chat([good], text, **more))

    def message(name: str, **more: Any) -> Case:
        return sent(name, chat([], text, messages=[{"role": "user", "content": text} | more]))

    def image(name: str, *uris: str) -> Case:
        return sent(name, chat(uris, text))

    def picture(name: str, data: bytes) -> Case:
        return image(name, "data:image/png;base64," + base64.b64encode(data).decode())

    def schema(name: str, value: Any) -> Case:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}}
        return fields(f"schema: {name}", response_format=wanted, max_tokens=16)

    def lists(depth: int) -> Case:
        """Deeper than Python's own writer goes."""
        body = schema("", in_object("LISTS")).data.partition(b"\r\n\r\n")[2]
        value = b'{"type": "array", "items": ' * depth + b'{"type": "string"}' + b"}" * depth
        return sent(f"schema: {depth:,} lists in each other", body.replace(b'"LISTS"', value))

    preflight = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
    deep = b"[" * 100_000 + b"]" * 100_000
    whole = chat([good], text)
    many = {f"property_{i:04}": {"type": "string", "enum": [f"value {k}" for k in range(4)]} for i in range(700)}
    return [
        sent("no body", b""),
        sent("JSON cut short", whole[: len(whole) // 2]),
        sent("JSON that is a list", b"[1, 2]"),
        sent("JSON null", b"null"),
        sent("bytes that are no UTF-8", b'{"model": "faceinsight", "messages": "\xff\xfe\xff"}'),
        sent("NaN as temperature", chat([good], text, temperature=math.nan)),
        sent("1e400 as temperature", whole.replace(b'"temperature": 0', b'"temperature": 1e400')),
        sent("100,000 lists in each other", deep),
        sent("100,000 lists in each other as content", whole[:1] + b'"x": ' + deep + b", " + whole[1:]),
        sent("a body of 30 MB", chat(["data:image/jpeg;base64," + "A" * 30_000_000], text)),
        sent("no messages", b'{"model": "faceinsight"}'),
        fields("messages: a string", messages="Is she smiling?"),
        fields("messages: none", messages=[]),
        fields("messages: a number in them", messages=[7]),
        message("role: a number", role=7),
        message("role: unknown", role="robot"),
        message("content: a number", content=7),
        message("content: a part of an unknown type", content=[{"type": "smell", "smell": "x"}]),
        message("content: an image_url without a URL", content=[{"type": "image_url"}]),
        fields("model: a number", model=7),
        fields("n: 1,000,000", n=1_000_000),
        fields("n: a string", n="two"),
        fields("max_tokens: -5", max_tokens=-5),
        fields("max_tokens: 10^18", max_tokens=10**18),
        fields("max_tokens: a string", max_tokens="many"),
        fields("temperature: a string", temperature="hot"),
        fields("stop: 1,000 strings", stop=[f"stop {i}" for i in range(1000)]),
        fields("top_logprobs: 1,000,000", logprobs=True, top_logprobs=1_000_000),
        fields("stream: a string", stream="yes"),
        image("base64 that is garbage", "data:image/jpeg;base64,!!!! not base64 ????"),
        image("a data URI without base64", "data:image/jpeg,hello"),
        picture("text instead of a picture", b"This is no picture. " * 50),
        picture("a JPEG cut short", pictures.jpeg[: len(pictures.jpeg) // 2]),
        picture("20 bytes of a JPEG", pictures.jpeg[:20]),
        picture("a picture of 1 x 1", png(1, 1, 1)),
        picture("a PNG that claims 60,000 x 60,000", png(60_000, 60_000, 1)),
        picture("a PNG of 100 kB with 10,000 x 10,000", png(10_000, 10_000, 10_000)),
        image("17 pictures", *[good] * 17),
        image("a picture at an http URL", url),
        image("a picture at a file URL", "file:///etc/hostname"),
        sent("Host of another name", whole, Host="somewhere-else.example"),
        sent("Origin of another site", whole, Origin=FOREIGN),
        Case("preflight of another site", raw_request(port, headers=preflight, line="OPTIONS /v1/chat/completions")),
        schema("pattern ^(a+)+b$", in_object({"type": "string", "pattern": "^(a+)+b$"})),
        schema("pattern that is no regular expression", in_object({"type": "string", "pattern": "^((((a$"})),
        lists(500),
        lists(4_000),
        lists(20_000),
        schema("refers to itself", {"$ref": "#"}),
        schema("leads nowhere", in_object({"$ref": "#/$defs/none"})),
        schema("64 kB", {"type": "object", "properties": many, "required": list(many), "additionalProperties": False}),
        schema("at least 1,000,000 items", in_object({"type": "array", "items": {}, "minItems": 10**6})),
        schema("a number", 7),
        Case("Content-Length: -1", raw_request(port, b"", {**JSON, "Content-Length": "-1"})),
        Case("a header of 100 kB", raw_request(port, whole, {**JSON, "X-Long": "x" * 100_000})),
        Case("a method that is none", raw_request(port, line="SMILE /v1/chat/completions")),
        Case("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n"),
        Case("half a body, then gone", raw_request(port, whole)[: -len(whole) // 2], half=True),
    ]


def malformed(arm: Arm, pictures: Pictures, rounds: int) -> dict[str, Any]:
    """(e): each request of the list; after each, is the process the same, and does it answer?"""
    listener = Listener(pictures.jpeg)
    good = chat([pictures.new()], QUESTIONS[0])
    answered(arm.ask(good))
    found: dict[str, dict[str, Any]] = {}
    times: list[float] = []
    statuses: Counter[str] = Counter()
    deaths: list[str] = []
    contacts: list[str] = []
    allowed: dict[str, str] = {}
    try:
        for _ in range(rounds):
            for case in cases(arm.port, pictures, listener.url):
                pid, contacted = arm.computing, listener.contacts
                answer = _half(arm.port, case.data) if case.half else exchange(arm.port, case.data)
                statuses[answer.status] += 1
                times += [] if case.half else [answer.seconds]
                if listener.contacts > contacted and case.name not in contacts:
                    contacts.append(case.name)
                if "access-control-allow-origin" in answer.headers and FOREIGN.encode() in case.data:
                    allowed[case.name] = answer.headers["access-control-allow-origin"]
                entry = found.setdefault(case.name, {"status": [], "worst ms": 0.0})
                words = said(answer)
                if words not in entry["status"]:
                    entry["status"].append(words)
                entry["worst ms"] = max(entry["worst ms"], round(answer.seconds * 1e3, 1))
                began = time.perf_counter()
                well = arm.ask(good, AFTER_KILL).status == "200"
                if not well:
                    # One that crashes takes a moment to be gone.
                    time.sleep(1)
                if arm.computing != pid or not well:
                    deaths.append(case.name)
                    entry["after it"] = "the process had ended" if arm.computing != pid else "no answer any more"
                    entry["answered again by itself after ms"] = (
                        round((time.perf_counter() - began) * 1e3, 1) if well else "not by itself"
                    )
                if not well:
                    arm.stop()
                    arm.start()
    finally:
        listener.close()
    return {
        "requests": len(found),
        "rounds": rounds,
        "statuses": dict(statuses),
        "5xx": sum(n for status, n in statuses.items() if status.startswith("5")),
        "no answer": sum(n for status, n in statuses.items() if not status.isdigit() and status != LEFT),
        "the process ended, or answered no more, after": deaths,
        "fetched from an http URL": contacts,
        "Access-Control-Allow-Origin sent to another site": allowed,
        "times": spread(times),
        "each": found,
    }


def _half(port: int, data: bytes) -> Answer:
    """Send, and be gone."""
    began = time.perf_counter()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(data)
    return Answer(LEFT, time.perf_counter() - began)
