"""What do the paper's ideas bring? The encoder without CCM, without LCM, without segmentation, without all three.

    python benchmarks/quality/ablation.py --data DIR --run RUN --out ablation.json

RUN is a folder of faceinsight-train with `parser` and the first round of `encoder` finished, or an unpacked one. Every
arm keeps that trunk frozen and trains all that stands on it anew, the same batches per seed; the trunk itself was
trained with all three, so what they brought to it, every arm has.
What is finished is kept in RUN/ablation.json: an interrupted run goes on with the next arm or seed.
Figures are of the torch modules on clean validation crops; thresholds are fitted as in training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import metrics
from faceinsight.language.claims import ClaimChecker, sentences
from faceinsight.perception.labeler import Labeler
from faceinsight.perception.rules import RuleSet
from faceinsight.types import STATES, Label
from faceinsight_models.data.faces import Faces, Mixture
from faceinsight_models.dialogue.answers import describe
from faceinsight_models.nets.ccm import complete, correlation_graph
from faceinsight_models.nets.lcm import LogicalConstraint
from faceinsight_models.pipeline import Pipeline
from faceinsight_models.recipe import Recipe
from faceinsight_models.specs import characteristic_specs
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, EXCLUSIVE_MEMBERS, MASK_CLASSES, NAMES, REGIONS, RULES
from faceinsight_models.train import calibration
from faceinsight_models.train.build import build_encoder
from faceinsight_models.train.encoder import clean_batch
from faceinsight_models.train.label_maps import fingerprint
from faceinsight_models.train.tasks import TaskLoss, prior_bias


@dataclass(frozen=True)
class Variant:
    """What an arm goes without, on how many faces it trains (None: all that were drawn), and another CCM.

    ccm: "rare" has a graph of what is rare too (P(j | i) >= 0.1, lift >= 1.5); "bare" no residual path, so that a text
    feature is what the graph makes of it; "outputs" passes messages along the graph between logits; "fills" has what is
    not known expected from what is, by the graph's own P(j | i).
    kept: share of the attributes' labels that are known; flipped: share of them that are wrong.
    """

    without: tuple[str, ...] = ()
    faces: int | None = None
    ccm: str = ""
    kept: float = 1.0
    flipped: float = 0.0


ARMS = {
    "all three": Variant(),
    "without CCM": Variant(("ccm",)),
    "without LCM": Variant(("lcm",)),
    "without segmentation": Variant(("segmentation",)),
    "without all three": Variant(("ccm", "lcm", "segmentation")),
    "CCM with rare neighbours": Variant(ccm="rare"),
    "CCM without its residual path": Variant(ccm="bare"),
    "without CCM, without the residual path": Variant(("ccm",), ccm="bare"),
    "CCM on the outputs": Variant(("ccm",), ccm="outputs"),
    "all three, 300 faces": Variant(faces=300),
    "without CCM, 300 faces": Variant(("ccm",), faces=300),
    "CCM with rare neighbours, 300 faces": Variant(faces=300, ccm="rare"),
    "CCM on the outputs, 300 faces": Variant(("ccm",), faces=300, ccm="outputs"),
    "CCM, one label in ten known": Variant(kept=0.1),
    "without CCM, one label in ten known": Variant(("ccm",), kept=0.1),
    "CCM fills what is not known, one label in ten known": Variant(("ccm",), ccm="fills", kept=0.1),
    "CCM, one label in four wrong": Variant(flipped=0.25),
    "without CCM, one label in four wrong": Variant(("ccm",), flipped=0.25),
}
ATTRIBUTES = [k for k, n in enumerate(NAMES) if n not in EXCLUSIVE_MEMBERS and n != "Male"]
SKIN = MASK_CLASSES.index("skin")


class Frozen:
    """The trunk's maps of some faces, in half precision: fine (M,C,8,8), deep (M,1280,4,4), label maps (M,64,64)."""

    def __init__(self, pipeline: Pipeline, rows: NDArray[np.int64], what: str) -> None:
        trunk, faces, size = pipeline.base().trunk.eval(), pipeline.faces, pipeline.recipe.crop.encoder
        maps, fine, deep = pipeline.maps(rows), [], []
        self.rows, self.maps, self.labels = rows, torch.from_numpy(maps[rows]), faces.labels[rows]
        path, key = pipeline.run / f"ablation-{what}.pt", fingerprint(trunk)
        if path.exists():
            saved = torch.load(path, weights_only=True)
            if saved["trunk"] == key and torch.equal(saved["rows"], torch.from_numpy(rows)):
                self.fine, self.deep = saved["fine"], saved["deep"]
                return
        with torch.no_grad():
            for start in tqdm(range(0, len(rows), 64), desc=f"trunk: {what}", mininterval=5):
                pixels, _ = clean_batch(faces, maps, rows[start : start + 64], size)
                pyramid = trunk(pixels)
                fine.append(pyramid[16].half())
                deep.append(pyramid[32].half())
        self.fine, self.deep = torch.cat(fine), torch.cat(deep)
        torch.save({"trunk": key, "rows": torch.from_numpy(rows), "fine": self.fine, "deep": self.deep}, path)

    def batch(self, at: NDArray[np.int64] | slice, *, blind: bool) -> tuple[Tensor, Tensor, Tensor]:
        """blind: the label map says "skin" everywhere, so that every patch lies in one region."""
        maps = self.maps[at]
        return self.fine[at].float(), self.deep[at].float(), torch.full_like(maps, SKIN) if blind else maps


class Heard(torch.nn.Module):
    """A head whose logits hear from their neighbours: z_i + sum over edges i <- j of w_ij tanh(z_j / 2)."""

    def __init__(self, head: torch.nn.Module, graph: Tensor) -> None:
        super().__init__()
        self.head = head
        self.weight = torch.nn.Parameter(torch.zeros_like(graph))
        self.register_buffer("edges", (graph > 0).float() * (1 - torch.eye(len(graph))))

    def forward(self, features: Any) -> Tensor:
        z: Tensor = self.head(features)
        return z + torch.tanh(z / 2) @ (self.weight * self.edges).T


def rare_graph(train: Frozen, base: Any) -> Tensor:
    """A graph with rare neighbours in it; what a set does not say is guessed by the trained encoder."""
    guesses = 1 / (1 + np.exp(-logits_of(base, train, blind=False)))
    return torch.from_numpy(correlation_graph(complete(train.labels, guesses), tau=0.1, lift=1.5))


def damaged(labels: NDArray[np.float32], arm: Variant, rng: np.random.Generator) -> NDArray[np.float32]:
    """Labels (M,N) as this arm knows them: fewer, wrong ones among them, or filled with what the graph expects."""
    out, drawn = labels.copy(), rng.random((2, len(labels), len(ATTRIBUTES)))
    known = out[:, ATTRIBUTES]
    known = np.where(drawn[0] < arm.flipped, 1 - known, known)
    known[drawn[1] >= arm.kept] = np.nan
    if arm.ccm == "fills":
        known = filled(known)
    out[:, ATTRIBUTES] = known
    return out


def filled(labels: NDArray[np.float32], *, smoothing: float = 5.0) -> NDArray[np.float32]:
    """What is not known of a face (NaN), expected from what it is known to have: the mean of P(j | i), counted where
    both are known, over its characteristics i; where it has none, how frequent j is. Faces of whom nothing is known
    stay as they are."""
    there = ~np.isnan(labels)
    has = np.nan_to_num(labels).astype(np.float64)
    prior = has.sum(0) / np.maximum(there.sum(0), 1)
    both, pairs = has.T @ has, has.T @ there.astype(np.float64)
    p = (both + smoothing * prior) / (pairs + smoothing)
    count = has.sum(1, keepdims=True)
    expected = np.where(count > 0, has @ p / np.maximum(count, 1), prior)
    return np.where(there | ~there.any(1, keepdims=True), labels, expected).astype(np.float32)


def fit(
    train: Frozen, text: Tensor, graphs: dict[str, Tensor], arm: Variant, *, seed: int, steps: int, batch: int = 64
) -> torch.nn.Module:
    """Everything on the frozen trunk, trained; the same faces and batches for the same seed."""
    torch.manual_seed(seed)
    without, graph = arm.without, graphs["rare" if arm.ccm in ("rare", "outputs") else ""]
    model = build_encoder(text, torch.eye(len(NAMES)) if "ccm" in without else graph)
    rng, tasks = np.random.default_rng(seed), TaskLoss()
    constraint = LogicalConstraint(NAMES, RULES)
    labels = torch.from_numpy(damaged(train.labels, arm, rng))
    with torch.no_grad():
        model.head.bias.copy_(prior_bias(labels))
    if arm.ccm == "bare":
        torch.nn.init.zeros_(model.head.ccm.residual.weight).requires_grad_(False)
    if arm.ccm == "outputs":
        model.head = Heard(model.head, graph)
    own = [p for n, p in model.named_parameters() if not n.startswith("trunk.")]
    optimizer = torch.optim.AdamW(own, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    chosen = rng.permutation(len(train.rows))[: arm.faces]
    for _ in range(steps):
        at = chosen[rng.integers(len(chosen), size=batch)]
        logits = model.head(model.fuse(*train.batch(at, blind="segmentation" in without)))
        loss, _ = tasks(logits, labels[at])
        if "lcm" not in without:
            loss = loss + 0.1 * constraint(logits.sigmoid(), ~labels[at].isnan())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def logits_of(model: Any, frozen: Frozen, *, blind: bool) -> NDArray[np.float32]:
    parts = [
        model.head(model.fuse(*frozen.batch(slice(i, i + 256), blind=blind))) for i in range(0, len(frozen.rows), 256)
    ]
    return np.asarray(torch.cat(parts).numpy())


def figures(
    logits: NDArray[np.float32], frozen: Frozen, scaling: NDArray[np.float64], bands: NDArray[np.float64], soft: float
) -> dict[str, float]:
    """Accuracy per task, rules that raw outputs break, claims of descriptions that labels contradict."""
    p, y = calibration.probabilities(logits, scaling), frozen.labels
    celeba = ~np.isnan(y[:, NAMES.index("Smiling")])
    q, t = p[celeba][:, ATTRIBUTES], y[celeba][:, ATTRIBUTES] > 0.5
    male = ~np.isnan(y[:, NAMES.index("Male")])
    gender = ((p[:, NAMES.index("Male")] > 0.5) == (y[:, NAMES.index("Male")] > 0.5))[male]
    out = {
        "attributes, accuracy": float(((q > 0.5) == t).mean()),
        "attributes, AUC": float(np.mean([metrics.auc(q[:, k], t[:, k]) for k in range(q.shape[1])])),
        "gender, accuracy": float(gender.mean()),
    }
    for task, names in EXCLUSIVE_GROUPS.items():
        columns = [NAMES.index(n) for n in names]
        known = ~np.isnan(y[:, columns[0]])
        if known.any():
            right = p[known][:, columns].argmax(1) == y[known][:, columns].argmax(1)
            out[f"{task}, accuracy"] = float(right.mean())
    rules = RuleSet(NAMES, RULES)
    raw = scaling[:, 0] * logits + scaling[:, 1] > 0
    broken = sum(len(rules.violations({NAMES[k] for k in np.flatnonzero(row)})) for row in raw)
    out["hard rules broken by raw outputs, per 100 faces"] = 100 * broken / len(raw)
    return out | described(logits[celeba][:1000], y[celeba][:1000], scaling, bands, soft)


def described(
    logits: NDArray[np.float32], labels: NDArray[np.float32], scaling: Any, bands: Any, soft: float
) -> dict[str, float]:
    """Descriptions of what the head finds (the LLM's words are judged by benchmarks/quality/accuracy.py)."""
    # Of poor pictures nothing is claimed: there are none here.
    specs = characteristic_specs(np.hstack([scaling, bands, np.tile([0.0, 1.0], (len(bands), 1))]))
    labeler, grounding = Labeler(specs, RULES, soft_weight=soft), ClaimChecker(specs)
    everywhere = dict.fromkeys(REGIONS, 0.01)
    claims = denied = 0
    for z, y in zip(logits, labels, strict=True):
        found: tuple[Label, ...] = labeler.label(z, everywhere)
        for sentence in sentences(describe({x.name: STATES.index(x.state) for x in found})):
            for claim in grounding.claims(sentence):
                if not np.isnan(y[NAMES.index(claim.name)]):
                    claims += 1
                    denied += (y[NAMES.index(claim.name)] > 0.5) != claim.value
    return {"claims per description": claims / len(logits), "claims that labels contradict": denied / max(1, claims)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="nano")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--faces", type=int, default=8000, help="training faces the trunk is run on")
    args = parser.parse_args()
    recipe = Recipe.load(args.recipe)
    pipeline = Pipeline(recipe, data=args.data, run=args.run, asset_folder=args.assets)
    faces: Faces = pipeline.faces
    drawn = np.unique(Mixture(faces, recipe.sampling_weights).draw(args.faces, np.random.default_rng(1)))
    train, held = Frozen(pipeline, drawn, "train"), Frozen(pipeline, faces.rows("calibration"), "calibration")
    val, judgement = Frozen(pipeline, faces.rows("val"), "val"), recipe.judgement
    base = pipeline.base().eval()
    ccm = base.head.ccm
    graphs = {"": ccm.graph, "rare": rare_graph(train, base)}
    settings = {"steps": args.steps, "faces": len(drawn)}
    state = args.run / "ablation.json"
    saved = json.loads(state.read_text()) if state.exists() else {}
    done: dict[str, dict[str, float]] = saved["runs"] if saved.get("settings") == settings else {}
    result: dict[str, Any] = {"seeds": args.seeds, **settings, "arms": {}}
    # Seed by seed through all arms: what there is so far is always a fair comparison.
    for seed, name in tqdm(list(product(range(args.seeds), args.arms)), desc="arms"):
        arm = ARMS[name]
        if f"{name}, seed {seed}" in done:
            continue
        model = fit(train, ccm.features, graphs, arm, seed=seed, steps=args.steps)
        blind = "segmentation" in arm.without
        fitted = logits_of(model, held, blind=blind)
        scaling = calibration.fit_scaling(fitted, held.labels)
        bands = calibration.abstention_thresholds(
            calibration.probabilities(fitted, scaling),
            held.labels,
            risk=judgement.risk,
            choice_risk=judgement.choice_risk,
            miss=judgement.miss,
        )
        found = figures(logits_of(model, val, blind=blind), val, scaling, bands, judgement.soft_weight)
        done[f"{name}, seed {seed}"] = found
        state.write_text(json.dumps({"settings": settings, "runs": done}))
    for name in args.arms:
        runs = [done[f"{name}, seed {seed}"] for seed in range(args.seeds)]
        table = {k: np.array([r[k] for r in runs]) for k in runs[0]}
        result["arms"][name] = {k: {"mean": round(v.mean(), 4), "std": round(v.std(), 4)} for k, v in table.items()}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    keys = list(next(iter(result["arms"].values())))
    print("| | " + " | ".join(keys) + " |\n|" + " --- |" * (len(keys) + 1))
    for name, own in result["arms"].items():
        print(f"| {name} | " + " | ".join(f"{own[k]['mean']:.4f} ± {own[k]['std']:.4f}" for k in keys) + " |")


if __name__ == "__main__":
    main()
