"""Step 4: the adapter and the cut-down LLM learn to answer about a face.

Several questions about one face share its prefix and do not see each other (one attention mask per batch), just as
the runtime asks them; behind each question stand the findings that it asks about. Conversations come in three kinds
(`Dialogues.draw`):

- drilled: the states are drawn at random, so that no prior helps and the LLM must read what it is given;
- found: the states are what the head found on this face;
- hidden: part of the knowledge is left out and the truth is the label: only image and region tokens can tell it.
  That keeps the LLM looking at the face instead of only reading the head's findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceinsight.labels import NO, YES, Labeler
from faceinsight.manifest import STATES, PromptSpec

from ..data import Faces
from ..dialogue import DECLINE_OFF, turn
from ..encoder import Adapter, FaceEncoder, Features
from ..recipe import Schedule
from ..specs import characteristic_specs, rule_specs
from ..vocabulary import CHARACTERISTICS, NAMES, REGIONS
from .encoder import clean_batch
from .loop import groups, train

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PROMPT = PromptSpec(
    before_face="<|im_start|>user\n",
    after_face="\n",
    before_answer="<|im_end|>\n<|im_start|>assistant\n",
    stop="<|im_end|>",
    withheld=DECLINE_OFF,
)
#: Probabilities between these bounds are reported as unsure.
UNSURE = (0.35, 0.65)
SENSITIVE = ("gender", "age", "race")
IGNORE = -100
#: Questions about at least this many characteristics are given only what was not found absent.
LIST_FROM = 4
#: Places in a conversation that hold no text token.
SEEN, KNOWN = -1, -2
#: How often a question is given a finding that it did not ask for.
STRAY = 0.1
#: The first word of an answer carries its decision (Yes, No, I am not sure, ...), the others mostly follow from it.
DECISION_WEIGHT = 5.0
#: Shares of drilled and hidden conversations; the rest are found.
DRILLED, HIDDEN_SHARE = 0.5, 0.25
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


@torch.no_grad()
def look(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> Seen:
    """Run the encoder once over clean crops."""
    encoder.eval()
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc="encoding", unit="batch", mininterval=5):
        features = encoder.features(*clean_batch(faces, maps, rows[start : start + batch], size))
        parts.append((features.image.half(), features.regions.half(), features.area, encoder.head(features)))
    image, regions, area, logits = (torch.cat(p) for p in zip(*parts, strict=True))
    return Seen(rows, image, regions, area, logits.numpy())


def enabled(groups_on: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of the characteristics that are switched on."""
    return np.array([i for i, c in enumerate(CHARACTERISTICS) if c.group == "" or c.group in groups_on])


def judge(
    logits: NDArray[np.float32], area: NDArray[np.float32], chosen: NDArray[np.int64], calibration: NDArray[np.float64]
) -> NDArray[np.int64]:
    """States of the chosen characteristics, by the runtime's own labeler."""
    specs = characteristic_specs(calibration)
    labeler = Labeler([specs[i] for i in chosen], rule_specs(), UNSURE)
    labels = labeler(logits[chosen], dict(zip(REGIONS, area.tolist(), strict=True)))
    return np.array([STATES.index(label.state) for label in labels])


@dataclass
class Conversation:
    """One face and its questions, ready to batch.

    tokens (L,) with SEEN where an image or region token goes and KNOWN where a knowledge token goes; labels (L,);
    positions (L,); turn (L,), 0 for the prefix. regions: which region tokens; characteristics and states: what the
    knowledge tokens say, in the order of their places.
    """

    row: int
    regions: NDArray[np.int64]
    characteristics: NDArray[np.int64]
    states: NDArray[np.int64]
    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    turn: NDArray[np.int64]


class Dialogues:
    """Draws conversations: which groups are on, how much of the knowledge is hidden, what is asked."""

    def __init__(
        self, seen: Seen, labels: NDArray[np.uint8], calibration: NDArray[np.float64], tokenizer: Any, *, turns: int
    ) -> None:
        self.seen, self.labels, self.calibration, self.turns = seen, labels, calibration, turns
        self._encode = lambda text: tokenizer.encode(text).ids
        self._before, self._after = self._encode(PROMPT.before_face), self._encode(PROMPT.after_face)
        self._answer, self._stop = self._encode(PROMPT.before_answer), self._encode(PROMPT.stop)

    def draw(self, row: int, rng: np.random.Generator) -> Conversation:
        on = [g for g in SENSITIVE if rng.random() < 0.25]
        chosen = enabled(on)
        area = self.seen.area[row].numpy()
        keep = np.ones(len(chosen), bool)
        kind = rng.random()
        hidden = kind > 1 - HIDDEN_SHARE
        if kind < DRILLED:
            states = truth = rng.choice(len(STATES), len(chosen), p=DRILL)
        else:
            states = truth = judge(self.seen.logits[row], area, chosen, self.calibration)
            if hidden:
                open_to_all = np.array([CHARACTERISTICS[i].group == "" for i in chosen])
                keep = ~(open_to_all & (rng.random(len(chosen)) < rng.choice([0.5, 1.0])))
                label = self.labels[self.seen.rows[row], chosen]
                truth = np.where(keep, states, np.where(label > 0, YES, NO))
        known = {NAMES[i]: int(s) for i, s in zip(chosen, truth, strict=True)}
        place = {NAMES[i]: n for n, i in enumerate(chosen) if keep[n]}
        regions = np.flatnonzero(area > 0)
        prefix = [*self._before, *[SEEN] * (len(self.seen.image[row]) + len(regions)), *self._after]
        tokens, labels = list(prefix), [IGNORE] * len(prefix)
        positions, numbers = list(range(len(prefix))), [0] * len(prefix)
        given: list[int] = []
        for number in range(1, self.turns + 1):
            question, answer, about = turn(rng, known)
            asked = {place[n] for n in about if n in place}
            if sum(n in known for n in about) >= LIST_FROM:
                # A list of what was found: that something is missing from it is then a finding too, so all or nothing.
                asked = set() if hidden else {n for n in asked if states[n] != NO}
            if rng.random() < STRAY:
                asked.add(int(rng.choice(list(place.values()))) if place else -1)
                asked.discard(-1)
            given += sorted(asked)
            ask = [*self._encode(question), *[KNOWN] * len(asked), *self._answer]
            reply = [*self._encode(answer), *self._stop]
            tokens += ask + reply
            labels += [IGNORE] * len(ask) + reply
            positions += range(len(prefix), len(prefix) + len(ask) + len(reply))
            numbers += [number] * (len(ask) + len(reply))
        at = np.array(given, np.int64)
        return Conversation(
            row, regions, chosen[at], states[at], *(np.array(x, np.int64) for x in (tokens, labels, positions, numbers))
        )


def tree_mask(turns: Tensor) -> Tensor:
    """(B,L) turn numbers (0: prefix, -1: padding) -> additive (B,1,L,L): causal, own turn and prefix only."""
    length = turns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = turns[:, :, None] == turns[:, None, :]
    allowed = causal & (same | (turns[:, None, :] == 0))
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]


class Output(NamedTuple):
    """logits (M,vocabulary) and targets (M,) of the answers, and which are an answer's first token (M,)."""

    logits: Tensor
    target: Tensor
    first: Tensor


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
        rows = torch.tensor([c.row for c in batch])
        features = Features(seen.image[rows].float(), seen.regions[rows].float(), seen.area[rows])
        image, region = self.adapter.image_tokens(features), self.adapter.region_tokens(features)
        looks, findings = [], []
        for b, c in enumerate(batch):
            n = len(c.tokens)
            own = torch.from_numpy(c.tokens)
            tokens[b, :n], labels[b, :n], places[b, :n] = own.clamp(min=0), torch.from_numpy(c.labels), own.clamp(max=0)
            positions[b, :n], turns[b, :n] = torch.from_numpy(c.positions), torch.from_numpy(c.turn)
            looks += [image[b], region[b, torch.from_numpy(c.regions)]]
            text = self.text[torch.from_numpy(c.characteristics)]
            findings.append(self.adapter.knowledge_tokens(text, torch.from_numpy(c.states)))
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
        return Output(self.llm.lm_head(hidden[:, :-1][wanted]), target[wanted], first)


def start_adapter(adapter: Adapter, llm: LlamaForCausalLM, text: Tensor, tokenizer: Any, *, steps: int = 400) -> None:
    """Let knowledge tokens begin as the LLM's own words: the mean embedding of the characteristic's phrase,
    and for states the words no, yes, unsure, hidden. Image and region tokens begin at the scale of embeddings."""
    table = llm.model.embed_tokens.weight.detach()
    scale = table.std()
    mean = lambda words: torch.stack([table[tokenizer.encode(w).ids].mean(0) for w in words])  # noqa: E731
    names = mean([" " + c.phrase.split(" ", 1)[1] for c in CHARACTERISTICS])
    names = names / names.std() * scale
    with torch.no_grad():
        words = mean([" no", " yes", " unsure", " hidden"])
        adapter.state.weight.copy_(words / words.std() * scale)
        adapter.region_name.weight.mul_(float(scale))
        for mlp in (adapter.image, adapter.region):
            mlp[2].weight.mul_(float(scale) * 2)
    optimiser = torch.optim.Adam(adapter.text.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = F.mse_loss(adapter.text(text), names) / scale**2
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def train_llm(
    seen: Seen,
    faces: Faces,
    calibration: NDArray[np.float64],
    *,
    llm: LlamaForCausalLM,
    adapter: Adapter,
    text: Tensor,
    tokenizer: Any,
    out: Path,
    schedule: Schedule,
    turns: int = 8,
) -> FaceLlm:
    """Train LLM and adapter on drawn conversations; returns them with averaged weights."""
    torch.manual_seed(schedule.seed)
    start_adapter(adapter, llm, text, tokenizer)
    model = FaceLlm(llm, adapter, text)
    dialogues = Dialogues(seen, faces.labels, calibration, tokenizer, turns=turns)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> list[Conversation]:
        return [dialogues.draw(int(i), rng) for i in indices]

    def loss(batch: list[Conversation]) -> tuple[Tensor, dict[str, float]]:
        logits, target, first = model(seen, batch)
        weight = torch.where(first, DECISION_WEIGHT, 1.0)
        right = logits.argmax(1) == target
        value = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        return value, {
            "token_accuracy": round(right.float().mean().item(), 4),
            "decision_accuracy": round(right[first].float().mean().item(), 4),
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
