"""What a LLaVA folder says of its pixels, in either layout: CLIP's preprocessing, or an error by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config_json import CheckpointError, read_json

#: CLIP's preprocessing, where a checkpoint says nothing of its own.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
#: Without the endings that name an implementation.
_TYPES = ("CLIPImageProcessor", "LlavaImageProcessor", "CLIPFeatureExtractor")
#: Of no effect on a square RGB picture, to which the runtime pads.
_INERT = {
    "background_color", "data_format", "default_to_square", "device", "disable_grouping", "do_convert_rgb", "do_pad",
    "image_seq_length", "input_data_format", "pad_size", "processor_class", "return_tensors",
}  # fmt: skip
Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def preprocessing(folder: Path, size: int) -> Pixels:
    """Mean and standard deviation (3,) of a checkpoint's pixels, whose tower sees `size` px.

    From preprocessor_config.json, or from processor_config.json, where transformers 5 keeps it.

    Raises:
        CheckpointError: the preprocessing is not CLIP's.
    """
    found = {}
    if (folder / PREPROCESSOR).is_file():
        found[PREPROCESSOR] = read_json(folder / PREPROCESSOR)
    inner = read_json(folder / PROCESSOR).get("image_processor") if (folder / PROCESSOR).is_file() else None
    if isinstance(inner, Mapping):
        found[PROCESSOR] = dict(inner)
    read = {name: _read(folder / name, settings, size) for name, settings in found.items()}
    if len(set(read.values())) > 1:
        raise CheckpointError(
            f"{folder}: {PREPROCESSOR} and {PROCESSOR} have different means or deviations: remove the one that does "
            "not belong to the weights"
        )
    return next(iter(read.values()), (CLIP_MEAN, CLIP_STD))


def _read(path: Path, settings: dict[str, Any], size: int) -> Pixels:
    left = {k: v for k, v in settings.items() if not (k in _INERT or k.startswith("_"))}

    def take(key: str, default: Any) -> Any:
        value = left.pop(key, None)
        return default if value is None else value

    def expect(key: str, found: object, expected: str, ok: bool) -> None:
        if not ok:
            raise CheckpointError(f"{path}: {key} is {found!r}; expected {expected}, as LLaVA-1.5 has it")

    for key in ("image_processor_type", "feature_extractor_type"):
        kind = str(take(key, _TYPES[0]))
        expect(key, kind, " or ".join(_TYPES[:2]), kind.removesuffix("Fast").removesuffix("Pil") in _TYPES)
    whole = _side(take("size", {"shortest_edge": 224}))
    expect("size", settings.get("size"), f"the vision tower's {size} px", whole == size)
    crop = take("do_center_crop", True)
    side = _side(take("crop_size", 224))
    expect("crop_size", settings.get("crop_size"), f"the vision tower's {size} px", not crop or side == size)
    for key in ("do_resize", "do_rescale", "do_normalize"):
        value = take(key, True)
        expect(key, value, "true", value is True)
    resample = take("resample", 3)
    expect("resample", resample, "3 (bicubic)", resample == 3)
    factor = take("rescale_factor", 1 / 255)
    expect("rescale_factor", factor, "1/255", isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-6))
    mean, std = take("image_mean", CLIP_MEAN), take("image_std", CLIP_STD)
    for key, value in (("image_mean", mean), ("image_std", std)):
        expect(
            key, value, "three numbers", isinstance(value, (list, tuple)) and list(map(_number, value)) == [True] * 3
        )
    expect("image_std", std, "numbers above zero", min(std) > 0)
    for key, value in left.items():
        if value not in (None, False):
            raise CheckpointError(
                f"{path}: {key} is {value!r}, which the exporter does not know: it may change the pixels. Where it "
                "does not, remove it from a copy of the folder"
            )
    return tuple(map(float, mean)), tuple(map(float, std))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(size: object) -> object:
    """Of a square, from any of the forms that a size has had; None for what is none."""
    if isinstance(size, Mapping):
        sides = {v for v in size.values() if v is not None}
        return sides.pop() if len(sides) == 1 else None
    return size
