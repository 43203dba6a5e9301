"""The answers the LLM learns to give.

An answer is derived from the states of the characteristics (what the head found, or the label where the head is
hidden), never from anything else: this module is the training set's ground truth and the benchmark's referee.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from faceinsight.labels import HIDDEN, NO, UNSURE, YES

from . import wordings as w

DECLINE_SCOPE = "I can only answer questions about the face in the picture."
DECLINE_OFF = "That is switched off here, so I do not answer it."
DECLINE_NEVER = "I do not judge how people look."
DECLINE_IDENTITY = "I do not identify people."


def closed_answer(concept: w.Concept, state: int) -> str:
    """The sentence that answers a yes/no question."""
    if state == YES:
        return f"Yes, the person {concept.yes}."
    if state == NO:
        return f"No, the person {concept.no}."
    if state == UNSURE:
        return f"I am not sure whether the person {concept.yes}."
    return "I cannot tell, that part of the face is not visible."


def join(parts: Sequence[str], word: str = "and") -> str:
    """English list: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _present(states: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    return [text for name, text in names.items() if states.get(name) == YES]


def hair_words(states: Mapping[str, int]) -> str | None:
    """ "wavy brown hair with bangs", as far as it is known; None where nothing is."""
    if states.get("Bald") == YES:
        return None
    style = _present(states, w.STYLES)[:1]
    color = _present(states, w.COLORS)[:1]
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
    facial = _present(states, w.FACIAL_NAMES)
    if facial and states.get("No_Beard") != YES:
        first.append(f"has {join(facial)}")
    worn = _present(states, w.WORN_NAMES)
    absent = [t for n, t in {"Eyeglasses": "glasses", "Wearing_Hat": "a hat"}.items() if states.get(n) == NO]
    second = []
    if worn:
        second.append(f"is wearing {join(worn)}")
    if absent:
        second.append(f"is not wearing {join(absent, 'or')}")
    if states.get("No_Beard") == YES:
        second.append("has no beard")
    one = f"The person {join(first)}." if first else "The face is hard to see."
    two = f"The person {join(second)}." if second else "Little else is certain."
    return f"{one} {two}"


def _maybe(states: Mapping[str, int], names: Mapping[str, str]) -> str | None:
    """The one that is unsure, where it is the only one."""
    unsure = [text for name, text in names.items() if states.get(name) == UNSURE]
    return unsure[0] if len(unsure) == 1 else None


def _hair_answer(states: Mapping[str, int]) -> str:
    if states.get("Bald") == YES:
        return "The person is bald."
    if hair := hair_words(states):
        return f"The person has {hair}."
    if states.get("Bald") == HIDDEN:
        return "The hair is not visible."
    if color := _maybe(states, w.COLORS):
        return f"The hair is probably {color}, but I am not sure."
    return "I am not sure what the hair is like."


def _color_answer(states: Mapping[str, int]) -> str:
    if states.get("Bald") == YES:
        return "The person is bald."
    color = _present(states, w.COLORS)
    if color:
        return f"The hair is {color[0]}."
    if all(states.get(n) == HIDDEN for n in w.COLORS):
        return "The hair is not visible."
    if maybe := _maybe(states, w.COLORS):
        return f"The hair is probably {maybe}, but I am not sure."
    return "I am not sure about the hair color."


def _style_answer(states: Mapping[str, int]) -> str:
    if style := _present(states, w.STYLES):
        return f"The hair is {style[0]}."
    if maybe := _maybe(states, w.STYLES):
        return f"The hair is probably {maybe}, but I am not sure."
    return "I am not sure about that."


def _facial_answer(states: Mapping[str, int]) -> str:
    if states.get("No_Beard") == YES:
        return "The person has no beard."
    facial = _present(states, w.FACIAL_NAMES)
    if facial:
        return f"The person has {join(facial)}."
    return "The person has a beard." if states.get("No_Beard") == NO else "I am not sure about the facial hair."


def _worn_answer(states: Mapping[str, int]) -> str:
    worn = _present(states, w.WORN_NAMES)
    return (
        f"The person is wearing {join(worn)}." if worn else "I cannot see anything special that the person is wearing."
    )


def _mood_answer(states: Mapping[str, int]) -> str:
    return {YES: "The person is smiling.", NO: "The person is not smiling."}.get(
        states.get("Smiling", UNSURE), "I am not sure about the expression."
    )


_HAIR = ("Bald", "Bangs", *w.STYLES, *w.COLORS)
_FACIAL = ("No_Beard", *w.FACIAL_NAMES)
#: What a description speaks of.
DESCRIBED = (*_HAIR, "Smiling", "Mouth_Slightly_Open", *_FACIAL, *w.WORN_NAMES)
_OPEN: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, int]], str], tuple[str, ...]], ...] = (
    (w.COLOR_QUESTIONS, _color_answer, ("Bald", *w.COLORS)),
    (w.HAIR_QUESTIONS, _hair_answer, _HAIR),
    (w.STYLE_QUESTIONS, _style_answer, tuple(w.STYLES)),
    (w.FACIAL_QUESTIONS, _facial_answer, _FACIAL),
    (w.WORN_QUESTIONS, _worn_answer, tuple(w.WORN_NAMES)),
    (w.MOOD_QUESTIONS, _mood_answer, ("Smiling",)),
)


class Turn(NamedTuple):
    """A question, its answer, and the characteristics that it asks about."""

    question: str
    answer: str
    about: tuple[str, ...] = ()


def turn(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    """A random question and its answer. `states` holds the characteristics that are switched on, and only those."""
    kind = rng.random()
    if kind < 0.45:
        concept = w.CONCEPTS[rng.integers(len(w.CONCEPTS))]
        state = concept.state(states)
        answer = DECLINE_OFF if state is None else closed_answer(concept, state)
        return Turn(w.closed_question(rng, concept), answer, (concept.name,))
    if kind < 0.61:
        questions, answer_of, about = _OPEN[rng.integers(len(_OPEN))]
        return Turn(w.say(rng, questions), answer_of(states), about)
    if kind < 0.89:
        return Turn(w.say(rng, w.DESCRIBE_QUESTIONS), describe(states), DESCRIBED)
    return _declined(rng, states)


def _declined(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    kind = rng.integers(8)
    if kind == 0:
        return Turn(w.say(rng, w.AGE_QUESTIONS), _gate("Young", states), ("Young",))
    if kind == 1:
        return Turn(w.say(rng, w.GENDER_QUESTIONS), _gate("Male", states), ("Male",))
    if kind == 2:
        return Turn(w.say(rng, w.RACE_QUESTIONS), DECLINE_OFF)
    if kind == 3:
        return Turn(w.say(rng, w.ATTRACTIVE_QUESTIONS), DECLINE_NEVER)
    if kind == 4:
        return Turn(w.say(rng, w.IDENTITY_QUESTIONS), DECLINE_IDENTITY)
    return Turn(w.say(rng, w.SCOPE_QUESTIONS), DECLINE_SCOPE)


def _gate(name: str, states: Mapping[str, int]) -> str:
    concept = next(c for c in w.CONCEPTS if c.name == name)
    state = states.get(name)
    if state is None:
        return DECLINE_OFF
    if state in (YES, NO):
        return f"The person {concept.yes if state == YES else concept.no}."
    return "I am not sure about that."
