"""Step 4: trains the close-up on age, gender, race, expression and facial attributes, each from the sets that label it,
then on its own predictions (self-training).

Two rounds. In the first, every face teaches only what its set says: a label, a range ("not young": 28 or older), or one
of several ("Asian": East or Southeast). Nothing else acts on a choice without evidence about it. In the second, what a
set does not say comes from the first round's model as a soft target, seen in the look that it was taught in: expression
on a gray, small copy. What a set does say stands above it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..data.augment import MEAN, STD, to_pixels
from ..data.faces import Faces, Mixture
from ..nets.closeup import COVERS, FACIAL, FAULTS, SHARED, SHOWS, TELLS, WEIGHT, YEARS, CloseupNet, years_of_bins
from ..recipe import Schedule
from ..taxonomy import AGES, EXPRESSIONS, NAMES, RACES
from .calibration import columns, hidden, of_children
from .closeup_targets import (
    Targets,
    age_targets,
    choice_loss,
    completed,
    expression_targets,
    race_targets,
)
from .loop import decay_groups, train
from .views import Views

log = logging.getLogger(__name__)
Floats = NDArray[np.float32]

#: How far expression's rare classes are brought up: this share of the log prior is taken out of the logits.
BALANCE = 0.6
#: Numbers of the characteristics that the close-up tells.
CLOSEUP_IDS = np.array([NAMES.index(n) for n in (*AGES, *TELLS, *SHOWS)])


def train_closeup(
    faces: Faces,
    views: Views,
    *,
    sampling_weights: Mapping[str, float],
    faceres: Path,
    out: Path,
    schedules: Mapping[str, Schedule],
) -> CloseupNet:
    """Both rounds; returns the model with averaged weights."""
    schedule = schedules["closeup_labels"]
    torch.manual_seed(schedule.seed)
    model = CloseupNet()
    from_labels = {"years": age_targets(faces), "race": race_targets(faces), "expression": expression_targets(faces)}
    moods = from_labels["expression"]
    voted = from_labels | {"expression": Targets(moods.values, np.where(moods.open, 0, 1), moods.open)}
    if (out / "closeup_labels.pt").exists():
        model.load_state_dict(torch.load(out / "closeup_labels.pt", weights_only=True))
    else:
        model.trunk.load_faceres(faceres, mean=MEAN, std=STD)
        _fit(
            model, "closeup_labels", faces, views, voted, sampling_weights=sampling_weights, out=out, schedule=schedule
        )
    guesses = guess(model, faces, views, from_labels, out / "closeup_guesses.npz")
    full = {name: completed(t, guesses[name]) for name, t in from_labels.items()}
    _fit(
        model,
        "closeup",
        faces,
        views,
        full,
        sampling_weights=sampling_weights,
        out=out,
        schedule=schedules["closeup"],
        men=guesses["gender"][:, 0],
    )
    return model


class _CloseupTask:
    """Batches and loss of one round."""

    def __init__(
        self, model: CloseupNet, faces: Faces, views: Views, targets: Mapping[str, Targets], men: Floats | None = None
    ) -> None:
        """Of one round; men (N,): a guess of gender where a set does not say."""
        self._model, self._views, self._targets = model.to(memory_format=torch.channels_last), views, targets
        votes = faces.labels[:, columns(tuple(EXPRESSIONS))]
        self._prior = torch.from_numpy(np.nanmean(votes, 0)).clamp(min=1e-3).log() * BALANCE
        self._by_votes = ~np.isnan(votes[:, 0])
        self._attributes, self._facial = of_children(faces.labels), columns(FACIAL)
        self._covering = [FAULTS.index(name) for name in COVERS]
        self._gender = faces.labels[:, NAMES.index("Male")]
        if men is not None:
            self._gender = np.where(np.isnan(self._gender), men, self._gender)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Views of these faces, and what is known of each; see `loss` for the order."""
        drawn = [self._views(int(r), rng) for r in rows]
        faults = np.stack([d.faults for d in drawn])
        attributes = hidden(self._attributes[rows], faults[:, self._covering] == 1)[:, self._facial]
        return (
            _pixels(np.stack([d.image for d in drawn])),
            torch.tensor([d.legible for d in drawn]),
            torch.from_numpy(faults),
            torch.tensor([d.turn for d in drawn]),
            torch.from_numpy(self._gender[rows].astype(np.float32)),
            torch.from_numpy(attributes),
            torch.from_numpy(self._by_votes[rows]),
            *self._targets["years"].rows(rows),
            *self._targets["race"].rows(rows),
            *self._targets["expression"].rows(rows),
        )

    def loss(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        """The sum of the parts' losses, and each of them."""
        (
            pixels,
            legible,
            faults,
            turn,
            men,
            attribute_labels,
            voted,
            years,
            years_kind,
            race,
            race_kind,
            mood,
            mood_kind,
        ) = batch
        model = self._model
        with torch.autocast(pixels.device.type, torch.bfloat16):
            features = model.trunk(pixels)
        z = model.split(model.head(F.dropout(features.float().mean((2, 3)), 0.2)))
        shift = torch.where(voted[:, None], self._prior.to(pixels.device), 0.0)
        each = {
            "years": years_loss(z["years"], years, years_kind),
            "race": choice_loss(z["race"], race, race_kind),
            "expression": choice_loss(z["expression"], mood, mood_kind, shift),
            # One bit beside seven races and a hundred years: it would drown.
            "gender": 2 * _binary(z["gender"][:, 0] / WEIGHT["gender"], men),
            "attributes": 0.15 * _binary(z["attributes"] / WEIGHT["attributes"], attribute_labels).sum(1),
        }
        count = len(pixels)
        losses = {name: (value * legible).sum() / count for name, value in each.items()}
        losses["faults"] = 0.15 * _binary(z["faults"], faults).sum() / count
        turned = turn >= 0
        losses["turn"] = 0.5 * F.cross_entropy(z["turn"][turned], turn[turned])
        return torch.as_tensor(sum(losses.values())), {k: round(v.item(), 4) for k, v in losses.items()}


def years_loss(z: Tensor, years: Tensor, kind: Tensor) -> Tensor:
    """(B,): of the distribution over years; of the expected age too where it is known exactly (DLDL-v2)."""
    year = torch.arange(YEARS, device=z.device, dtype=torch.float32)
    off = ((z.softmax(1) @ year) - years @ year).abs() / 10
    return choice_loss(z, years, kind) * 0.6 + torch.where(kind == 1, 0.4 * off, 0.0)


def _fit(
    model: CloseupNet,
    name: str,
    faces: Faces,
    views: Views,
    targets: Mapping[str, Targets],
    *,
    sampling_weights: Mapping[str, float],
    out: Path,
    schedule: Schedule,
    men: Floats | None = None,
) -> None:
    """Train in place; men (N,): a guess of gender where a set does not say."""
    mixture, task = Mixture(faces, sampling_weights), _CloseupTask(model, faces, views, targets, men)
    head = [g | {"lr": 4 * schedule.lr} for g in decay_groups(model.head, schedule.weight_decay)]
    train(
        model,
        name=name,
        out=out,
        schedule=schedule,
        count=mixture.epoch,
        load=lambda indices, rng: task.batch(mixture.draw(len(indices), rng), rng),
        loss=task.loss,
        param_groups=[*decay_groups(model.trunk, schedule.weight_decay), *head],
    )


def _binary(z: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of each, 0 where y is NaN."""
    known = ~y.isnan()
    return torch.where(known, F.binary_cross_entropy_with_logits(z, y.nan_to_num(), reduction="none"), 0.0)


@torch.no_grad()
def predict(model: CloseupNet, images: NDArray[np.uint8]) -> dict[str, Tensor]:
    """Logits by part, mean of the pictures and their mirror images."""
    with torch.autocast("cpu", torch.bfloat16):
        return {k: v.float() for k, v in model.eval().forward_with_flip(_pixels(images)).items()}


def characteristic_logits(model: CloseupNet, images: NDArray[np.uint8]) -> Floats:
    """Logits (B,T) of the characteristics in `CLOSEUP_IDS`; of an age bin, the log of its probability."""
    z = predict(model, images)
    ages = (z["years"].softmax(1) @ years_of_bins().T).clamp(min=1e-8).log()
    fault_logits = z["faults"][:, [FAULTS.index(fault) for fault in SHOWS.values()]]
    return torch.cat([ages, z["race"], z["expression"], z["gender"], z["attributes"], fault_logits], 1).numpy()


def merge_logits(logits: Floats, closeup: Floats, columns: NDArray[np.int64] = CLOSEUP_IDS) -> Floats:
    """Write the close-up's logits (B,T) into the encoder's (B,N), in place; of what both predict, the mean.

    columns (T,): numbers of the close-up's characteristics.
    """
    shared = np.isin(columns, [NAMES.index(n) for n in SHARED])
    logits[:, columns] = np.where(shared, (logits[:, columns] + closeup) / 2, closeup)
    return logits


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(to_pixels(images)).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def guess(
    model: CloseupNet, faces: Faces, views: Views, from_labels: Mapping[str, Targets], cache: Path, *, batch: int = 64
) -> dict[str, Floats]:
    """Probabilities of what training faces' sets do not say: years, race and gender from the clean view, expression
    from a gray, small one. 0 where nothing is to be guessed."""
    if cache.exists():
        return dict(np.load(cache))
    sizes = {"years": YEARS, "race": len(RACES), "expression": len(EXPRESSIONS), "gender": 1}
    out = {name: np.zeros((len(faces.files), size), np.float32) for name, size in sizes.items()}
    rows, model = faces.rows("train"), model.eval()
    gender = np.isnan(faces.labels[:, NAMES.index("Male")])
    wanted = gender | from_labels["years"].open | from_labels["race"].open
    sources = (
        (views.clean, rows[wanted[rows]], ("years", "race", "gender")),
        (views.gray_small, rows[from_labels["expression"].open[rows]], ("expression",)),
    )
    for draw_view, chosen, parts in sources:
        for start in tqdm(range(0, len(chosen), batch), desc="guessing", unit="batch", mininterval=5):
            some = chosen[start : start + batch]
            with torch.autocast("cpu", torch.bfloat16):
                z = model(_pixels(np.stack([draw_view(r) for r in some])))
            for name in parts:
                logits = z[name].float()
                out[name][some] = (logits / WEIGHT[name]).sigmoid() if name == "gender" else logits.softmax(1)
    np.savez(cache, **out)  # type: ignore[arg-type]
    return out
