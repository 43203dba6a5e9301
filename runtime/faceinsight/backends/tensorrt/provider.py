"""Options of ONNX Runtime's own TensorRT provider. Not run on hardware yet."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...bundle.bundle import sha256_of
from ...errors import DeviceError
from .shapes import profile_of
from .workspace import free_memory, limit_before_builder


def options(model: Path, data: bytes | None, folder: Path | None) -> dict[str, str]:
    """Where its plans lie, and how much scratch memory a kernel may take.

    None says in which precision: without such an option the provider's networks are strongly typed, like ours, and the
    graph's types decide. `trt_fp16_enable` would let TensorRT choose them, for sums and norms too.

    Args:
        model: the ONNX file.
        data: what is loaded in its place.
        folder: for plans of all models; None: they are not kept.
    """
    free, shared = free_memory()
    workspace = {"trt_max_workspace_size": str(limit_before_builder(free, shared=shared))}
    if folder is None:
        return workspace
    # Its name for a plan tells models of one name and structure not apart (microsoft/onnxruntime issues 6455, 32254):
    # the weights of the first one would answer for all.
    digest = hashlib.sha256(data).hexdigest() if data is not None else sha256_of(model)
    plans = folder / f"onnxruntime-{digest[:32]}"
    plans.mkdir(mode=0o700, exist_ok=True)
    return workspace | {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(plans),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }


def profiles(model: Path) -> dict[str, str]:
    """One profile for every length of the dynamic axes. Without it, a shape beyond those that have come has the plan
    built anew, in front of whoever asked. {} where an axis is not known."""
    try:
        profile = profile_of(model)
    except DeviceError:
        return {}
    return {
        f"trt_profile_{bound}_shapes": ",".join(f"{name}:{'x'.join(map(str, shapes[n]))}" for name, shapes in profile)
        for n, bound in enumerate(("min", "opt", "max"))
    }
