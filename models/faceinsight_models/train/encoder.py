"""Step 3: image, segmentation map, CCM and LCM together. Label maps come from the trained parser."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from faceinsight.align import BORDER

from ..augment import degrade, jitter_matrix, to_pixels
from ..ccm import CorrelationModule, correlation_graph
from ..data import Faces
from ..efficientnet import EfficientNetLite0
from ..encoder import Adapter, FaceEncoder, KnowledgeHead, region_width
from ..graphs import write_parser
from ..lcm import LogicalConstraint
from ..parser import FaceParser
from ..recipe import Schedule
from ..segmentation import MAP_SIZE, RegionPool, SegmentationEncoder, coarse
from ..specs import region_indices
from ..vocabulary import FLIP_CLASSES, MASK_CLASSES, NAMES, REGIONS, RULES
from .loop import groups, train

_FLIP = np.array(FLIP_CLASSES, np.uint8)


def label_maps(parser: FaceParser, faces: Faces, cache: Path, size: int, *, batch: int = 16) -> NDArray[np.uint8]:
    """(N,64,64) coarse label map of every crop; cached in `cache`.

    Runs in ONNX Runtime, which is six times faster than eager torch on two cores.
    """
    target = cache / "label_maps.npy"
    if target.exists():
        return np.asarray(np.load(target))
    import onnxruntime

    graph = cache / "parser.onnx"
    write_parser(parser, graph, size=size)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    out = np.zeros((len(faces.crops), MAP_SIZE, MAP_SIZE), np.uint8)
    for start in tqdm(range(0, len(out), batch), desc="parsing", unit="batch", mininterval=5):
        crops = [cv2.resize(c, (size, size)) for c in faces.crops[start : start + batch]]
        (maps,) = session.run(None, {"pixels": to_pixels(np.stack(crops))})
        out[start : start + batch] = coarse(torch.from_numpy(maps)).numpy()
    np.save(target, out)
    return out


def build_encoder(text: Tensor, graph: Tensor, *, width: int = 256, segmentation: int = 96) -> FaceEncoder:
    """The encoder, untrained. text (N,dt): T^0; graph (N,N): C_hat."""
    ccm = CorrelationModule(text, graph, hidden=512, out=width)
    head = KnowledgeHead(ccm, region_indices(), region_width=region_width(segmentation), width=width)
    return FaceEncoder(
        SegmentationEncoder(len(MASK_CLASSES), width=segmentation), RegionPool(MASK_CLASSES, REGIONS), head
    )


def build_adapter(*, text_width: int = 256, segmentation: int = 96, states: int, width: int) -> Adapter:
    """The adapter into an LLM of the given width, untrained."""
    return Adapter(
        region_width=region_width(segmentation), text_width=text_width, regions=len(REGIONS), states=states, width=width
    )


def view(
    rng: np.random.Generator, crop: NDArray[np.uint8], label_map: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One training view: the same jitter for the image (to size) and its coarse label map (in place)."""
    matrix = jitter_matrix(rng, crop.shape[0], size)
    x = cv2.warpAffine(crop, matrix, (size, size), borderValue=BORDER)
    # The map's pixels are MAP_SIZE/S as large: scale in, the same motion, scale out (pixel centres at +0.5).
    up, down = crop.shape[0] / MAP_SIZE, MAP_SIZE / size
    into = np.array([[up, 0, 0.5 * up - 0.5], [0, up, 0.5 * up - 0.5], [0, 0, 1]])
    moved = matrix @ into
    moved = moved * down + np.array([[0, 0, 0.5 * down - 0.5]] * 2)
    y = cv2.warpAffine(label_map, moved, (MAP_SIZE, MAP_SIZE), flags=cv2.INTER_NEAREST, borderValue=0)
    if rng.random() < 0.5:
        x, y = np.ascontiguousarray(x[:, ::-1]), _FLIP[y[:, ::-1]]
    return degrade(rng, np.ascontiguousarray(x)), np.asarray(y, np.uint8)


def train_encoder(
    faces: Faces,
    maps: NDArray[np.uint8],
    *,
    trunk: EfficientNetLite0,
    text: Tensor,
    out: Path,
    size: int,
    schedule: Schedule,
    logic: float = 0.1,
) -> FaceEncoder:
    """L = L_bce + logic * L_c; returns the encoder with averaged weights."""
    torch.manual_seed(schedule.seed)
    rows = faces.rows("train")
    graph = torch.from_numpy(correlation_graph(faces.labels[rows]))
    model = build_encoder(text, graph)
    model.trunk.load_state_dict(trunk.state_dict())
    model = model.to(memory_format=torch.channels_last)
    constraint = LogicalConstraint(NAMES, RULES)
    prior = torch.from_numpy(faces.labels[rows].mean(0)).float().clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        model.head.bias.copy_(torch.logit(prior))

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = rows[indices]
        views = [view(rng, faces.crops[r], maps[r], size) for r in chosen]
        pixels = torch.from_numpy(to_pixels(np.stack([x for x, _ in views])))
        labels = torch.from_numpy(faces.labels[chosen].astype(np.float32))
        return (
            pixels.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.stack([y for _, y in views])),
            labels,
        )

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits = model(batch[0], batch[1])
        bce = F.binary_cross_entropy_with_logits(logits, batch[2])
        rules = constraint(logits.sigmoid())
        accuracy = ((logits > 0) == (batch[2] > 0.5)).float().mean().item()
        figures = {"bce": round(bce.item(), 4), "rules": round(rules.item(), 4), "accuracy": round(accuracy, 4)}
        return bce + logic * rules, figures

    rest = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
    train(
        model, name="encoder", out=out, schedule=schedule, count=len(rows), load=load, loss=loss,
        param_groups=[
            *groups(model.trunk, schedule.weight_decay),
            {"params": rest, "lr": 3 * schedule.lr, "weight_decay": schedule.weight_decay},
        ],
    )  # fmt: skip
    return model


@torch.no_grad()
def predict(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> NDArray[np.float32]:
    """Logits (len(rows),N) of clean crops."""
    encoder.eval()
    out = []
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        out.append(encoder(*clean_batch(faces, maps, chosen, size)).numpy())
    return np.concatenate(out)


def clean_batch(faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int) -> tuple[Tensor, Tensor]:
    """Pixels (B,3,size,size) and coarse label maps (B,64,64), without augmentation."""
    crops = [cv2.resize(faces.crops[r], (size, size), interpolation=cv2.INTER_AREA) for r in rows]
    pixels = torch.from_numpy(to_pixels(np.stack(crops))).contiguous(memory_format=torch.channels_last)
    return pixels, torch.from_numpy(maps[rows])
