"""The FaceInsight encoder: image and segmentation map in; characteristics and tokens for the LLM out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..taxonomy import FLIP_CLASSES
from .ccm import CorrelationModule
from .efficientnet import PYRAMID, EfficientNetLite0, LastStage
from .segmentation import RegionPool, SegmentationEncoder, coarse

IMAGE_CHANNELS = 1280


@dataclass
class Features:
    """Features of B faces.

    Attributes:
        image: (B,P,1280) deep patch features.
        regions: (B,R,D) features under each region.
        area: (B,R) share of the crop.
        celeba_image: (B,P,1280) of the specialized characteristics' last stage, if there is one.
    """

    image: Tensor
    regions: Tensor
    area: Tensor
    celeba_image: Tensor | None = None

    def select(self, chosen: slice) -> Features:
        """Those of some of the faces."""
        celeba_image = None if self.celeba_image is None else self.celeba_image[chosen]
        return Features(self.image[chosen], self.regions[chosen], self.area[chosen], celeba_image)


def region_mlp(region_width: int, width: int) -> nn.Sequential:
    """From a region's feature to the text features' space."""
    return nn.Sequential(nn.Linear(region_width, width), nn.GELU(), nn.Linear(width, width))


class View(nn.Module):
    """P_image v + P_region r_{region(k)}: a face projected into the text features' space, for each characteristic."""

    def __init__(self, image: nn.Linear, region: nn.Sequential) -> None:
        super().__init__()
        self.image, self.region = image, region

    def forward(self, image: Tensor, regions: Tensor, region_of: Tensor) -> Tensor:
        """Image (B,P,1280), regions (B,R,D), region_of (K,) -> (B,K,d)."""
        return self.region(regions)[:, region_of] + self.image(image.mean(1))[:, None]


class KnowledgeHead(nn.Module):
    """z_k = s cos(P_image v + P_region r_{region(k)}, T_k) + b_k.

    v is the mean deep feature, r the features under the region that shows characteristic k, T the refined text.
    Specialized characteristics have projections and a v of their own.
    """

    def __init__(
        self,
        ccm: CorrelationModule,
        regions: Sequence[int],
        *,
        region_width: int,
        width: int,
        specialized: Sequence[bool] = (),
    ) -> None:
        """regions: for each characteristic, the index of the region that shows it; specialized: is it looked at through
        a view of its own, once there is one (`FaceEncoder.specialize`)?"""
        super().__init__()
        self.ccm = ccm
        self.own: View | None = None
        self.view = View(nn.Linear(IMAGE_CHANNELS, width), region_mlp(region_width, width))
        self.scale = nn.Parameter(torch.tensor(12.0))
        self.bias = nn.Parameter(torch.zeros(len(regions)))
        self.register_buffer("region_of", torch.tensor(list(regions)), persistent=False)
        self.register_buffer("specialized", torch.tensor(list(specialized) or [False] * len(regions)), persistent=False)

    def forward(self, features: Features) -> Tensor:
        """-> logits (B,N)."""
        return self.score(features, self.ccm(), torch.arange(len(self.bias), device=self.bias.device))

    def text_features(self) -> Tensor:
        """(N,d): the text features that `score` compares with."""
        return F.normalize(self.ccm(), dim=-1)

    def score(self, features: Features, text: Tensor, characteristic_ids: Tensor) -> Tensor:
        """Logits (B,K) of the characteristics with these characteristic_ids (K,); text (N,d) of all."""
        region_of = self.region_of[characteristic_ids]
        view = self.view(features.image, features.regions, region_of)
        if self.own is not None:
            specialized = self.own(features.celeba_image, features.regions, region_of)
            view = torch.where(self.specialized[characteristic_ids][:, None], specialized, view)
        cosine = (F.normalize(view, dim=-1) * F.normalize(text[characteristic_ids], dim=-1)).sum(-1)
        return self.scale * cosine + self.bias[characteristic_ids]


class FaceEncoder(nn.Module):
    """Image trunk, segmentation encoder and knowledge head."""

    def __init__(self, segmentation: SegmentationEncoder, pool: RegionPool, head: KnowledgeHead) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        #: Another last stage of the trunk, for the specialized characteristics only.
        self.own: LastStage | None = None
        self.segmentation = segmentation
        self.pool = pool
        self.head = head
        self.register_buffer("mirror_classes", torch.tensor(FLIP_CLASSES), persistent=False)

    def specialize(self) -> None:
        """Give the specialized characteristics a last stage and projections of their own; they begin as copies."""
        self.own, self.head.own = LastStage(self.trunk), copy.deepcopy(self.head.view)

    def features(self, pixels: Tensor, label_map: Tensor) -> Features:
        """Pixels (B,3,S,S) scaled RGB, label_map (B,64,64)."""
        pyramid = self.trunk(pixels)
        return self.fuse(pyramid[16], pyramid[32], label_map)

    def fuse(self, fine: Tensor, deep: Tensor, label_map: Tensor) -> Features:
        """The trunk's maps at stride 16 and 32, and the label map (B,64,64)."""
        patches = torch.cat([_tokens(fine), self.segmentation(label_map)], 2)
        regions, area = self.pool(label_map, patches)
        return Features(_tokens(deep), regions, area, None if self.own is None else _tokens(self.own(fine)))

    def forward(self, pixels: Tensor, label_map: Tensor) -> Tensor:
        """-> logits (B,N)."""
        return self.head(self.features(pixels, label_map))

    def with_horizontal_flip(self, pixels: Tensor, label_map: Tensor) -> tuple[Features, Features]:
        """Features of the pictures, and of their mirror images (test-time augmentation).

        pixels (B,3,S,S), label_map (B,64,64). Logits are the mean of both (`forward_with_flip`).
        """
        size, cells = pixels.shape[-1], label_map.shape[-1]
        # Indexing, not flip: a negative step is what few ONNX runtimes take.
        turned = pixels[..., torch.arange(size - 1, -1, -1)]
        mirrored = self.mirror_classes[label_map.long()][..., torch.arange(cells - 1, -1, -1)]
        f = self.features(torch.cat([pixels, turned]), torch.cat([label_map.long(), mirrored]))
        count = pixels.shape[0]
        return f.select(slice(count)), f.select(slice(count, None))

    def forward_with_flip(self, pixels: Tensor, label_map: Tensor) -> tuple[Features, Tensor]:
        """Features of the pictures, and logits (B,N) as the bundle computes them."""
        features, mirrored = self.with_horizontal_flip(pixels, label_map)
        return features, (self.head(features) + self.head(mirrored)) / 2


def _tokens(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,H*W,C)."""
    return x.flatten(2).transpose(1, 2)


def region_width(segmentation_width: int) -> int:
    """Width of one region feature: trunk at stride 16, segmentation patch, shape figures."""
    return PYRAMID[16][1] + segmentation_width + RegionPool.FIGURES


def _mlp(cin: int, cout: int) -> nn.Sequential:
    """LLaVA-1.5's two-layer projector."""
    return nn.Sequential(nn.Linear(cin, cout), nn.GELU(), nn.Linear(cout, cout))


class Projector(nn.Module):
    """Features -> the text features' space (unit length times `length`) -> the LLM's embedding space."""

    def __init__(self, into: nn.Module, text_width: int, width: int) -> None:
        super().__init__()
        self.into, self.out = into, _mlp(text_width, width)
        self.register_buffer("length", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(...,D) -> (...,width)."""
        return self.out(F.normalize(self.into(x), dim=-1) * self.length)


class Adapter(nn.Module):
    """From features to the LLM's embedding space: image, region and knowledge tokens.

    A knowledge token says which characteristic it is (its refined text feature) and what the head found (one of
    `states` learned vectors). Image and region tokens come by way of the text features' space too, where the head has
    learned to bring faces near to what can be said of them: that way the LLM finds what it is asked about.
    """

    def __init__(
        self, *, region_width: int, text_width: int, regions: int, states: int, width: int, image: bool = True
    ) -> None:
        """image: without it, there are no image tokens: an LLM with a vision encoder of its own has them already."""
        super().__init__()
        self.image = Projector(nn.Linear(IMAGE_CHANNELS, text_width), text_width, width) if image else None
        self.region = Projector(region_mlp(region_width, text_width), text_width, width)
        self.text = _mlp(text_width, width)
        self.region_name = nn.Embedding(regions, width)
        self.state = nn.Embedding(states, width)

    def image_tokens(self, features: Features) -> Tensor:
        """(B,P,d).

        Raises:
            ValueError: the adapter makes none, for its LLM has a vision encoder.
        """
        if self.image is None:
            raise ValueError("this adapter makes no image tokens: its LLM has a vision encoder")
        return self.image(features.image)

    def region_tokens(self, features: Features) -> Tensor:
        """(B,R,d)."""
        return self.region(features.regions) + self.region_name.weight

    def knowledge_tokens(self, text: Tensor, states: Tensor) -> Tensor:
        """Text (K,dt) refined features of the characteristics, states (...,K) integers -> (...,K,d)."""
        return self.text(text) + self.state(states)


class EncoderGraph(nn.Module):
    """Export wrapper: everything that runs once per face, for the chosen characteristics only."""

    def __init__(self, encoder: FaceEncoder, adapter: Adapter) -> None:
        super().__init__()
        self.encoder, self.adapter = encoder, adapter
        with torch.no_grad():
            self.register_buffer("text", encoder.head.text_features())

    def forward(
        self, pixels: Tensor, label_map: Tensor, characteristics: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (B,3,S,S), label_map (B,M,M) uint8, characteristics (K,) int64.

        Returns logits (B,K), image_tokens (B,P,d), region_tokens (B,R,d), region_area (B,R).
        """
        head = self.encoder.head
        features, mirrored = self.encoder.with_horizontal_flip(pixels, coarse(label_map))
        logits = sum(head.score(f, self.text, characteristics) for f in (features, mirrored)) / 2
        return logits, self.adapter.image_tokens(features), self.adapter.region_tokens(features), features.area


class RegionGraph(nn.Module):
    """Export wrapper: the encoder's region features (B,R,D) -> region tokens (B,R,d)."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.region, self.region_name = adapter.region, adapter.region_name

    def forward(self, region_features: Tensor) -> Tensor:
        """(B,R,D) -> (B,R,d)."""
        return self.region(region_features) + self.region_name.weight


class KnowledgeGraph(nn.Module):
    """Export wrapper: characteristics (K,) and their states (K,) -> knowledge tokens (K,d); the GCN is baked in."""

    def __init__(self, text: Tensor, adapter: Adapter) -> None:
        """Text (N,dt): refined features of all characteristics."""
        super().__init__()
        with torch.no_grad():
            self.register_buffer("names", adapter.text(text))
        self.register_buffer("states", adapter.state.weight.detach().clone())

    def forward(self, characteristics: Tensor, states: Tensor) -> Tensor:
        """(K,), (K,) -> (K,d)."""
        return self.names[characteristics] + self.states[states]
