"""In which precisions an LLM and a vision encoder can be stored, and how far each may be from the original."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LlmPrecision:
    """How an LLM's weights are stored in a GGUF.

    Attributes:
        name: as people call it.
        ftype: name in gguf.LlamaFileType. The k types want widths that are multiples of 256; llama.cpp takes a type of
            similar size where a width is none.
        size: of the file relative to its 16-bit conversion, at most.
        tolerance: of the logits' error: the largest relative error of f32 and f16, else the relative root mean square.
    """

    name: str
    ftype: str
    size: float
    tolerance: float

    @property
    def quantized(self) -> bool:
        """Is it made by llama.cpp from a conversion? Its error is then judged by the root mean square."""
        return self.name not in ("f32", "f16")


@dataclass(frozen=True, slots=True)
class VisionPrecision:
    """How a vision encoder computes.

    Attributes:
        name: as people call it; int8 quantizes inputs dynamically, int8-static by Q/DQ pairs (onnx/int8.py).
        min_cosine: lowest mean cosine of its tokens to those of float32.
        tolerance: of the tokens' error to the original: the largest relative error of fp32, else the relative root
            mean square.
    """

    name: str
    min_cosine: float
    tolerance: float

    @property
    def calibrated(self) -> bool:
        """Does it need images to calibrate on?"""
        return self.name.startswith("int8")


LLM_PRECISIONS = {
    p.name: p
    for p in (
        LlmPrecision("f32", "ALL_F32", 2.0, 1e-3),
        LlmPrecision("f16", "MOSTLY_F16", 1.0, 0.01),
        LlmPrecision("q8_0", "MOSTLY_Q8_0", 0.54, 0.1),
        LlmPrecision("q6_k", "MOSTLY_Q6_K", 0.42, 0.2),
        LlmPrecision("q5_k_m", "MOSTLY_Q5_K_M", 0.37, 0.35),
        LlmPrecision("q5_0", "MOSTLY_Q5_0", 0.36, 0.3),
        LlmPrecision("q4_k_m", "MOSTLY_Q4_K_M", 0.32, 0.6),
        LlmPrecision("q4_0", "MOSTLY_Q4_0", 0.3, 0.5),
    )
}
#: What a LLaVA bundle may hold: float32 would only be larger.
BUNDLE_LLM_PRECISIONS = tuple(name for name in LLM_PRECISIONS if name != "f32")
VISION_PRECISIONS = {
    p.name: p
    for p in (
        VisionPrecision("fp32", 1.0, 1e-4),
        VisionPrecision("fp16", 0.9999, 0.02),
        VisionPrecision("int8", 0.999, 0.08),
        VisionPrecision("int8-static", 0.999, 0.08),
    )
}
