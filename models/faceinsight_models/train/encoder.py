"""Step 3: trains the encoder on image and label map, with CCM and LCM. Label maps come from the trained parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from ..nets.ccm import complete, correlation_graph
from ..nets.encoder import FaceEncoder
from ..nets.lcm import LogicalConstraint
from ..nets.segmentation import MAP_SIZE
from ..recipe import Schedule
from ..taxonomy import EXCLUSIVE_GROUPS, HIDDEN_BY, NAMES, RULES
from .backbone import BackboneClassifier
from .build import build_encoder
from .hats import Hats
from .loop import decay_groups, device, train
from .tasks import TaskLoss, prior_bias

#: The set whose labels only posed portraits have.
PORTRAITS = "celebahq"
#: Share of the faces that a hat is put on, and what can no longer be seen of them.
HATTED = 0.08
UNDER_HATS = [NAMES.index(name) for name, (region, _) in HIDDEN_BY.items() if region == "hat"]


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

    Args:
        rng: draws the view.
        faces: faces of all sets.
        row: of the face.
        label_map: (64,64) of the face.
        size: of the crop, pixels.
        degrade_prob: probability that the crop is degraded.
        hats: one of these is put on.
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
    mixture = Mixture(faces, sampling_weights)
    _EncoderTask(model, faces, maps, mixture, size, degrade_prob=1.0).fit("base", out, schedule)
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
    mixture = Mixture(faces, sampling_weights)
    _EncoderTask(base, faces, maps, mixture, size, degrade_prob=0.5).fit("shared", out, schedule)
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
    task = _EncoderTask(base, faces, maps, Mixture(faces, labelled), size, 0.5, hats, set_train_modes)
    task.fit("encoder", out, schedule, param_groups)
    return base.requires_grad_(True)


@dataclass
class _EncoderTask:
    """Batches and loss of one round: L = L_tasks + logic * L_c.

    Attributes:
        model: the encoder.
        faces: faces of all sets.
        maps: (N,64,64) coarse label maps.
        mixture: of the sets.
        size: of a crop, pixels.
        degrade_prob: probability that a view is degraded.
        hats: one view in twelve gets one of these.
        set_train_modes: puts what is frozen into eval mode before each step.
        logic: weight of the rule loss.
    """

    model: FaceEncoder
    faces: Faces
    maps: NDArray[np.uint8]
    mixture: Mixture
    size: int
    degrade_prob: float
    hats: Hats | None = None
    set_train_modes: Callable[[], None] = lambda: None
    logic: float = 0.1

    def __post_init__(self) -> None:
        self.model.to(memory_format=torch.channels_last)
        self._tasks, self._constraint = TaskLoss(), LogicalConstraint(NAMES, RULES).to(device())

    def load(self, indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B,3,size,size), label maps (B,64,64) and labels (B,N) of as many faces of the mixture."""
        rows = self.mixture.draw(len(indices), rng)
        labels, worn = self.faces.labels[rows], rng.random(len(rows)) < (0 if self.hats is None else HATTED)
        labels[worn, NAMES.index("Wearing_Hat")] = 1
        labels[np.outer(worn, np.isin(np.arange(len(NAMES)), UNDER_HATS))] = np.nan
        views = [
            view(
                rng,
                self.faces,
                r,
                self.maps[r],
                self.size,
                degrade_prob=self.degrade_prob,
                hats=self.hats if on else None,
            )
            for r, on in zip(rows, worn, strict=True)
        ]
        pixels = torch.from_numpy(to_pixels(np.stack([x for x, _ in views])))
        return (
            pixels.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.stack([y for _, y in views])),
            torch.from_numpy(labels),
        )

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures to log."""
        pixels, maps, labels = batch
        self.set_train_modes()
        logits = self.model(pixels, maps)
        value, figures = self._tasks(logits, labels)
        rules = self._constraint(logits.sigmoid(), ~labels.isnan())
        return value + self.logic * rules, figures | {"rules": round(rules.item(), 4)}

    def fit(
        self, name: str, out: Path, schedule: Schedule, param_groups: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """Train the model in place. param_groups: by default all, the backbone at a third of the others' rate."""
        if param_groups is None:
            rest = [p for n, p in self.model.named_parameters() if not n.startswith("trunk.")]
            param_groups = [
                *decay_groups(self.model.trunk, schedule.weight_decay),
                {"params": rest, "lr": 3 * schedule.lr, "weight_decay": schedule.weight_decay},
            ]
        train(
            self.model,
            name=name,
            out=out,
            schedule=schedule,
            count=self.mixture.epoch,
            load=self.load,
            loss=self.loss,
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
