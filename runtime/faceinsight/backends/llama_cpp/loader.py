"""Loads an LLM in the way that works with this build of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .amx import works
from .bindings import import_llama, libraries, uses_amx
from .model import Llm, Placement


def load_llm(
    path: Path, device: Placement, *, n_embd: int, n_ctx: int, parameters: Mapping[str, Any] | None = None
) -> Llm:
    """A loaded GGUF, its weights repacked for this CPU unless AMX is there and this build's kernels for it fail.

    Args:
        path: the GGUF.
        device: thread budget, and whether the layers go to the GPU.
        n_embd: embedding width that the file must have.
        n_ctx: tokens that the KV cache holds.
        parameters: overrides for llama.cpp's context parameters.
    """
    llama = import_llama()
    repack = not uses_amx(llama) or works(libraries(llama), path)
    return Llm(path, device, n_embd=n_embd, n_ctx=n_ctx, parameters=parameters, repack=repack)
