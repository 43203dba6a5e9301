"""Step 3: image, segmentation map, CCM and LCM together. Label maps come from the trained parser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..data.augment import FLIP, degrade, jitter_matrix, scaling, to_pixels
from ..data.faces import Faces, Mixture
from ..nets.ccm import CorrelationModule, complete, correlation_graph
from ..nets.encoder import Adapter, FaceEncoder, KnowledgeHead, region_width
from ..nets.graphs import write_parser
from ..nets.lcm import LogicalConstraint
from ..nets.parser import FaceParser
from ..nets.segmentation import MAP_SIZE, RegionPool, SegmentationEncoder, coarse
from ..recipe import Schedule
from ..specs import region_indices, specialized
from ..storage import PARSER
from ..taxonomy import EXCLUSIVE_GROUPS, HIDDEN_BY, MASK_CLASSES, NAMES, REGIONS, RULES
from .backbone import BackboneClassifier
from .hats import Hats
from .loop import decay_groups, device, train
from .tasks import TaskLoss, prior_bias

#: The set whose labels only posed portraits have.
PORTRAITS = "celebahq"
#: Share of the faces that a hat is put on, and what can no longer be seen of them.
HATTED = 0.08
UNDER_HATS = [NAMES.index(name) for name, (region, _) in HIDDEN_BY.items() if region == "hat"]


def label_maps(
    parser: FaceParser, faces: Faces, cache: Path, size: int, rows: NDArray[np.int64], *, batch: int = 16
) -> NDArray[np.uint8]:
    """(N,64,64) coarse label maps, of these rows at least; cached in `cache` for this parser and these faces.

    Runs in ONNX Runtime, which is six times faster than eager torch on two cores.
    """
    target, made, sidecar = (cache / name for name in ("label_maps.npy", "label_maps_made.npy", "label_maps.json"))
    count = len(faces.files)
    key = {"parser": fingerprint(parser), "faces": count}
    if target.exists() and made.exists() and sidecar.exists() and json.loads(sidecar.read_text()) == key:
        out, there = np.load(target), np.load(made)
    else:
        out, there = np.zeros((count, MAP_SIZE, MAP_SIZE), np.uint8), np.zeros(count, bool)
    missing = np.unique(rows[~there[rows]])
    if not len(missing):
        return np.asarray(out)
    import onnxruntime

    graph = cache / PARSER
    write_parser(parser, graph, size=size)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    for start in tqdm(range(0, len(missing), batch), desc="parsing", unit="batch", mininterval=5):
        some = missing[start : start + batch]
        (maps,) = session.run(None, {"pixels": to_pixels(np.stack([faces.crop(r, size) for r in some]))})
        out[some] = coarse(torch.from_numpy(maps)).numpy()
    there[missing] = True
    np.save(target, out)
    np.save(made, there)
    sidecar.write_text(json.dumps(key))
    return np.asarray(out)


def fingerprint(module: torch.nn.Module) -> str:
    """Of a module's weights."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_encoder(text: Tensor, graph: Tensor, *, width: int = 256, segmentation: int = 96) -> FaceEncoder:
    """The encoder, untrained. text (N,dt): T^0; graph (N,N): C_hat."""
    ccm = CorrelationModule(text, graph, hidden=512, out=width)
    head = KnowledgeHead(
        ccm, region_indices(), region_width=region_width(segmentation), width=width, specialized=specialized()
    )
    return FaceEncoder(
        SegmentationEncoder(len(MASK_CLASSES), width=segmentation), RegionPool(MASK_CLASSES, REGIONS), head
    )


def build_adapter(*, text_width: int = 256, segmentation: int = 96, states: int, width: int) -> Adapter:
    """The adapter into an LLM of the given width, untrained."""
    return Adapter(
        region_width=region_width(segmentation), text_width=text_width, regions=len(REGIONS), states=states, width=width
    )


def view(
    rng: np.random.Generator,
    faces: Faces,
    row: int,
    label_map: NDArray[np.uint8],
    size: int,
    *,
    degrade_prob: float = 1.0,
    hats: Hats | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One training view: the same motion for the crop (size,size,3) and its coarse label map (64,64).

    degrade_prob: how often it is degraded; hats: one of these is put on.
    """
    motion = jitter_matrix(rng, size, size)
    x = faces.crop(row, size, motion)
    # The map's pixels are size/64 as large: scale in, the same motion, scale out.
    moved = (scaling(size, MAP_SIZE) @ np.vstack([motion, [0, 0, 1]]) @ scaling(MAP_SIZE, size))[:2]
    y = cv2.warpAffine(label_map, moved, (MAP_SIZE, MAP_SIZE), flags=cv2.INTER_NEAREST, borderValue=0)
    if hats is not None:
        x, y = hats.put(rng, x, np.asarray(y, np.uint8), motion)
    if rng.random() < 0.5:
        x, y = np.ascontiguousarray(x[:, ::-1]), FLIP[y[:, ::-1]]
    x = np.ascontiguousarray(x)
    return degrade(rng, x) if rng.random() < degrade_prob else x, np.asarray(y, np.uint8)


@torch.no_grad()
def guess(model: BackboneClassifier, faces: Faces, rows: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Probabilities (len(rows),N) by the first step's classifier; of a choice, given that one holds."""
    model.eval()
    parts = []
    for start in tqdm(range(0, len(rows), 64), desc="guessing", unit="batch", mininterval=5):
        crops = np.stack([faces.crop(r, size) for r in rows[start : start + 64]])
        parts.append(model(torch.from_numpy(to_pixels(crops)).contiguous(memory_format=torch.channels_last)))
    logits = torch.cat(parts)
    p = logits.sigmoid()
    for names in EXCLUSIVE_GROUPS.values():
        columns = [NAMES.index(n) for n in names]
        p[:, columns] = logits[:, columns].softmax(1)
    return p.numpy()


def graph_of(
    classifier: BackboneClassifier,
    faces: Faces,
    sampling_weights: Mapping[str, float],
    size: int,
    *,
    sample: int = 12000,
) -> NDArray[np.float32]:
    """C_hat (N,N) from a sample of the training mixture, unknown labels guessed."""
    rows = np.unique(Mixture(faces, sampling_weights).draw(sample, np.random.default_rng(5)))
    return correlation_graph(complete(faces.labels[rows], guess(classifier, faces, rows, size)))


def train_base(
    faces: Faces,
    maps: NDArray[np.uint8],
    *,
    sampling_weights: Mapping[str, float],
    classifier: BackboneClassifier,
    text: Tensor,
    out: Path,
    size: int,
    schedule: Schedule,
) -> FaceEncoder:
    """First round, all weights, from the first step's classifier; returns the encoder with averaged weights."""
    path = out / "graph.npy"
    if not path.exists():
        np.save(path, graph_of(classifier, faces, sampling_weights, size))
    torch.manual_seed(schedule.seed)
    model = build_encoder(text, torch.from_numpy(np.load(path)))
    model.trunk.load_state_dict(classifier.trunk.state_dict())
    with torch.no_grad():
        model.head.bias.copy_(prior_bias(torch.from_numpy(faces.labels[faces.rows("train")])))
    _fit(
        model,
        "base",
        faces,
        maps,
        sampling_weights=sampling_weights,
        out=out,
        size=size,
        schedule=schedule,
        degrade_prob=1.0,
    )
    return model


def train_shared(
    base: FaceEncoder,
    faces: Faces,
    maps: NDArray[np.uint8],
    *,
    sampling_weights: Mapping[str, float],
    out: Path,
    size: int,
    schedule: Schedule,
) -> FaceEncoder:
    """Second round: the trunk up to stride 8 stays as it is, which halves the cost of a step, and every second view is
    spared the degradations, so that the last steps see faces as most of them will come."""
    torch.manual_seed(schedule.seed)
    base.trunk.lower(8).requires_grad_(False)
    _fit(
        base,
        "shared",
        faces,
        maps,
        sampling_weights=sampling_weights,
        out=out,
        size=size,
        schedule=schedule,
        degrade_prob=0.5,
    )
    return base.requires_grad_(True)


def specialize(
    base: FaceEncoder,
    faces: Faces,
    maps: NDArray[np.uint8],
    hats: Hats | None,
    *,
    out: Path,
    size: int,
    schedule: Schedule,
) -> FaceEncoder:
    """Third round: what only posed portraits label gets a last stage of its own, learned from them alone, now and then
    with a hat put on. All else stays as it is, so that the other tasks lose nothing."""
    torch.manual_seed(schedule.seed)
    base.requires_grad_(False)
    if base.own is None or base.head.own is None:
        base.specialize()
    last_stage, projections = base.own, base.head.own
    if last_stage is None or projections is None:
        raise ValueError("the encoder has no branch for the specialized characteristics")
    for part in (last_stage, projections, base.head.bias):
        part.requires_grad_(True)
    base.head.bias.register_hook(lambda grad: grad * base.head.specialized)

    def set_train_modes() -> None:
        base.eval()
        last_stage.train()
        projections.train()

    labelled = {a.stem: float(a.stem == PORTRAITS) for a in faces.archives}
    param_groups = [
        *decay_groups(last_stage, schedule.weight_decay),
        {"params": [*projections.parameters()], "lr": 3 * schedule.lr, "weight_decay": schedule.weight_decay},
        {"params": [base.head.bias], "lr": 3 * schedule.lr, "weight_decay": 0.0},
    ]
    _fit(
        base,
        "encoder",
        faces,
        maps,
        sampling_weights=labelled,
        out=out,
        size=size,
        schedule=schedule,
        degrade_prob=0.5,
        hats=hats,
        set_train_modes=set_train_modes,
        param_groups=param_groups,
    )
    return base.requires_grad_(True)


def _fit(
    model: FaceEncoder,
    name: str,
    faces: Faces,
    maps: NDArray[np.uint8],
    *,
    sampling_weights: Mapping[str, float],
    out: Path,
    size: int,
    schedule: Schedule,
    degrade_prob: float,
    hats: Hats | None = None,
    logic: float = 0.1,
    set_train_modes: Callable[[], None] = lambda: None,
    param_groups: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Train in place with the loss L = L_tasks + logic * L_c.

    Args:
        model: the encoder.
        name: of the step.
        faces: faces of all sets.
        maps: (N,64,64) coarse label maps.
        sampling_weights: set -> its share of a batch.
        out: the run folder.
        size: of a crop, pixels.
        schedule: of the training.
        degrade_prob: probability that a view is degraded.
        hats: one view in twelve gets one of these.
        logic: weight of the rule loss.
        set_train_modes: puts what is frozen into eval mode before each step.
        param_groups: by default all parameters, the backbone at a third of the others' learning rate.
    """
    model.to(memory_format=torch.channels_last)
    mixture, tasks, constraint = (
        Mixture(faces, sampling_weights),
        TaskLoss(),
        LogicalConstraint(NAMES, RULES).to(device()),
    )

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = mixture.draw(len(indices), rng)
        labels, worn = faces.labels[rows], rng.random(len(rows)) < (0 if hats is None else HATTED)
        labels[worn, NAMES.index("Wearing_Hat")] = 1
        labels[np.outer(worn, np.isin(np.arange(len(NAMES)), UNDER_HATS))] = np.nan
        views = [
            view(rng, faces, r, maps[r], size, degrade_prob=degrade_prob, hats=hats if on else None)
            for r, on in zip(rows, worn, strict=True)
        ]
        pixels = torch.from_numpy(to_pixels(np.stack([x for x, _ in views])))
        return (
            pixels.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.stack([y for _, y in views])),
            torch.from_numpy(labels),
        )

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        set_train_modes()
        logits = model(batch[0], batch[1])
        value, figures = tasks(logits, batch[2])
        rules = constraint(logits.sigmoid(), ~batch[2].isnan())
        return value + logic * rules, figures | {"rules": round(rules.item(), 4)}

    if param_groups is None:
        rest = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
        param_groups = [
            *decay_groups(model.trunk, schedule.weight_decay),
            {"params": rest, "lr": 3 * schedule.lr, "weight_decay": schedule.weight_decay},
        ]
    train(
        model,
        name=name,
        out=out,
        schedule=schedule,
        count=mixture.epoch,
        load=load,
        loss=loss,
        param_groups=param_groups,
    )


@torch.no_grad()
def predict(
    encoder: FaceEncoder, faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int, *, batch: int = 64
) -> NDArray[np.float32]:
    """Logits (len(rows),N) of clean crops, as the bundle computes them."""
    encoder.eval()
    out = []
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        out.append(encoder.forward_with_flip(*clean_batch(faces, maps, chosen, size))[1].numpy())
    return np.concatenate(out)


def clean_batch(faces: Faces, maps: NDArray[np.uint8], rows: NDArray[np.int64], size: int) -> tuple[Tensor, Tensor]:
    """Pixels (B,3,size,size) and coarse label maps (B,64,64), without augmentation."""
    crops = [faces.crop(r, size) for r in rows]
    pixels = torch.from_numpy(to_pixels(np.stack(crops))).contiguous(memory_format=torch.channels_last)
    return pixels, torch.from_numpy(maps[rows])
