"""An LLM's checkpoint to GGUF: names by the gguf package, written one tensor at a time."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ..atomic import new_file, require_absent
from ..checkpoint.checkpoint import Checkpoint, CheckpointError, Weights
from ..checkpoint.families import Family, add_hyperparameters, family_of, meta_model, rope_factors, tied
from ..precisions import LLM_PRECISIONS
from .tokenizer import GgufVocabulary, read_vocabulary

#: What a conversion can write; llama.cpp makes the others of these (quantize.py).
PRECISIONS = ("f32", "f16")
#: Bytes written, and in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the GGUF.

    Attributes:
        name: in the GGUF.
        source: its name in the checkpoint.
        shape: of its values.
    """

    name: str
    source: str
    shape: tuple[int, ...]

    def dtype(self, precision: str) -> np.dtype[Any]:
        """Of the stored values: matrices have the given precision; biases and norms, which are small, float32."""
        return np.dtype(np.float16 if precision == "f16" and len(self.shape) > 1 else np.float32)

    def bytes(self, precision: str) -> int:
        """Size of its values."""
        return math.prod(self.shape) * self.dtype(precision).itemsize


def gguf_tensors(weights: Weights, family: Family) -> list[GgufTensor]:
    """The GGUF's tensors, from those that transformers' model has.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is left over.
    """
    config = weights.text_config
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    expected = {name: tuple(value.shape) for name, value in meta_model(config).state_dict().items()}
    if tied(config):
        expected.pop("lm_head.weight", None)
    out = []
    for source, shape in expected.items():
        if not weights.has(source):
            raise CheckpointError(f"the checkpoint has no tensor {source}: its configuration asks for one of {shape}")
        if weights.shape(source) != shape:
            raise CheckpointError(f"{source} has shape {weights.shape(source)}; the configuration asks for {shape}")
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CheckpointError(f"{source} has no place in llama.cpp's {gguf.MODEL_ARCH_NAMES[family.arch]}")
        out.append(GgufTensor(name, source, shape))
    over = sorted(
        name
        for name in set(weights.names) - expected.keys() - {"lm_head.weight"}
        # Old checkpoints keep RoPE's frequencies, which follow from the configuration.
        if name.startswith(("model.", "lm_head.")) and not name.endswith("rotary_emb.inv_freq")
    )
    if over:
        raise CheckpointError(f"{len(over)} tensors that the configuration has no use for: {', '.join(over[:5])}")
    return out


def llm_bytes(checkpoint: Weights, precision: str, vocabulary: GgufVocabulary | None = None) -> int:
    """Upper bound of the size of the file that `write_llm` makes; the excess is some kilobytes.

    With a vocabulary at hand, its size is counted too.
    """
    _require_precision(precision)
    return _file_bytes(gguf_tensors(checkpoint, family_of(checkpoint.text_config)), precision, vocabulary)


def _file_bytes(tensors: Sequence[GgufTensor], precision: str, vocabulary: GgufVocabulary | None) -> int:
    # Beside its values a tensor has a name, a shape, and padding to 32 bytes; 4 KiB for the hyperparameters.
    size = sum(t.bytes(precision) + len(t.name) + 96 for t in tensors)
    return size + 4096 + (vocabulary.bytes() if vocabulary else 0)


def write_llm(
    checkpoint: Checkpoint, path: Path, *, precision: str, name: str | None = None, progress: Progress | None = None
) -> None:
    """The LLM of a checkpoint, tokenizer included, as a GGUF; peak memory is a few times its largest tensor.

    Args:
        checkpoint: with an LLM of a known family.
        path: the file to write; it must not exist. It appears when it is whole.
        precision: "f32" or "f16".
        name: the model's name in the file (default: the folder's).
        progress: called with the bytes written and those in all.

    Raises:
        FileExistsError: the output exists already.
        CheckpointError: llama.cpp would not compute what transformers does.
        OSError: the disk is too small.
    """
    vocabulary = read_vocabulary(checkpoint.folder, checkpoint.text_config)
    write_gguf(
        checkpoint, vocabulary, path, precision=precision, name=name or checkpoint.folder.name, progress=progress
    )


def write_gguf(
    weights: Weights,
    vocabulary: GgufVocabulary,
    path: Path,
    *,
    precision: str,
    name: str,
    progress: Progress | None = None,
) -> None:
    """As `write_llm`, of weights and a tokenizer from anywhere."""
    require_absent(path)
    _require_precision(precision)
    config = weights.text_config
    family = family_of(config)
    tensors = gguf_tensors(weights, family)
    needed, free = _file_bytes(tensors, precision, vocabulary), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path} takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: make room")
    with new_file(path) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[family.arch])
        try:
            writer.add_type(gguf.GGUFType.MODEL)
            writer.add_name(_safe_name(name, vocabulary))
            writer.add_file_type(file_type(precision))
            add_hyperparameters(writer, family, config)
            vocabulary.add_to(writer)
            _write_tensors(writer, family, weights, tensors, precision, progress)
        finally:
            writer.close()


def _write_tensors(
    writer: Any,
    family: Family,
    weights: Weights,
    tensors: Sequence[GgufTensor],
    precision: str,
    progress: Progress | None,
) -> None:
    """Header first, for which shapes suffice; then one tensor after the other."""
    factors = rope_factors(weights.text_config)
    for name, value in factors.items():
        writer.add_tensor_info(name, value.shape, value.dtype, value.nbytes)
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype(precision), tensor.bytes(precision))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for value in factors.values():
        writer.write_tensor_data(value)
    done, total = 0, sum(t.bytes(precision) for t in tensors)
    for tensor in tensors:
        writer.write_tensor_data(_converted(tensor, family, weights, precision))
        done += tensor.bytes(precision)
        if progress:
            progress(done, total)


def _converted(tensor: GgufTensor, family: Family, weights: Weights, precision: str) -> NDArray[Any]:
    value = family.to_gguf(tensor.source, weights.get(tensor.source), weights.text_config)
    dtype = tensor.dtype(precision)
    if dtype == np.float16 and np.abs(value).max() > np.finfo(np.float16).max:
        raise CheckpointError(f"{tensor.source} has values beyond float16's range: convert to f32")
    return np.ascontiguousarray(value, dtype)


def _safe_name(name: str, vocabulary: GgufVocabulary) -> str:
    """llama.cpp lets control tokens swallow white space if the model's name has "phi-3" in it, and only then."""
    plain = name.lower().replace("phi-3", "phi 3").replace("phi3", "phi 3")
    named = plain != name.lower()
    if vocabulary.strips:
        return name if named else f"{name} (phi-3)"
    return plain if named else name


def file_type(precision: str) -> int:
    """llama.cpp's number of a precision."""
    return int(gguf.LlamaFileType[LLM_PRECISIONS[precision].ftype])


def _require_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; a conversion writes {' or '.join(PRECISIONS)}, quantize the rest")
