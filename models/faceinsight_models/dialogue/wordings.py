"""How people ask: the templates of yes/no questions, and questions made of templates and of the concepts' words.

Templates marked as held out never appear in training; the benchmark asks with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .concepts import Concept, bare

_SUBJECTS = (
    "the person", "this person", "she", "he", "the woman", "the man", "this face", "the one in the picture", "the girl",
    "the boy", "the lady", "this guy", "the kid", "the subject", "the child", "my friend", "this one", "dude",
    "the person in the photo", "the person in the picture", "this man", "this woman",
)  # fmt: skip
#: Pronouns: as an object, and before what is theirs.
_PRONOUNS = {"she": ("her", "her"), "he": ("him", "his")}
#: Where the subject of a template is the object of a sentence, and what belongs to it.
_OBJECT = re.compile(
    r"\b(about|behind|call|date|describe|diagnose|find|gave|give|identify|know|made|next to|of|on|recogni[sz]e|remember"
    r"|see|seen|suit|to|trust|up|with) \{s\}(?!')",
    re.IGNORECASE,
)
_THEIRS = re.compile(r"\bthe ([a-z{}]+(?: [a-z]+)?) of \{s\}|\{s\}'s\b", re.IGNORECASE)
_TEMPLATES = {
    "wear": (
        "Is {s} wearing {x}?", "Does {s} have {x}?", "Does {s} wear {x}?", "Can you see {x}?", "Does {s} have {x} on?",
        "{x}?",
        "Do you see {x} on this face?", "Is there {x} in this picture?", "Please tell me if {s} is wearing {x}.",
        "Is it true that {s} is wearing {x}?", "I want to know if {s} wears {x}.", "Look for {x}.", "{x}, yes or no?",
        "Are there {x}?", "Does this picture show {x}?", "Is {s} wearing {x} or not?", "Tell me if {s} has {x} on.",
        "Tell me whether you can see {x} on {s}.", "Check for {x}.", "Do you think {s} is wearing {x} in this picture?",
        "{s} is wearing {x}, right?", "{s} wears {x}, correct?", "Any {x} on {s}?", "Got {x} on?",
        "{s} wearing {x} or nah?",
        "{s} rocking {x}?",
        "Can you verify whether {s} is wearing {x}?", "Let me know if {s} wears {x}.", "Do you know if {s} has {x} on?",
        "Could you tell me whether {s} is wearing {x}?", "What about {x}?", "Is that {x} on {s}?", "Are those {x}?",
        "Has {s} got {x} on?", "Is {s} in {x}?", "Are there {x} on the face?",
        "Is {s} seen with {x}?",
    ),
    "have": (
        "Does {s} have {x}?", "Is there {x}?", "Has {s} got {x}?", "Can you see {x}?", "{x}?",
        "Do you see {x} on this face?", "Please tell me if {s} has {x}.", "Would you say {s} has {x}?",
        "Are there {x}?",
        "Is it true that {s} has {x}?", "I want to know if {s} has {x}.", "Look for {x}.", "{x}, yes or no?",
        "Does this picture show {x}?", "Does {s} have {x} or not?", "Tell me if {s} has {x}.",
        "Tell me whether {x} can be seen.",
        "Check for {x}.", "Do you think {s} has {x} in this picture?", "{s} has {x}, right?", "{s} got {x} or nah?",
        "Any {x}?", "Is that {x}?", "Is {s} with {x}?", "Are we looking at {x}?",
        "Can you verify whether {s} has {x}?", "Let me know if {s} has {x}.", "Do you know if {s} has {x}?",
        "Could you tell me whether {s} has {x}?", "What about {x}?", "Is it {x} that {s} has?",
    ),
    "be": (
        "Is {s} {x}?", "Would you say {s} is {x}?", "{x}?", "Please tell me if {s} is {x}.", "Do you think {s} is {x}?",
        "Does {s} look {x}?", "Is {s} {x} here?", "Is it true that {s} is {x}?", "I want to know if {s} is {x}.",
        "{x}, yes or no?", "Is {s} {x} or not?", "Tell me if {s} is {x}.", "{s} is {x}, right?", "Can you see {s} {x}?",
        "{s} {x} or nah?", "Is {s} really {x}?",
        "Can you verify whether {s} is {x}?", "Let me know if {s} is {x}.", "Do you know if {s} is {x}?",
        "Could you tell me whether {s} is {x}?", "Is that person {x}?", "Are they {x}?",
    ),
}  # fmt: skip
_TEMPLATES["look"] = (
    "Does {s} look {x}?", "Is {s} {x}?", "{x}?", "Would you say {s} looks {x}?", "Tell me if {s} looks {x}.",
    "Do you think {s} is {x}?", "Does {s} seem {x}?", "Is {s} {x} or not?", "{x}, yes or no?",
    "I want to know if {s} looks {x}.", "Is it true that {s} is {x}?", "Does this face look {x}?", "{s} is {x}, right?",
    "{s} looking {x}?", "Can you tell if {s} is {x}?", "Is {s} really {x}?",
    "Can you verify whether {s} looks {x}?", "Let me know if {s} looks {x}.", "Do you know if {s} looks {x}?",
    "Could you tell me whether {s} is {x}?",
)  # fmt: skip
#: Asked the other way round, or with a denial in it: "yes" would say one thing to one reader and another to the next,
#: so the answer is a statement (`faceinsight.language.claims.turned`).
NEGATED_TEMPLATES = {
    "wear": (
        "Isn't {s} wearing {x}?", "{s} isn't wearing {x}, is {s}?", "Is {s} not wearing {x}?", "Is {s} without {x}?",
        "{s} doesn't wear {x}, right?", "Is it true that {s} is not wearing {x}?",
        "Is it false that {s} is wearing {x}?",
        "No {x}?", "Aren't those {x}?", "Is it correct that {s} wears no {x}?", "{s} has no {x} on, correct?",
        "Would it be wrong to say {s} is wearing {x}?", "Prove that {s} isn't wearing {x}.",
    ),
    "have": (
        "Doesn't {s} have {x}?", "{s} doesn't have {x}, right?", "Does {s} have no {x}?", "Does {s} lack {x}?",
        "Hasn't {s} got {x}?", "Is it true that {s} has no {x}?", "Is it false that {s} has {x}?",
        "Is {s} without {x}?",
        "No {x}?", "Isn't that {x}?", "Would it be wrong to say {s} has {x}?", "{s} has no {x}. Correct?",
    ),
    "be": (
        "Isn't {s} {x}?", "{s} isn't {x}, is {s}?", "Is {s} not {x}?", "Is it true that {s} is not {x}?",
        "Is it false that {s} is {x}?", "Not {x}?", "{s} is not {x}, right?", "Would it be wrong to say {s} is {x}?",
    ),
    "look": (
        "Doesn't {s} look {x}?", "{s} isn't {x}, is {s}?", "Is {s} not {x}?", "Is it true that {s} is not {x}?",
        "Is it false that {s} looks {x}?", "Not {x}?", "{s} does not look {x}, right?",
    ),
}  # fmt: skip
_HELDOUT_NEGATED_TEMPLATES = {
    "wear": ("{s} is not wearing {x}, or is {s}?", "Can it be that {s} isn't wearing {x}?"),
    "have": ("{s} doesn't have {x}, or does {s}?", "Can it be that {s} has no {x}?"),
    "be": ("Can it be that {s} isn't {x}?", "{s} is not {x}, or is {s}?"),
    "look": ("Can it be that {s} doesn't look {x}?", "{s} does not look {x}, or does {s}?"),
}
#: What takes for granted that something is there and asks for more than a report says.
DETAIL_TEMPLATES = {
    "wear": (
        "What color is {x}?", "What colour are {x}?", "What brand is {x}?", "What kind of thing is {x}?",
        "Why is {s} wearing {x}?",
        "Where did {s} buy {x}?", "How much did {x} cost?", "Since when does {s} wear {x}?", "What are {x} made of?",
        "When did {s} take off {x}?", "Describe {x}.", "Who gave {s} {x}?", "How big is {x}?",
        "What type of {x} is that?",
    ),
    "have": (
        "How long is {x}?", "Why does {s} have {x}?", "Since when does {s} have {x}?", "What color is {x}?",
        "When did {s} get {x}?", "How did {s} get {x}?", "Describe {x}.", "What shape is {x}?", "How big is {x}?",
    ),
}  # fmt: skip
_HELDOUT_DETAIL_TEMPLATES = {
    "wear": ("Of which make is {x}?", "What style of {x} is this?", "How old is {x}?"),
    "have": ("How thick is {x}?", "For how long has {s} had {x}?"),
}
_HELDOUT_TEMPLATES = {
    "look": ("Tell me, does {s} look {x}?", "Could you check whether {s} looks {x}?", "In this photo, is {s} {x}?"),
    "wear": (
        "Tell me, is {s} wearing {x} in this photo?",
        "Could you check whether {s} has {x} on?",
        "I wonder if {s} is wearing {x}.",
    ),
    "have": (
        "Tell me, does {s} have {x}?",
        "Could you check whether {s} has {x}?",
        "In this photo, does {s} have {x}?",
    ),
    "be": ("Tell me, is {s} {x}?", "Could you check whether {s} is {x}?", "In this photo, is {s} {x}?"),
}

#: "Does she have black hair?" the other way round: "Is the hair black?".
_OF_A_PART = {
    "is": (
        "Is the {n} {a}?", "Is her {n} {a}?", "Is his {n} {a}?", "Is {s}'s {n} {a}?", "Is the {n} of {s} {a}?",
        "Would you call the {n} {a}?", "Does the {n} look {a}?",
    ),
    "are": (
        "Are the {n} {a}?", "Are her {n} {a}?", "Are his {n} {a}?", "Are {s}'s {n} {a}?", "Are the {n} of {s} {a}?",
        "Would you call the {n} {a}?", "Do the {n} look {a}?",
    ),
}  # fmt: skip
_PART = re.compile(
    "(?:an? )?(?P<a>.+) (?P<n>(?P<is>hair|nose|skin|face|hairline|chin|complexion)|eyes|eyebrows|brows|lips|cheeks)"
)
#: How often that is asked so, where it can be.
OF_A_PART = 0.2

#: What people put before a noun without meaning anything else by it.
_MODIFIERS = ("any", "some", "some sort of", "a bit of", "any sort of", "clearly visible")
#: How much so, before an adjective.
_DEGREES = ("so", "extremely", "truly", "fairly", "totally", "kind of", "visibly", "clearly")
#: How often a yes/no question is asked the other way round.
NEGATED = 0.15
#: How often it is one bare noun or adjective ("hat").
BARE = 0.08
#: How often it is asked in the first words for it and the first three templates, as most people do.
PLAIN = 0.3

#: Several things in one question: {o} is "smiling and wearing a hat" behind "is", "have a beard and wear a hat" behind
#: "does", "is smiling and has a beard" by itself, or whole questions.
COMPOUND_TEMPLATES = {
    "is": ("Is {s} {o}?", "Is {s} {o}?", "Is {s} {o} or not?", "Is it true that {s} is {o}?"),
    "does": ("Does {s} {o}?", "Does {s} {o}?", "Does {s} {o} here?"),
    "states": (
        "Tell me if {s} {o}.", "I want to know if {s} {o}.", "Would you say {s} {o}?", "Do you think {s} {o}?",
        "Please tell me whether {s} {o}.",
    ),
    "things": ("{o}?", "Can you see {o}?", "Check for {o}.", "Look for {o}."),
    "asks": ("{o}?", "{o}?", "Please say, {o}?"),
}  # fmt: skip
_HELDOUT_COMPOUND_TEMPLATES = {
    "is": ("Tell me, is {s} {o}?", "In this photo, is {s} {o}?"),
    "does": ("Tell me, does {s} {o}?", "In this photo, does {s} {o}?"),
    "states": ("Could you check whether {s} {o}?", "I wonder if {s} {o}."),
    "things": ("Do I see {o}?",),
    "asks": ("Tell me, {o}?",),
}
#: How a concept is said in each of these ways, if it is.
_SAID = {
    "wear": {
        "is": "wearing {x}", "does": "wear {x}", "states": "is wearing {x}", "things": "{x}",
        "asks": "is {s} wearing {x}",
    },
    "have": {"does": "have {x}", "states": "has {x}", "things": "{x}", "asks": "does {s} have {x}"},
    "be": {"is": "{x}", "states": "is {x}", "asks": "is {s} {x}"},
    "look": {"is": "{x}", "does": "look {x}", "states": "looks {x}", "asks": "does {s} look {x}"},
}  # fmt: skip


def say(rng: np.random.Generator, templates: Sequence[str], words: Sequence[str] = ("",), *, o: str = "") -> str:
    """One of the templates with a subject, one of the words, the options; at times in lower case, or unpunctuated."""
    subject = str(rng.choice(_SUBJECTS))
    template = _inflected(str(rng.choice(list(templates))), subject)
    text = template.format(s=subject, x=rng.choice(list(words)), o=o)
    text = text[0].upper() + text[1:]
    style = rng.random()
    if style < 0.12:
        text = text.lower()
    if style > 0.9:
        text = text.rstrip("?.") or text
    return text


def _inflected(template: str, subject: str) -> str:
    """A template with its subject in the right case: "describe her", "her hair", not "describe she" and "the hair of
    she"."""
    if subject not in _PRONOUNS:
        return template
    them, their = _PRONOUNS[subject]
    template = _THEIRS.sub(lambda m: f"{their} {m[1]}" if m[1] else their, template)
    return _OBJECT.sub(lambda m: f"{m[1]} {them}", template)


def compound_question(rng: np.random.Generator, concepts: Sequence[Concept], *, heldout: bool = False) -> str:
    """Several yes/no questions in one. Held out: templates and words that training never uses."""
    templates = _HELDOUT_COMPOUND_TEMPLATES if heldout else COMPOUND_TEMPLATES
    ways = [way for way in templates if all(way in _SAID[c.form] for c in concepts)]
    way, subject, parts = ways[rng.integers(len(ways))], rng.choice(_SUBJECTS), list[str]()
    for n, c in enumerate(concepts):
        phrase = _SAID[c.form][way]
        if n and c.form == concepts[n - 1].form and rng.random() < 0.6:
            phrase = "{x}"  # "have a beard and bangs"
        parts.append(phrase.format(s=subject, x=rng.choice(c.heldout if heldout else c.words)))
    return say(rng, templates[way], o=listed(parts))


def listed(parts: Sequence[str], word: str = "and") -> str:
    """English list: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def closed_question(rng: np.random.Generator, concept: Concept, *, heldout: bool = False) -> str:
    """One wording of the yes/no question. Held out: template and words that training never uses."""
    if heldout:
        return say(rng, _HELDOUT_TEMPLATES[concept.form], concept.heldout)
    words = concept.words
    if rng.random() < BARE:
        first = words[:2] if rng.random() < 0.5 else words
        return say(rng, ("{x}", "{x}?"), tuple(map(bare, first)))
    parts = [m for m in map(_PART.fullmatch, words) if m]
    if parts and rng.random() < OF_A_PART:
        part = parts[rng.integers(min(3, len(parts)) if rng.random() < PLAIN else len(parts))]
        templates = _OF_A_PART["is" if part["is"] else "are"]
        return say(rng, [t.replace("{a}", part["a"]).replace("{n}", part["n"]) for t in templates])
    if rng.random() < PLAIN:
        return say(rng, _TEMPLATES[concept.form][:3], words[:2])
    if rng.random() < NEGATED:
        return say(rng, NEGATED_TEMPLATES[concept.form], tuple(map(bare, words)) if concept.form == "have" else words)
    if concept.form in ("wear", "have") and rng.random() < 0.2:
        words = tuple(f"{rng.choice(_MODIFIERS)} {bare(x)}" for x in words)
    if concept.form == "look" and rng.random() < 0.2:
        words = tuple(f"{rng.choice(_DEGREES)} {x}" for x in words)
    return say(rng, _TEMPLATES[concept.form], words)


def negated_question(rng: np.random.Generator, concept: Concept) -> str:
    """The yes/no question the other way round, in words and a template that training never uses."""
    return say(rng, _HELDOUT_NEGATED_TEMPLATES[concept.form], concept.heldout)


def detail_question(rng: np.random.Generator, concept: Concept, *, heldout: bool = False) -> str:
    """A question that takes for granted that there is something to wear or have."""
    templates = (_HELDOUT_DETAIL_TEMPLATES if heldout else DETAIL_TEMPLATES)[concept.form]
    owner = ("the", "her", "his", "these", "those", "that")[rng.integers(6)]
    words = concept.heldout if heldout else concept.words
    return say(rng, templates, tuple(f"{owner} {bare(x).removeprefix('any ')}" for x in words))
