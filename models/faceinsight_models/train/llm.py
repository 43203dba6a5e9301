"""Step 8: the aligned adapter and the cut-down LLM learn to answer about a face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from faceinsight.bundle.specs import PromptSpec

from ..data.faces import Faces
from ..dialogue.answers import COUNTED, DECLINE_OFF, HIDDEN_ANSWER, LOOKED, REGION_WORDS
from ..dialogue.outside import DECLINES
from ..nets.encoder import Adapter, Features
from ..recipe import Schedule
from .conversation import FACE_SLOT, IGNORE, KNOWLEDGE_SLOT, Conversation, Dialogues, PromptTokens, StateLabeler
from .encoded import EncodedFaces
from .loop import decay_groups, train
from .rounded import rounded

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
    declines=DECLINES,
    counted=COUNTED,
)
#: The first word of an answer carries its decision (Yes, No, I am not sure, ...), the others mostly follow from it.
DECISION_WEIGHT = 5.0


def tree_mask(turns: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B,L) turn numbers (0: prefix, -1: padding) -> additive (B,1,L,L): causal, own turn and prefix only."""
    length = turns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=turns.device).tril()
    same = turns[:, :, None] == turns[:, None, :]
    allowed = causal & (same | (turns[:, None, :] == 0))
    blocked = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=turns.device).masked_fill(~allowed, blocked)[:, None]


class Output(NamedTuple):
    """logits (M,vocabulary) and targets (M,) of the answers; which are an answer's first token (M,) and which
    conversation of the batch they belong to (M,)."""

    logits: Tensor
    target: Tensor
    first: Tensor
    conversation: Tensor


def forward_answers(
    body: Any, head: Callable[[Tensor], Tensor], batch: Sequence[Conversation], face: Tensor, findings: Tensor
) -> Output:
    """Embed conversations, run an LLM under the tree mask, and compute the logits of the answers.

    Args:
        body: the LLM without its head, with `embed_tokens`.
        head: hidden states (M,d) -> logits (M,V).
        batch: the conversations.
        face: (S,d) image and region tokens, scattered into the slots FACE_SLOT, conversation after conversation.
        findings: (K,d) knowledge tokens, scattered into the slots KNOWLEDGE_SLOT.
    """
    length = max(len(c.tokens) for c in batch)
    tokens, labels, positions, turns = (torch.full((len(batch), length), v) for v in (0, IGNORE, 0, -1))
    places = torch.zeros(len(batch), length, dtype=torch.int64)
    for b, c in enumerate(batch):
        n = len(c.tokens)
        slots = torch.from_numpy(c.tokens)
        tokens[b, :n], labels[b, :n], places[b, :n] = slots.clamp(min=0), torch.from_numpy(c.labels), slots.clamp(max=0)
        positions[b, :n], turns[b, :n] = torch.from_numpy(c.positions), torch.from_numpy(c.turn)
    tokens, labels, positions, turns, places = (x.to(face.device) for x in (tokens, labels, positions, turns, places))
    embeddings = body.embed_tokens(tokens)
    dtype = embeddings.dtype
    embeddings = embeddings.masked_scatter((places == FACE_SLOT)[..., None], face.to(dtype))
    embeddings = embeddings.masked_scatter((places == KNOWLEDGE_SLOT)[..., None], findings.to(dtype))
    hidden = body(
        inputs_embeds=embeddings, attention_mask=tree_mask(turns, dtype), position_ids=positions, use_cache=False
    ).last_hidden_state
    target = labels[:, 1:]
    # The last prompt token of each turn stands right before its answer: shifting by one holds within a turn.
    wanted = target != IGNORE
    first = labels[:, :-1][wanted] == IGNORE
    return Output(head(hidden[:, :-1][wanted]).float(), target[wanted], first, wanted.nonzero()[:, 0])


def face_tokens(image: Tensor, region: Tensor, batch: Sequence[Conversation]) -> Tensor:
    """(S,d): the face tokens of conversations, from image (F,P,d) and region tokens (F,R,d) of all their faces."""
    visible = [torch.from_numpy(slots) for c in batch for slots in c.regions]
    return torch.cat([x for face, slots in enumerate(visible) for x in (image[face], region[face, slots])])


def knowledge_tokens(adapter: Adapter, text: Tensor, batch: Sequence[Conversation]) -> Tensor:
    """(K,d): the knowledge tokens of conversations; text (N,dt) of all characteristics."""
    numbers, states = (
        torch.from_numpy(np.concatenate(x)) for x in zip(*((c.characteristics, c.states) for c in batch), strict=True)
    )
    return adapter.knowledge_tokens(text[numbers.to(text.device)], states.to(text.device))


class FaceLlm(nn.Module):
    """LLM and adapter, with the encoder's refined text features as constants."""

    def __init__(self, llm: LlamaForCausalLM, adapter: Adapter, text: Tensor) -> None:
        super().__init__()
        self.llm, self.adapter = llm, adapter
        self.register_buffer("text", text, persistent=False)

    def forward(self, encoded: EncodedFaces, batch: Sequence[Conversation]) -> Output:
        """Embed, run the LLM under the tree mask, read out the answers."""
        rows = torch.tensor([r for c in batch for r in c.rows])
        features = Features(
            *(x[rows].float().to(self.text.device) for x in (encoded.image, encoded.regions, encoded.area))
        )
        image, region = self.adapter.image_tokens(features), self.adapter.region_tokens(features)
        face = face_tokens(image, region, batch)
        return forward_answers(
            self.llm.model, self.llm.lm_head, batch, face, knowledge_tokens(self.adapter, self.text, batch)
        )


def answer_loss(output: Output, batch: Sequence[Conversation]) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers, their decisions weighed the more, and figures to log. sight: the share of right
    decisions where findings were hidden, if there were any."""
    logits, target, first, conversation = output
    weight = torch.where(first, DECISION_WEIGHT, 1.0)
    right = logits.argmax(1) == target
    value = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    figures = {
        "token_accuracy": round(right.float().mean().item(), 4),
        "decision_accuracy": round(right[first].float().mean().item(), 4),
    }
    hidden = first & torch.tensor([c.hidden for c in batch], device=first.device)[conversation]
    if hidden.any():
        figures["sight"] = round(right[hidden].float().mean().item(), 4)
    return value, figures | {"tokens": sum(len(c.tokens) for c in batch)}


def train_llm(
    encoded: EncodedFaces,
    faces: Faces,
    labeler: StateLabeler,
    *,
    llm: LlamaForCausalLM,
    adapter: Adapter,
    text: Tensor,
    tokenizer: Any,
    out: Path,
    schedule: Schedule,
    turns: int = 8,
    quantization: str = "",
) -> FaceLlm:
    """Train the LLM and the aligned adapter on drawn conversations.

    Args:
        encoded: faces that the conversations are about.
        faces: faces of all sets.
        labeler: states of the characteristics.
        llm: the cut LLM.
        adapter: the aligned adapter.
        text: (N,dt) refined text features.
        tokenizer: of the tokenizers library.
        out: the run folder.
        schedule: of the training.
        turns: questions per conversation.
        quantization: "q4_0" trains on weights rounded as they will be shipped; finer ones need no such thing.

    Returns:
        Both with averaged weights.
    """
    model = FaceLlm(llm, adapter, text)
    prompt = PromptTokens.of(PROMPT, lambda text, first: tokenizer.encode(text).ids)
    dialogues = Dialogues(encoded, faces.labels, labeler, prompt, images=encoded.image.shape[1], turns=turns)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> list[Conversation]:
        return [dialogues.draw(int(i), rng) for i in indices]

    def loss(batch: list[Conversation]) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(model.text.device.type, torch.bfloat16):
            return answer_loss(model(encoded, batch), batch)

    with rounded(llm.model.layers) if quantization == "q4_0" else nullcontext():
        train(
            model,
            name="llm",
            out=out,
            schedule=schedule,
            count=len(encoded.rows),
            load=load,
            loss=loss,
            param_groups=[
                *decay_groups(llm, schedule.weight_decay),
                *(g | {"lr": 3 * schedule.lr} for g in decay_groups(adapter, schedule.weight_decay)),
            ],
        )
    return model
