"""The answers the LLM learns to give.

An answer is derived from the states of the characteristics (what the head found, or the label where the head is
hidden), never from anything else: this module is the training set's ground truth and the benchmark's referee.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from faceinsight.types import HIDDEN, NO, UNSURE, YES

from ..taxonomy import CHARACTERISTICS, EXPRESSIONS
from . import wordings as w
from .concepts import BY_NAME, COLORS, FACIAL_NAMES, STYLES, WORN_NAMES, Concept

DECLINE_OFF = "That is switched off here, so I do not answer it."
HIDDEN_ANSWER = "I cannot tell, that part of the face is not visible."
#: How many faces there are.
COUNTED = ("I see one face in the picture.", "I see {count} faces in the picture.")
#: Behind what is known of a thing that is asked about in detail.
MORE = " More than that I cannot tell."
#: Words for a region.
LOOKED = "I looked at {place}."
REGION_WORDS = {
    "face": "the whole face", "skin": "the skin", "nose": "the nose", "glasses": "the eyes", "eyes": "the eyes",
    "brows": "the eyebrows", "ears": "the ears", "mouth": "the mouth", "hair": "the hair", "hat": "the head",
    "earring": "the ears", "necklace": "the neck", "neck": "the neck", "clothes": "the clothes",
}  # fmt: skip
_PHRASE = {c.name: c.phrase for c in CHARACTERISTICS}
_NUMBERS = ("None", "One", "Two", "Three", "Four", "Five", "Six")


def closed_answer(concept: Concept, state: int) -> str:
    """The sentence that answers a yes/no question."""
    if state == YES:
        return f"Yes, the person {concept.yes}."
    if state == NO:
        return f"No, the person {concept.no}."
    if state == UNSURE:
        return f"I am not sure whether the person {concept.yes}."
    return HIDDEN_ANSWER


def statement(concept: Concept, state: int) -> str:
    """What holds, without Yes or No: for questions that ask it the other way round."""
    if state in (YES, NO):
        return f"The person {concept.yes if state == YES else concept.no}."
    return closed_answer(concept, state)


def detail_answer(concept: Concept, state: int) -> str:
    """To a question that takes for granted that it is there: whether it is, and that no more is known."""
    return f"{statement(concept, state)}{MORE if state == YES else ''}"


def compound_answer(concepts: Sequence[Concept], states: Sequence[int | None]) -> str:
    """What answers several yes/no questions in one: what holds and what does not, then what is in doubt."""
    held = {
        s: [c for c, concept_state in zip(concepts, states, strict=True) if concept_state == s]
        for s in (YES, NO, UNSURE, HIDDEN, None)
    }
    holds, lacks = w.listed([c.yes for c in held[YES]] or [""]), w.listed([c.no for c in held[NO]] or [""])
    facts = ", but ".join(x for x in (holds, lacks) if x)
    start = {len(held[YES]): "Yes, the", len(held[NO]): "No, the"}.get(len(concepts), "The")
    sentences = [f"{start} person {facts}."] if facts else []
    for state, doubt in ((UNSURE, "am not sure"), (HIDDEN, "cannot tell")):
        if held[state]:
            sentences.append(f"I {doubt} whether the person {w.listed([c.yes for c in held[state]], 'or')}.")
    return " ".join([*sentences, *([DECLINE_OFF] if held[None] else [])])


def _present(states: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    return [text for name, text in names.items() if states.get(name) == YES]


def hair_words(states: Mapping[str, int]) -> str | None:
    """Such as "wavy brown hair with bangs", as far as it is known; None where nothing is."""
    if states.get("Bald") == YES:
        return None
    style = _present(states, STYLES)[:1]
    color = _present(states, COLORS)[:1]
    tail = " with bangs" if states.get("Bangs") == YES else ""
    return " ".join([*style, *color, "hair"]) + tail if style or color or tail else None


def describe(states: Mapping[str, int]) -> str:
    """Two sentences of what is certain: first what is there, then what is worn and what is absent."""
    first = []
    if states.get("Bald") == YES:
        first.append("is bald")
    elif hair := hair_words(states):
        first.append(f"has {hair}")
    if states.get("Smiling") == YES:
        first.append("is smiling")
    elif states.get("Smiling") == NO:
        first.append("is not smiling")
    if states.get("Mouth_Slightly_Open") == YES:
        first.append("has the mouth slightly open")
    facial = _present(states, FACIAL_NAMES)
    if facial and states.get("No_Beard") != YES:
        first.append(f"has {w.listed(facial)}")
    first += [f"looks {word}" for name, word in EXPRESSIONS.items() if states.get(name) == YES and name != "Neutral"]
    worn = _present(states, WORN_NAMES)
    absent = [t for n, t in {"Eyeglasses": "glasses", "Wearing_Hat": "a hat"}.items() if states.get(n) == NO]
    second = []
    if worn:
        second.append(f"is wearing {w.listed(worn)}")
    if absent:
        second.append(f"is not wearing {w.listed(absent, 'or')}")
    one = f"The person {w.listed(first)}." if first else "The face is hard to see."
    two = f"The person {w.listed(second)}." if second else "Little else is certain."
    return f"{one} {two}"


def _maybe(states: Mapping[str, int], names: Mapping[str, str]) -> str | None:
    """The one that is unsure, where it is the only one."""
    unsure = [text for name, text in names.items() if states.get(name) == UNSURE]
    return unsure[0] if len(unsure) == 1 else None


def hair_answer(states: Mapping[str, int]) -> str:
    """What the hair is like: color and cut."""
    if states.get("Bald") == YES:
        return "The person is bald."
    if hair := hair_words(states):
        return f"The person has {hair}."
    if states.get("Bald") == HIDDEN:
        return "The hair is not visible."
    if color := _maybe(states, COLORS):
        return f"The hair is probably {color}, but I am not sure."
    return "I am not sure what the hair is like."


def color_answer(states: Mapping[str, int]) -> str:
    """The hair's color."""
    if states.get("Bald") == YES:
        return "The person is bald."
    color = _present(states, COLORS)
    if color:
        return f"The hair is {color[0]}."
    if all(states.get(n) == HIDDEN for n in COLORS):
        return "The hair is not visible."
    if maybe := _maybe(states, COLORS):
        return f"The hair is probably {maybe}, but I am not sure."
    return "I am not sure about the hair color."


def style_answer(states: Mapping[str, int]) -> str:
    """Straight or wavy."""
    if style := _present(states, STYLES):
        return f"The hair is {style[0]}."
    if maybe := _maybe(states, STYLES):
        return f"The hair is probably {maybe}, but I am not sure."
    return "I am not sure about that."


def facial_answer(states: Mapping[str, int]) -> str:
    """The beard, in all its kinds."""
    if states.get("No_Beard") == YES:
        return "The person has no beard."
    facial = _present(states, FACIAL_NAMES)
    if facial:
        return f"The person has {w.listed(facial)}."
    return "The person has a beard." if states.get("No_Beard") == NO else "I am not sure about the facial hair."


def worn_answer(states: Mapping[str, int]) -> str:
    """What is worn."""
    worn = _present(states, WORN_NAMES)
    return (
        f"The person is wearing {w.listed(worn)}."
        if worn
        else "I cannot see anything special that the person is wearing."
    )


def choice_answer(names: Sequence[str]) -> Callable[[Mapping[str, int]], str]:
    """The one that holds, claimed or in doubt."""

    def answer(states: Mapping[str, int]) -> str:
        for name in names:
            if states.get(name) == YES:
                return f"The person {BY_NAME[name].yes}."
            if states.get(name) == UNSURE:
                return f"I am not sure, but the person probably {BY_NAME[name].yes}."
        return DECLINE_OFF

    return answer


def gated_answer(name: str) -> Callable[[Mapping[str, int]], str]:
    """-> the answer about one characteristic that may be switched off."""

    def answer(states: Mapping[str, int]) -> str:
        concept, state = BY_NAME[name], states.get(name)
        if state is None:
            return DECLINE_OFF
        return statement(concept, state) if state in (YES, NO) else "I am not sure about that."

    return answer


def which_answer(states: Mapping[str, int], concepts: Sequence[Concept]) -> str:
    """Which of several of one form hold."""
    known = [c.state(states) for c in concepts]
    if None in known:
        return DECLINE_OFF
    present = [c for c, s in zip(concepts, known, strict=True) if s == YES]
    if present:
        verb = {"wear": "is wearing", "have": "has", "look": "looks", "be": "is"}[present[0].form]
        return f"The person {verb} {w.listed([c.words[0] for c in present])}."
    if all(s == HIDDEN for s in known):
        return HIDDEN_ANSWER
    if UNSURE in known or HIDDEN in known:
        return "I am not sure."
    return "Neither of them." if len(concepts) == 2 else "None of these."


def count_answer(states: Mapping[str, int], concepts: Sequence[Concept]) -> str:
    """How many hold, which, and about which nothing is certain."""
    known = [c.state(states) for c in concepts]
    if None in known:
        return DECLINE_OFF
    present = [c.words[0] for c, s in zip(concepts, known, strict=True) if s == YES]
    doubtful = [c.words[0] for c, s in zip(concepts, known, strict=True) if s in (UNSURE, HIDDEN)]
    text = f"{_NUMBERS[len(present)]}: {w.listed(present)}." if present else "None of these."
    return f"{text} I am not sure about {w.listed(doubtful, 'or')}." if doubtful else text


HAIR = ("Bald", "Bangs", *STYLES, *COLORS)
FACIAL = ("No_Beard", *FACIAL_NAMES)
#: Characteristics that a description mentions.
DESCRIBED = (*HAIR, "Smiling", "Mouth_Slightly_Open", *FACIAL, *WORN_NAMES, *EXPRESSIONS)


def who_answer(concept: Concept, first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """Which of the two."""
    a, b = concept.state(first), concept.state(second)
    if a is None or b is None:
        return DECLINE_OFF
    if (a, b) == (YES, YES):
        return f"Each of them {concept.yes}."
    if (a, b) == (NO, NO):
        return f"Neither person {concept.yes}."
    if (a, b) in ((YES, NO), (NO, YES)):
        return f"Only the {'first' if a == YES else 'second'} person {concept.yes}."
    if a not in (YES, NO) and b not in (YES, NO):
        return "I am not sure about either of them."
    sure, doubtful, state = ("first", "second", a) if a in (YES, NO) else ("second", "first", b)
    return f"The {sure} person {concept.yes if state == YES else concept.no}, I am not sure about the {doubtful} one."


def both_answer(concept: Concept, first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """Both or not."""
    a, b = concept.state(first), concept.state(second)
    if a is None or b is None:
        return DECLINE_OFF
    if (a, b) == (YES, YES):
        return f"Yes, each of them {concept.yes}."
    if (a, b) == (NO, NO):
        return f"No, neither person {concept.yes}."
    if NO in (a, b):
        return f"No, the {'first' if a == NO else 'second'} person {concept.no}."
    return "I am not sure."


def _first_sure(names: Sequence[str], limit: int = 4) -> list[str]:
    return [_PHRASE[n] for n in islice(names, limit)]


def common_answer(first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """What is certain of both, at most four things."""
    shared = _first_sure([n for n in DESCRIBED if first.get(n) == second.get(n) == YES])
    return f"Each of them {w.listed(shared)}." if shared else "Nothing that I am sure of."


def different_answer(first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """What is certain of one and certainly not so of the other, at most four things each."""
    only = [
        _first_sure([n for n in DESCRIBED if one.get(n) == YES and other.get(n) == NO])
        for one, other in ((first, second), (second, first))
    ]
    texts = [f"Only the {who} person {w.listed(o)}." for who, o in zip(("first", "second"), only, strict=True) if o]
    return " ".join(texts) or "I see no clear difference."
