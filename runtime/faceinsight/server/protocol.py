"""Frames between the parent and its worker: a header as JSON, and raw bytes behind it. Never pickle: what a broken or
hostile worker sends is data, and nothing in it is run."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

_LENGTHS = struct.Struct(">II")
MAX_HEADER, MAX_BODY = 8_000_000, 160_000_000
Frame = tuple[dict[str, Any], bytes]


class FrameError(ValueError):
    """The other side does not keep to the protocol."""


def encode(header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A frame. blobs: raw bytes, such as pictures; the header gets their sizes."""
    text = json.dumps({**header, "sizes": [len(b) for b in blobs]}, allow_nan=False).encode()
    return b"".join((_LENGTHS.pack(len(text), sum(map(len, blobs))), text, *blobs))


def split(frame: Frame) -> list[bytes]:
    """The blobs of a frame. Raises FrameError."""
    header, body = frame
    if header.get("sizes") == [len(body)]:
        return [body]
    view, out = memoryview(body), []
    for size in header.get("sizes", ()):
        out.append(bytes(view[:size]))
        view = view[size:]
    if len(view) or sum(map(len, out)) != len(body):
        raise FrameError(f"blobs of {header.get('sizes')} bytes in a body of {len(body)}")
    return out


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end. Raises FrameError."""
    try:
        header, body = _checked(await reader.readexactly(_LENGTHS.size))
        return _parse(await reader.readexactly(header)), await reader.readexactly(body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive(sock: socket.socket) -> Frame | None:
    """As `read`, of a blocking socket. No buffered file: it would hold the beginning of a picture until the next."""
    try:
        header, body = _checked(_exactly(sock, _LENGTHS.size))
        return _parse(_exactly(sock, header)), _exactly(sock, body)
    except (EOFError, ConnectionError):
        return None


def _exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes. Raises EOFError."""
    data = sock.recv(count, socket.MSG_WAITALL) if count else b""
    if len(data) < count:
        raise EOFError
    return data


def _checked(lengths: bytes) -> tuple[int, int]:
    header, body = _LENGTHS.unpack(lengths)
    if header > MAX_HEADER or body > MAX_BODY:
        raise FrameError(f"a frame of {header:,} and {body:,} bytes; at most {MAX_HEADER:,} and {MAX_BODY:,}")
    return header, body


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as e:
        raise FrameError(f"a header that is not JSON: {e}") from None
    if not isinstance(found, dict):
        raise FrameError(f"a header of type {type(found).__name__}")
    return found
