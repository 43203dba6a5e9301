"""What does a question ask about, and is it one that is answered? A small text encoder compared with the refined text
features of the characteristics.

The LLM is given the findings on just these, right behind the question: looking them up among forty by attention
is what a language model of this size learns last, and what is not asked about need not be read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceinsight.bundle.specs import DETAIL

from ..dialogue.outside import KINDS

#: The first so many kinds are about characteristics.
ASKING = KINDS.index(DETAIL) + 1
#: Noise on the word embeddings while it learns (they have standard deviation 1): a word that it never saw is then
#: understood as its neighbours are.
NOISE = 0.4
#: What is below this share of the highest relevance is not asked about. In wordings never convolved, a neighbour of
#: what is meant rises above zero too, but not far: of 3,000 such questions 0.953 are then read exactly, else 0.929.
SHARE = 0.2


class QuestionNet(nn.Module):
    """Token ids (B,L) -> relevance logits (B,N), logits of `KINDS` (B,M).

    QuestionNet: scale * cos(P e, T_k) + W e + b, with e the question's encoding.

    The cosine alone could not say "all of these": one vector has few near neighbours. The linear part can.
    """

    def __init__(self, table: Tensor, text: Tensor, *, width: int = 128) -> None:
        """Table (V,d): the LLM's token embeddings, whose leading directions it starts from; text (N,dt): T^L."""
        super().__init__()
        centered = table - table.mean(0)
        directions = torch.linalg.svd(centered, full_matrices=False).Vh[:width]
        reduced = centered @ directions.T
        self.embed = nn.Embedding.from_pretrained(reduced / reduced.std(), freeze=False)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, k, padding=k // 2) for k in (1, 3, 5))
        self.encode = nn.Sequential(nn.Linear(4 * width, 256), nn.GELU(), nn.Dropout(0.1))
        self.project = nn.Linear(256, text.shape[1])
        self.free = nn.Linear(256, len(text))
        self.kind = nn.Linear(256, len(KINDS))
        #: How much the highest relevance speaks for a question that is answered; fitted after training.
        self.register_buffer("lean", torch.zeros(()))
        self.register_buffer("text", F.normalize(text - text.mean(0), dim=-1))
        self.scale = nn.Parameter(torch.tensor(10.0))
        nn.init.zeros_(self.free.weight)
        nn.init.constant_(self.free.bias, -4.0)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask (B,L): True where there is a token; None: everywhere."""
        x = self.embed(tokens).transpose(1, 2)
        if self.training:
            x = x + NOISE * torch.randn_like(x)
        if mask is not None:
            x = x * mask[:, None]
        convolved = [F.gelu(c(x)) for c in self.convolutions]
        if mask is not None:
            convolved = [y.masked_fill(~mask[:, None], -1e4) for y in convolved]
            mean = x.sum(2) / mask.sum(1, keepdim=True)
        else:
            mean = x.mean(2)
        encoding = self.encode(torch.cat([y.amax(2) for y in convolved] + [mean], 1))
        relevance = self.scale * F.normalize(self.project(encoding), dim=-1) @ self.text.T + self.free(encoding)
        kinds = self.kind(encoding)
        lean = self.lean * relevance.amax(1, keepdim=True)
        return relevance, torch.cat([kinds[:, :ASKING] + lean, kinds[:, ASKING:]], 1)
