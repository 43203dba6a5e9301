"""Bodies of the native API, decoded strictly, and checks of single values that both APIs share."""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...bundle.json_decoder import FieldError, decode
from ..errors import ApiError, bad_request

T = TypeVar("T")
_DATA = re.compile(r"data:image/(?:jpeg|jpg|png|webp);base64,", re.IGNORECASE)
#: Characters of a question: far more than any bundle's LLM reads.
MAX_TEXT = 20_000
#: Questions and answers of one call of /choose.
MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class FacesBody:
    """POST /v1/faces, where the picture comes as a data URI."""

    image: str
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class AskBody:
    """POST /v1/faces/{id}/ask. other: the id of a second face, to compare."""

    question: str
    after: str | None = None
    other: str | None = None
    max_tokens: int | None = None
    stream: bool = False


class Asked(Protocol):
    """What every question brings."""

    @property
    def question(self) -> str:
        """In English."""

    @property
    def after(self) -> str | None:
        """The question before, which it follows."""

    @property
    def max_tokens(self) -> int | None:
        """Where the answer ends at the latest."""

    @property
    def stream(self) -> bool:
        """Is it sent as it comes?"""


@dataclass(frozen=True, slots=True)
class ChooseBody:
    """POST /v1/faces/{id}/choose."""

    questions: tuple[str, ...]
    answers: tuple[str, ...] = ("Yes", "No")


def decoded(kind: type[T], data: dict[str, Any]) -> T:
    """A body of this kind. Raises ApiError that names the field."""
    try:
        return decode(kind, data, "body")
    except FieldError as e:
        # The decoder quotes what it found: that stays here.
        message = str(e).partition(", found ")[0]
        code = "missing_field" if "is missing" in message else "invalid_value"
        raise bad_request(
            code, f"{message}.", message.partition(":")[0].removeprefix("body").lstrip(".") or None
        ) from None


def data_uri(url: str, param: str) -> bytes:
    """The picture in a data URI. There is no code that fetches one. Raises ApiError."""
    head = _DATA.match(url[:64])
    if not head:
        text = "Only data:image/jpeg, png or webp;base64 URIs are read; nothing is fetched."
        raise bad_request("unsupported_image_url", text, param)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (ValueError, binascii.Error):
        raise bad_request("bad_image", "The base64 of the picture is damaged.", param) from None


def clean(text: str, param: str) -> str:
    """A text without lone surrogates, which no encoding has. Raises ApiError where it is too long."""
    if len(text) > MAX_TEXT:
        raise bad_request("question_too_long", f"A text has more than {MAX_TEXT:,} characters.", param)
    return text.encode("utf-8", "replace").decode()


def whole(value: Any, param: str, low: int, high: int) -> int | None:
    """A whole number, or None. Raises ApiError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_request("invalid_value", f"{param}: expected a whole number from {low} to {high}.", param)
    return value


def number(value: Any, param: str, low: float, high: float) -> float | None:
    """A finite number, or None. Raises ApiError."""
    if value is None:
        return None
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or not math.isfinite(value):
        raise bad_request("invalid_value", f"{param}: expected a number from {low:g} to {high:g}.", param)
    return float(value)


def flag(value: Any, param: str) -> bool:
    """True or false; null is false. Raises ApiError."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_request("invalid_value", f"{param}: expected true or false.", param)
    return value


def tokens(value: Any, param: str) -> int | None:
    """A limit in tokens; a bundle's own one is lower than any that a client thinks of. Raises ApiError."""
    found = whole(value, param, 1, 2**63)
    return None if found is None else min(found, 1_000_000)


def require(condition: bool, code: str, message: str, param: str | None = None) -> None:
    """Raises ApiError unless it holds."""
    if not condition:
        raise ApiError(400, code, message, param=param)
