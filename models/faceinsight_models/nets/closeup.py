"""The close-up: a second network on the middle of the canonical crop, where every set and every photo shows face.

It tells age (a distribution over years), gender, race and expression, and how far the picture can be read at all. In
the whole canonical crop the sets that label these betray themselves: half of it lies outside their pictures. Of what
a face shows by itself it has a second opinion beside the encoder's, from twice as many pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.labels import AGE_YEARS
from ..taxonomy import CELEBA, EXPRESSIONS, RACES
from .mobilenet import CHANNELS, MobileNet

#: Age is a distribution over 0 to 100 years; the last one holds everybody older.
YEARS = 101
#: Attributes of which the middle of the crop shows enough for a second opinion, measured on held-out portraits: not the
#: head's hair, nor what is worn beside the face; of the skin's color the encoder knows more.
FACIAL = tuple(
    n for n in CELEBA
    if n not in {
        "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Male", "Pale_Skin", "Receding_Hairline",
        "Rosy_Cheeks", "Straight_Hair", "Wavy_Hair", "Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie",
    }
)  # fmt: skip
#: Parts of which the encoder says something too, and how much this one's word counts beside the encoder's: the head's
#: logits are so much larger or smaller. Of gender the encoder reads the frame of a picture too (FairFace inside larger
#: photos lost 0.026 with equal weights, nothing with this one alone), but together they are right more often.
WEIGHT = {"gender": 2.0, "attributes": 2 / 3}
#: Characteristics with an output of their own, in this order; the age bins are read off the years.
TELLS = (*RACES, *EXPRESSIONS, "Male", *FACIAL)
#: Why a picture cannot be read, each with a logit of its own: out of focus or too few pixels, too dark, noise or a
#: mosaic over it, the mouth or the eyes behind something, no face at all.
FAULTS = ("blurred", "dark", "noisy", "mouth hidden", "eyes hidden", "no face")
#: Characteristics that are one of them.
SHOWS = {"Blurry": "blurred"}
#: Of these the mean of the encoder's logit and this one counts: posed portraits label them as well.
SHARED = ("Male", *FACIAL)
#: Those that hide a part of the face only.
COVERS = ("mouth hidden", "eyes hidden")
#: Quarter turns, counter-clockwise, by which the picture must be turned for the face to stand upright.
TURNS = 4

#: Parts of the head's output, in this order, and how many logits each has.
PARTS = {
    "years": YEARS,
    "race": len(RACES),
    "expression": len(EXPRESSIONS),
    "gender": 1,
    "attributes": len(FACIAL),
    "faults": len(FAULTS),
    "turn": TURNS,
}


def years_of_bins() -> Tensor:
    """(9,YEARS): which years an age bin holds."""
    year = torch.arange(YEARS)
    return torch.stack([(year >= first) & (year <= last) for first, last in AGE_YEARS]).float()


class CloseupNet(nn.Module):
    """Pixels (B,3,S,S) -> logits of each part, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = MobileNet()
        self.head = nn.Linear(CHANNELS, sum(PARTS.values()))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """-> the logits of each of `PARTS`, (B,its size)."""
        features = self.trunk(pixels).mean((2, 3)).float()
        return self.split(self.head(F.dropout(features, 0.2, self.training)))

    @staticmethod
    def split(logits: Tensor) -> dict[str, Tensor]:
        """The head's output by part."""
        return dict(zip(PARTS, logits.split(list(PARTS.values()), 1), strict=True))

    def forward_with_flip(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits by part, the mean of a picture and its mirror image, as the bundle computes them."""
        both = self(torch.cat([pixels, pixels[..., torch.arange(pixels.shape[-1] - 1, -1, -1)]]))
        return {name: sum(z.chunk(2)) / 2 for name, z in both.items()}


class CloseupGraph(nn.Module):
    """Export wrapper: pixels (B,3,S,S) and outputs (M,) -> logits (B,M) of these outputs of the head, in the order of
    `PARTS`: mean of the picture and its mirror image."""

    def __init__(self, closeup: CloseupNet) -> None:
        super().__init__()
        self.trunk = closeup.trunk
        self.register_buffer("weight", closeup.head.weight.detach().clone())
        self.register_buffer("bias", closeup.head.bias.detach().clone())

    def forward(self, pixels: Tensor, outputs: Tensor) -> Tensor:
        """Pixels (B,3,S,S), outputs (M,) -> logits (B,M)."""
        # Indexing, not flip: a negative step is what few ONNX runtimes take.
        turned = pixels[..., torch.arange(pixels.shape[-1] - 1, -1, -1)]
        count = pixels.shape[0]
        features = self.trunk(torch.cat([pixels, turned])).mean((2, 3))
        # The head is linear: the mean of the features has the mean of the logits.
        both = (features[:count] + features[count:]) / 2
        return both @ self.weight[outputs].T + self.bias[outputs]
