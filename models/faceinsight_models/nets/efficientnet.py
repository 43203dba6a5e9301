"""EfficientNet-Lite0 as a feature pyramid (Tan & Le 2019; Lite: no squeeze-excite, ReLU6).

Module names follow the published state dict so that the ImageNet weights load by name.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# expand, channels, repeats, stride, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
#: Index of the last block at each stride, and its channels.
PYRAMID = {2: (0, 16), 4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (15, 320)}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding for even inputs: at stride 2 the extra row goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,D,H/stride,W/stride)."""
        k, s = self.kernel_size[0], self.stride[0]
        total = k - s
        if total > 0 and total % 2:
            input = F.pad(input, (total // 2, total - total // 2, total // 2, total - total // 2))
            return F.conv2d(input, self.weight, self.bias, self.stride, 0, 1, self.groups)
        return F.conv2d(input, self.weight, self.bias, self.stride, (k - 1) // 2, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """A mobile inverted bottleneck block (Sandler et al. 2018), with a residual where the shape stays."""

    def __init__(self, cin: int, cout: int, expand: int, stride: int, kernel: int) -> None:
        super().__init__()
        mid = cin * expand
        self.expand = expand != 1
        self.skip = stride == 1 and cin == cout
        if self.expand:
            self._expand_conv = nn.Conv2d(cin, mid, 1, bias=False)
            self._bn0 = _norm(mid)
        self._depthwise_conv = SameConv2d(mid, mid, kernel, stride, groups=mid, bias=False)
        self._bn1 = _norm(mid)
        self._project_conv = nn.Conv2d(mid, cout, 1, bias=False)
        self._bn2 = _norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        """(B,cin,H,W) -> (B,cout,H/stride,W/stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Features of an image at strides 2, 4, 8, 16, 32 (and the 1280-channel head at 32).

    Input (B,3,H,W), RGB scaled to (x - 127) / 128, H and W divisible by 32.
    """

    def __init__(self, *, last_stride: int = 32) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[nn.Module] = []
        cin = 32
        for expand, channels, repeats, stride, kernel in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(cin, channels, expand, stride if i == 0 else 1, kernel))
                cin = channels
        self._blocks = nn.ModuleList(blocks[: PYRAMID[last_stride][0] + 1])
        self.last_stride = last_stride
        if last_stride == 32:
            self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
            self._bn1 = _norm(1280)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Stride -> (B,C,H/stride,W/stride); at stride 32 the head's 1280 channels."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        at = {index: stride for stride, (index, _) in PYRAMID.items()}
        out: dict[int, Tensor] = {}
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in at:
                out[at[i]] = x
        if self.last_stride == 32:
            out[32] = F.relu6(self._bn1(self._conv_head(x)))
        return out

    def lower(self, stride: int) -> nn.ModuleList:
        """The layers up to this stride: what a later round leaves as it is."""
        return nn.ModuleList([self._conv_stem, self._bn0, *self._blocks[: PYRAMID[stride][0] + 1]])

    def load_imagenet(self, path: Path) -> None:
        """Load the published ImageNet weights; layers beyond `last_stride` and the classifier are left out."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        expected = self.state_dict()
        missing = [k for k in expected if k not in state]
        if missing:
            raise ValueError(f"{path} is not an EfficientNet-Lite0 state dict: it lacks {missing[:3]} (and more)")
        self.load_state_dict({k: state[k] for k in expected})


class LastStage(nn.Module):
    """A trunk's layers from stride 16 on, standing alone: another reading of the same map. Begins as a copy of them."""

    def __init__(self, trunk: EfficientNetLite0) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(trunk._blocks[PYRAMID[16][0] + 1 :])
        self.conv, self.norm = copy.deepcopy(trunk._conv_head), copy.deepcopy(trunk._bn1)

    def forward(self, fine: Tensor) -> Tensor:
        """The trunk's map at stride 16 (B,112,h,w) -> (B,1280,h/2,w/2)."""
        for block in self.blocks:
            fine = block(fine)
        return F.relu6(self.norm(self.conv(fine)))
