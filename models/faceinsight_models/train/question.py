"""Step 6: trains the question encoder on generated questions: which characteristics they ask about, and of which kind
they are. Questions that no report answers (`outside`) have kinds of their own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from faceinsight.backends.llama_cpp.tokenizer import as_uncased
from faceinsight.bundle.specs import COUNT
from faceinsight.language.claims import is_conjunction
from faceinsight.language.question_encoder import asked_about

from ..dialogue.concepts import CONCEPTS
from ..dialogue.open_questions import AFTERTHOUGHTS, ASIDES, COUNT_PEOPLE
from ..dialogue.outside import KINDS, outside_question
from ..dialogue.plain import misread, plain_questions
from ..dialogue.slips import misspelt
from ..dialogue.turns import DETAILED, Turn, compound, follow_turn, pair_turn, turn
from ..dialogue.wordings import (
    closed_question,
    compound_question,
    detail_question,
    negated_question,
    say,
)
from ..nets.question import ASKING, SHARE, QuestionNet
from ..recipe import Schedule
from ..taxonomy import NAMES
from .conversation import PAIRS
from .llm import PROMPT
from .loop import train

log = logging.getLogger(__name__)

#: How often the words of a question change places.
STIRRED = 0.3
#: How often a word that has nothing to do with the question stands in it, how often words stand before it, and how
#: often it is misspelt.
FOREIGN, ASIDE, MISSPELT = 0.25, 0.35, 0.25
#: How often it ends without a sign, as people type.
UNPUNCTUATED = 0.25
#: How often a token is another one.
BLOTTED = 0.02
#: Shares of questions that are declined, about how many people there are, behind another one, and about several things
#: at once (beside those that `turn` draws).
OUTSIDE, COUNTED, FOLLOWING, COMPOUND = 0.38, 0.03, 0.08, 0.1
#: At most this share of questions that can be answered may be declined: in wordings that training never used.
FALSE_DECLINES = 0.01
#: By how much a plain question must be rather answered than declined, after rounding to half precision too.
CLEARANCE = 0.1
#: What is tried of `QuestionNet.lean`.
LEANS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
#: How much the kind counts beside the characteristics.
KIND_WEIGHT = 0.1
#: States do not change what a question is about; any will do.
_ANY_STATES = dict.fromkeys(NAMES, 0)


def train_question(table: Tensor, text: Tensor, tokenizer: Any, *, out: Path, schedule: Schedule) -> QuestionNet:
    """Multi-label classification of fresh questions at every step, then the threshold between what is answered and
    what is declined (`calibrate`)."""
    torch.manual_seed(schedule.seed)
    model = QuestionNet(table, text)
    finished = (out / "question.pt").exists()

    follow = tokenizer.encode(PROMPT.follow).ids

    def encode(question: str) -> list[int]:
        ids: list[int] = tokenizer.encode(as_uncased(question)).ids
        return ids

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        turns = [_drawn(rng) for _ in indices]
        before = [[*encode(t.after), *follow] if t.after else [] for t in turns]
        worded = [_worn(rng, t.question) for t in turns]
        ids = [[*a, *_stirred(rng, encode(q), len(table))] for a, q in zip(before, worded, strict=True)]
        # Some words are blotted out: new wordings must be understood by what is known of them.
        ids = [[i if rng.random() > BLOTTED else int(rng.integers(len(table))) for i in question] for question in ids]
        tokens, mask = padded(ids)
        target = torch.zeros(len(ids), len(NAMES))
        for row, t in enumerate(turns):
            target[row, [NAMES.index(n) for n in t.about]] = 1
        return tokens, mask, target, torch.tensor([KINDS.index(t.kind) for t in turns])

    def loss(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits, kinds = model(batch[0], batch[1])
        exact = ((logits > 0) == (batch[2] > 0.5)).all(1).float().mean().item()
        figures = {
            "exact": round(exact, 4),
            "kind": round((kinds.argmax(1) == batch[3]).float().mean().item(), 4),
        }
        value = F.binary_cross_entropy_with_logits(logits, batch[2]) + KIND_WEIGHT * F.cross_entropy(kinds, batch[3])
        return value, figures

    count = schedule.steps * schedule.batch
    train(model, name="question", out=out, schedule=schedule, count=count, load=load, loss=loss)
    if not finished:
        figures = calibrate(model, tokenizer)
        log.info("question: %s", figures)
        if wrong := misread(lambda q: read(model, encode(q), each=is_conjunction(q)), NAMES):
            log.warning("question: %d plain questions are misread: %s", len(wrong), "; ".join(wrong))
        torch.save(model.state_dict(), out / "question.pt")
    return model


@torch.no_grad()
def read(model: QuestionNet, ids: Sequence[int], *, each: bool = False) -> list[str] | str:
    """The characteristics that a question (token ids) asks about, as the runtime reads it, or why it is declined. each:
    it names several things."""
    relevance, kinds = (x[0] for x in model(*padded([ids])))
    if int(kinds.argmax()) >= ASKING:
        return KINDS[int(kinds.argmax())]
    found = asked_about(relevance.numpy(), SHARE, something=True, each=each)
    return [n for n, hit in zip(NAMES, found.tolist(), strict=True) if hit]


@torch.no_grad()
def calibrate(model: QuestionNet, tokenizer: Any, *, count: int = 6000) -> dict[str, float]:
    """Move the kinds that are answered against those that are declined, so that no more than `FALSE_DECLINES` of
    questions in wordings that training never used are declined, and no plain one that a report answers; and as few
    others as can be are answered. Returns what then becomes of both."""
    rng = np.random.default_rng(23)
    plain = [q.question for q in plain_questions() if not q.declined]
    inside = [heldout_question(rng) for _ in range(count)]
    outside = [outside_question(rng, heldout=True)[1] for _ in range(count)]
    # How many faces there are is asked in few ways: to that nothing is added.
    answered = list(range(ASKING))

    def margins(questions: Sequence[str]) -> NDArray[np.float32]:
        """By how much each is rather answered than declined."""
        out = []
        for start in range(0, len(questions), 512):
            kinds = model(*padded([tokenizer.encode(as_uncased(q)).ids for q in questions[start : start + 512]]))[1]
            declined = np.delete(kinds.numpy(), answered, 1).max(1)
            out.append(kinds[:, answered].max(1).values.numpy() - declined)
        return np.concatenate(out)

    best = (1.0, 0.0, 0.0)
    for lean in LEANS:
        model.lean.fill_(lean)
        shift = -min(float(np.quantile(margins(inside), FALSE_DECLINES)), float(margins(plain).min()) - CLEARANCE)
        best = min(best, (float((margins(outside) + shift > 0).mean()), lean, shift))
    missed, lean, shift = best
    model.lean.fill_(lean)
    model.kind.bias[answered] += shift
    refused = float((margins(inside) < 0).mean())
    return {
        "lean": lean,
        "shift": round(shift, 3),
        "answerable and declined": round(refused, 4),
        "not answerable and answered": round(missed, 4),
    }


def heldout_question(rng: np.random.Generator) -> str:
    """A question that a report answers, in templates that training never uses, and for a good part in such words."""
    kind = rng.random()
    if kind < 0.15:
        concepts = compound(rng, _ANY_STATES)
        return compound_question(rng, concepts, heldout=True)
    if kind < 0.25:
        return detail_question(rng, DETAILED[rng.integers(len(DETAILED))], heldout=True)
    concept = CONCEPTS[rng.integers(len(CONCEPTS))]
    if rng.random() < 0.6:
        concept = replace(concept, heldout=concept.words)
    question = negated_question(rng, concept) if kind < 0.4 else closed_question(rng, concept, heldout=True)
    return misspelt(rng, question) if rng.random() < 0.1 else question


def padded(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of questions -> tokens (B,L) and mask (B,L), True where there is a token."""
    tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, token_ids in enumerate(ids):
        tokens[row, : len(token_ids)], mask[row, : len(token_ids)] = torch.tensor(token_ids), True
    return tokens, mask


def _drawn(rng: np.random.Generator) -> Turn:
    kind = rng.random()
    if kind < OUTSIDE:
        why, question = outside_question(rng)
        before = turn(rng, _ANY_STATES).question if rng.random() < 0.1 else ""
        return Turn(question, "", after=before, kind=why)
    if kind < OUTSIDE + COUNTED:
        return Turn(say(rng, COUNT_PEOPLE), "", kind=COUNT)
    if kind < OUTSIDE + COUNTED + FOLLOWING:
        return follow_turn(rng, _ANY_STATES)
    if kind < OUTSIDE + COUNTED + FOLLOWING + COMPOUND:
        concepts = compound(rng, _ANY_STATES)
        return Turn(compound_question(rng, concepts), "", tuple(c.name for c in concepts))
    if rng.random() < PAIRS:
        return pair_turn(rng, _ANY_STATES, _ANY_STATES)
    return turn(rng, _ANY_STATES)


def _worn(rng: np.random.Generator, question: str) -> str:
    """At times with a few words before it or behind it, at times misspelt."""
    if rng.random() < ASIDE:
        question = f"{rng.choice(ASIDES)} {question[0].lower()}{question[1:]}"
    if rng.random() < ASIDE / 2:
        end = question[-1] if question[-1] in "?." else ""
        question = f"{question.rstrip('?.')} {rng.choice(AFTERTHOUGHTS)}{end}"
    if rng.random() < UNPUNCTUATED:
        question = question.rstrip("?.") or question
    return misspelt(rng, question) if rng.random() < MISSPELT else question


def _stirred(rng: np.random.Generator, tokens: list[int], vocabulary: int) -> list[int]:
    """At times with a foreign word in it ("a very dark cap" is still a cap), and at times in another order, near to
    their places: "a nose that is big" asks what "a big nose" does."""
    if rng.random() < FOREIGN:
        at = int(rng.integers(len(tokens) + 1))
        tokens = [*tokens[:at], *rng.integers(vocabulary, size=rng.integers(1, 3)).tolist(), *tokens[at:]]
    if rng.random() > STIRRED:
        return tokens
    order = np.argsort(np.arange(len(tokens)) + rng.uniform(0, 4, len(tokens)))
    return [tokens[i] for i in order]
