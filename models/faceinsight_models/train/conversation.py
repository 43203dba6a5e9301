"""Training conversations: face tokens, questions, the findings given with each of them, and answers.

Several questions about one face share its prefix and do not see each other (one attention mask per batch), just as
the runtime asks them; behind each question stand the findings that it asks about. Conversations come in three kinds
(`Dialogues.draw`):

- drilled: the states are drawn at random, so that no prior helps and the LLM must read what it is given;
- found: the states are what the head found on this face;
- hidden: findings are kept back, the truth is the label (the head's finding where a set has none), and every question
  is one that only image and region tokens can answer (`look_turn`). That keeps the LLM looking at the face instead of
  only reading the head's findings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faceinsight.bundle.specs import PromptSpec
from faceinsight.perception.labeler import Labeler
from faceinsight.types import NO, STATES, UNSURE, YES

from ..dialogue.concepts import CONCEPTS
from ..dialogue.turns import look_turn, pair_turn, turn
from ..recipe import LlavaRecipe
from ..specs import characteristic_specs
from ..taxonomy import CHARACTERISTICS, EXCLUSIVE_GROUPS, NAMES, REGIONS, RULES, SWITCHES
from .encoded import EncodedFaces

IGNORE = -100
_VISIBLE = {c.name: c.group in ("", "expression") for c in CHARACTERISTICS}
#: Questions about at least this many characteristics are given only what was not found absent, and nothing of a beard
#: that is not there.
LIST_FROM = 4
#: A question about so many is a description, for which a claim must be so sure: with four or five claims in one, hardly
#: more than one description in ten then holds a wrong one.
DESCRIBED_FROM, DESCRIBED_SURE = 12, 0.85
#: Characteristics that hold where something is absent.
INVERTED = frozenset(c.name for c in CONCEPTS if c.inverted)
#: Places in a conversation that hold no text token.
FACE_SLOT, KNOWLEDGE_SLOT = -1, -2
#: How often a question is given a finding that it did not ask for.
STRAY = 0.1
#: How often a conversation is about two faces.
PAIRS = 0.12
#: Shares of drilled and hidden conversations; the rest are found.
DRILLED, HIDDEN_SHARE = 0.3, 0.45
#: How often what was found on a face is partly in doubt, and how much of it then: as of a poorer photo, or where a
#: description takes what is less sure for unsure.
DOUBTFUL, DOUBT = 0.4, 0.15
#: How states are drawn for a drill: no, yes, unsure, not visible.
DRILL = (0.4, 0.4, 0.13, 0.07)


def enabled(groups_on: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of the characteristics that are switched on."""
    return np.array([i for i, c in enumerate(CHARACTERISTICS) if c.group == "" or c.group in groups_on])


class StateLabeler:
    """States of the characteristics that are switched on, by the runtime's own labeler."""

    def __init__(self, calibration: NDArray[np.float64], soft_weight: float) -> None:
        specs, rules = characteristic_specs(calibration), RULES

        @cache
        def labeler(chosen: tuple[int, ...]) -> Labeler:
            return Labeler([specs[i] for i in chosen], rules, soft_weight=soft_weight)

        self._labeler = labeler

    def states(
        self, logits: NDArray[np.float32], area: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Logits (N,) of all characteristics, area (R,), numbers (K,) of the chosen ones -> states (K,)."""
        labels = self._labeler(tuple(chosen.tolist())).label(
            logits[chosen], dict(zip(REGIONS, area.tolist(), strict=True))
        )
        return np.array([STATES.index(label.state) for label in labels])


def drill(rng: np.random.Generator, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Random states of the chosen characteristics; of a choice one is claimed or in doubt, as in use."""
    states = rng.choice(len(STATES), len(NAMES), p=DRILL)
    for names in EXCLUSIVE_GROUPS.values():
        columns = [NAMES.index(n) for n in names]
        states[columns] = NO
        states[rng.choice(columns)] = YES if rng.random() < 0.75 else UNSURE
    return np.asarray(states[chosen])


@dataclass
class Conversation:
    """One face, or two, and questions, ready to batch.

    Attributes:
        rows: the faces.
        hidden: are findings withheld, so that only the face tokens can answer?
        regions: for each face, which region tokens it has.
        characteristics: (K,) of the knowledge tokens, in the order of their slots.
        states: (K,) that the knowledge tokens state.
        tokens: (L,) token ids; FACE_SLOT for an image or region token, KNOWLEDGE_SLOT for a knowledge token.
        labels: (L,) target ids; IGNORE where nothing is learned.
        positions: (L,) position ids.
        turn: (L,) number of the question, 0 for the prefix.
    """

    rows: list[int]
    hidden: bool
    regions: list[NDArray[np.int64]]
    characteristics: NDArray[np.int64]
    states: NDArray[np.int64]
    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    turn: NDArray[np.int64]


class Findings(NamedTuple):
    """What is known of one face.

    Attributes:
        chosen: (K,) numbers of the characteristics that are switched on.
        states: (K,) as given to the LLM.
        truth: (K,) as the answers have it.
        keep: (K,) is the LLM given it?
    """

    chosen: NDArray[np.int64]
    states: NDArray[np.int64]
    truth: NDArray[np.int64]
    keep: NDArray[np.bool_]

    def known(self) -> dict[str, int]:
        """Name -> state, as the answers have it."""
        return {NAMES[i]: int(s) for i, s in zip(self.chosen, self.truth, strict=True)}

    def labelled(self) -> dict[str, int]:
        """Name -> state of what is withheld: only the face tokens can tell."""
        return {NAMES[i]: int(s) for i, s, k in zip(self.chosen, self.truth, self.keep, strict=True) if not k}

    def given(self, about: Sequence[str], stray: str | None) -> list[tuple[int, int]]:
        """(characteristic, state) of what a question is given, as the runtime does it."""
        index = {NAMES[i]: n for n, i in enumerate(self.chosen)}
        places = {index[n] for n in about if n in index}
        if len(places) >= LIST_FROM:
            inverted = {index[n] for n in INVERTED if n in index}
            places = {n for n in places if self.states[n] != NO and not (n in inverted and self.states[n] == YES)}
        if stray in index:
            places.add(index[stray])
        return [(int(self.chosen[n]), int(self.states[n])) for n in sorted(places) if self.keep[n]]


#: A part of a prompt and whether no text stands before it -> its tokens.
TokenizePart = Callable[[str, bool], list[int]]


@dataclass(frozen=True)
class PromptTokens:
    """A prompt's fixed parts as token ids, laid out as the runtime does.

    Attributes:
        before: before the face tokens.
        after: behind them.
        between: between two faces.
        follow: between two questions.
        answer: before an answer.
        stop: ends an answer.
        encode: token ids of a question.
        reply: token ids of an answer.
    """

    before: list[int]
    after: list[int]
    between: list[int]
    follow: list[int]
    answer: list[int]
    stop: list[int]
    encode: Callable[[str], list[int]]
    reply: Callable[[str], list[int]]

    @classmethod
    def of(cls, prompt: PromptSpec | LlavaRecipe, tokens: TokenizePart) -> PromptTokens:
        """Tokenize the parts of a prompt."""
        # A prompt that ends in a word is followed by a space and the answer.
        lead = "" if prompt.before_answer[-1:].isspace() else " "
        return cls(
            tokens(prompt.before_face, True),
            tokens(prompt.after_face, True),
            tokens(prompt.between, True),
            tokens(prompt.follow, False),
            tokens(prompt.before_answer, False),
            tokens(prompt.stop, True)[:1],
            lambda text: tokens(text, False),
            lambda text: tokens(lead + text, False),
        )


class Dialogues:
    """Draws conversations: which groups are on, how much of the knowledge is hidden, what is asked."""

    def __init__(
        self,
        encoded: EncodedFaces,
        labels: NDArray[np.float32],
        labeler: StateLabeler,
        prompt: PromptTokens,
        *,
        images: int,
        turns: int,
    ) -> None:
        """images: image tokens of a face; turns: questions about it."""
        self.encoded, self.labels, self.labeler = encoded, labels, labeler
        self.prompt, self.images, self.turns = prompt, images, turns
        #: How often each characteristic holds that a face shows.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a set that is not there
            rates = np.nanmean(labels[encoded.rows], 0)
        self._rates = {n: float(r) for n, r in zip(NAMES, rates, strict=True) if _VISIBLE[n] and np.isfinite(r)}

    def draw(self, row: int, rng: np.random.Generator) -> Conversation:
        """`row` of what was seen, and for some a second face beside it."""
        chosen = enabled([g for g, default in SWITCHES.items() if rng.random() < (0.75 if default else 0.25)])
        rows = [row, int(rng.integers(len(self.encoded.rows)))] if rng.random() < PAIRS else [row]
        kind = "drilled" if (r := rng.random()) < DRILLED else "hidden" if r > 1 - HIDDEN_SHARE else "found"
        if len(rows) > 1 and kind == "hidden":
            kind = "found"
        faces = [self._findings(r, chosen, kind, rng) for r in rows]
        regions = [np.flatnonzero(self.encoded.area[r].numpy() > 0) for r in rows]
        face_slots = [[FACE_SLOT] * (self.images + len(visible)) for visible in regions]
        prompt = self.prompt
        prefix = [*prompt.before, *self._join(face_slots), *prompt.after]
        tokens, labels = list(prefix), [IGNORE] * len(prefix)
        positions, numbers = list(range(len(prefix))), [0] * len(prefix)
        given: list[tuple[int, int]] = []
        for number in range(1, self.turns + 1):
            if kind == "hidden":
                query = look_turn(rng, faces[0].labelled(), self._rates)
            elif len(faces) == 1:
                query = turn(rng, faces[0].known())
            else:
                query = pair_turn(rng, *(f.known() for f in faces))
            stray = str(rng.choice(NAMES)) if rng.random() < STRAY else None
            findings = [f.given(query.about, stray) for f in faces]
            given += [x for of_face in findings for x in of_face]
            before = [*prompt.encode(query.after), *prompt.follow] if query.after else []
            known = self._join([[KNOWLEDGE_SLOT] * len(of_face) for of_face in findings])
            ask = [*before, *prompt.encode(query.question), *known, *prompt.answer]
            reply = [*prompt.reply(query.answer), *prompt.stop]
            tokens += ask + reply
            labels += [IGNORE] * len(ask) + reply
            positions += range(len(prefix), len(prefix) + len(ask) + len(reply))
            numbers += [number] * (len(ask) + len(reply))
        knowledge = np.array(given, np.int64).reshape(-1, 2)
        arrays = (np.array(x, np.int64) for x in (tokens, labels, positions, numbers))
        return Conversation(rows, kind == "hidden", regions, knowledge[:, 0], knowledge[:, 1], *arrays)

    def _join(self, parts: Sequence[list[int]]) -> list[int]:
        return [*parts[0], *(t for p in parts[1:] for t in (*self.prompt.between, *p))]

    def _findings(self, row: int, chosen: NDArray[np.int64], kind: str, rng: np.random.Generator) -> Findings:
        keep = np.ones(len(chosen), bool)
        if kind == "drilled":
            states = truth = drill(rng, chosen)
        else:
            states = truth = self.labeler.states(self.encoded.logits[row], self.encoded.area[row].numpy(), chosen)
        if kind == "found" and rng.random() < DOUBTFUL:
            doubted = (rng.random(len(states)) < DOUBT) & np.isin(states, (YES, NO))
            states = truth = np.where(doubted, UNSURE, states)
        if kind == "hidden":
            label = self.labels[self.encoded.rows[row], chosen]
            visible = np.array([_VISIBLE[NAMES[i]] for i in chosen])
            keep = ~visible
            truth = np.where(keep | np.isnan(label), states, np.where(label > 0.5, YES, NO))
        return Findings(chosen, states, truth, keep)
