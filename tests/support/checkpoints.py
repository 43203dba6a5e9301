"""Tiny random checkpoints in the layouts that people have, made where a test needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CORPUS = [
    "Is she wearing glasses? No, the person is not wearing glasses. The person has wavy brown hair and is smiling.",
    "Describe this face. USER: ASSISTANT: The young woman with the straight black hair has a big nose, I'd say.",
    "Wie viele Personen sind 2024 auf dem Bild zu sehen? Eine, und sie lächelt. It's they're we'll 1234567890.",
] * 4
TEXTS = (
    "Is she wearing glasses?",
    "  two  spaces,\n\nnew lines \t tabs and a trailing space ",
    "Ünïcode 123 4567, 漢字, 😀; don't, they'LL, I'd",
    "typed </s> <s> <|im_end|> <0x41> stays text",
)
CONTROL = ["<unk>", "<s>", "</s>"]
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def sentencepiece(folder: Path, *, prefix: bool = True, words: int = 120, corpus: Sequence[str] = CORPUS) -> Any:
    """A Llama-like tokenizer in `folder` as tokenizer.json; returns it. `prefix`: a space goes before a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # As SentencePiece: no piece goes beyond a word.
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=words, show_progress=False))
    learned = sorted(learner.get_vocab(), key=lambda t: learner.get_vocab()[t])
    pieces = CONTROL + [f"<0x{i:02X}>" for i in range(256)] + sorted(learned, key=lambda t: len(t) == 1)
    ids = {text: i for i, text in enumerate(pieces)}
    # As transformers does of a tokenizer.model: each pair that makes a piece, in the order of the pieces.
    merges = [(t[:i], t[i:]) for t in pieces[259:] for i in range(1, len(t)) if t[:i] in ids and t[i:] in ids]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return _save(tokenizer, folder, bos="<s>", eos="</s>")


def byte_level(folder: Path, pre: str, *, words: int = 330) -> Any:
    """A byte-level BPE in `folder` as tokenizer.json, with one of llama.cpp's pre-tokenizers; returns it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    digits = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}.get(pre)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=digits is None)
    first = pre_tokenizers.Split(Regex(WORDS % digits), "isolated") if digits else pre_tokenizers.Digits(True)
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = level if pre == "gpt-2" else pre_tokenizers.Sequence([first, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=words, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.decoder = decoders.ByteLevel()
    begin = "<|begin|>" if pre == "llama-bpe" else None
    added = [t for t in (begin, "<|im_start|>", "<|im_end|>") if t]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in added])
    if begin:
        special = [(begin, tokenizer.token_to_id(begin))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A", special_tokens=special)
    return _save(tokenizer, folder, bos=begin, eos="<|im_end|>")


def _save(tokenizer: Any, folder: Path, **special: str | None) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{kind}_token": text for kind, text in special.items() if text}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return tokenizer


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight random, norms and biases too: left as they are made (one and zero), faults in them are not seen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        size = 0.4 if parameter.dim() == 1 else 1.5 * parameter.shape[1] ** -0.5
        parameter.data = size * noise + (parameter.data if parameter.dim() == 1 else 0)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def small(vocabulary: int, **more: Any) -> dict[str, Any]:
    """Numbers of a tiny LLM, `more` beside or instead."""
    numbers = {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return numbers | more


def save(model: Any, folder: Path, *, shard: str = "60KB") -> None:
    """As save_pretrained does, in several shards; the tokenizer stays."""
    model.save_pretrained(folder, max_shard_size=shard, safe_serialization=True)


def llava(folder: Path, *, new: bool, image_size: int = 28, **text: Any) -> Any:
    """A LLaVA-1.5 folder, tokenizer included, in the layout of transformers since 4.52 (`new`) or before; the model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = sentencepiece(folder)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=image_size,
        patch_size=14, projection_dim=16,
    )  # fmt: skip
    # 64 rows beyond the tokenizer's, as the real one has: for <image>, <pad> and nothing.
    llm = LlamaConfig(**small(tokenizer.get_vocab_size() + 64, **text))
    config = LlavaConfig(vision_config=vision, text_config=llm, image_token_index=1)
    model = randomise(LlavaForConditionalGeneration(config))
    save(model, folder, shard="10GB")
    state = load_file(folder / "model.safetensors")
    old = any(name.startswith("language_model.model.") for name in state)
    if old == new:
        swap = [
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ]
        for a, b in swap if old else [(b, a) for a, b in swap]:
            state = {b + n.removeprefix(a) if n.startswith(a) else n: v for n, v in state.items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return model


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file, or make it; "part.key" is a key within an object, ... removes one."""
    value = json.loads(path.read_text()) if path.is_file() else {}
    for name, new in changes.items():
        *parts, key = name.split(".")
        at = value
        for part in parts:
            at = at[part]
        if new is ...:
            at.pop(key, None)
        else:
            at[key] = new
    path.write_text(json.dumps(value))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Change the tensors' names."""
    file = folder / "model.safetensors"
    save_file({change(name): value for name, value in load_file(file).items()}, file, {"format": "pt"})


def as_transformers_5(folder: Path, **rope: Any) -> None:
    """A LLaVA folder of `llava` as transformers 5.24 saves it: the same model, were it made with this RoPE."""
    size = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
    changes = {"rope_parameters": rope, "rope_theta": ..., "rope_scaling": ..., "torch_dtype": ...}
    edit(
        folder / "config.json",
        transformers_version="5.24.0",
        dtype="float32",
        **{f"text_config.{key}": value for key, value in changes.items()},
    )
    rename(folder, lambda name: name.replace("vision_tower.vision_model.", "vision_tower."))
    square = {"height": size, "width": size}
    pixels = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True, "do_rescale": True,
        "do_normalize": True, "do_convert_rgb": True, "resample": 3, "rescale_factor": 1 / 255, "crop_size": square,
        "size": {"shortest_edge": size}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    edit(folder / "processor_config.json", image_processor=pixels, processor_class="LlavaProcessor", patch_size=14)
    edit(
        folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend", backend="tokenizers",
        extra_special_tokens=["<image>"],
    )  # fmt: skip
