"""Values of a JSON schema from what was found of a face: never generated, never guessed.

A property is taken from a characteristic that its name says ("wearing_glasses", "has_beard", "not_smiling"), or that
`x-faceinsight` names. Nothing else is asked what a name may mean: the question encoder took "headwear" for a necktie.
What is uncertain or hidden is null, or a word like "unsure", where the schema has one; else there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle.specs import CharacteristicSpec
from ..types import Face, Label
from .errors import ApiError, bad_request

_SPELLINGS = {"grey": "gray", "blonde": "blond", "moustache": "mustache", "colour": "color", "spectacles": "glasses"}
#: Words of a name that say nothing about what is meant.
_FILLERS = """
    a an the is are has have had does do look looks appears wear wears wearing person visitor customer user subject face
    facial slightly currently
"""
_EMPTY = frozenset(_FILLERS.split())
#: Names that mean how many faces there are.
_COUNTS = tuple(
    map(frozenset, (["faces"], ["people"], ["count"], ["number", "of", "faces"], ["number", "of", "people"]))
) + tuple(map(frozenset, (["faces", "count"], ["face", "count"], ["people", "count"])))
#: Words of an enum for what is not known, in the order in which they are taken.
_UNSURE = ("unsure", "uncertain", "unknown", "null", "not visible", "not_visible", "hidden")
_HIDDEN = ("not visible", "not_visible", "hidden", "unknown", "unsure", "uncertain", "null")
_REST = ("other", "none")
_STATES = {"yes", "no", "true", "false"}


class Unfillable(Exception):
    """The schema has no value for what was found. The message says which property and why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A characteristic, or the opposite of it."""

    name: str
    opposite: bool = False


def words(name: str) -> frozenset[str]:
    """What a name or a phrase says: "isSmiling", "is_smiling" and "is smiling" alike."""
    parts = re.findall(r"[A-Za-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name.replace("'", "")))
    return frozenset(_SPELLINGS.get(w, w) for w in map(str.lower, parts) if w not in _EMPTY)


class Filler:
    """Fills the nodes of json_schema.py."""

    def __init__(self, characteristics: Sequence[CharacteristicSpec], ask: Callable[[Face, str], str | None]) -> None:
        """Of a bundle.

        Args:
            characteristics: those that are switched on.
            ask: the LLM's checked answer about a face; None where the question is declined.
        """
        self._names = {c.name: Source(c.name) for c in characteristics}
        self._sources: dict[frozenset[str], Source] = {}
        for c in characteristics:
            self._sources.setdefault(words(c.absent), Source(c.name, opposite=True))
        for c in characteristics:
            self._sources |= {words(c.phrase): Source(c.name), words(c.name): Source(c.name)}
        self._sources.pop(frozenset(), None)
        self._ask = ask

    def check(self, node: Mapping[str, Any], name: str = "") -> None:
        """Raises ApiError for a property that nothing here can fill, whatever the picture shows."""
        kind = node["kind"]
        if kind == "object":
            for key, part in node["properties"].items():
                self.check(part, key)
        elif kind == "array" and node["items"]["kind"] == "enum":
            for value in node["items"]["values"]:
                self._source({}, value)
        elif kind == "array":
            if node["items"]["kind"] != "object":
                raise _unknown(name, "an array of objects (one per face) or of an enum is filled")
            self.check(node["items"], name)
        elif kind == "enum":
            self._choices(node, name)
        elif kind == "boolean":
            self._source(node, name)
        elif kind in ("number", "integer") and not _counts(name) and words(name) != {"age"}:
            source = self._source(node, name)
            if kind == "integer":
                raise _unknown(name, f"{source.name} is a probability: expected a number or a boolean")

    def fill(self, node: Mapping[str, Any], face: Face, faces: Sequence[Face], path: str = "") -> Any:
        """The value for a face. faces: all of the picture. Raises Unfillable."""
        try:
            return self._value(node, face, faces, path)
        except Unfillable:
            if node["nullable"]:
                return None
            raise

    def _value(self, node: Mapping[str, Any], face: Face, faces: Sequence[Face], path: str) -> Any:
        kind, name = node["kind"], path.rpartition(".")[2]
        if kind == "object":
            return self._object(node, face, faces, path)
        if kind == "array":
            return self._array(node, face, faces, path)
        if kind == "enum":
            return self._enum(node, face, path)
        if kind == "boolean":
            state = self._state(face, self._source(node, name))
            if state not in ("yes", "no"):
                raise Unfillable(f"{path} is {state}, and the schema has no null for it")
            return state == "yes"
        if kind in ("number", "integer"):
            return self._number(node, face, faces, path)
        if kind == "string":
            question = node["question"] or f"{' '.join(re.findall('[A-Za-z0-9]+', name))}?"
            answer = self._ask(face, question)
            if answer is None:
                raise Unfillable(f"{path} asks what is not answered")
            _require_within(node, len(answer), path)
            return answer
        return None

    def _array(self, node: Mapping[str, Any], face: Face, faces: Sequence[Face], path: str) -> list[Any]:
        """One object for each face; or of an enum's values those that are found."""
        if node["items"]["kind"] == "object":
            name = path.rpartition(".")[2]
            values = [self.fill(node["items"], f, faces, name) for f in faces]
        else:
            values = [v for v in node["items"]["values"] if self._state(face, self._source({}, v)) == "yes"]
        _require_within(node, len(values), path)
        return values

    def _object(self, node: Mapping[str, Any], face: Face, faces: Sequence[Face], path: str) -> dict[str, Any]:
        out = {}
        for key, part in node["properties"].items():
            try:
                out[key] = self.fill(part, face, faces, f"{path}.{key}" if path else key)
            except Unfillable:
                if key in node["required"]:
                    raise
        return out

    def _number(self, node: Mapping[str, Any], face: Face, faces: Sequence[Face], path: str) -> float | int:
        name = path.rpartition(".")[2]
        value: float | int | None
        if _counts(name):
            value = len(faces)
        elif words(name) == {"age"}:
            value = face.age.years if face.age else None
        else:
            source = self._source(node, name)
            label = _label(face, source)
            value = label.probability
            if value is not None and source.opposite:
                value = round(1 - value, 6)
        if value is None:
            raise Unfillable(f"{path} is not known, and the schema has no null for it")
        _require_within(node, value, path)
        return round(value) if node["kind"] == "integer" else value

    def _enum(self, node: Mapping[str, Any], face: Face, path: str) -> str:
        name, values = path.rpartition(".")[2], node["values"]
        choices = self._choices(node, name)
        if isinstance(choices, str):
            return choices
        states = {value: self._state(face, source) for value, source in choices.items()}
        certain = [v for v, state in states.items() if state == "yes"]
        if set(choices) <= _STATES and len(set(choices.values())) == 1:
            # A question with yes and no: both have the same source.
            state = next(iter(states.values()))
            wanted = {"yes": ("yes", "true"), "no": ("no", "false")}.get(state, ())
            certain = [v for v in values if v.lower() in wanted]
        if certain:
            return str(max(certain, key=lambda v: _label(face, choices[v]).probability or 0.0))
        hidden = all(state == "not visible" for state in states.values())
        rest = [v for v in values if v.lower() in _REST] if set(states.values()) == {"no"} else []
        by_word = {v.lower(): v for v in values}
        fitting = [*rest, *(by_word[w] for w in (_HIDDEN if hidden else _UNSURE) if w in by_word)]
        if fitting:
            return str(fitting[0])
        raise Unfillable(f"{path} is {'not visible' if hidden else 'unsure'}, and the schema has no word for it")

    def _choices(self, node: Mapping[str, Any], name: str) -> dict[str, Source] | str:
        """Value of an enum -> what it stands for; a text where it is the only value. Raises ApiError."""
        values = node["values"]
        if len(values) == 1 and not node["source"] and words(values[0]) not in self._sources:
            return str(values[0])
        named = [v for v in values if v.lower() not in (*_UNSURE, *_REST)]
        if named and all(v.lower() in _STATES for v in named):
            source = self._source(node, name)
            return dict.fromkeys(named, source)
        out = {}
        for value in named:
            both = words(value) | words(name)
            fits = [s for w, s in self._sources.items() if words(value) and words(value) <= w <= both]
            if not fits:
                raise _unknown(name, f"{value[:40]!r} is nothing that is found here")
            out[value] = fits[0]
        if not out:
            raise _unknown(name, "its enum has no value that is found here")
        return out

    def _source(self, node: Mapping[str, Any], name: str) -> Source:
        """What a property is taken from. Raises ApiError."""
        given = node.get("source")
        if given is not None:
            if given in self._names:
                return self._names[given]
            raise _unknown(name, "x-faceinsight names nothing that is computed here")
        source = self._sources.get(words(name))
        if source is None:
            text = 'name it like a characteristic of /v1/report/schema, or add "x-faceinsight": NAME'
            raise _unknown(name, text)
        return source

    def _state(self, face: Face, source: Source) -> str:
        state = _label(face, source).state
        return {"yes": "no", "no": "yes"}.get(state, state) if source.opposite else state


def everything(faces: Sequence[Face]) -> dict[str, Any]:
    """JSON of no particular shape: all that was found."""
    return {"faces": [{x.name: {"state": x.state, "probability": x.probability} for x in f.labels} for f in faces]}


def _require_within(node: Mapping[str, Any], value: float, path: str) -> None:
    """Raises Unfillable where a number, or how many items or characters there are, is not what the schema allows."""
    low, high = node["low"], node["high"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise Unfillable(f"{path} lies outside of what the schema allows")


def _label(face: Face, source: Source) -> Label:
    found = face.label(source.name)
    assert found is not None  # enabled ones only
    return found


def _counts(name: str) -> bool:
    parts = {w.lower() for w in re.findall(r"[A-Za-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name))}
    return parts in _COUNTS


def _unknown(name: str, why: str) -> ApiError:
    return bad_request(
        "schema_property_unknown", f"The property {name[:60]!r} cannot be filled: {why}.", "response_format"
    )
