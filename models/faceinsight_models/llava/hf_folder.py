"""A LLaVA folder as transformers itself reads it: model, tokenizer, image processor. No code of the folder is run.

The exporter reads the same folder by its own code, and its gate compares the two; so nothing in here is shared with it
but the check that every key of config.json is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .config_json import CONFIG, CheckpointError, for_transformers, read_json, require_known
from .pixels import PREPROCESSOR, PROCESSOR

#: What DDP, torch.compile and PEFT put before a name.
_WRAPPER = r"(?:module\.|_orig_mod\.|base_model\.model\.)"
#: Values that are made anew from the configuration.
_MADE = ("position_ids", "rotary_emb.inv_freq")
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(folder: Path, dtype: torch.dtype | None = None, *, attention: str | None = None) -> Any:
    """LlavaForConditionalGeneration with a folder's weights, in eval mode.

    Args:
        folder: the checkpoint.
        dtype: of the weights; None: the folder's own where all tensors have one, which are then read where they are
            used (the files are mapped, not copied), else float32.
        attention: transformers' implementation; None: its choice.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: transformers would pass over or make up a tensor.
    """
    from transformers import LlavaForConditionalGeneration as Llava

    config = read_json(folder / CONFIG)
    require_known(config, folder / CONFIG)
    if config.get("model_type") != "llava":
        raise CheckpointError(
            f"{folder / CONFIG}: model_type {config.get('model_type')!r}; expected 'llava' (LLaVA-1.5 with CLIP)"
        )
    types, names = _header(folder)
    dtype = dtype or (_TYPES.get(next(iter(types)), torch.float32) if len(types) == 1 else torch.float32)
    settings = for_transformers(config)
    options: dict[str, Any] = {_type_option(): dtype}
    options |= {"attn_implementation": attention} if attention else {}
    options |= {"key_mapping": renamed} if (renamed := _renamed(Llava, settings, names)) else {}
    with _silenced():
        try:
            model, report = Llava.from_pretrained(
                folder,
                config=settings,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except (RuntimeError, AssertionError, KeyError, TypeError) as e:
            raise CheckpointError(f"transformers does not load {folder}: {str(e).strip().splitlines()[0]}") from e
    for what, found in (("missing", report["missing_keys"]), ("left over", report["unexpected_keys"])):
        odd = sorted(name for name in found if not name.endswith(_MADE))
        if odd:
            raise CheckpointError(
                f"{folder}: for transformers' {type(model).__name__} {len(odd)} tensors are {what} "
                f"({', '.join(odd[:3])}): it would go on all the same; config.json and the weights are of two models"
            )
    return scale_embeddings(model.eval())


def part(model: Any, name: str) -> Any:
    """A module by the last part of its name ("vision_tower", "multi_modal_projector"): where it stands depends on the
    version of transformers.

    Raises:
        KeyError: there is none.
    """
    for full, module in model.named_modules():
        if full.rpartition(".")[2] == name:
            return module
    raise KeyError(f"{type(model).__name__} has no {name}")


def decoder_of(model: Any) -> Any:
    """The LLM without its head: what holds the table of word embeddings. Not every version has `get_decoder`."""
    table = model.get_input_embeddings()
    return next(module for module in model.modules() if getattr(module, "embed_tokens", None) is table)


def scale_embeddings(model: Any) -> Any:
    """Make a Gemma multiply every embedding by sqrt(width), as it was trained and as llama.cpp computes it.

    transformers before 5.4 did that in the decoder, of what stands in `inputs_embeds` too. Since then it does it in the
    table of word embeddings, and an image token that is handed in stays as it is. Models without such a table are not
    touched.

    Args:
        model: with a language model's head; changed in place.

    Returns:
        The same object.
    """
    table = model.get_input_embeddings()
    if not hasattr(table, "embed_scale"):
        return model
    scale = table.embed_scale.clone()
    table.embed_scale.fill_(1)

    def scaled(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = kwargs.get("inputs_embeds")
        rows = decoder.embed_tokens(kwargs["input_ids"]) if given is None else given
        return args, kwargs | {"input_ids": None, "inputs_embeds": rows * scale.to(rows)}

    decoder_of(model).register_forward_pre_hook(scaled, with_kwargs=True)
    return model


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer.

    Raises:
        CheckpointError: this transformers cannot read it; the message says why.
    """
    import transformers

    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    cls, options = transformers.AutoTokenizer, {"config": for_transformers(read_json(folder / CONFIG))}
    if not hasattr(transformers, "TokenizersBackend"):
        # transformers 5's names for what version 4 has under others: tokenizer.json as it is, and a list of tokens
        # which tokenizer.json has too.
        if config.get("tokenizer_class") == "TokenizersBackend":
            cls, options = transformers.PreTrainedTokenizerFast, {}
        if isinstance(config.get("extra_special_tokens"), list):
            options["extra_special_tokens"] = {}
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        _require_sentencepiece(folder)
    with _silenced():
        try:
            return cls.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
        except Exception as e:
            message = " ".join(str(e).split())[:300]
            named = config.get("tokenizer_class")
            raise CheckpointError(
                f"transformers {transformers.__version__} does not read the tokenizer in {folder}"
                f"{f' (tokenizer_class {named})' if named else ''}: {type(e).__name__}: {message}"
            ) from e


def load_image_processor(folder: Path) -> Any:
    """The folder's image processor in Pillow; None where it brings none.

    Raises:
        CheckpointError: transformers does not read it.
    """
    from transformers import AutoImageProcessor

    nested = (folder / PROCESSOR).is_file() and "image_processor" in read_json(folder / PROCESSOR)
    if not nested and not (folder / PREPROCESSOR).is_file():
        return None
    with _silenced():
        try:
            return AutoImageProcessor.from_pretrained(
                folder, use_fast=False, trust_remote_code=False, local_files_only=True
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise CheckpointError(f"transformers does not read the image processor in {folder}: {e}") from e


def _header(folder: Path) -> tuple[set[str], list[str]]:
    """Types of the floating-point tensors, and the names of all."""
    types, names = set(), []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                names.append(name)
                types |= {file.get_slice(name).get_dtype()}
    return {t for t in types if t.startswith(("F", "BF"))}, names


def _renamed(cls: Any, config: Any, names: list[str]) -> dict[str, str]:
    """Rules for names that the installed transformers does not know by itself; none where it knows all of them."""
    from transformers import CLIPVisionModel

    wrapped = any(re.match(_WRAPPER, n) for n in names)
    tower = [n for n in names if "vision_tower." in n]
    flat = bool(tower) and not any("vision_tower.vision_model." in n for n in tower)
    with torch.device("meta"):
        nested = any(n.startswith("vision_model.") for n in CLIPVisionModel(config.vision_config).state_dict())
    if not wrapped and not (flat and nested):
        return {}
    rules = (
        {rf"^{_WRAPPER}*(model\.)?vision_tower\.(?!vision_model\.)": r"model.vision_tower.vision_model."}
        if flat
        else {}
    )
    # The class's own rules, which ours would replace.
    for pattern, name in getattr(cls, "_checkpoint_conversion_mapping", {}).items():
        rules[f"^{_WRAPPER}*{pattern.removeprefix('^')}"] = name
    return rules | {f"^{_WRAPPER}+": ""}


def _require_sentencepiece(folder: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("sentencepiece") is None:
        raise CheckpointError(
            f"{folder} has tokenizer.model and no tokenizer.json: transformers reads it with sentencepiece, which is "
            "not installed (pip install sentencepiece)"
        )


def _type_option() -> str:
    """Transformers renamed it in 4.56."""
    import transformers

    return "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"


@contextmanager
def _silenced() -> Iterator[None]:
    """Without transformers' progress bars and advice."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
