"""Requests that are wrong on purpose: what the server says, how soon, and whether its worker lives on."""

from __future__ import annotations

import itertools
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from serve import JSON, PHOTO, PNG, Server, as_jpeg, chat_body, percentiles, serving

QUESTION = "Is she smiling?"


def malformed(bundle: str, count: int) -> dict[str, Any]:
    """Requests made by schemathesis from /openapi.json, and damaged ones on raw sockets, in two halves."""
    program = Path(sys.executable).with_name("schemathesis")
    with serving(bundle) as server, tempfile.TemporaryDirectory() as folder:
        worker, made, failed = server.worker, 0, ""
        for seed in itertools.count(1):
            if made >= count // 2 or failed:
                break
            command = [str(program), "run", f"http://127.0.0.1:{server.port}/openapi.json", "--seed", str(seed)]
            checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
            options = ["--max-examples", "100", "--phases", "examples,coverage,fuzzing", "--checks", checks]
            done = subprocess.run(
                [*command, *options, "--suppress-health-check", "all"], capture_output=True, text=True, cwd=folder
            )
            found = re.search(r"(\d+) generated", done.stdout)
            made += int(found[1]) if found else 0
            failed = "" if done.returncode == 0 else done.stdout[-2000:]
        raw = raw_requests(server, count - made)
        return {
            "by schemathesis": made,
            "failed there": failed,
            "raw": sum(raw.values()),
            "statuses of raw ones": dict(raw),
            "same worker to the end": server.worker == worker,
        }


def raw_requests(server: Server, count: int) -> Counter[str]:
    """Whole requests with bytes changed, cut, doubled or lengths that lie, each on a socket of its own."""
    rng = random.Random(16)
    body = chat_body(b"\xff\xd8\xff", QUESTION)
    heads = [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n",
        b"POST /v1/faces HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\nX-Number: %d\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
    ]
    statuses: Counter[str] = Counter()
    for _ in tqdm(range(count), desc="raw"):
        data = bytearray(rng.choice(heads) % len(body) + body)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(min(len(data), 300) or 1)
            data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        if rng.random() < 0.1:
            data *= 2
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                first = sock.recv(200)
            except OSError:
                first = b""
        statuses[first.split()[1].decode() if first.startswith(b"HTTP/") else "closed"] += 1
    return statuses


def pictures(bundle: str, count: int) -> dict[str, Any]:
    """Pictures of absurd shapes and damaged files, through POST /v1/faces."""
    rng, photo = np.random.default_rng(16), as_jpeg(PHOTO)
    statuses: Counter[str] = Counter()
    slowest = 0.0
    with serving(bundle) as server:
        worker, connection = server.worker, server.connect()
        for i in tqdm(range(count), desc="pictures"):
            kind = i % 3
            if kind == 0:
                height, width = (int(2 ** rng.uniform(0, 13.9)) for _ in range(2))
                height = max(1, min(height, 16_000_000 // width))
                shape = (height, width, 3) if rng.random() < 0.8 else (height, width)
                data = cv2.imencode((".png", ".jpg", ".webp")[i % 9 // 3], rng.integers(0, 255, shape, np.uint8))[
                    1
                ].tobytes()
            else:
                damaged = bytearray(photo if kind == 1 else PHOTO.read_bytes()[:200_000])
                for at in rng.integers(0, len(damaged) if rng.random() < 0.5 else 700, rng.integers(1, 20)):
                    damaged[at] = rng.integers(256)
                data = bytes(damaged[: rng.integers(1, len(damaged))] if rng.random() < 0.3 else damaged)
            began = time.perf_counter()
            connection.request("POST", "/v1/faces", data, PNG)
            response = connection.getresponse()
            response.read()
            slowest = max(slowest, time.perf_counter() - began)
            statuses[str(response.status)] += 1
        return {
            "pictures": count,
            "statuses": dict(statuses),
            "slowest s": round(slowest, 2),
            "same worker": server.worker == worker,
        }


def schemas(bundle: str, count: int) -> dict[str, Any]:
    """Hostile JSON schemas and extreme numbers in every field: each is answered soon, whatever the answer."""
    rng, image = random.Random(16), b"\xff\xd8\xff"
    numbers: tuple[Any, ...] = (-1, 0, 2**31, 2**63, 10**400, 1e308, "x", None, True, [], {})
    fields = [
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "top_logprobs",
        "stop",
        "stream",
        "logprobs",
    ]
    statuses: Counter[str] = Counter()
    times: list[float] = []
    with serving(bundle) as server:
        worker, connection = server.worker, server.connect()
        for i in tqdm(range(count), desc="schemas"):
            more: dict[str, Any] = {rng.choice(fields): rng.choice(numbers)}
            if i % 2:
                schema = hostile(rng, 0)
                more = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
            body = chat_body(image, QUESTION, **more)
            began = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body, JSON)
            response = connection.getresponse()
            response.read()
            times.append(time.perf_counter() - began)
            statuses[str(response.status)] += 1
        return {
            "requests": count,
            "statuses": dict(statuses),
            **percentiles(times),
            "slowest ms": round(max(times) * 1e3, 1),
            "same worker": server.worker == worker,
        }


def hostile(rng: random.Random, depth: int) -> Any:
    """A schema with something in it that a compiler of grammars chokes on."""
    if depth > rng.randrange(1, 12):
        return rng.choice(
            [
                {"type": "boolean"},
                {"$ref": "#"},
                {"$ref": "#/$defs/a"},
                {"type": "string", "pattern": "(a+)+b"},
                1,
                None,
                [],
            ]
        )
    inner = hostile(rng, depth + 1)
    return rng.choice(
        [
            {"type": "object", "properties": {"smiling": inner, "x" * rng.randrange(1, 200): inner}},
            {"type": "array", "items": inner, "minItems": 10**9},
            {"anyOf": [inner] * rng.randrange(1, 3 if depth else 50)},
            {
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                "type": "object",
                "properties": {"a": inner},
            },
            {
                "type": ["object", "null"],
                "properties": {f"p{i}": {"type": "boolean"} for i in range(rng.randrange(200))},
            },
            {"enum": [str(i) for i in range(rng.randrange(5000))]},
            {"type": "string", "maxLength": 10**300, "enum": inner},
            {"allOf": [inner], "not": inner, "if": inner},
        ]
    )
