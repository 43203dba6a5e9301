"""A checkpoint's tokenizer in GGUF's terms: tokens, types and scores or merges, as llama.cpp will apply them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from ..checkpoint.checkpoint import CheckpointError, read_json

log = logging.getLogger(__name__)
# It advises about chat templates and pairs of texts, of which nothing is taken.
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)

_TYPE = gguf.TokenType
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TRIPLES, _SINGLES = _WORDS % r"\p{N}{1,3}", _WORDS % r"\p{N}"
#: llama.cpp's names of pre-tokenizers, by what they do: the steps of tokenizer.json, and whether a whole word that is
#: a token is taken without merging.
PRE_TOKENIZERS: dict[tuple[object, ...], str] = {
    (("split", _TRIPLES), ("bytes", False), True): "llama-bpe",
    (("split", _TRIPLES), ("bytes", False), False): "smaug-bpe",
    (("split", _SINGLES), ("bytes", False), False): "qwen2",
    (("bytes", True), False): "gpt-2",
    (("digits", True), ("bytes", True), False): "smollm",
}

#: Token by id: text, type, score.
_Table = dict[int, tuple[str, int, float]]
#: From a folder and its tokenizer.json: table, merges, pre-tokenizer, and whether a space goes before a text.
_Reader = Callable[[Path, dict[str, Any]], tuple[_Table, list[str], str, bool]]


@dataclass(frozen=True)
class GgufVocabulary:
    """A tokenizer in GGUF's terms.

    Attributes:
        model: llama.cpp's algorithm, "gpt2" (byte-level BPE: merges) or "llama" (SentencePiece BPE: scores).
        pre: name of the pre-tokenizer ("gpt2" only).
        tokens: by id.
        types: by id, of gguf.TokenType.
        scores: by id ("llama" only).
        merges: by rank ("gpt2" only).
        special: id of "bos", "eos", "unk", "pad".
        begin: add bos to a text.
        end: add eos to a text.
        space_prefix: a space goes before a text ("llama" only).
        strips: control tokens swallow the white space that follows, as Phi-3's do.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    special: dict[str, int]
    begin: bool
    end: bool = False
    space_prefix: bool = False
    strips: bool = False

    def add_to(self, writer: Any) -> None:
        """Write it under llama.cpp's keys. The chat template stays behind: it is code, and the bundle has a prompt."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        for kind, number in self.special.items():
            getattr(writer, f"add_{kind}_token_id")(number)
        writer.add_add_bos_token(self.begin)
        writer.add_add_eos_token(self.end)
        writer.add_add_space_prefix(self.space_prefix)

    def bytes(self) -> int:
        """Upper bound of its size in a GGUF: each string has a length of 8 bytes, each token a type and a score."""
        return sum(len(s.encode()) + 16 for s in (*self.tokens, *self.merges))


def read_vocabulary(folder: Path, config: Any) -> GgufVocabulary:
    """The tokenizer of a checkpoint, padded to the model's embedding rows (`config.vocab_size`).

    tokenizer.json decides, as in transformers; tokenizer.model serves where it is missing.

    Raises:
        FileNotFoundError: both files are missing.
        CheckpointError: llama.cpp would not tokenize as transformers does.
    """
    size = int(config.vocab_size)
    if (folder / "tokenizer.json").is_file():
        data = read_json(folder / "tokenizer.json")
        build: _Reader = _sentencepiece_json if data.get("model", {}).get("byte_fallback") else _byte_level
        special = _special(folder, size)
        added = data.get("added_tokens") or []
    elif (folder / "tokenizer.model").is_file():
        data, build = {}, _sentencepiece_model
        special = _special(folder, size)
        added = _added_tokens(folder)
    else:
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor tokenizer.model: copy the tokenizer's files")
    table, merges, pre, prefix = build(folder, data)
    for token in added:
        kind = _TYPE.CONTROL if token["special"] else _TYPE.USER_DEFINED
        table[token["id"]] = (token["content"], int(kind), 0.0)
    spaced = build is not _byte_level
    if spaced:
        _require_no_accidents(folder, table)
    beyond = sorted(text for i, (text, _, _) in table.items() if i >= size)
    if beyond:
        log.warning("%s: %d tokens have no embedding and are left out: %s", folder, len(beyond), ", ".join(beyond[:5]))
    rows = [table.get(i, (f"[PAD{i}]", int(_TYPE.UNUSED), 0.0)) for i in range(size)]
    texts = [text for text, _, _ in rows]
    if len(set(texts)) != size:
        twice = sorted({t for t in texts if texts.count(t) > 1}) if size < 10_000 else []
        raise CheckpointError(f"{folder}: {size - len(set(texts))} tokens occur twice {twice[:5]}; each needs one id")
    ids = dict(special.special_token_ids)
    for kind in ("bos", "eos"):
        default = getattr(config, f"{kind}_token_id", None)
        if kind not in ids and isinstance(default, int) and default < size:
            ids[kind] = default
    return GgufVocabulary(
        model="llama" if spaced else "gpt2",
        pre=pre,
        tokens=texts,
        types=[kind for _, kind, _ in rows],
        scores=[score for _, _, score in rows] if spaced else [],
        merges=merges,
        special={k: v for k, v in ids.items() if k in ("bos", "eos", "unk", "pad")},
        begin=special.add_special_token.get("bos", spaced) and "bos" in ids,
        end=special.add_special_token.get("eos", False),
        space_prefix=prefix,
        strips=_strips(folder, added),
    )


def _special(folder: Path, size: int) -> Any:
    """The gguf package's reading of special tokens. It trusts the folder's files, so what they make it raise is put in
    words."""
    try:
        return gguf.SpecialVocab(folder, n_vocab=size)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{folder}: the special tokens of config.json or tokenizer_config.json: {e}") from e


def _byte_level(folder: Path, data: dict[str, Any]) -> tuple[_Table, list[str], str, bool]:
    """A byte-level BPE: its table, merges and pre-tokenizer."""
    model = data.get("model", {})
    kind = model.get("type")
    if kind != "BPE":
        raise CheckpointError(f"{folder}: tokenizer of type {kind}; supported: byte-level BPE and SentencePiece BPE")
    steps = (*_steps(data.get("pre_tokenizer")), bool(model.get("ignore_merges")))
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    normalizer = (data.get("normalizer") or {}).get("type", "NFC")
    if steps not in PRE_TOKENIZERS or affixes or normalizer != "NFC":
        supported = ", ".join(PRE_TOKENIZERS.values())
        raise CheckpointError(
            f"{folder}: pre-tokenizer {steps[:-1]}, ignore_merges {steps[-1]}, normalizer {normalizer}, "
            f"affixes {affixes} is none that llama.cpp has under a known name; supported: {supported}"
        )
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {i: (t, int(_TYPE.NORMAL), 0.0) for t, i in model["vocab"].items()}, merges, PRE_TOKENIZERS[steps], False


def _steps(pre: dict[str, Any] | None) -> Iterable[tuple[str, object]]:
    """What a pre-tokenizer does, step by step, in a form that can be compared."""
    for step in (pre or {}).get("pretokenizers", [pre] if pre else []):
        kind = step["type"]
        if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            yield "split", step["pattern"].get("Regex")
        elif kind == "Digits":
            yield "digits", step.get("individual_digits")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            yield "bytes", step.get("use_regex", True)
        else:
            yield kind, str({k: v for k, v in step.items() if k != "type"})


def _sentencepiece_json(folder: Path, data: dict[str, Any]) -> tuple[_Table, list[str], str, bool]:
    """A SentencePiece BPE as tokenizer.json holds it: a token's score is the rank of the merge that makes it."""
    model = data["model"]
    normalizer, pre = data.get("normalizer"), data.get("pre_tokenizer")
    prefix = False
    for step in (normalizer or {}).get("normalizers", [normalizer] if normalizer else []):
        if step["type"] == "Prepend" and step["prepend"] == "▁":
            prefix = True
        elif step["type"] != "Replace" or (step["pattern"], step["content"]) != ({"String": " "}, "▁"):
            raise CheckpointError(f"{folder}: normalizer {step}; llama.cpp only replaces spaces and puts one first")
    if pre is not None and pre["type"] == "Metaspace" and not pre.get("split"):
        prefix = pre.get("prepend_scheme", "always") != "never"
        if pre.get("prepend_scheme") == "first":
            log.warning("%s: llama.cpp puts a space after a control token too, where this tokenizer does not", folder)
    # Gemma splits at spaces, of which its normalizer has left none.
    elif pre is not None and (pre["type"], pre.get("pattern")) != ("Split", {"String": " "}):
        raise CheckpointError(f"{folder}: pre-tokenizer {pre}; expected Metaspace without split, or none")
    if model.get("type") != "BPE" or model.get("ignore_merges"):
        raise CheckpointError(
            f"{folder}: SentencePiece tokenizer of type {model.get('type')}, ignore_merges "
            f"{bool(model.get('ignore_merges'))}; supported: BPE, False"
        )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    table: _Table = {}
    for text, number in model["vocab"].items():
        kind = _TYPE.BYTE if len(text) == 6 and text.startswith("<0x") else _TYPE.NORMAL
        kind = _TYPE.UNKNOWN if text == model.get("unk_token") else kind
        table[number] = (text, int(kind), -float(ranks.get(text, len(ranks))))
    return table, [], "default", prefix


def _sentencepiece_model(folder: Path, data: dict[str, Any]) -> tuple[_Table, list[str], str, bool]:
    """A SentencePiece BPE from tokenizer.model, the protocol buffer that SentencePiece writes."""
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        proto = import_protobuf().ModelProto()
    except Exception as e:  # protobuf has an error of its own for code that a newer one made
        said = " ".join(str(e).split())
        raise CheckpointError(
            f"{folder / 'tokenizer.model'} cannot be read: sentencepiece and protobuf do not fit together ({said}): "
            "pip install -U sentencepiece protobuf"
        ) from e
    try:
        proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    except Exception as e:
        raise CheckpointError(f"{folder / 'tokenizer.model'} is not a SentencePiece model: {e}") from e
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type != trainer.BPE or normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        kind = trainer.ModelType.Name(trainer.model_type)
        raise CheckpointError(
            f"{folder / 'tokenizer.model'}: type {kind}, normalizer {normalizer.name or 'identity'}, "
            f"remove_extra_whitespaces {normalizer.remove_extra_whitespaces}; supported: BPE, identity, False"
        )
    table: _Table = {}
    for number, piece in enumerate(proto.pieces):
        # GGUF's types have SentencePiece's numbers. llama.cpp looks for a user's token before it turns spaces to "▁".
        text = piece.piece.replace("▁", " ") if piece.type == int(_TYPE.USER_DEFINED) else piece.piece
        table[number] = (text, piece.type, piece.score)
    return table, [], "default", normalizer.add_dummy_prefix


def _added_tokens(folder: Path) -> list[dict[str, Any]]:
    """Tokens added beside a tokenizer.model: tokenizer_config.json knows their kind, added_tokens.json only the id."""
    if (folder / "tokenizer_config.json").is_file():
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
        if decoder:
            return [{"id": int(i), "special": False, **token} for i, token in decoder.items()]
    if not (folder / "added_tokens.json").is_file():
        return []
    added = read_json(folder / "added_tokens.json")
    return [{"id": i, "content": text, "special": True} for text, i in added.items()]


def _require_no_accidents(folder: Path, table: _Table) -> None:
    """llama.cpp's SentencePiece joins any two tokens whose text is a third: never may that be a control token.

    Otherwise a `</s>` that a user types would become the real one.
    """
    texts = {text for text, kind, _ in table.values() if kind == int(_TYPE.NORMAL)}
    for text, kind, _ in table.values():
        if kind == int(_TYPE.CONTROL) and any(text[:i] in texts and text[i:] in texts for i in range(1, len(text))):
            raise CheckpointError(
                f"{folder}: typed text can turn into the control token {text!r}; it is not safe to use"
            )


def _strips(folder: Path, added: Iterable[dict[str, Any]]) -> bool:
    """Do the added tokens swallow the white space after them? llama.cpp does so for all but three, or for none."""
    texts = {t["content"] for t in added}
    stripping = {t["content"] for t in added if t.get("rstrip") or t.get("lstrip")}
    exempt = {"<unk>", "<s>", "<|endoftext|>"}
    if stripping and stripping == texts - exempt and exempt | {"</s>"} <= texts:
        return True
    if stripping:
        log.warning("%s: white space beside %s is kept, where transformers drops it", folder, sorted(stripping))
    return False
