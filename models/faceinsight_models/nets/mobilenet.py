"""MobileNet-v1 (Howard et al. 2017) without normalization layers, and the face-recognition weights it starts from.

The weights were trained on VGGFace2 to tell people apart, then on age and gender (Savchenko, HSE_FaceRec_tf); the npm
package `@vladmandic/human` carries them as a TensorFlow.js graph whose batch norms are folded. They stay folded here:
with no statistics over a batch, what else is in a batch cannot leak into a face.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet import SameConv2d

#: Output channels and stride of the thirteen blocks; the stem makes 32 channels at stride 2.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
CHANNELS = BLOCKS[-1][0]
#: The weights' input is BGR minus these means (Caffe's ImageNet means), in 0..255.
MEAN_BGR = (103.939, 116.779, 123.68)


class MobileNet(nn.Module):
    """Pixels (B,3,H,W), RGB scaled by `augment.to_pixels` -> (B,1024,H/32,W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, 32, 3, 2)
        depthwise, pointwise, cin = [], [], 32
        for cout, stride in BLOCKS:
            depthwise.append(SameConv2d(cin, cin, 3, stride, groups=cin))
            pointwise.append(nn.Conv2d(cin, cout, 1))
            cin = cout
        self.depthwise, self.pointwise = nn.ModuleList(depthwise), nn.ModuleList(pointwise)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,1024,H/32,W/32)."""
        x = F.relu6(self.stem(pixels))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = F.relu6(pointwise(F.relu6(depthwise(x))))
        return x

    def load_faceres(self, folder: Path, *, mean: float, std: float) -> None:
        """Load `faceres.json` and `faceres.bin`; pixels will be RGB, (x - mean) / std.

        Raises:
            ValueError: the files are not of this network.
        """
        weights = tfjs_weights(folder / "faceres.json")
        with torch.no_grad():
            self._load(weights, mean, std)

    def _load(self, weights: dict[str, NDArray[np.float32]], mean: float, std: float) -> None:
        def tensor(name: str) -> Tensor:
            if name not in weights:
                raise ValueError(
                    f"the TensorFlow.js graph has no weight {name!r}: it is not the MobileNet expected here"
                )
            return torch.from_numpy(weights[name])

        # TensorFlow's kernels are (h,w,in,out), depthwise ones (h,w,channels,1). BGR - means = std * RGB[::-1] + mean -
        # means: the scale goes into the kernel. The offset cannot go into the bias exactly, where zero padding stands
        # for a pixel of value `mean`, not of the means; it is a twentieth of the range, at the border only.
        kernel = tensor("conv1/convolution/merged_input").permute(3, 2, 0, 1).flip(1)
        offset = torch.tensor([mean - m for m in MEAN_BGR[::-1]])
        self.stem.weight.copy_(kernel * std)
        self.stem.bias.copy_(tensor("conv1_bn/batchnorm_1/sub") + (kernel.sum((2, 3)) * offset).sum(1))
        for i, (depthwise, pointwise) in enumerate(zip(self.depthwise, self.pointwise, strict=True), start=1):
            scale = tensor(f"conv_dw_{i}_bn/batchnorm_1/mul").reshape(-1, 1, 1, 1)
            depthwise.weight.copy_(tensor(f"conv_dw_{i}/depthwise_kernel").permute(2, 3, 0, 1) * scale)
            depthwise.bias.copy_(tensor(f"conv_dw_{i}_bn/batchnorm_1/sub"))
            pointwise.weight.copy_(tensor(f"conv_pw_{i}/convolution/merged_input").permute(3, 2, 0, 1))
            pointwise.bias.copy_(tensor(f"conv_pw_{i}_bn/batchnorm_1/sub"))


def tfjs_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Weights of a TensorFlow.js model (`model.json` and the files it names) by name, float32.

    Raises:
        ValueError: the files are not of this network.
    """
    out: dict[str, NDArray[np.float32]] = {}
    for group in json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]:
        data = b"".join((path.parent / name).read_bytes() for name in group["paths"])
        at = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
            if stored not in ("float16", "float32", "int32"):
                raise ValueError(f"{path}: {entry['name']} is stored as {stored}; expected float16 or float32")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            values = np.frombuffer(data, stored, count, at)
            out[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
            at += values.nbytes
        if at != len(data):
            raise ValueError(f"{path}: its files hold {len(data)} bytes, its list of weights {at}")
    return out
