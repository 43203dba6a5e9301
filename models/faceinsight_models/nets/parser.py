"""Face parser: 19 CelebAMask-HQ classes from a canonical crop, an EfficientNet-Lite0 trunk under a light decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet import PYRAMID, EfficientNetLite0


def _separable(channels: int, out: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Context(nn.Module):
    """What the stride-16 features lack: a wide view (two dilations) and the whole crop (global mean)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = _separable(channels, channels, 2)
        self.far = _separable(channels, channels, 5)
        self.whole = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W)."""
        return x + self.near(x) + self.far(x) + self.whole(x.mean((2, 3)))[:, :, None, None]


class FaceParser(nn.Module):
    """(B,3,S,S) scaled RGB -> logits (B,classes,S/2,S/2)."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0(last_stride=16)
        self.laterals = nn.ModuleDict({str(s): nn.Conv2d(PYRAMID[s][1], width, 1) for s in (4, 8, 16)})
        self.context = Context(width)
        self.smooth = nn.ModuleDict({str(s): _separable(width, width) for s in (4, 8)})
        self.fine = nn.Conv2d(PYRAMID[2][1], width // 2, 1)
        self.narrow = nn.Conv2d(width, width // 2, 1)
        self.last = _separable(width // 2, width // 2)
        self.classify = nn.Conv2d(width // 2, classes, 1)

    @classmethod
    def on(cls, trunk: EfficientNetLite0, classes: int) -> FaceParser:
        """One that begins with the weights of a trunk that has seen faces."""
        model = cls(classes)
        expected = model.trunk.state_dict()
        model.trunk.load_state_dict({k: v for k, v in trunk.state_dict().items() if k in expected})
        return model

    def forward(self, pixels: Tensor) -> Tensor:
        """(B,3,S,S) -> logits (B,classes,S/2,S/2)."""
        features = self.trunk(pixels)
        x = self.context(self.laterals["16"](features[16]))
        for stride in (8, 4):
            x = _double(x) + self.laterals[str(stride)](features[stride])
            x = self.smooth[str(stride)](x)
        x = _double(self.narrow(x)) + self.fine(features[2])
        return self.classify(self.last(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class LabelMap(nn.Module):
    """Export wrapper: pixels (B,3,S,S) -> label map (B,S,S) uint8 at the crop's own resolution."""

    def __init__(self, parser: FaceParser) -> None:
        super().__init__()
        self.parser = parser

    def forward(self, pixels: Tensor) -> Tensor:
        """(B,3,S,S) -> (B,S,S) uint8."""
        return _double(self.parser(pixels)).argmax(1).to(torch.uint8)
