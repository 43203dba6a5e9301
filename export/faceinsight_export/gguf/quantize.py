"""LLM to GGUF: nano's from memory, and quantization in process by llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from faceinsight.backends.llama_cpp.bindings import silence_log
from faceinsight_models.nets.llm import BpeVocabulary

from ..checkpoint.checkpoint import Checkpoint
from .llm import PRECISIONS, write_gguf, write_llm
from .tokenizer import GgufVocabulary

#: llama.cpp's file types by the names people use. The k types want widths that are multiples of 256; llama.cpp takes a
#: type of similar size where a width is none.
QUANTIZATIONS = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


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
    """A transformers LlamaForCausalLM and its vocabulary -> float32 GGUF. Raises FileExistsError."""
    write_gguf(_Module(model), gguf_vocabulary(vocabulary), path, precision="f32", name=name)


def gguf_vocabulary(vocabulary: BpeVocabulary) -> GgufVocabulary:
    """nano's vocabulary in the terms of a conversion."""
    special = {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    return GgufVocabulary(
        "gpt2", vocabulary.pre, vocabulary.tokens, vocabulary.types, [], vocabulary.merges, special, begin=False
    )


def convert(checkpoint: Checkpoint, path: Path, kind: str) -> None:
    """The LLM of a checkpoint as a GGUF of any of QUANTIZATIONS. Raises FileExistsError and as `write_llm` does."""
    if path.exists():
        raise FileExistsError(f"{path} exists already: choose another name, or remove it first")
    if kind in PRECISIONS:
        write_llm(checkpoint, path, precision=kind)
        return
    half = path.with_name(f".{path.name}.f16")
    try:
        write_llm(checkpoint, half, precision="f16")
        quantize(half, path, kind)
    finally:
        half.unlink(missing_ok=True)


def quantize(source: Path, target: Path, kind: str, *, threads: int = 0) -> None:
    """Re-encode a GGUF's weights by llama.cpp. Raises ValueError for an unknown kind, RuntimeError if it fails."""
    import llama_cpp

    if kind not in QUANTIZATIONS:
        raise ValueError(f"quantization {kind!r}; expected one of {', '.join(QUANTIZATIONS)}")
    silence_log(llama_cpp)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(QUANTIZATIONS[kind])
    params.nthread = threads
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0 or not target.exists():
        raise RuntimeError(f"llama.cpp could not quantize {source} to {kind} (status {status})")
