"""Step 6: the aligned adapter and the cut-down LLM learn to answer about a face.

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceinsight.labels import NO, UNSURE, YES, Labeler
from faceinsight.manifest import STATES, PromptSpec

from ..data import Faces
from ..dialogue import DECLINE_OFF, HIDDEN_ANSWER, LOOKED, REGION_WORDS, look_turn, pair_turn, turn
from ..encoder import Adapter, FaceEncoder, Features
from ..recipe import Schedule
from ..specs import characteristic_specs, rule_specs
from ..vocabulary import CHARACTERISTICS, CHOICES, NAMES, REGIONS, SWITCHES
from .encoder import clean_batch
from .loop import groups, train

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PROMPT = PromptSpec(
    before_face="<|im_start|>user\n",
    after_face="\n",
    before_answer="<|im_end|>\n<|im_start|>assistant\n",
    stop="<|im_end|>",
    between="\n",
    follow="\n",
    withheld=DECLINE_OFF,
    who=("the person", "the first person", "the second person"),
    statements={
        "no": "{who} {absent}.",
        "yes": "{who} {phrase}.",
        "unsure": "I am not sure whether {who} {phrase}.",
        "not visible": HIDDEN_ANSWER,
    },
    looked=LOOKED,
    places=REGION_WORDS,
)
IGNORE = -100
_VISIBLE = {c.name: c.group in ("", "expression") for c in CHARACTERISTICS}
#: Questions about at least this many characteristics are given only what was not found absent.
LIST_FROM = 4
#: Places in a conversation that hold no text token.
SEEN, KNOWN = -1, -2
#: How often a question is given a finding that it did not ask for.
STRAY = 0.1
#: The first word of an answer carries its decision (Yes, No, I am not sure, ...), the others mostly follow from it.
DECISION_WEIGHT = 5.0
#: How often a conversation is about two faces.
PAIRS = 0.12
#: Shares of drilled and hidden conversations; the rest are found.
DRILLED, HIDDEN_SHARE = 0.35, 0.4
#: How states are drawn for a drill: no, yes, unsure, not visible.
DRILL = (0.4, 0.4, 0.13, 0.07)


@dataclass(frozen=True)
class Seen:
    """What the frozen encoder sees: half-precision features and logits of the chosen faces."""

    rows: NDArray[np.int64]
    image: Tensor
    regions: Tensor
    area: Tensor
    logits: NDArray[np.float32]

    def save(self, path: Path, encoder: str) -> None:
        """Keep it for later steps; encoder: the fingerprint of who saw it."""
        arrays = {k: torch.as_tensor(v) for k, v in vars(self).items()}
        torch.save({"encoder": encoder, **arrays}, path)

    @classmethod
    def load(cls, path: Path, encoder: str, rows: NDArray[np.int64]) -> Seen | None:
        """What was saved, if this encoder saw these rows."""
        if not path.exists():
            return None
        saved = torch.load(path, weights_only=True)
        if saved["encoder"] != encoder or not np.array_equal(saved["rows"].numpy(), rows):
            return None
        return cls(rows, saved["image"], saved["regions"], saved["area"], saved["logits"].numpy())


@torch.no_grad()
def look(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> Seen:
    """Run the encoder once over clean crops."""
    encoder.eval()
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc="encoding", unit="batch", mininterval=5):
        features, logits = encoder.judge(*clean_batch(faces, maps, rows[start : start + batch], size))
        parts.append((features.image.half(), features.regions.half(), features.area, logits))
    image, regions, area, logits = (torch.cat(p) for p in zip(*parts, strict=True))
    return Seen(rows, image, regions, area, logits.numpy())


def enabled(groups_on: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of the characteristics that are switched on."""
    return np.array([i for i, c in enumerate(CHARACTERISTICS) if c.group == "" or c.group in groups_on])


class Judge:
    """States of the characteristics that are switched on, by the runtime's own labeler."""

    def __init__(self, calibration: NDArray[np.float64], soft_weight: float) -> None:
        specs, rules = characteristic_specs(calibration), rule_specs()

        @cache
        def labeler(chosen: tuple[int, ...]) -> Labeler:
            return Labeler([specs[i] for i in chosen], rules, soft_weight=soft_weight)

        self._labeler = labeler

    def __call__(
        self, logits: NDArray[np.float32], area: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """logits (N,) of all characteristics, area (R,), numbers (K,) of the chosen ones -> states (K,)."""
        labels = self._labeler(tuple(chosen.tolist()))(logits[chosen], dict(zip(REGIONS, area.tolist(), strict=True)))
        return np.array([STATES.index(label.state) for label in labels])


def drill(rng: np.random.Generator, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Random states of the chosen characteristics; of a choice one is claimed or in doubt, as in use."""
    states = rng.choice(len(STATES), len(NAMES), p=DRILL)
    for names in CHOICES.values():
        columns = [NAMES.index(n) for n in names]
        states[columns] = NO
        states[rng.choice(columns)] = YES if rng.random() < 0.75 else UNSURE
    return np.asarray(states[chosen])


@dataclass
class Conversation:
    """One face, or two, and questions, ready to batch.

    rows: the faces; regions: which region tokens of each. tokens (L,) with SEEN where an image or region token goes and
    KNOWN where a knowledge token goes; labels (L,); positions (L,); turn (L,), 0 for the prefix. characteristics and
    states: what the knowledge tokens say, in the order of their places.
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
    """What is known of one face: numbers (K,) of what is switched on, states (K,) as given to the LLM, truth (K,) as
    answers have it, keep (K,) what the LLM is told."""

    chosen: NDArray[np.int64]
    states: NDArray[np.int64]
    truth: NDArray[np.int64]
    keep: NDArray[np.bool_]

    def known(self) -> dict[str, int]:
        return {NAMES[i]: int(s) for i, s in zip(self.chosen, self.truth, strict=True)}

    def labelled(self) -> dict[str, int]:
        """What only the face can tell."""
        return {NAMES[i]: int(s) for i, s, k in zip(self.chosen, self.truth, self.keep, strict=True) if not k}

    def given(self, about: Sequence[str], stray: str | None) -> list[tuple[int, int]]:
        """(characteristic, state) of what a question is given, as the runtime does it."""
        place = {NAMES[i]: n for n, i in enumerate(self.chosen)}
        asked = {place[n] for n in about if n in place}
        if len(asked) >= LIST_FROM:
            asked = {n for n in asked if self.states[n] != NO}
        if stray in place:
            asked.add(place[stray])
        return [(int(self.chosen[n]), int(self.states[n])) for n in sorted(asked) if self.keep[n]]


class Dialogues:
    """Draws conversations: which groups are on, how much of the knowledge is hidden, what is asked."""

    def __init__(self, seen: Seen, labels: NDArray[np.float32], judge: Judge, tokenizer: Any, *, turns: int) -> None:
        self.seen, self.labels, self.judge, self.turns = seen, labels, judge, turns
        #: How often each characteristic holds that a face shows.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a set that is not there
            rates = np.nanmean(labels[seen.rows], 0)
        self._rates = {n: float(r) for n, r in zip(NAMES, rates, strict=True) if _VISIBLE[n] and np.isfinite(r)}
        self._encode = lambda text: tokenizer.encode(text).ids
        self._before, self._after = self._encode(PROMPT.before_face), self._encode(PROMPT.after_face)
        self._answer, self._stop = self._encode(PROMPT.before_answer), self._encode(PROMPT.stop)
        self._between, self._follow = self._encode(PROMPT.between), self._encode(PROMPT.follow)

    def draw(self, row: int, rng: np.random.Generator) -> Conversation:
        """`row` of what was seen, and for some a second face beside it."""
        chosen = enabled([g for g, default in SWITCHES.items() if rng.random() < (0.75 if default else 0.25)])
        rows = [row, int(rng.integers(len(self.seen.rows)))] if rng.random() < PAIRS else [row]
        kind = "drilled" if (r := rng.random()) < DRILLED else "hidden" if r > 1 - HIDDEN_SHARE else "found"
        if len(rows) > 1 and kind == "hidden":
            kind = "found"
        faces = [self._findings(r, chosen, kind, rng) for r in rows]
        regions = [np.flatnonzero(self.seen.area[r].numpy() > 0) for r in rows]
        seen = [[SEEN] * (len(self.seen.image[r]) + len(own)) for r, own in zip(rows, regions, strict=True)]
        prefix = [*self._before, *self._join(seen), *self._after]
        tokens, labels = list(prefix), [IGNORE] * len(prefix)
        positions, numbers = list(range(len(prefix))), [0] * len(prefix)
        given: list[tuple[int, int]] = []
        for number in range(1, self.turns + 1):
            if kind == "hidden":
                asked = look_turn(rng, faces[0].labelled(), self._rates)
            elif len(faces) == 1:
                asked = turn(rng, faces[0].known())
            else:
                asked = pair_turn(rng, *(f.known() for f in faces))
            stray = str(rng.choice(NAMES)) if rng.random() < STRAY else None
            told = [f.given(asked.about, stray) for f in faces]
            given += [x for own in told for x in own]
            before = [*self._encode(asked.after), *self._follow] if asked.after else []
            known = self._join([[KNOWN] * len(own) for own in told])
            ask = [*before, *self._encode(asked.question), *known, *self._answer]
            reply = [*self._encode(asked.answer), *self._stop]
            tokens += ask + reply
            labels += [IGNORE] * len(ask) + reply
            positions += range(len(prefix), len(prefix) + len(ask) + len(reply))
            numbers += [number] * (len(ask) + len(reply))
        said = np.array(given, np.int64).reshape(-1, 2)
        arrays = (np.array(x, np.int64) for x in (tokens, labels, positions, numbers))
        return Conversation(rows, kind == "hidden", regions, said[:, 0], said[:, 1], *arrays)

    def _join(self, parts: Sequence[list[int]]) -> list[int]:
        return [*parts[0], *(t for p in parts[1:] for t in (*self._between, *p))]

    def _findings(self, row: int, chosen: NDArray[np.int64], kind: str, rng: np.random.Generator) -> Findings:
        keep = np.ones(len(chosen), bool)
        if kind == "drilled":
            states = truth = drill(rng, chosen)
        else:
            states = truth = self.judge(self.seen.logits[row], self.seen.area[row].numpy(), chosen)
        if kind == "hidden":
            label = self.labels[self.seen.rows[row], chosen]
            visible = np.array([_VISIBLE[NAMES[i]] for i in chosen])
            keep = ~visible
            truth = np.where(keep | np.isnan(label), states, np.where(label > 0.5, YES, NO))
        return Findings(chosen, states, truth, keep)


def tree_mask(turns: Tensor) -> Tensor:
    """(B,L) turn numbers (0: prefix, -1: padding) -> additive (B,1,L,L): causal, own turn and prefix only."""
    length = turns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=turns.device).tril()
    same = turns[:, :, None] == turns[:, None, :]
    allowed = causal & (same | (turns[:, None, :] == 0))
    blocked = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=turns.device).masked_fill(~allowed, blocked)[:, None]


class Output(NamedTuple):
    """logits (M,vocabulary) and targets (M,) of the answers; which are an answer's first token (M,) and which
    conversation of the batch they belong to (M,)."""

    logits: Tensor
    target: Tensor
    first: Tensor
    conversation: Tensor


class FaceLlm(nn.Module):
    """LLM and adapter, with the encoder's refined text features as constants."""

    def __init__(self, llm: LlamaForCausalLM, adapter: Adapter, text: Tensor) -> None:
        super().__init__()
        self.llm, self.adapter = llm, adapter
        self.register_buffer("text", text, persistent=False)

    def forward(self, seen: Seen, batch: Sequence[Conversation]) -> Output:
        """Embed, run the LLM under the tree mask, read out the answers."""
        length = max(len(c.tokens) for c in batch)
        tokens, labels, positions, turns = (torch.full((len(batch), length), v) for v in (0, IGNORE, 0, -1))
        places = torch.zeros(len(batch), length, dtype=torch.int64)
        rows = torch.tensor([r for c in batch for r in c.rows])
        there = self.text.device
        features = Features(*(x[rows].float().to(there) for x in (seen.image, seen.regions, seen.area)))
        image, region = self.adapter.image_tokens(features), self.adapter.region_tokens(features)
        looks, findings = [], []
        for b, c in enumerate(batch):
            n = len(c.tokens)
            own = torch.from_numpy(c.tokens)
            tokens[b, :n], labels[b, :n], places[b, :n] = own.clamp(min=0), torch.from_numpy(c.labels), own.clamp(max=0)
            positions[b, :n], turns[b, :n] = torch.from_numpy(c.positions), torch.from_numpy(c.turn)
            for own in c.regions:
                looks += [image[len(looks) // 2], region[len(looks) // 2, torch.from_numpy(own)]]
            text = self.text[torch.from_numpy(c.characteristics)]
            findings.append(self.adapter.knowledge_tokens(text, torch.from_numpy(c.states).to(there)))
        tokens, labels, positions, turns, places = (x.to(there) for x in (tokens, labels, positions, turns, places))
        embeddings = self.llm.model.embed_tokens(tokens)
        embeddings = embeddings.masked_scatter((places == SEEN)[..., None], torch.cat(looks))
        embeddings = embeddings.masked_scatter((places == KNOWN)[..., None], torch.cat(findings))
        hidden = self.llm.model(
            inputs_embeds=embeddings, attention_mask=tree_mask(turns), position_ids=positions, use_cache=False
        ).last_hidden_state
        target = labels[:, 1:]
        # The last prompt token of each turn stands right before its answer: shifting by one holds within a turn.
        wanted = target != IGNORE
        first = labels[:, :-1][wanted] == IGNORE
        return Output(self.llm.lm_head(hidden[:, :-1][wanted]), target[wanted], first, wanted.nonzero()[:, 0])


def _sight(right: Tensor, hidden: Tensor) -> dict[str, float]:
    """Share of right decisions where findings were hidden, if there were any."""
    return {"sight": round(right[hidden].float().mean().item(), 4)} if hidden.any() else {}


def train_llm(
    seen: Seen,
    faces: Faces,
    judge: Judge,
    *,
    llm: LlamaForCausalLM,
    adapter: Adapter,
    text: Tensor,
    tokenizer: Any,
    out: Path,
    schedule: Schedule,
    turns: int = 8,
) -> FaceLlm:
    """Train the LLM and the aligned adapter on drawn conversations; returns them with averaged weights."""
    model = FaceLlm(llm, adapter, text)
    dialogues = Dialogues(seen, faces.labels, judge, tokenizer, turns=turns)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> list[Conversation]:
        return [dialogues.draw(int(i), rng) for i in indices]

    def loss(batch: list[Conversation]) -> tuple[Tensor, dict[str, float]]:
        logits, target, first, conversation = model(seen, batch)
        weight = torch.where(first, DECISION_WEIGHT, 1.0)
        right = logits.argmax(1) == target
        value = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        return value, {
            "token_accuracy": round(right.float().mean().item(), 4),
            "decision_accuracy": round(right[first].float().mean().item(), 4),
            **_sight(right, first & torch.tensor([c.hidden for c in batch])[conversation]),
            "tokens": sum(len(c.tokens) for c in batch),
        }

    train(
        model, name="llm", out=out, schedule=schedule, count=len(seen.rows), load=load, loss=loss,
        param_groups=[
            *groups(llm, schedule.weight_decay),
            *(g | {"lr": 3 * schedule.lr} for g in groups(adapter, schedule.weight_decay)),
        ],
    )  # fmt: skip
    return model
