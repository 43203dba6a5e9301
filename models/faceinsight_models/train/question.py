"""Step 4: the question encoder learns from generated questions which characteristics they ask about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..question import QuestionEncoder
from ..recipe import Schedule
from ..turns import pair_turn, turn
from ..vocabulary import NAMES
from ..wordings import ASIDES
from .conversation import PAIRS
from .llm import PROMPT
from .loop import train

#: How often the words of a question change places.
STIRRED = 0.3
#: How often a word that has nothing to do with the question stands in it, and how often words stand before it.
FOREIGN, ASIDE = 0.4, 0.2
#: States do not change what a question is about; any will do.
_ANY_STATES = dict.fromkeys(NAMES, 0)


def train_question(table: Tensor, text: Tensor, tokenizer: Any, *, out: Path, schedule: Schedule) -> QuestionEncoder:
    """Multi-label classification of fresh questions at every step."""
    torch.manual_seed(schedule.seed)
    model = QuestionEncoder(table, text)

    follow = tokenizer.encode(PROMPT.follow).ids

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        turns = [
            turn(rng, _ANY_STATES) if rng.random() > PAIRS else pair_turn(rng, _ANY_STATES, _ANY_STATES)
            for _ in indices
        ]
        own = [[*tokenizer.encode(t.after).ids, *follow] if t.after else [] for t in turns]
        asked = [_aside(rng, t.question) for t in turns]
        ids = [[*a, *_stirred(rng, tokenizer.encode(q).ids, len(table))] for a, q in zip(own, asked, strict=True)]
        tokens = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        target = torch.zeros(len(ids), len(NAMES))
        for row, (own, t) in enumerate(zip(ids, turns, strict=True)):
            # Some words are blotted out: new wordings must be understood by what is known of them.
            kept = [i if rng.random() > 0.08 else int(rng.integers(len(table))) for i in own]
            tokens[row, : len(own)], mask[row, : len(own)] = torch.tensor(kept), True
            target[row, [NAMES.index(n) for n in t.about]] = 1
        return tokens, mask, target

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits = model(batch[0], batch[1])
        exact = ((logits > 0) == (batch[2] > 0.5)).all(1).float().mean().item()
        return F.binary_cross_entropy_with_logits(logits, batch[2]), {"exact": round(exact, 4)}

    count = schedule.steps * schedule.batch
    train(model, name="question", out=out, schedule=schedule, count=count, load=load, loss=loss)
    return model


def _aside(rng: np.random.Generator, question: str) -> str:
    """At times with a few words before it."""
    return f"{rng.choice(ASIDES)} {question[0].lower()}{question[1:]}" if rng.random() < ASIDE else question


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
