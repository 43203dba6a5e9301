"""llama.cpp's own LoRA, against which merging is checked: an adapter as a GGUF, and its use beside a base model."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from faceinsight_export.checkpoint.checkpoint import Checkpoint, CheckpointError
from faceinsight_export.checkpoint.families import family_of
from faceinsight_export.checkpoint.lora import LoraAdapter
from faceinsight_export.gguf.llm import gguf_tensors
from faceinsight_export.parity.stages import LlmProbe


def write_adapter(checkpoint: Checkpoint, adapter: LoraAdapter, path: Path) -> None:
    """The adapter as a GGUF, to be applied to the GGUF of `checkpoint`'s LLM at a strength of 1.

    Its scale is in B, so llama.cpp is given no alpha. Raises CheckpointError for an adapter that changes more than the
    LLM's linear layers: that one has to be merged.
    """
    adapter.require_fit(checkpoint)
    config = checkpoint.text_config
    family = family_of(config)
    names = {t.source: t.name for t in gguf_tensors(checkpoint, family)}
    outside = sorted({*adapter.replaced, *(adapter.pairs.keys() - names.keys())})
    if outside:
        raise CheckpointError(f"an adapter file cannot change {', '.join(outside[:5])}: merge the adapter instead")
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_name(adapter.folder.name)
    for source, pair in adapter.pairs.items():
        b = family.to_gguf(source, adapter.get(pair.b) * np.float32(pair.scale), config)
        writer.add_tensor(f"{names[source]}.lora_a", np.ascontiguousarray(adapter.get(pair.a), np.float32))
        writer.add_tensor(f"{names[source]}.lora_b", np.ascontiguousarray(b, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def apply_adapter(probe: LlmProbe, adapter: Path) -> None:
    """Apply a LoRA adapter at full strength. Raises ValueError if llama.cpp does not take it."""
    found = llama_cpp.llama_adapter_lora_init(probe.llm.model, str(adapter).encode())
    if not found:
        raise ValueError(f"{adapter} is no adapter for this model")
    one, strength = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(found), (ctypes.c_float * 1)(1.0)
    if llama_cpp.llama_set_adapters_lora(probe.llm.ctx, one, 1, strength) != 0:
        raise ValueError(f"llama.cpp could not apply {adapter}")
