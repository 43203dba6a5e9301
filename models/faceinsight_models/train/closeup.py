"""Step 4: the close-up learns age, gender, race, expression and what else a face shows, each from the sets that label
it, and from itself.

Two rounds. In the first, every face teaches only what its set says: a label, a range ("not young": 28 or older), or one
of several ("Asian": East or Southeast). Nothing else acts on a choice without evidence about it. In the second, what a
set does not say comes from the first round's model as a soft target, seen in the look that it was taught in: expression
on a gray, small copy. What a set does say stands above it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
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
from .loop import decay_groups, train
from .views import Views

log = logging.getLogger(__name__)
Floats = NDArray[np.float32]

#: What CelebA's words say of the age in years: first and last.
YOUNG, NOT_YOUNG, GRAY = (0, 49), (28, 100), (38, 100)
#: How far expression's rare classes are brought up: this share of the log prior is taken out of the logits.
BALANCE = 0.6
#: Numbers of the characteristics that the close-up tells.
CLOSEUP_IDS = np.array([NAMES.index(n) for n in (*AGES, *TELLS, *SHOWS)])
#: Below this probability of what the set says, a guess is not used.
TRUST = 0.02


@dataclass
class Targets:
    """Of one choice: values (N,K), and kind (N,): 0 nothing known, 1 a distribution, 2 one of those that are 1; open
    (N,): a guess may say more."""

    values: Floats
    kind: NDArray[np.int64]
    open: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.values[chosen]), torch.from_numpy(self.kind[chosen])


def age_targets(faces: Faces) -> Targets:
    """Exact ages as a narrow normal distribution (label distribution learning, Gao et al. 2018), ranges as ranges."""
    count, year = len(faces.files), np.arange(YEARS)
    values, kind = np.zeros((count, YEARS), np.float32), np.zeros(count, np.int64)
    bins, label = years_of_bins().numpy(), faces.labels[:, columns(tuple(AGES))]
    ranged = ~np.isnan(label[:, 0])
    values[ranged], kind[ranged] = label[ranged] @ bins, 2
    exact = ~np.isnan(faces.years)
    mean = np.minimum(faces.years[exact], YEARS - 1)[:, None]
    spread = np.maximum(0.8, 0.06 * mean)
    density = np.exp(-((year - mean) ** 2) / (2 * spread**2))
    values[exact], kind[exact] = density / density.sum(1, keepdims=True), 1
    young, gray = (faces.labels[:, NAMES.index(n)] for n in ("Young", "Gray_Hair"))
    weak = (kind == 0) & ~np.isnan(young)
    allowed = np.ones((count, YEARS), bool)
    for says, (first, last) in ((young == 1, YOUNG), (young == 0, NOT_YOUNG), ((gray == 1) & (young == 0), GRAY)):
        allowed[says] &= (year >= first) & (year <= last)
    values[weak], kind[weak] = allowed[weak], 2
    return Targets(values, kind, weak | (kind == 0))


def race_targets(faces: Faces) -> Targets:
    values = faces.labels[:, columns(tuple(RACES))]
    kind = np.where(np.isnan(values[:, 0]), 0, 2)
    values = np.nan_to_num(values)
    return Targets(values, kind, values.sum(1) != 1)


def expression_targets(faces: Faces) -> Targets:
    """Shares of votes; where a set says who smiles: happy, or anything but happy.

    These bounds alone must not teach: "not happy" is met by any certain other answer, whoever is pictured.
    """
    values = faces.labels[:, columns(tuple(EXPRESSIONS))]
    kind = np.where(np.isnan(values[:, 0]), 0, 1)
    values = np.nan_to_num(values)
    smiling, order = faces.labels[:, NAMES.index("Smiling")], list(EXPRESSIONS)
    weak = (kind == 0) & ~np.isnan(smiling)
    happy = np.array([n == "Happiness" for n in order], np.float32)
    values[weak] = np.where(smiling[weak, None] == 1, happy, 1 - happy)
    return Targets(values, np.where(weak, 2, kind), kind != 1)


def completed(said: Targets, guessed: Floats) -> Targets:
    """What is not said, or said as one of several, becomes a distribution: the guess, within what is said."""
    values, kind = said.values.copy(), said.kind.copy()
    allowed = np.where((kind == 0)[:, None], 1.0, values) * guessed
    mass = allowed.sum(1)
    # Against a guess that leaves nothing of what is said, what is said stands; it teaches no more than its bounds.
    usable = said.open & (mass > TRUST)
    values[usable], kind[usable] = allowed[usable] / mass[usable, None], 1
    return Targets(values, kind, said.open & ~usable)


def choice_loss(z: Tensor, values: Tensor, kind: Tensor, shift: Tensor | None = None) -> Tensor:
    """(B,): cross-entropy against a distribution (with the shift on the logits), or -log of the probability that it is
    one of those allowed; 0 where nothing is known."""
    soft = -(values * F.log_softmax(z if shift is None else z + shift, 1)).sum(1)
    inside = z.masked_fill(values <= 0, -1e4).logsumexp(1)
    return torch.where(kind == 1, soft, torch.where(kind == 2, z.logsumexp(1) - inside, 0.0))


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
    said = {"years": age_targets(faces), "race": race_targets(faces), "expression": expression_targets(faces)}
    moods = said["expression"]
    voted = said | {"expression": Targets(moods.values, np.where(moods.open, 0, 1), moods.open)}
    if (out / "closeup_labels.pt").exists():
        model.load_state_dict(torch.load(out / "closeup_labels.pt", weights_only=True))
    else:
        model.trunk.load_faceres(faceres, mean=MEAN, std=STD)
        _fit(
            model, "closeup_labels", faces, views, voted, sampling_weights=sampling_weights, out=out, schedule=schedule
        )
    guesses = guess(model, faces, views, said, out / "closeup_guesses.npz")
    full = {name: completed(t, guesses[name]) for name, t in said.items()}
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
    """men (N,): a guess of gender where a set does not say."""
    model.to(memory_format=torch.channels_last)
    mixture = Mixture(faces, sampling_weights)
    votes = faces.labels[:, columns(tuple(EXPRESSIONS))]
    prior = torch.from_numpy(np.nanmean(votes, 0)).clamp(min=1e-3).log() * BALANCE
    by_votes = ~np.isnan(votes[:, 0])
    attributes, facial = of_children(faces.labels), columns(FACIAL)
    covering = [FAULTS.index(name) for name in COVERS]
    gender = faces.labels[:, NAMES.index("Male")]
    if men is not None:
        gender = np.where(np.isnan(gender), men, gender)

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, ...]:
        rows = mixture.draw(len(indices), rng)
        drawn = [views(int(r), rng) for r in rows]
        faults = np.stack([d.faults for d in drawn])
        return (
            _pixels(np.stack([d.image for d in drawn])),
            torch.tensor([d.legible for d in drawn]),
            torch.from_numpy(faults),
            torch.tensor([d.turn for d in drawn]),
            torch.from_numpy(gender[rows].astype(np.float32)),
            torch.from_numpy(hidden(attributes[rows], faults[:, covering] == 1)[:, facial]),
            torch.from_numpy(by_votes[rows]),
            *targets["years"].rows(rows),
            *targets["race"].rows(rows),
            *targets["expression"].rows(rows),
        )

    def loss(batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        pixels, legible, faults, turn, men, shown, voted, years, years_kind, race, race_kind, mood, mood_kind = batch
        with torch.autocast(pixels.device.type, torch.bfloat16):
            features = model.trunk(pixels)
        z = model.split(model.head(F.dropout(features.float().mean((2, 3)), 0.2)))
        count = len(pixels)
        shift = torch.where(voted[:, None], prior.to(pixels.device), 0.0)
        age = choice_loss(z["years"], years, years_kind)
        # The expected age too, where it is known exactly (DLDL-v2).
        year = torch.arange(YEARS, device=pixels.device, dtype=torch.float32)
        off = ((z["years"].softmax(1) @ year) - years @ year).abs() / 10
        each = {
            "years": age * 0.6 + torch.where(years_kind == 1, 0.4 * off, 0.0),
            "race": choice_loss(z["race"], race, race_kind),
            "expression": choice_loss(z["expression"], mood, mood_kind, shift),
            # One bit beside seven races and a hundred years: it would drown.
            "gender": 2 * _binary(z["gender"][:, 0] / WEIGHT["gender"], men),
            "attributes": 0.15 * _binary(z["attributes"] / WEIGHT["attributes"], shown).sum(1),
        }
        losses = {name: (value * legible).sum() / count for name, value in each.items()}
        losses["faults"] = 0.15 * _binary(z["faults"], faults).sum() / count
        turned = turn >= 0
        losses["turn"] = 0.5 * F.cross_entropy(z["turn"][turned], turn[turned])
        return sum(losses.values()), {k: round(v.item(), 4) for k, v in losses.items()}

    head = [g | {"lr": 4 * schedule.lr} for g in decay_groups(model.head, schedule.weight_decay)]
    train(
        model,
        name=name,
        out=out,
        schedule=schedule,
        count=mixture.epoch,
        load=load,
        loss=loss,
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
    shown = z["faults"][:, [FAULTS.index(fault) for fault in SHOWS.values()]]
    return torch.cat([ages, z["race"], z["expression"], z["gender"], z["attributes"], shown], 1).numpy()


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
    model: CloseupNet, faces: Faces, views: Views, said: Mapping[str, Targets], cache: Path, *, batch: int = 64
) -> dict[str, Floats]:
    """Probabilities of what training faces' sets do not say: years, race and gender from the clean view, expression
    from a gray, small one. 0 where nothing is to be guessed."""
    if cache.exists():
        return dict(np.load(cache))
    sizes = {"years": YEARS, "race": len(RACES), "expression": len(EXPRESSIONS), "gender": 1}
    out = {name: np.zeros((len(faces.files), size), np.float32) for name, size in sizes.items()}
    rows, model = faces.rows("train"), model.eval()
    gender = np.isnan(faces.labels[:, NAMES.index("Male")])
    wanted = gender | said["years"].open | said["race"].open
    looks = (
        (views.clean, rows[wanted[rows]], ("years", "race", "gender")),
        (views.gray_small, rows[said["expression"].open[rows]], ("expression",)),
    )
    for look, chosen, parts in looks:
        for start in tqdm(range(0, len(chosen), batch), desc="guessing", unit="batch", mininterval=5):
            some = chosen[start : start + batch]
            with torch.autocast("cpu", torch.bfloat16):
                z = model(_pixels(np.stack([look(r) for r in some])))
            for name in parts:
                logits = z[name].float()
                out[name][some] = (logits / WEIGHT[name]).sigmoid() if name == "gender" else logits.softmax(1)
    np.savez(cache, **out)  # type: ignore[arg-type]
    return out
