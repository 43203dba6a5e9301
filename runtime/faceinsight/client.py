"""A client of `faceinsight serve`, with the standard library alone.

from faceinsight.client import Client

client = Client("http://127.0.0.1:8080")
for face in client.faces("photo.jpg"):
print(client.ask(face, "Is she smiling?"), face.label("Smiling"))
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Union
from urllib.parse import quote, urlsplit

from .errors import FaceInsightError, RequestError

Photo = Union[str, "os.PathLike[str]", bytes, BinaryIO]


class ServerError(FaceInsightError):
    """The server's answer is an error.

    Attributes:
        status: of HTTP; 0 where an answer broke off.
        code: the server's word for it ("face_forgotten", "queue_full").
        retry_after: seconds after which the same request may work; None: nobody knows, or it never will.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        """message: the server's sentence."""
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class ServerNotReachedError(FaceInsightError, ConnectionError):
    """Nobody answers at the address, or not within the time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one characteristic.

    Attributes:
        name: of the characteristic ("Eyeglasses"); phrase: the same in words ("is wearing glasses").
        state: "yes", "no", "unsure" or "not visible".
        probability: calibrated, 0 to 1; None where it is not visible.
        rule: that changed the state, if any.
    """

    name: str
    phrase: str
    group: str
    state: str
    probability: float | None
    region: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteFace:
    """A face that the server holds.

    Attributes:
        id: names it in later requests, until the server forgets it.
        index: its number in the picture, the largest first.
        box: x, y, width, height in pixels of the picture.
        landmarks: five points (x, y): right eye, left eye, nose, right and left corner of the mouth.
        score: the detector's, 0 to 1.
        labels: all that were computed.
        report: all else of the server's answer (areas, quality, age), as plain values.
    """

    id: str
    index: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float
    labels: tuple[Finding, ...]
    report: Mapping[str, Any]

    def label(self, name: str) -> Finding | None:
        """The finding of this name."""
        return next((label for label in self.labels if label.name == name), None)


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """An answer; `str` of it is its text.

    Attributes:
        text: in words.
        outcome: "answered", "unsure" or "declined"; reason: of the latter.
        labels: the findings that it rests on; evidence: the regions.
        confidence: 0 to 1.
        finish_reason: how it ended ("stop", "length", "withheld", "repaired").
    """

    text: str
    outcome: str
    reason: str | None
    labels: tuple[Finding, ...]
    evidence: tuple[str, ...]
    confidence: float
    finish_reason: str

    def __str__(self) -> str:
        return self.text


class Client:
    """One server. Every call is a connection of its own, so threads may share a client."""

    def __init__(
        self, address: str = "http://127.0.0.1:8080", *, token: str | None = None, timeout: float = 60, retries: int = 2
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: `http://host:port`, `https://...` of a proxy, or `unix:/path` of a Unix socket.
            token: where the server wants one.
            timeout: seconds without a byte from the server after which a call gives up.
            retries: how often a request that the server turned away for a while is sent again, after the time that it
                named.

        Raises:
            RequestError: the address is none of these.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "unix") or not (parts.hostname or parts.scheme == "unix"):
            raise RequestError(f"address: expected http://host:port, https://... or unix:/path, found {address!r}")
        self._parts, self._token, self._timeout, self._retries = parts, token, timeout, retries

    def faces(self, photo: Photo, *, labels: Sequence[str] | None = None) -> list[RemoteFace]:
        """The faces of a JPEG, PNG or WebP, the largest first.

        Args:
            photo: a path, the file's bytes, or an open binary file.
            labels: names of the characteristics to report; None: all.

        Raises:
            ServerError: the server refuses the photo, or is busy.
            ServerNotReachedError: there is no server.
        """
        query = "" if labels is None else "?labels=" + quote(",".join(labels))
        headers = {"content-type": "application/octet-stream"}
        return [_face(face) for face in self._call("POST", f"/v1/faces{query}", _read(photo), headers)["faces"]]

    def ask(
        self,
        face: RemoteFace | str,
        question: str,
        *,
        other: RemoteFace | str | None = None,
        after: str | None = None,
        max_tokens: int | None = None,
    ) -> RemoteAnswer:
        """The answer to a question about a face.

        Args:
            face: of `faces`, or its id.
            question: in English.
            other: a second face, to compare.
            after: the question before, which this one follows ("And a hat?").
            max_tokens: where the answer ends at the latest.

        Raises:
            ServerError: with code "face_forgotten" where the server holds the face no more.
            ServerNotReachedError: there is no server.
        """
        body = _question(question, other, after, max_tokens)
        return _answer(self._call("POST", f"/v1/faces/{_id(face)}/ask", body))

    def stream(
        self,
        face: RemoteFace | str,
        question: str,
        *,
        other: RemoteFace | str | None = None,
        after: str | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[str | RemoteAnswer]:
        """As `ask`: the pieces of the text when they are checked, and last of all the whole answer. Closing the
        iterator ends the work on it."""
        body = _question(question, other, after, max_tokens) | {"stream": True}
        connection, response = self._send("POST", f"/v1/faces/{_id(face)}/ask", _json(body), _JSON)
        try:
            yield from _events(response)
        except OSError as e:
            raise ServerNotReachedError(f"the answer broke off: {e}") from e
        finally:
            connection.close()

    def choose(self, face: RemoteFace | str, questions: Sequence[str], answers: Sequence[str] = ("Yes", "No")) -> Any:
        """How the LLM chooses between given answers: for each question the probabilities, as the server says them."""
        body = {"questions": list(questions), "answers": list(answers)}
        return self._call("POST", f"/v1/faces/{_id(face)}/choose", body)["choices"]

    def forget(self, face: RemoteFace | str | None = None) -> int:
        """Have the faces of this one's picture wiped, or all; returns how many that were."""
        path = "/v1/faces" if face is None else f"/v1/faces/{_id(face)}"
        return int(self._call("DELETE", path)["wiped"])

    def is_ready(self) -> bool:
        """Does a server answer questions there?"""
        try:
            self._call("GET", "/readyz", retries=0)
        except (ServerError, ServerNotReachedError):
            return False
        return True

    def version(self) -> dict[str, Any]:
        """What runs there: version, bundle, its SHA-256, device."""
        return self._call("GET", "/version")

    def privacy(self) -> dict[str, Any]:
        """What is computed there, what is held where and how long; a notice for the people in front of the camera."""
        return self._call("GET", "/v1/privacy")

    def report_schema(self) -> dict[str, Any]:
        """JSON schema of the states of all characteristics that are computed there."""
        return self._call("GET", "/v1/report/schema")

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        retries: int | None = None,
    ) -> dict[str, Any]:
        """A request and its JSON answer. body: bytes as they are; else plain values, as JSON."""
        if body is not None and not isinstance(body, bytes):
            body, headers = _json(body), _JSON
        connection, response = self._send(method, path, body, headers or {}, retries=retries)
        try:
            return dict(json.loads(response.read()))
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise ServerNotReachedError(f"the answer broke off: {e}") from e
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, retries: int | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request, again where the server was busy; the response has status 200."""
        if self._token:
            headers = {**headers, "authorization": f"Bearer {self._token}"}
        left = self._retries if retries is None else retries
        while True:
            connection = self._connection()
            try:
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                if response.status == 200:
                    return connection, response
                error = _error(response)
            except (OSError, http.client.HTTPException) as e:
                connection.close()
                raise ServerNotReachedError(f"{self._parts.geturl()} does not answer: {e or type(e).__name__}") from e
            connection.close()
            if error.retry_after is None or left <= 0:
                raise error
            left -= 1
            time.sleep(error.retry_after)

    def _connection(self) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, self._timeout)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self._timeout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path, self._seconds = path, timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


_JSON = {"content-type": "application/json"}


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _read(photo: Photo) -> bytes:
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return bytes(photo)
    return Path(photo).read_bytes() if isinstance(photo, (str, os.PathLike)) else photo.read()


def _question(question: str, other: RemoteFace | str | None, after: str | None, limit: int | None) -> dict[str, Any]:
    body = {"question": question, "other": _id(other) if other else None, "after": after, "max_tokens": limit}
    return {name: value for name, value in body.items() if value is not None}


def _id(face: RemoteFace | str) -> str:
    return quote(face if isinstance(face, str) else face.id, safe="")


def _events(response: http.client.HTTPResponse) -> Iterator[str | RemoteAnswer]:
    """Server-sent events: a line of data each, a comment where nothing came for a while."""
    for line in response:
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise ServerError(0, event["error"]["code"], event["error"]["message"])
        if "answer" in event:
            yield _answer(event["answer"])
            return
        yield event["text"]
    raise ServerNotReachedError("the answer broke off")


def _error(response: http.client.HTTPResponse) -> ServerError:
    """An answer's error. A time to try again is kept only where the server says that it is worth it."""
    try:
        error = json.loads(response.read())["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        code, message = "unknown", f"the server answers with status {response.status}"
    after = response.getheader("retry-after", "")
    worth_it = response.getheader("x-should-retry") == "true" and after.isdigit()
    return ServerError(response.status, code, message, float(after) if worth_it else None)


def _face(data: Mapping[str, Any]) -> RemoteFace:
    known = ("id", "index", "box", "landmarks", "score", "labels")
    return RemoteFace(
        id=data["id"],
        index=data["index"],
        box=tuple(data["box"]),
        landmarks=tuple((x, y) for x, y in data["landmarks"]),
        score=data["score"],
        labels=_findings(data["labels"]),
        report={name: value for name, value in data.items() if name not in known},
    )


def _findings(data: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Fields that a newer server adds are left out."""
    names = [f.name for f in fields(Finding)]
    return tuple(Finding(**{name: label[name] for name in names}) for label in data)


def _answer(data: Mapping[str, Any]) -> RemoteAnswer:
    return RemoteAnswer(
        text=data["text"],
        outcome=data["outcome"],
        reason=data["reason"],
        labels=_findings(data["labels"]),
        evidence=tuple(data["evidence"]),
        confidence=data["confidence"],
        finish_reason=data["finish_reason"],
    )
