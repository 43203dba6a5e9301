"""Questions at random with their answers: what a face, or two, may be asked in one turn of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from faceinsight.bundle.specs import ABOUT, DETAIL
from faceinsight.language.claims import is_negated
from faceinsight.types import HIDDEN, NO, YES

from ..taxonomy import AGES, CHARACTERISTICS, EXCLUSIVE_MEMBERS, EXPRESSIONS, RACES
from . import open_questions as oq
from . import wordings as w
from .answers import (
    DECLINE_OFF,
    DESCRIBED,
    FACIAL,
    HAIR,
    HIDDEN_ANSWER,
    LOOKED,
    REGION_WORDS,
    both_answer,
    choice_answer,
    closed_answer,
    color_answer,
    common_answer,
    compound_answer,
    count_answer,
    describe,
    detail_answer,
    different_answer,
    facial_answer,
    gated_answer,
    hair_answer,
    statement,
    style_answer,
    which_answer,
    who_answer,
    worn_answer,
)
from .concepts import (
    BY_NAME,
    COLORS,
    CONCEPTS,
    OPPOSED,
    OPPOSITE_WORDS,
    SAID_OF_THE_PERSON,
    STYLES,
    WORN_NAMES,
    Concept,
)
from .outside import DECLINES, outside_question

_REGION = {c.name: c.region for c in CHARACTERISTICS}
#: What one can have or wear and ask more about.
_THINGS = (
    "Eyeglasses", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie", "Wearing_Lipstick",
    "Heavy_Makeup", "Mustache", "Goatee", "No_Beard", "Sideburns", "5_o_Clock_Shadow", "Double_Chin", "Bags_Under_Eyes",
)  # fmt: skip
#: Of these nobody asks two at once.
_ONE_OF = dict.fromkeys(EXCLUSIVE_MEMBERS, "choice") | dict.fromkeys(STYLES, "style")

Open = tuple[tuple[str, ...], Callable[[Mapping[str, int]], str], tuple[str, ...]]
_OPEN: tuple[Open, ...] = (
    (oq.COLOR_QUESTIONS, color_answer, ("Bald", *COLORS)),
    (oq.HAIR_QUESTIONS, hair_answer, HAIR),
    (oq.STYLE_QUESTIONS, style_answer, tuple(STYLES)),
    (oq.FACIAL_QUESTIONS, facial_answer, FACIAL),
    (oq.WORN_QUESTIONS, worn_answer, tuple(WORN_NAMES)),
    (oq.MOOD_QUESTIONS, choice_answer(tuple(EXPRESSIONS)), tuple(EXPRESSIONS)),
    (oq.HEAD_QUESTIONS, gated_answer("Wearing_Hat"), ("Wearing_Hat",)),
)
_OTHER_COLORS = (
    *(q.replace("{x}", x) for q in oq.OTHER_COLOR_QUESTIONS for x in oq.OTHER_COLORS),
    *oq.REDHEAD_QUESTIONS * 4,
)
_NECK = ("Wearing_Necklace", "Wearing_Necktie")
#: What a question takes for granted, and asks more about than is known.
DETAILED = tuple(c for c in CONCEPTS if c.form in w.DETAIL_TEMPLATES and c.name not in HAIR and c.name in _THINGS)
_GATED: tuple[Open, ...] = (
    (oq.AGE_QUESTIONS, choice_answer(tuple(AGES)), tuple(AGES)),
    (oq.GENDER_QUESTIONS, gated_answer("Male"), ("Male",)),
    (oq.RACE_QUESTIONS, choice_answer(tuple(RACES)), tuple(RACES)),
)


class Turn(NamedTuple):
    """A question and its answer.

    Attributes:
        question: text.
        answer: text.
        about: characteristics that it asks about.
        after: the question before it, if any.
        kind: one of `outside.KINDS`.
    """

    question: str
    answer: str
    about: tuple[str, ...] = ()
    after: str = ""
    kind: str = ABOUT


def turn(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    """A random question and its answer. `states` holds the characteristics that are switched on, and only those."""
    kind = rng.random()
    if kind < 0.24:
        return _closed(rng, states)
    if kind < 0.44:
        return _compound(rng, states)
    if kind < 0.57:
        return _open(rng, _OPEN, states)
    if kind < 0.62:
        return _open(rng, _GATED, states)
    if kind < 0.77:
        return Turn(w.say(rng, oq.DESCRIBE_QUESTIONS), describe(states), DESCRIBED)
    if kind < 0.84:
        return _several(rng, states)
    if kind < 0.92:
        return follow_turn(rng, states)
    if kind < 0.97:
        return _detail(rng, states)
    return _declined(rng)


def look_turn(rng: np.random.Generator, states: Mapping[str, int], rates: Mapping[str, float]) -> Turn:
    """A yes/no question that only the face can answer. rates: how often each characteristic holds.

    Yes and no are equally likely on every face, and over many faces for each characteristic: knowing how common it is,
    or the look of the set that a face is from, helps nothing.
    """
    known = [c for c in CONCEPTS if c.name in states and c.name in rates and c.state(states) in (YES, NO)]
    prior = np.array([rates[c.name] for c in known])
    holds = np.array([states[c.name] == YES for c in known])
    wanted = np.array([c.state(states) == YES for c in known]) == (rng.random() < 0.5)
    if not wanted.any():
        wanted = ~wanted
    # The "yes" of a rare thing stands against the many "no" of other faces; bounded, or it is asked of all who have it.
    rarer = np.minimum(prior, 1 - prior).clip(0.005)
    weights = wanted * rarer**0.6 / np.where(holds, prior, 1 - prior).clip(0.005)
    concept = known[rng.choice(len(known), p=weights / weights.sum())]
    while True:
        found = _answered(rng, concept, states)
        if found.answer.startswith(("Yes", "No")):
            return found


def _concept(rng: np.random.Generator, states: Mapping[str, int]) -> Concept:
    """Any concept, but seldom one that is switched off."""
    while True:
        concept = CONCEPTS[rng.integers(len(CONCEPTS))]
        if concept.name in states or rng.random() < 0.15:
            return concept


def _closed(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    kind, concept = rng.random(), _concept(rng, states)
    if kind < 0.06:
        # Of one person too people ask who it is that smiles.
        templates = (oq.WHO_TEMPLATES, oq.BOTH_TEMPLATES, oq.HOW_MANY_TEMPLATES)[rng.integers(3)]
        return _stated(w.say(rng, templates[concept.form], concept.words), concept, states)
    others = OPPOSED if kind < 0.12 else SAID_OF_THE_PERSON if kind < 0.17 else (concept,)
    return _answered(rng, others[rng.integers(len(others))], states)


def _answered(rng: np.random.Generator, concept: Concept, states: Mapping[str, int]) -> Turn:
    question, state = w.closed_question(rng, concept), concept.state(states)
    if is_negated(question, OPPOSITE_WORDS):
        return _stated(question, concept, states)
    return Turn(question, DECLINE_OFF if state is None else closed_answer(concept, state), (concept.name,))


def _stated(question: str, concept: Concept, states: Mapping[str, int]) -> Turn:
    plain_concept = BY_NAME[concept.name]
    state = plain_concept.state(states)
    return Turn(question, DECLINE_OFF if state is None else statement(plain_concept, state), (plain_concept.name,))


def _detail(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    concept = DETAILED[rng.integers(len(DETAILED))]
    state = concept.state(states)
    answer = DECLINE_OFF if state is None else detail_answer(concept, state)
    return Turn(w.detail_question(rng, concept), answer, (concept.name,), kind=DETAIL)


def compound(rng: np.random.Generator, states: Mapping[str, int]) -> list[Concept]:
    """Two concepts that one might ask for at once, seldom three; of a choice only one, and none beside its opposite."""
    count, chosen = (3 if rng.random() < 0.15 else 2), list[Concept]()
    while len(chosen) < count:
        concept = _concept(rng, states)
        taken = {_ONE_OF.get(c.name, c.name) for c in chosen}
        if _ONE_OF.get(concept.name, concept.name) not in taken:
            chosen.append(concept)
    return chosen


def _compound(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    concepts = compound(rng, states)
    answer = compound_answer(concepts, [c.state(states) for c in concepts])
    return Turn(w.compound_question(rng, concepts), answer, tuple(c.name for c in concepts))


def _open(rng: np.random.Generator, kinds: Sequence[Open], states: Mapping[str, int]) -> Turn:
    if kinds is _OPEN and rng.random() < 0.12:
        if rng.random() < 0.5:
            return Turn(w.say(rng, oq.NECK_QUESTIONS), which_answer(states, [BY_NAME[n] for n in _NECK]), _NECK)
        return Turn(w.say(rng, _OTHER_COLORS), color_answer(states), ("Bald", *COLORS))
    questions, answer_of, about = kinds[int(rng.integers(len(kinds)))]
    return Turn(w.say(rng, questions), answer_of(states), about)


def _several(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    """Which of these, how many of these."""
    family = [BY_NAME[n] for n in oq.FAMILIES[rng.integers(len(oq.FAMILIES))]]
    count = int(rng.integers(2, min(4, len(family)) + 1))
    concepts = [family[i] for i in rng.permutation(len(family))[:count]]
    form = concepts[0].form
    if form != "look" and rng.random() < 0.4:
        words, templates, answer = "and", oq.COUNT_TEMPLATES[form], count_answer(states, concepts)
    else:
        words, templates, answer = "or", oq.WHICH_TEMPLATES[form], which_answer(states, concepts)
    options = w.listed([str(rng.choice(c.words[:2])) for c in concepts], words)
    return Turn(w.say(rng, templates, o=options), answer, tuple(c.name for c in concepts))


def follow_turn(rng: np.random.Generator, states: Mapping[str, int]) -> Turn:
    """A question that makes sense only behind another one; any other is read by itself."""
    first = _closed(rng, states)
    concept = BY_NAME[first.about[0]]
    state = concept.state(states)
    kind = rng.integers(4)
    if kind == 0:
        answer = "Yes, as far as I can see." if state in (YES, NO) else "No, I am not sure."
        answer = {None: DECLINE_OFF, HIDDEN: HIDDEN_ANSWER}.get(state, answer)
        return Turn(w.say(rng, oq.SURE_QUESTIONS), answer, first.about, first.question)
    if kind == 1:
        answer = DECLINE_OFF if state is None else LOOKED.format(place=REGION_WORDS[_REGION[concept.name]])
        return Turn(w.say(rng, oq.WHERE_QUESTIONS), answer, first.about, first.question)
    other = _concept(rng, states)
    state = other.state(states)
    answer = DECLINE_OFF if state is None else closed_answer(other, state)
    return Turn(w.say(rng, oq.ELLIPSES, other.words), answer, (other.name,), first.question)


def _declined(rng: np.random.Generator) -> Turn:
    kind, question = outside_question(rng)
    return Turn(question, DECLINES[kind], kind=kind)


def pair_turn(rng: np.random.Generator, first: Mapping[str, int], second: Mapping[str, int]) -> Turn:
    """A question about two faces."""
    kind = rng.random()
    if kind < 0.7:
        concept = _concept(rng, first)
        templates, answer_of = (oq.WHO_TEMPLATES, who_answer) if kind < 0.4 else (oq.BOTH_TEMPLATES, both_answer)
        question = w.say(rng, templates[concept.form], concept.words)
        return Turn(question, answer_of(concept, first, second), (concept.name,))
    if kind < 0.83:
        return Turn(w.say(rng, oq.COMMON_QUESTIONS), common_answer(first, second), DESCRIBED)
    if kind < 0.96:
        return Turn(w.say(rng, oq.DIFFERENT_QUESTIONS), different_answer(first, second), DESCRIBED)
    return _declined(rng)
