"""Step 7: initializes face tokens close to the LLM's word embeddings, before the LLM is trained on them.

LLaVA's first stage trains the projector on captions through a frozen LLM. Here the target of a face token is known: a
region's token is fitted to the sum of the words for what holds there, an image token to those for all that holds.
Labels say what holds, and the head where a set has no label. Characteristics of a switch are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..nets.encoder import Adapter, Features
from ..recipe import Schedule
from ..taxonomy import CHARACTERISTICS, REGIONS
from .encoded import EncodedFaces
from .loop import device, train

#: The region that stands for all of the face.
WHOLE = "face"


def align(
    adapter: Adapter,
    encoded: EncodedFaces,
    labels: NDArray[np.float32],
    *,
    table: Tensor,
    encode: Callable[[str], list[int]],
    views: Mapping[str, Mapping[str, Tensor]],
    text: Tensor,
    out: Path,
    schedule: Schedule,
) -> Adapter:
    """Train the adapter in place.

    Args:
        adapter: the adapter, untrained.
        encoded: M faces.
        labels: (M,N) of these faces, NaN where unknown.
        table: (V,d) word embeddings of the LLM.
        encode: token ids of a text that follows another.
        views: weights of the head's projections from "image" and "region" features to text features.
        text: (N,dt) refined text features.
        out: the run folder.
        schedule: of the training.
    """
    torch.manual_seed(schedule.seed)
    scale = table.std()

    def words(phrases: Sequence[str]) -> Tensor:
        """Mean word embedding of each phrase, as strong as a word."""
        mean = torch.stack([table[encode(p)].mean(0) for p in phrases])
        return mean / mean.std() * scale

    names = words([" " + c.phrase.split(" ", 1)[1] for c in CHARACTERISTICS])
    start(adapter, views, text, words)
    targets, member = torch.from_numpy(holding(labels, encoded.logits)), membership()
    names, text, member, scale = (x.to(device()) for x in (names, text, member, scale))

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, ...]:
        rows = torch.from_numpy(indices)
        return encoded.image[rows].float(), encoded.regions[rows].float(), encoded.area[rows], targets[rows]

    def loss(batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        features, holds = Features(*batch[:3]), batch[3]
        target = torch.einsum("bk,rk,kd->brd", holds, member, names)
        there = features.area > 0
        bare = adapter.region(features.regions)
        parts = {
            "text": F.mse_loss(adapter.text(text), names),
            "region": F.mse_loss(bare[there], target[there]),
        }
        if adapter.image is not None:
            whole = target[:, :1].expand(-1, features.image.shape[1], -1)
            parts["image"] = F.mse_loss(adapter.image_tokens(features), whole)
        value = torch.stack(list(parts.values())).sum() / scale**2
        return value, {k: round(float(v.detach() / scale**2), 4) for k, v in parts.items()}

    train(adapter, name="align", out=out, schedule=schedule, count=len(encoded.rows), load=load, loss=loss)
    return adapter


def start(adapter: Adapter, views: Mapping[str, Mapping[str, Tensor]], text: Tensor, words: Any) -> None:
    """States and regions begin as their words; features take the head's way into the text features' space."""
    with torch.no_grad():
        adapter.state.weight.copy_(words([" no", " yes", " unsure", " hidden"]))
        adapter.region_name.weight.copy_(words([" " + r for r in REGIONS]))
        for name, into in views.items():
            projector = adapter.get_submodule(name)
            projector.into.load_state_dict(into)
            projector.length.copy_(text.norm(dim=1).mean())


def holding(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,K) labels, NaN where unknown, and logits -> by how many standard deviations each characteristic holds more
    than usual, at most 4: the rare ones speak as loudly as the common ones; 0 for switched groups."""
    holds = np.where(np.isnan(labels), 1 / (1 + np.exp(-logits)), labels)
    open_ = np.array([c.group == "" for c in CHARACTERISTICS])
    z = (holds - holds.mean(0)) / np.maximum(holds.std(0), 0.05)
    return np.asarray(np.clip(z, -4, 4) * open_, np.float32)


def membership() -> Tensor:
    """(R,K): which characteristics a region's token stands for; the first region's stands for all."""
    return torch.tensor([[float(r in (WHOLE, c.region)) for c in CHARACTERISTICS] for r in REGIONS])
