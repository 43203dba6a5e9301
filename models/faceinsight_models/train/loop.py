"""A resumable training loop: seeded batches, cosine schedule, EMA of the weights, JSON log, checkpoints, time left."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..recipe import Schedule

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")
#: Steps between two lines of the log.
LOG_EVERY = 20


def lr_scale(schedule: Schedule, step: int) -> float:
    """Learning rate relative to the peak: linear warm-up, then cosine to zero."""
    warm = max(1, int(schedule.steps * schedule.warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, schedule.steps - warm)))


def batches(count: int, schedule: Schedule, start: int) -> Iterator[tuple[int, NDArray[np.int64], np.random.Generator]]:
    """Yield (step, indices, generator) from step `start` on.

    They depend on the seed and the step alone, so a resumed run sees exactly what an unbroken one would.
    """
    per_epoch = max(1, count // schedule.batch)
    epoch, order = -1, np.empty(0, np.int64)
    for step in range(start, schedule.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = np.random.default_rng((schedule.seed, 1, epoch)).permutation(count)
        begin = (step % per_epoch) * schedule.batch
        yield step, order[begin : begin + schedule.batch], np.random.default_rng((schedule.seed, 2, step))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of what requires a gradient: no weight decay on vectors (norms, biases)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def device() -> torch.device:
    """Where training runs: a GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(batch: Any) -> Any:
    """A batch with its tensors on the training device; anything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device(), non_blocking=True)
    return tuple(map(to_device, batch)) if isinstance(batch, tuple) else batch


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
    accumulation_steps: int = 1,
) -> nn.Module:
    """Train `model` in place and leave the EMA of its weights in it, on the CPU and in eval mode.

    Writes `out/name.ckpt` (from which it resumes), `out/name.log.jsonl` and, at the end, `out/name.pt` (state dict).

    Args:
        model: the module to train.
        name: of the step; it names the files.
        out: the run folder.
        schedule: steps, batch size, learning rate and the decay of the EMA.
        count: examples, from which the indices of a batch are drawn without replacement.
        load: makes a batch of indices; it runs ahead in a thread.
        loss: returns the scalar loss of a batch and figures to log.
        param_groups: for AdamW; by default all parameters at the schedule's learning rate.
        accumulation_steps: a batch is split into so many parts, whose gradients add up to those of their mean.

    Returns:
        The model.

    Raises:
        ValueError: the checkpoint in `out` was made with another schedule.
        FloatingPointError: the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    final = out / f"{name}.pt"
    if final.exists():
        log.info("%s: finished earlier, loading %s", name, final)
        model.load_state_dict(torch.load(final, weights_only=True, map_location="cpu"))
        return model
    torch.manual_seed(schedule.seed)
    model.to(device())
    trainer = _Trainer(model, name, schedule, param_groups, loss)
    trainer.resume(out / f"{name}.ckpt")
    model.train()
    _run(trainer, out, batches(count, schedule, trainer.start), load, accumulation_steps)
    trainer.finish(final)
    (out / f"{name}.ckpt").unlink(missing_ok=True)
    return model


@dataclass
class _Trainer(Generic[Batch]):
    """Model, optimizer and EMA: one optimizer step at a time, and their checkpoint."""

    model: nn.Module
    name: str
    schedule: Schedule
    param_groups: Sequence[dict[str, Any]] | None
    loss: Callable[[Batch], tuple[Tensor, dict[str, float]]]
    start: int = 0

    def __post_init__(self) -> None:
        groups = list(self.param_groups or decay_groups(self.model, self.schedule.weight_decay))
        self.optimizer = torch.optim.AdamW(groups, lr=self.schedule.lr, betas=(0.9, 0.99))
        self.peak_lr = [g["lr"] for g in self.optimizer.param_groups]
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, if it is there."""
        if not checkpoint.exists():
            return
        saved = torch.load(checkpoint, weights_only=False, map_location=device())
        if saved["schedule"] != asdict(self.schedule):
            raise ValueError(
                f"{checkpoint} belongs to {saved['schedule']}, not {asdict(self.schedule)}: remove it or change back"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.ema, self.start = saved["ema"], saved["step"]
        log.info("%s: resuming at step %d", self.name, self.start)

    def step(self, step: int, parts: Sequence[Batch]) -> tuple[float, dict[str, float]]:
        """One optimizer step on the mean loss of the parts of a batch; returns it and the last part's figures."""
        for group, peak in zip(self.optimizer.param_groups, self.peak_lr, strict=True):
            group["lr"] = peak * lr_scale(self.schedule, step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device())
        figures: dict[str, float] = {}
        for part in parts:
            value, figures = self.loss(to_device(part))
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"{self.name}: loss is {float(value)} at step {step}; the last checkpoint is intact"
                )
            (value / len(parts)).backward()
            total += value.detach() / len(parts)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        _update_ema(self.ema, self.model, min(self.schedule.ema_decay, (1 + step) / (10 + step)))
        return total.item(), figures

    def save(self, checkpoint: Path, step: int) -> None:
        """Write what a later call resumes from, before step `step`."""
        state = {"schedule": asdict(self.schedule), "step": step, "ema": self.ema}
        _save(state | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, checkpoint)

    def finish(self, final: Path) -> None:
        """Put the EMA into the model and write it."""
        self.model.load_state_dict(self.ema)
        self.model.cpu().eval()
        _save({k: v.cpu() for k, v in self.ema.items()}, final)


def _run(
    trainer: _Trainer[Batch],
    out: Path,
    plan: Iterator[Any],
    load: Callable[[NDArray[np.int64], np.random.Generator], Batch],
    accumulation_steps: int,
) -> None:
    """All steps that are left: a batch is loaded in a thread while the one before it is computed."""
    name, schedule = trainer.name, trainer.schedule
    with ThreadPoolExecutor(1) as pool, open(out / f"{name}.log.jsonl", "a") as journal:
        ahead = _submit(pool, load, plan, accumulation_steps)
        bar = tqdm(total=schedule.steps, initial=trainer.start, desc=name, unit="step", mininterval=5)
        began = time.monotonic()
        while ahead is not None:
            step, pending = ahead
            parts = pending.result()
            ahead = _submit(pool, load, plan, accumulation_steps)
            value, figures = trainer.step(step, parts)
            bar.update()
            bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            if step % LOG_EVERY == 0:
                _write_line(journal, step, value, time.monotonic() - began, figures)
            if (step + 1) % schedule.checkpoint_every == 0:
                trainer.save(out / f"{name}.ckpt", step + 1)
        bar.close()


def _write_line(journal: TextIO, step: int, loss: float, seconds: float, figures: dict[str, float]) -> None:
    line = {"step": step, "loss": round(loss, 5), "seconds": round(seconds, 1)}
    journal.write(json.dumps(line | figures) + "\n")
    journal.flush()


def _submit(
    pool: ThreadPoolExecutor, load: Callable[..., Batch], plan: Iterator[Any], accumulation_steps: int
) -> tuple[int, Future[list[Batch]]] | None:
    """The number of the next step, and the parts of its batch that are being loaded."""
    item = next(plan, None)
    if item is None:
        return None
    step, indices, rng = item
    parts = np.array_split(indices, min(accumulation_steps, len(indices)))
    return step, pool.submit(lambda: [load(part, rng) for part in parts])


@torch.no_grad()
def _update_ema(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


def _save(state: object, path: Path) -> None:
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save(state, temporary)
    temporary.replace(path)
