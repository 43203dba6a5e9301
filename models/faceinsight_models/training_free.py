"""The training-free variant of the paper: graph, rules and segmentation prompts, with nothing fitted to a face label.

The head reads the parser's label map alone: the size of a region, compared with its mean, is evidence for or against
what it shows, and the co-occurrence graph passes that on to neighbours. The uncut LLM is prompted in words: each
visible region is a token of its name, each finding one of the characteristic's name and the state. Base rates and graph
are counts of labels, as in the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .data.faces import Mixture
from .nets.efficientnet import EfficientNetLite0
from .nets.encoder import FaceEncoder, Features
from .nets.llm import BpeVocabulary, load_gguf
from .nets.segmentation import RegionPool, SegmentationEncoder
from .taxonomy import CHARACTERISTICS, MASK_CLASSES, NAMES, REGIONS
from .train.question import train_question
from .train.tasks import prior_bias

if TYPE_CHECKING:
    from .parts import Trained
    from .pipeline import Pipeline

#: What the size of a region says: logits per standard deviation of the square root of its share of the crop.
EVIDENCE: dict[str, tuple[str, float]] = {
    "Eyeglasses": ("glasses", 2.0), "Wearing_Hat": ("hat", 2.0), "Wearing_Earrings": ("earring", 2.0),
    "Wearing_Necklace": ("necklace", 2.0), "Wearing_Necktie": ("clothes", 0.5), "Bald": ("hair", -1.5),
    "Receding_Hairline": ("hair", -1.0), "Bangs": ("hair", 0.5), "Wavy_Hair": ("hair", 0.5), "Big_Nose": ("nose", 1.0),
    "Big_Lips": ("mouth", 0.7), "Mouth_Slightly_Open": ("mouth", 0.7), "Smiling": ("mouth", 0.5),
    "Bushy_Eyebrows": ("brows", 1.0), "Narrow_Eyes": ("eyes", -1.0), "Chubby": ("skin", 0.5),
}  # fmt: skip
#: Words of the states, in their order.
STATE_WORDS = (" no", " yes", " unsure", " hidden")
#: Logits between which nothing is claimed: nothing was fitted that could say better.
UNSURE = (0.35, 0.65)


class EvidenceHead(nn.Module):
    """z = prior + (I + C) e, with e what the sizes of the regions say."""

    def __init__(self, names: Tensor, graph: Tensor, prior: Tensor, mean: Tensor, std: Tensor) -> None:
        """Names (N,d) words of the characteristics, graph C_hat (N,N), prior (N,), mean and std of sizes (R,)."""
        super().__init__()
        order = list(REGIONS)
        says = torch.zeros(len(NAMES), len(order))
        for name, (region, weight) in EVIDENCE.items():
            says[NAMES.index(name), order.index(region)] = weight
        self.register_buffer("names", graph @ names)
        self.register_buffer("says", (torch.eye(len(NAMES)) + graph) / 2 @ says)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("bias", prior)

    def ccm(self) -> Tensor:
        """The words, each with its neighbours': a layer of the graph without weights."""
        return self.names

    def text_features(self) -> Tensor:
        """(N,R): what stands for a characteristic's text feature when logits are computed."""
        return self.says

    def score(self, features: Features, text: Tensor, characteristic_ids: Tensor) -> Tensor:
        """Logits (B,K) of the characteristics `characteristic_ids` (K,); text (N,R) as `text_features` returns it."""
        size = (features.area.sqrt() - self.mean) / self.std
        return size @ text[characteristic_ids].T + self.bias[characteristic_ids]


class WordAdapter(nn.Module):
    """Face tokens that are words: regions by their names, patches as "face", findings as name and state."""

    def __init__(self, regions: Tensor, face: Tensor, states: Tensor) -> None:
        super().__init__()
        self.register_buffer("regions", regions)
        self.register_buffer("face", face)
        self.state = nn.Embedding.from_pretrained(states)
        self.text = nn.Identity()

    def image_tokens(self, features: Features) -> Tensor:
        """(B,P,d)."""
        return self.face.expand(*features.image.shape[:2], -1)

    def region_tokens(self, features: Features) -> Tensor:
        """(B,R,d)."""
        return self.regions.expand(features.area.shape[0], -1, -1)


def training_free(pipeline: Pipeline) -> Trained:
    """The parts of a bundle, from a run with parser, label maps and graph. Trains the question encoder only, which sees
    questions and no face."""
    from .parts import DETECTOR, LLM, TRUNK, Trained

    source, folder = pipeline.assets[LLM], pipeline.run / "training-free"
    llm, vocabulary = load_gguf(source), BpeVocabulary.from_gguf(source)
    tokenizer, table = vocabulary.tokenizer(), llm.model.embed_tokens.weight.detach()

    def words(texts: list[str]) -> Tensor:
        return torch.stack([table[tokenizer.encode(t).ids].mean(0) for t in texts])

    names = words([" " + c.phrase.split(" ", 1)[1] for c in CHARACTERISTICS])
    faces = pipeline.faces
    rows = np.unique(Mixture(faces, pipeline.recipe.sampling_weights).draw(4000, np.random.default_rng(9)))
    maps = pipeline.maps(rows)
    pool = RegionPool(MASK_CLASSES, REGIONS)
    sizes = pool(torch.from_numpy(maps[rows]), torch.zeros(len(rows), 64, 1))[1].sqrt()
    graph = torch.from_numpy(np.load(pipeline.run / "graph.npy"))
    prior = prior_bias(torch.from_numpy(faces.labels[faces.rows("train")]))
    head: Any = EvidenceHead(names, graph, prior, sizes.mean(0), sizes.std(0).clamp(min=0.01))
    encoder = FaceEncoder(
        SegmentationEncoder(len(MASK_CLASSES), width=pipeline.recipe.encoder.segmentation_width), pool, head
    )
    trunk = EfficientNetLite0()
    trunk.load_imagenet(pipeline.assets[TRUNK])
    encoder.trunk = trunk
    adapter: Any = WordAdapter(words([f" {r}" for r in REGIONS]), words([" face"]), words(list(STATE_WORDS)))
    features = pipeline.text()
    question = train_question(table, features, tokenizer, out=folder, schedule=pipeline.recipe.train["question"])
    judged = np.tile([1.0, 0.0, *UNSURE, *UNSURE], (len(NAMES), 1))
    return Trained(
        replace(pipeline.recipe, name="training-free"),
        pipeline.parser(),
        encoder.eval(),
        adapter.eval(),
        question,
        llm.eval(),
        vocabulary,
        judged,
        pipeline.assets[DETECTOR],
        {},
    )
