"""What can be expected of a mouth or of eyes that are hidden, from what goes together? CelebA-HQ's labels alone.

    python benchmarks/quality/hidden_regions.py --data DIR --out hidden-regions.json

Of each validation face the labels of what is hidden are taken away, and expected from its other labels: by how frequent
they are (which tells no faces apart), by the co-occurrence graph's P(j | i), and by a logistic regression on all other
labels, which is the best that any knowledge of labels can do in a linear way. Area under the ROC curve.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import metrics
from ablation import ATTRIBUTES, filled
from faceinsight_models.data.files import read_rows
from faceinsight_models.data.labels import SETS
from faceinsight_models.taxonomy import COVERED_BY, NAMES

Floats = NDArray[np.floating]


def regression(x: Floats, y: Floats, characteristics: Floats, *, decay: float = 1e-4) -> NDArray[np.float64]:
    """Logistic regressions of all columns of y (M,H) on x (M,K) at once -> probabilities (A,H) of asked (A,K)."""
    weight = torch.zeros(x.shape[1] + 1, y.shape[1], dtype=torch.float64, requires_grad=True)
    known, target, wanted = (torch.from_numpy(np.asarray(a, np.float64)) for a in (x, y, characteristics))
    optimizer = torch.optim.LBFGS([weight], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = known @ weight[:-1] + weight[-1]
        loss = F.binary_cross_entropy_with_logits(logits, target) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return np.asarray((wanted @ weight[:-1] + weight[-1]).sigmoid().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with celebahq.csv")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = read_rows(args.data / "celebahq.csv")
    labels, val = SETS["celebahq"](rows)[:, ATTRIBUTES], np.array([r["split"] == "val" for r in rows])
    names = [NAMES[k] for k in ATTRIBUTES]
    out: dict[str, object] = {"faces": int(val.sum()), "learned from": int((~val).sum()), "hidden": {}}
    for fault in ("mouth hidden", "eyes hidden"):
        hidden = np.array([fault in COVERED_BY.get(n, ()) for n in names])
        unseen = labels.copy()
        unseen[np.ix_(val, hidden)] = np.nan
        expected = {
            "co-occurrence graph": filled(unseen)[val][:, hidden],
            "regression on all other labels": regression(
                labels[~val][:, ~hidden], labels[~val][:, hidden], labels[val][:, ~hidden]
            ),
        }
        truth = labels[val][:, hidden] > 0.5
        columns = [n for n, h in zip(names, hidden, strict=True) if h]
        table = {
            name: {how: round(float(metrics.auc(p[:, i], truth[:, i])), 4) for how, p in expected.items()}
            for i, name in enumerate(columns)
        }
        table["mean"] = {how: round(float(np.mean([table[n][how] for n in columns])), 4) for how in expected}
        out["hidden"] = {**out["hidden"], fault: table}  # type: ignore[dict-item]
        for name, found in table.items():
            print(f"{fault:13} {name:20}", *(f"{how} {v:.3f}" for how, v in found.items()))
    args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
