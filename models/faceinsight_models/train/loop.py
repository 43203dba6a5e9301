"""A resumable training loop: seeded batches, cosine schedule, weight averaging, JSON log, checkpoints, time left."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..recipe import Schedule

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")


def rate(schedule: Schedule, step: int) -> float:
    """Learning rate relative to the peak: linear warm-up, then cosine to zero."""
    warm = max(1, int(schedule.steps * schedule.warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, schedule.steps - warm)))


def batches(count: int, schedule: Schedule, start: int) -> Iterator[tuple[int, NDArray[np.int64], np.random.Generator]]:
    """(step, indices, generator) from `start` on. Depends on the seed and the step alone, so a resumed run sees
    exactly what an unbroken one would."""
    per_epoch = max(1, count // schedule.batch)
    epoch, order = -1, np.empty(0, np.int64)
    for step in range(start, schedule.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((schedule.seed, 1, epoch)).permutation(count)
        at = (step % per_epoch) * schedule.batch
        yield step, order[at : at + schedule.batch], np.random.default_rng((schedule.seed, 2, step))


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: no decay on vectors (norms, biases)."""
    own = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in own if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0},
    ]


def device() -> torch.device:
    """Where training runs: a GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def moved(batch: Any) -> Any:
    """A batch with its tensors on the training device; anything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device(), non_blocking=True)
    return tuple(map(moved, batch)) if isinstance(batch, tuple) else batch


def train(
    model: nn.Module,
    *,
    name: str,
    out: Path,
    schedule: Schedule,
    count: int,
    load: Callable[[NDArray[np.int64], np.random.Generator], Batch],
    loss: Callable[[Batch], tuple[Tensor, dict[str, float]]],
    param_groups: Sequence[dict[str, Any]] | None = None,
    passes: int = 1,
) -> nn.Module:
    """Train `model` in place and leave the averaged weights in it.

    Writes `out/name.ckpt` (resumes from it), `out/name.log.jsonl` and, at the end, `out/name.pt` (state dict).
    `load` runs ahead in a thread; `loss` returns the scalar and figures to log. The model comes back on the CPU.
    passes: a batch goes through in so many parts, whose gradients add up to those of their mean.
    """
    out.mkdir(parents=True, exist_ok=True)
    final, checkpoint, log_path = out / f"{name}.pt", out / f"{name}.ckpt", out / f"{name}.log.jsonl"
    if final.exists():
        log.info("%s: finished earlier, loading %s", name, final)
        model.load_state_dict(torch.load(final, weights_only=True, map_location="cpu"))
        return model
    torch.manual_seed(schedule.seed)
    model.to(device())
    optimiser = torch.optim.AdamW(
        list(param_groups or groups(model, schedule.weight_decay)), lr=schedule.lr, betas=(0.9, 0.99)
    )
    peaks = [g["lr"] for g in optimiser.param_groups]
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False, map_location=device())
        if saved["schedule"] != asdict(schedule):
            raise ValueError(
                f"{checkpoint} belongs to {saved['schedule']}, not {asdict(schedule)}: remove it or change back"
            )
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        average, start = saved["average"], saved["step"]
        log.info("%s: resuming at step %d", name, start)

    model.train()
    plan = batches(count, schedule, start)
    with ThreadPoolExecutor(1) as pool, open(log_path, "a") as journal:
        ahead = _submit(pool, load, plan, passes)
        bar = tqdm(total=schedule.steps, initial=start, desc=name, unit="step", mininterval=5)
        began = time.monotonic()
        while ahead is not None:
            step, pending = ahead
            parts = pending.result()
            ahead = _submit(pool, load, plan, passes)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * rate(schedule, step)
            optimiser.zero_grad(set_to_none=True)
            value = torch.zeros((), device=device())
            for part in parts:
                own, figures = loss(moved(part))
                if not torch.isfinite(own):
                    raise FloatingPointError(
                        f"{name}: loss is {float(own)} at step {step}; the last checkpoint is intact"
                    )
                (own / len(parts)).backward()  # type: ignore[no-untyped-call]
                value += own.detach() / len(parts)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            decay = min(schedule.average, (1 + step) / (10 + step))
            _update_average(average, model, decay)
            bar.update()
            bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
            if step % 20 == 0:
                line = {"step": step, "loss": round(value.item(), 5), "seconds": round(time.monotonic() - began, 1)}
                journal.write(json.dumps(line | figures) + "\n")
                journal.flush()
            if (step + 1) % schedule.checkpoint_every == 0:
                state = {"schedule": asdict(schedule), "step": step + 1, "average": average}
                _save(state | {"model": model.state_dict(), "optimiser": optimiser.state_dict()}, checkpoint)
        bar.close()
    model.load_state_dict(average)
    model.cpu().eval()
    _save({k: v.cpu() for k, v in average.items()}, final)
    checkpoint.unlink(missing_ok=True)
    return model


def _submit(
    pool: ThreadPoolExecutor, load: Callable[..., Batch], plan: Iterator[Any], passes: int
) -> tuple[int, Any] | None:
    """The number of the next step, and the parts of its batch that are being loaded."""
    item = next(plan, None)
    if item is None:
        return None
    step, indices, rng = item
    parts = np.array_split(indices, min(passes, len(indices)))
    return step, pool.submit(lambda: [load(part, rng) for part in parts])


@torch.no_grad()
def _update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def _save(state: object, path: Path) -> None:
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save(state, temporary)
    temporary.replace(path)
