"""A checkpoint folder in the Hugging Face layout: checked when opened, read one tensor at a time, never changed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from faceinsight_models.llava.config_json import CONFIG, CheckpointError, configured, read_json, require_known

__all__ = [
    "CONFIG",
    "Checkpoint",
    "CheckpointError",
    "Weights",
    "canonical",
    "read_json",
    "read_tensor",
    "tensor_shapes",
]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
#: LLaVA folders come in three layouts: before transformers 4.52, since, and with transformers 5's vision tower. All
#: are read under one set of names, in which the LLM's are those of a folder that holds the LLM alone; what DDP,
#: torch.compile and PEFT put before a name is taken off first.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+")
PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


class Weights(Protocol):
    """What the exporter reads a model from: a checkpoint, one with an adapter merged in, or a module in memory."""

    @property
    def names(self) -> Iterable[str]:
        """The tensors' names, in one vocabulary whatever the layout (`canonical`)."""

    @property
    def text_config(self) -> Any:
        """The LLM's transformers configuration."""

    def has(self, name: str) -> bool:
        """Is there such a tensor?"""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def get(self, name: str) -> NDArray[Any]:
        """The tensor: float32, or its own type where that is no float."""


def canonical(name: str) -> str:
    """The one name of a tensor, from that of any layout."""
    name = WRAPPERS.sub("", name)
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file; its header alone is read."""
    path.open("rb").close()  # safe_open says "no such file" of one that may not be read
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as e:
        raise CheckpointError(f"{path} is not a whole safetensors file ({e}): copy or download it again") from e


def read_tensor(path: Path, name: str) -> NDArray[Any]:
    """One tensor of a safetensors file: float32, or its own type where that is no float."""
    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(name)
    # numpy has no bfloat16: torch widens it, exactly.
    return np.asarray((tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: a shard, its name there, its shape."""

    shard: Path
    name: str
    shape: tuple[int, ...]


class Checkpoint:
    """A LLaVA or a bare causal LM as transformers saves it. Open it with `Checkpoint.open`."""

    def __init__(self, folder: Path, config: dict[str, Any], places: dict[str, _Place]) -> None:
        """Of a configuration and the places of the tensors by their `canonical` names."""
        self.folder = folder
        self.config = config
        self._places = places

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the configuration and the shards' headers; no weight is read.

        Raises:
            FileNotFoundError: a file is missing.
            CheckpointError: a file is torn, out of step with the index, outside the folder, quantized, or not
                safetensors.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder: expected a checkpoint in the Hugging Face layout")
        config = read_json(folder / CONFIG)
        if any((part or {}).get("quantization_config") for part in (config, config.get("text_config"))):
            raise CheckpointError(
                f"{folder / CONFIG} describes a quantized checkpoint: export from the unquantized one it was made from"
            )
        require_known(config, folder / CONFIG)
        places: dict[str, _Place] = {}
        for shard in _shards(folder):
            for name, shape in tensor_shapes(shard).items():
                if ".base_layer." in name or ".lora_A." in name:
                    raise CheckpointError(
                        f"{shard} holds {name}: the model was saved with its PEFT adapter unmerged. Load it with "
                        "PEFT, then model.merge_and_unload().save_pretrained(FOLDER); or give the base model, and the "
                        "adapter with --lora"
                    )
                known = places.setdefault(canonical(name), _Place(shard, name, shape))
                if known.name != name or known.shard != shard:
                    raise CheckpointError(
                        f"{known.name} in {known.shard.name} and {name} in {shard.name} are the same tensor: "
                        "the folder mixes two checkpoints; save it again"
                    )
        return cls(folder, config, places)

    @property
    def names(self) -> Iterable[str]:
        """The tensors' names, in one vocabulary whatever the layout (`canonical`)."""
        return self._places.keys()

    @cached_property
    def text_config(self) -> Any:
        """The LLM's transformers configuration, with transformers' defaults where the file is silent.

        Raises:
            CheckpointError: transformers does not know the model type; no code of the folder is run.
        """
        # Keys that a class lacks become attributes too: rope.py reads rope_parameters whatever the version.
        config = configured(self.config)
        return getattr(config, "text_config", config)

    def has(self, name: str) -> bool:
        """Is there such a tensor?"""
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it.

        Raises:
            CheckpointError: the name is unknown.
        """
        return self._place(name).shape

    def get(self, name: str) -> NDArray[Any]:
        """The tensor: float32, or its own type where that is no float.

        Raises:
            CheckpointError: the name is unknown.
        """
        place = self._place(name)
        return read_tensor(place.shard, place.name)

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise CheckpointError(f"{self.folder} has no tensor {name!r}")
        return self._places[name]


def _shards(folder: Path) -> list[Path]:
    """The weight files, checked against the index where there is one."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if others:
            raise CheckpointError(
                f"{folder} holds its weights as {', '.join(others[:3])}: pickle files can run code and are not read; "
                "load it in transformers once and save_pretrained(..., safe_serialization=True)"
            )
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(v, str) for v in index.values()):
        raise CheckpointError(f"{folder / INDEX} has no weight_map from tensor names to files")
    shards = []
    for name in sorted(set(index.values())):
        if Path(name).name != name or name == ".." or "\\" in name:
            raise CheckpointError(f"{folder / INDEX} points to {name!r}; expected a file name within the folder")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: {INDEX} lists it; complete the download")
        listed = {tensor for tensor, shard in index.items() if shard == name}
        odd = sorted(listed ^ tensor_shapes(folder / name).keys())
        if odd:
            raise CheckpointError(
                f"{folder / name} and {INDEX} disagree on {len(odd)} tensors ({', '.join(odd[:3])}): "
                "the files are of different versions; download them again"
            )
        shards.append(folder / name)
    return shards
