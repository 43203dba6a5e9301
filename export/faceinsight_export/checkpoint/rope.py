"""RoPE as a configuration describes it, in GGUF's terms; the formulas are written out here.

transformers has its own, which the gate compares with. Sources: Chen et al. 2023 (linear), Peng et al. 2023 (YaRN),
Llama 3.1's reference code, Ding et al. 2024 (LongRoPE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from .checkpoint import CheckpointError

#: Kind of scaling -> options that it needs, and the others that are read. YaRN has more, which llama.cpp takes from its
#: own defaults.
_OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "yarn": (("factor",), ("original_max_position_embeddings",)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "longrope": (("short_factor", "long_factor"), ("original_max_position_embeddings",)),
}


@dataclass(frozen=True)
class Rope:
    """RoPE of a model.

    Attributes:
        base: of the frequencies.
        kind: of scaling; "default" for none.
        share: of a head's width that is rotated.
        options: of the scaling.
        length: positions of the model.
        original: positions before the context was extended.
    """

    base: float
    kind: str
    share: float
    options: dict[str, Any]
    length: int
    original: int | None

    @classmethod
    def read(cls, config: Any) -> Rope:
        """From a transformers configuration: rope_parameters, as version 5 has it, or the keys of earlier ones.

        Raises:
            CheckpointError: the base is no number.
        """
        newer = getattr(config, "rope_parameters", None)
        settings = dict(newer or getattr(config, "rope_scaling", None) or {})

        def beside(key: str) -> Any:
            inside = settings.pop(key, None)
            return getattr(config, key, None) if inside is None else inside

        base, share = beside("rope_theta"), beside("partial_rotary_factor")
        if isinstance(base, bool) or not isinstance(base, (int, float)):
            raise CheckpointError(f"rope_theta is {base!r}; expected a number")
        kind = [settings.pop(key, None) for key in ("rope_type", "type")]
        options = {k: v for k, v in settings.items() if v is not None}
        original = options.get("original_max_position_embeddings")
        original = getattr(config, "original_max_position_embeddings", None) if original is None else original
        return cls(
            float(base),
            str(kind[0] or kind[1] or "default"),
            float(share or 1.0),
            options,
            int(config.max_position_embeddings),
            original,
        )

    def require_options(self, name: str) -> None:
        """Check the options of the scaling.

        Raises:
            CheckpointError: one that it needs is missing, or llama.cpp has no such option.
        """
        needed, more = _OPTIONS[self.kind]
        for key in needed:
            value = self.options.get(key)
            several = key.endswith(("short_factor", "long_factor"))
            kinds = (list, tuple) if several else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                found = "missing" if value is None else repr(value)
                raise CheckpointError(
                    f"{name} with RoPE scaling {self.kind!r}: {key} is {found}; expected "
                    f"{'a list of numbers' if several else 'a number'}"
                )
        over = sorted(self.options.keys() - {*needed, *more})
        if over:
            raise CheckpointError(
                f"{name} with further options of RoPE scaling {self.kind!r} {over}; llama.cpp has none"
            )

    def add_to(self, writer: Any, width: int) -> None:
        """Write it under llama.cpp's keys, for heads of `width`."""
        writer.add_rope_dimension_count(int(width * self.share))
        writer.add_rope_freq_base(self.base)
        if self.kind in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(self.kind))
            writer.add_rope_scaling_factor(float(self.options["factor"]))
        if self.kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(self.options.get("original_max_position_embeddings") or self.length)
        if self.kind == "longrope":
            writer.add_rope_scaling_orig_ctx_len(self.original or self.length)
            writer.add_rope_scaling_attn_factors(self._attention())

    def factors(self, width: int) -> dict[str, NDArray[np.float32]]:
        """GGUF tensors (turned width / 2,) by which frequencies are divided; none for a scaling that is a number.

        Longrope's long factors serve contexts beyond the original length: llama.cpp chooses by the context it was
        opened with, transformers by the text, so the two agree where the runtime's context is at most that length.
        """
        names = gguf.TENSOR_NAMES
        if self.kind == "longrope":
            return {
                f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_LONG]}.weight": np.float32(self.options["long_factor"]),
                f"{names[gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT]}.weight": np.float32(self.options["short_factor"]),
            }
        if self.kind == "llama3":
            return {f"{names[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight": self._llama3(width).astype(np.float32)}
        return {}

    def _llama3(self, width: int) -> NDArray[np.float64]:
        """Waves longer than the original context over low_freq_factor are stretched, short ones stay, between them a
        blend."""
        o = self.options
        turns = self.base ** -(np.arange(0, width, 2, dtype=np.float64) / width) / (2 * math.pi)
        low, high = o["low_freq_factor"], o["high_freq_factor"]
        blend = np.clip((o["original_max_position_embeddings"] * turns - low) / (high - low), 0, 1)
        return np.asarray(1 / ((1 - blend) / o["factor"] + blend))

    def _attention(self) -> float:
        """Longrope's factor of the scores: 1 where the context was not extended."""
        original = self.original or self.length
        extended = self.length / original
        return math.sqrt(1 + math.log(extended) / math.log(original)) if extended > 1 else 1.0
