"""LLM to GGUF: nano's from memory, and quantization in process by llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceinsight.backends.llama_cpp.bindings import silence_log
from faceinsight_models.nets.llm import BpeVocabulary

from ..atomic import new_file
from ..checkpoint.checkpoint import Checkpoint
from ..precisions import LLM_PRECISIONS
from .llm import PRECISIONS, file_type, write_gguf, write_llm
from .tokenizer import GgufVocabulary


@dataclass(frozen=True)
class _Module:
    """A model in memory, read as a checkpoint is."""

    model: Any

    @property
    def names(self) -> Iterable[str]:
        return list(self.model.state_dict())

    @property
    def text_config(self) -> Any:
        return self.model.config

    def has(self, name: str) -> bool:
        return name in self.model.state_dict()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.model.state_dict()[name].shape)

    def get(self, name: str) -> NDArray[Any]:
        return np.asarray(self.model.state_dict()[name].float().numpy())


def write_llama(model: Any, vocabulary: BpeVocabulary, path: Path, *, name: str) -> None:
    """A transformers LlamaForCausalLM and its vocabulary -> float32 GGUF.

    Raises:
        FileExistsError: the output exists already.
    """
    write_gguf(_Module(model), gguf_vocabulary(vocabulary), path, precision="f32", name=name)


def gguf_vocabulary(vocabulary: BpeVocabulary) -> GgufVocabulary:
    """Nano's vocabulary in the terms of a conversion."""
    special = {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    return GgufVocabulary(
        "gpt2", vocabulary.pre, vocabulary.tokens, vocabulary.types, [], vocabulary.merges, special, begin=False
    )


def convert(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Write the LLM of a checkpoint as a GGUF.

    Args:
        checkpoint: with an LLM of a known family.
        path: the file to write; it must not exist.
        precision: one of LLM_PRECISIONS.

    Raises:
        FileExistsError: `path` exists already.
        CheckpointError: llama.cpp would not compute what transformers does.
        OSError: the disk is too small.
    """
    if precision in PRECISIONS:
        write_llm(checkpoint, path, precision=precision)
        return
    with new_file(path) as partial:
        fp16 = path.with_name(f".{path.name}.f16")
        try:
            write_llm(checkpoint, fp16, precision="f16")
            quantize(fp16, partial, precision)
        finally:
            fp16.unlink(missing_ok=True)


def quantize(source: Path, target: Path, precision: str, *, threads: int = 0) -> None:
    """Re-encode a GGUF's weights by llama.cpp, in this process.

    Raises:
        ValueError: the precision is unknown.
        RuntimeError: llama.cpp failed.
    """
    import llama_cpp

    if precision not in LLM_PRECISIONS:
        raise ValueError(f"quantization {precision!r}; expected one of {', '.join(LLM_PRECISIONS)}")
    silence_log(llama_cpp)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type(precision)
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0 or not target.exists():
        raise RuntimeError(f"llama.cpp could not quantize {source} to {precision} (status {status})")
