"""The second visual input: a small ViT on the face segmentation map, and pooling of patch features by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Label maps enter the network at this size; a canonical crop of 256 px is sampled every fourth pixel.
MAP_SIZE = 64


def coarse(label_map: Tensor) -> Tensor:
    """(B,S,S) label map -> (B,64,64): the center-most label of each cell."""
    step = label_map.shape[-1] // MAP_SIZE
    return label_map[:, step // 2 :: step, step // 2 :: step]


class TransformerBlock(nn.Module):
    """Pre-norm ViT block (Dosovitskiy et al. 2021), written out so that it exports to fused LayerNormalization."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B,N,D) -> (B,N,D)."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SegmentationEncoder(nn.Module):
    """(B,64,64) label map -> (B,P,width) patch features, P = (64 / patch)^2."""

    def __init__(self, classes: int, *, width: int = 96, patch: int = 8, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.classes = classes
        side = MAP_SIZE // patch
        self.embed = nn.Conv2d(classes, width, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, side * side, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, label_map: Tensor) -> Tensor:
        """(B,64,64) -> (B,P,width)."""
        x = self.embed(one_hot(label_map, self.classes)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def one_hot(label_map: Tensor, classes: int) -> Tensor:
    """(B,H,W) -> (B,classes,H,W) float."""
    values = torch.arange(classes, device=label_map.device)[:, None, None]
    return (label_map[:, None].long() == values).float()


class RegionPool(nn.Module):
    """Mean of patch features under each region of the label map.

    Regions are unions of mask classes. Next to the mean come the region's share of the crop and its center,
    which tell a big nose from a small one.
    """

    #: Shape figures per region: square root of the area share, center x, center y, presence.
    FIGURES = 4

    def __init__(self, classes: Sequence[str], regions: Mapping[str, Sequence[str]], *, patch: int = 8) -> None:
        super().__init__()
        member = torch.zeros(len(regions), len(classes))
        for row, names in enumerate(regions.values()):
            for name in names:
                member[row, classes.index(name)] = 1
        self.register_buffer("member", member, persistent=False)
        self.patch = patch
        line = (torch.arange(MAP_SIZE // patch) + 0.5) / (MAP_SIZE // patch) - 0.5
        self.register_buffer(
            "grid", torch.stack(torch.meshgrid(line, line, indexing="xy")).flatten(1), persistent=False
        )

    def forward(self, label_map: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """label_map (B,64,64), patches (B,P,D) -> features (B,R,D+4), area (B,R) as a share of the crop."""
        share = F.avg_pool2d(one_hot(label_map, self.member.shape[1]), self.patch).flatten(2)
        share = self.member @ share  # (B,R,P): how much of each patch the region fills
        area = share.mean(2)
        weight = share / share.sum(2, keepdim=True).clamp(min=1e-4)
        center = weight @ self.grid.T
        figures = torch.cat([area.sqrt()[..., None], center, (area > 0).float()[..., None]], 2)
        return torch.cat([weight @ patches, figures], 2), area
