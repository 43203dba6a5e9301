"""What the page says, in several languages; and the notice, made from what is really switched on.

A language is a JSON file in words/, named by its code. Another one is added by a file of the same form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError

#: Files in the package, and the language whose words each other one must have.
FOLDER, FIRST = Path(__file__).with_name("words"), "en"
#: Bytes of a file at most.
_MAX_BYTES = 100_000
Language = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the notice is about.

    Attributes:
        characteristics: what is computed: name, group ("" where no switch is needed) and region of each.
        asks: are people asked before the camera is read?
        seconds: after which a consent ends that is not renewed.
        counted: least people and least minutes of the figures that are made; None where nothing is counted.
        sent: do these leave the device?
        operator: who runs it; "" where nobody said.
    """

    characteristics: Sequence[Mapping[str, str]]
    asks: bool
    seconds: float
    counted: tuple[int, int] | None = None
    sent: bool = False
    operator: str = ""


def load(files: Sequence[str] = ()) -> dict[str, Language]:
    """Code of a language -> its words, English first.

    Args:
        files: further ones, named by the code: pt.json.

    Raises:
        RequestError: a file cannot be read, or lacks words.
    """
    paths = [FOLDER / f"{FIRST}.json", *sorted(FOLDER.glob("*.json")), *map(Path, files)]
    languages: dict[str, Language] = {}
    for path in paths:
        words = _read(path)
        if languages:
            _require_complete(path, words, languages[FIRST])
        languages[path.stem] = words
    return languages


def notice(words: Language, facts: Facts) -> list[str]:
    """What people in front of the camera are told, sentence by sentence."""
    say, groups = words["notice"], words["groups"]
    plain = [c for c in facts.characteristics if not c["group"]]
    switched = dict.fromkeys(c["group"] for c in facts.characteristics if c["group"])
    regions = dict.fromkeys(words["regions"].get(c["region"], c["region"]) for c in plain)
    sentences = [say["ai"], say["camera_off" if facts.asks else "camera_on"]]
    if regions:
        sentences.append(say["features"].format(features=", ".join(regions)))
    if switched:
        sentences.append(say["groups"].format(groups=", ".join(groups.get(g, g) for g in switched)))
    sentences += [say["nobody"], say["memory"]]
    if facts.asks:
        sentences.append(say["expires"].format(seconds=f"{facts.seconds:g}"))
    if facts.counted:
        people, minutes = facts.counted
        sentences.append(say["counts"].format(people=people, minutes=minutes))
        sentences += [say["sent"]] if facts.sent else []
    sentences += [say["mistakes"], say["choice"]]
    return sentences + ([say["operator"].format(operator=facts.operator)] if facts.operator else [])


def page(words: Language, facts: Facts) -> dict[str, Any]:
    """What the page needs of a language: its words for what is computed here, and no others."""
    names = {c["name"] for c in facts.characteristics}
    return {
        "name": words["name"],
        "notice": notice(words, facts),
        "page": words["page"],
        "states": words["states"],
        "labels": {name: text for name, text in words["labels"].items() if name in names},
        "questions": [
            {"shown": question["shown"], "asked": question["asked"]}
            for question in words["questions"]
            if question["needs"] in ("", *names)
        ],
    }


def _read(path: Path) -> Language:
    expected = f"{path}: expected a JSON file of words like {FOLDER / FIRST}.json, named by its language (pt.json)"
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]{2,4})?\.json", path.name):
        raise RequestError(f"{expected}, found this name")
    try:
        with open(path, "rb") as f:
            data = json.loads(f.read(_MAX_BYTES))
    except OSError as e:
        raise RequestError(f"{path}: {e.strerror or e}") from None
    except ValueError:
        raise RequestError(f"{expected}, found something else or more than {_MAX_BYTES:,} bytes") from None
    return data if isinstance(data, dict) else {}


def _require_complete(path: Path, words: Language, first: Language) -> None:
    """Raises RequestError where a text is missing, or has other fields in braces than the first language's."""
    for part, texts in first.items():
        given: Any = words.get(part)
        if type(given) is not type(texts):
            raise RequestError(f"{path}: {part!r}: expected {type(texts).__name__}, found {type(given).__name__}")
        if part == "questions":
            _require_questions(path, given)
        elif isinstance(texts, dict):
            for key, text in texts.items():
                if not isinstance(given.get(key), str) or _fields(given[key]) != _fields(text):
                    raise RequestError(f"{path}: {part}.{key}: expected words for {text!r}, found {given.get(key)!r}")


def _require_questions(path: Path, questions: Sequence[Any]) -> None:
    parts = ("needs", "shown", "asked")
    for question in questions:
        if not isinstance(question, dict) or not all(isinstance(question.get(part), str) for part in parts):
            raise RequestError(f"{path}: questions: expected needs, shown and asked as texts, found {question!r}")


def _fields(text: str) -> set[str]:
    return set(re.findall(r"{(\w*)}", text))
