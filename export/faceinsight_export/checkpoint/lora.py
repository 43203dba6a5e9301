"""A LoRA adapter in PEFT's layout: merged into a checkpoint's weights as they are read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint, CheckpointError, canonical, read_json, read_tensor, tensor_shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PAIR = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")
#: Initializations that leave the base model's weights as they are; others (PiSSA, LoftQ, ...) change them.
_HARMLESS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class _Pair:
    """W becomes W + scale B A.

    Attributes:
        a: name of A (r,in) in the adapter's file.
        b: name of B (out,r) in the adapter's file.
        shape: of W.
        scale: of the change.
    """

    a: str
    b: str
    shape: tuple[int, int]
    scale: float


class LoraAdapter:
    """A LoRA adapter. Open it with `LoraAdapter.open`.

    Attributes:
        folder: of the adapter.
        pairs: weight -> its low-rank change.
        replaced: weight -> the tensor that takes its place (modules_to_save, biases). Both under the names of
            `checkpoint.canonical`.
    """

    def __init__(self, folder: Path, pairs: dict[str, _Pair], replaced: dict[str, str]) -> None:
        """Of what it changes."""
        self.folder = folder
        self.pairs = pairs
        self.replaced = replaced

    @classmethod
    def open(cls, folder: Path) -> LoraAdapter:
        """Read the configuration and the names of the tensors.

        Raises:
            FileNotFoundError: a file is missing.
            CheckpointError: it is no plain LoRA on linear layers.
        """
        config = read_json(folder / CONFIG)
        _require_plain(folder, config)
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}: save the adapter with safe_serialization=True")
        shapes = tensor_shapes(folder / WEIGHTS)
        halves: dict[str, dict[str, str]] = {}
        replaced: dict[str, str] = {}
        for key in shapes:
            name = key.removeprefix("base_model.model.")
            if "lora_magnitude_vector" in name or "lora_embedding_" in name or name.endswith(".lora_B.bias"):
                raise CheckpointError(f"{folder}: {key} is of a kind that is not supported: only LoRA on linear layers")
            if pair := _PAIR.fullmatch(name):
                halves.setdefault(pair[1], {})[pair[2]] = key
            else:
                replaced[canonical(name.replace(".modules_to_save.default.", ".").replace(".base_layer.", "."))] = key
        pairs = {}
        for module, half in halves.items():
            if half.keys() != {"A", "B"}:
                raise CheckpointError(f"{folder}: {module} has only its lora_{''.join(half)}; the file is torn")
            a, b = shapes[half["A"]], shapes[half["B"]]
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                raise CheckpointError(f"{folder}: {module} has A {a} and B {b}; expected (r,in) and (out,r)")
            scale = _scale(config, module, a[0])
            pairs[canonical(f"{module}.weight")] = _Pair(half["A"], half["B"], (b[0], a[1]), scale)
        if not pairs and not replaced:
            raise CheckpointError(f"{folder / WEIGHTS} is empty")
        return cls(folder, pairs, replaced)

    def get(self, key: str) -> NDArray[Any]:
        """A tensor of the adapter's file."""
        return read_tensor(self.folder / WEIGHTS, key)

    def applied(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """A tensor of the base model, under its `canonical` name, with the adapter's change."""
        if name in self.replaced:
            return self.get(self.replaced[name])
        pair = self.pairs.get(name)
        if pair is None:
            return value
        return np.asarray(value + np.float32(pair.scale) * (self.get(pair.b) @ self.get(pair.a)))

    def require_fit(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that the adapter was not made for.

        Raises:
            CheckpointError: a target is not in the checkpoint, or has another shape there.
        """
        file = self.folder / WEIGHTS
        shapes = {name: pair.shape for name, pair in self.pairs.items()}
        known = tensor_shapes(file)
        for name, shape in {**shapes, **{name: known[key] for name, key in self.replaced.items()}}.items():
            if not checkpoint.has(name):
                raise CheckpointError(f"{file} changes {name}, which {checkpoint.folder} has not: another base model?")
            if checkpoint.shape(name) != shape:
                raise CheckpointError(
                    f"{file} changes {name} by a matrix of {shape}; the checkpoint's is {checkpoint.shape(name)}"
                )


def _require_plain(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder / CONFIG}: an adapter of type {kind}; only LORA is supported")
    if config.get("init_lora_weights", True) not in _HARMLESS:
        raise CheckpointError(
            f"{folder / CONFIG}: init_lora_weights {config['init_lora_weights']!r} changed the base model's weights; "
            "convert it to a plain LoRA with PEFT first"
        )
    for option in ("use_dora", "fan_in_fan_out", "lora_bias", "megatron_config", "alora_invocation_tokens"):
        if config.get(option):
            raise CheckpointError(f"{folder / CONFIG}: {option} is not supported; merge the adapter with PEFT first")


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA (Kalajdzievski 2023); a module may have its own alpha."""
    alpha = float(config["lora_alpha"])
    for pattern, module_alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(module_alpha)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


class MergedCheckpoint(Checkpoint):
    """A checkpoint as if an adapter had been merged into it; the sum is made as each tensor is read."""

    def __init__(self, checkpoint: Checkpoint, adapter: LoraAdapter) -> None:
        """Of a checkpoint.

        Raises:
            CheckpointError: the adapter was not made for this checkpoint.
        """
        adapter.require_fit(checkpoint)
        super().__init__(checkpoint.folder, checkpoint.config, checkpoint._places)
        self._base, self._adapter = checkpoint, adapter

    def get(self, name: str) -> NDArray[Any]:
        """The tensor with the adapter's change, in float32."""
        return self._adapter.applied(name, self._base.get(name))
