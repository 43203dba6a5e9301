"""config.json of a checkpoint folder: every key known, every value of its type, before anything is built from it.

transformers passes over a key that it does not know, so a folder saved by a newer version computes something else
without a word. Here such a key is an error by name, unless it is one of those that mean nothing to the computation.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

CONFIG = "config.json"
#: Model types whose keys are checked; the others are refused by name where they are read.
CHECKED = ("llava", "clip_vision_model", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2")
#: Keys that no longer, or not yet, belong to a class of transformers, and change nothing that is computed here: where a
#: model comes from, how it was trained, how text is drawn from it.
INERT = {
    "architectures", "auto_map", "dropout", "dtype", "ignore_index", "initializer_factor", "initializer_range",
    "model_type", "pretraining_tp", "quantization_config", "text_config", "tokenizer_class", "torch_dtype",
    "transformers_version", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "vision_config",
    "vocab_size",
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_scores", "prefix", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "top_k", "top_p", "torchscript", "typical_p",
    # Of a LLaVA itself: those of its LLM count.
    "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip
#: RoPE's: one object since transformers 5, read here and put in the older terms where the installed version is older.
ROPE = {
    "rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings",
}  # fmt: skip
#: Numbers that may be null: "none", or "as the others".
NULLABLE = {
    "attn_logit_softcapping", "final_logit_softcapping", "head_dim", "image_seq_length", "max_window_layers",
    "num_key_value_heads", "projection_dim", "sliding_window",
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message says what was found, what was expected and what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: a file is missing.
        PermissionError: it may not be read.
        CheckpointError: it is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a folder as transformers' save_pretrained writes it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except ValueError as e:
        raise CheckpointError(f"{path} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected an object")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def require_known(config: Mapping[str, Any], path: Path) -> None:
    """Check every key of config.json.

    Raises:
        CheckpointError: a key is unknown, or a value has a wrong type.
    """
    if any(key.startswith("mm_") for key in config):
        raise CheckpointError(
            f"{path} is of LLaVA's original layout (mm_...), which transformers does not read: take the folder "
            "that was converted (llava-hf/llava-1.5-7b-hf is liuhaotian/llava-v1.5-7b), or convert yours with "
            "src/transformers/models/llava/convert_llava_weights_to_hf.py of transformers' repository"
        )
    for part, kind, keys in _parts(config, path):
        if kind not in CHECKED:
            continue
        known, where = _defaults(kind), f"{path}: {part}"
        if keys.get("quantization_config", True) is None:
            raise CheckpointError(f"{where}quantization_config is null, which transformers does not take: remove it")
        for key, value in keys.items():
            if key in known:
                _require_type(where + key, value, known[key], key)
            elif not (key in INERT or key in ROPE or key.startswith("_") or value is None):
                raise CheckpointError(f"{where}{key} is {_short(value)}, which means nothing to {_who(config)}")
        _require_tokens(where, keys, known)
    _require_rope(config.get("text_config") or config, path)
    _require_scaled(config, path)


def for_transformers(config: Mapping[str, Any]) -> Any:
    """The configuration object that transformers makes of config.json, in the terms that the installed version reads.

    For a folder that this version knows whole, that is its own reading of the file as it is.
    """
    translated = copy.deepcopy(dict(config))
    for text in (translated, translated.get("text_config")):
        if isinstance(text, dict) and text.get("rope_parameters"):
            kind = text.get("model_type", "llama")
            if kind in CHECKED and "rope_parameters" not in _defaults(kind):
                _to_older_terms(text)
    return configured(translated)


def configured(config: Mapping[str, Any]) -> Any:
    """Transformers' configuration object of these keys.

    Raises:
        CheckpointError: the class does not take them.
    """
    import transformers

    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise CheckpointError(f"{CONFIG}: model_type {kind!r} is unknown to transformers {transformers.__version__}")
    try:
        # A copy: the configuration classes write into what they are given.
        return transformers.CONFIG_MAPPING[kind](**copy.deepcopy(dict(config)))
    except Exception as e:
        raise CheckpointError(f"{CONFIG} is none that transformers' {kind} takes: {' '.join(str(e).split())}") from e


def _to_older_terms(text: dict[str, Any]) -> None:
    """Transformers 5's rope_parameters as transformers 4 has them: rope_theta, rope_scaling and what stands beside."""
    rope = dict(text.pop("rope_parameters"))
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            text[key] = rope.pop(key)
    if rope.get("rope_type", "default") == "longrope":
        text.setdefault("original_max_position_embeddings", rope.pop("original_max_position_embeddings", None))
        rope["type"] = rope.pop("rope_type")
    text["rope_scaling"] = None if rope.get("rope_type") == "default" else rope


def _parts(config: Mapping[str, Any], path: Path) -> list[tuple[str, str, Mapping[str, Any]]]:
    """The objects of config.json: where, model type, keys."""
    kind = config.get("model_type")
    out = [("", str(kind), config)]
    for name, default in (("text_config", "llama"), ("vision_config", "clip_vision_model")):
        part = config.get(name) if kind == "llava" else None
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise CheckpointError(f"{path}: {name} is {_short(part)}; expected an object")
        out.append((f"{name}.", str(part.get("model_type", default)), part))
    return out


@cache
def _defaults(kind: str) -> dict[str, Any]:
    """Keys that a configuration class of the installed transformers declares, with their defaults."""
    import transformers

    translated = transformers.CONFIG_MAPPING[kind]
    signature = {p.name: p.default for p in inspect.signature(translated.__init__).parameters.values()}
    generic = vars(transformers.PretrainedConfig())
    return {k: v for k, v in {**generic, **vars(translated()), **signature}.items() if k not in ("self", "kwargs")}


def _require_type(where: str, value: object, default: object, key: str) -> None:
    """A value is of its default's type; token ids and vision_feature_layer may be several."""
    tokens = key.endswith("_token_id")
    if default is None or default is inspect.Parameter.empty or key in ("text_config", "vision_config"):
        return
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if value is None:
        if number and not (tokens or key in NULLABLE or key in INERT):
            raise CheckpointError(f"{where} is null; expected a number such as {default!r}")
        return
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    several = isinstance(value, list) and (tokens or key == "vision_feature_layer")
    for one in value if isinstance(value, list) and several else [value]:
        if not isinstance(one, kinds) or (number and isinstance(one, bool)):
            expected = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
            raise CheckpointError(
                f"{where} is {_short(value)}; expected {expected.get(type(default), type(default).__name__)}, "
                f"such as {default!r}"
            )


def _require_tokens(where: str, keys: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Transformers has a row of zeros for padding: its number must be a row's."""
    size, pad = keys.get("vocab_size", known.get("vocab_size")), keys.get("pad_token_id")
    if isinstance(size, int) and isinstance(pad, int) and not 0 <= pad < size:
        raise CheckpointError(
            f"{where}pad_token_id is {pad}; the vocabulary has {size} tokens: set it to one, or to null"
        )


def _require_rope(text: Mapping[str, Any], path: Path) -> None:
    base = text.get("rope_theta", 0)
    if isinstance(base, bool) or not isinstance(base, (int, float)):
        raise CheckpointError(f"{path}: rope_theta is {_short(base)}; expected a number such as 10000.0")
    rope_parameters = text.get("rope_parameters")
    if rope_parameters is None:
        return
    if not isinstance(rope_parameters, Mapping) or any(isinstance(v, Mapping) for v in rope_parameters.values()):
        raise CheckpointError(
            f"{path}: rope_parameters is {_short(rope_parameters)}; expected one object for all layers"
        )
    theta = text.get("rope_theta")
    if theta is not None and theta != rope_parameters.get("rope_theta", theta):
        raise CheckpointError(
            f"{path} says rope_theta {theta!r} and, in rope_parameters, {rope_parameters['rope_theta']!r}: which of "
            "them the model was trained with cannot be seen; remove the other"
        )


def _require_scaled(config: Mapping[str, Any], path: Path) -> None:
    """Since transformers 5.4 a Gemma's image tokens are not multiplied by sqrt(hidden_size), as its words are."""
    saved = str(config.get("transformers_version", ""))
    text = config.get("text_config") or {}
    if text.get("model_type") in ("gemma", "gemma2") and _release(saved) >= (5, 4):
        raise CheckpointError(
            f"{path} is a LLaVA on {text['model_type']} saved by transformers {saved}, which since 5.4 leaves image "
            "tokens as they are; older versions and llama.cpp multiply them by sqrt(hidden_size). If it was trained "
            "with an older version, write that into transformers_version of a copy; else, in a copy, divide weight and "
            "bias of multi_modal_projector.linear_2 by sqrt(hidden_size) first"
        )


def _release(version: str) -> tuple[int, ...]:
    """Of "5.4.0.dev0" (5, 4); () of what is no version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


def _who(config: Mapping[str, Any]) -> str:
    import transformers

    saved = config.get("transformers_version")
    by = f" (the folder was saved by {saved})" if saved else ""
    return (
        f"transformers {transformers.__version__}{by}: it may change what the model computes. Export with a version "
        "that knows it; where it changes nothing, remove it from a copy of the folder"
    )


def _short(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
