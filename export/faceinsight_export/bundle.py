"""Trained parts -> a verified bundle, written to a temporary folder and renamed into place."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceinsight import __version__
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import MANIFEST, Bundle
from faceinsight.bundle.manifest import (
    FORMAT,
    VERSION,
    CropSpec,
    DetectorSpec,
    EncoderSpec,
    FileEntry,
    KnowledgeSpec,
    LlmSpec,
    Manifest,
    ParserSpec,
    QuestionSpec,
)
from faceinsight.types import STATES
from faceinsight_models.data.augment import MEAN, STD
from faceinsight_models.dialogue.concepts import OPPOSITE_WORDS
from faceinsight_models.dialogue.outside import KINDS, words_of_questions
from faceinsight_models.nets.closeup import PARTS
from faceinsight_models.nets.graphs import write_closeup, write_encoder, write_knowledge, write_parser, write_question
from faceinsight_models.nets.question import SHARE
from faceinsight_models.pipeline import NMS_THRESHOLD, SCORE_THRESHOLD, SIDES, Trained
from faceinsight_models.specs import characteristic_specs, closeup_spec
from faceinsight_models.taxonomy import MASK_CLASSES, REGIONS, RULES, SWITCHES
from faceinsight_models.train.conversation import LIST_FROM
from faceinsight_models.train.llm import PROMPT
from faceinsight_models.train.rounded import rounded

from .card import CARD, licences, model_card, training_data
from .gguf.quantize import quantize, write_llama
from .onnx.fp16_weights import store_fp16
from .onnx.int8_weights import store_int8
from .parity.stages import LLM_TOLERANCES, ParityError, Stage, graph_stages, llm_stages

#: Relative to a stage's largest value. How weights are stored (8 bit in encoder and close-up, half precision elsewhere)
#: sets them, not the conversion: with float32 weights the graphs agree to 1e-5 (tests/test_export.py).
TOLERANCES = {
    "parser": 0.01,
    "encoder": 0.05,
    "closeup": 0.05,
    "knowledge": 0.005,
    "question": 0.005,
}
#: For an LLM whose reference computes with the same rounded weights: llama.cpp rounds what goes in, too.
ROUNDED = 0.1
#: The words of questions, by which misspelt ones are put right.
WORDS = "words.txt"
#: Answers of the kind the LLM is trained to give: where its 8-bit weights are compared with the reference.
SPOKEN = ("No, the person is not wearing glasses.", "The person has wavy brown hair and is smiling.")


def export_bundle(trained: Trained, out: Path, *, progress: Callable[[str], None] = lambda text: None) -> list[Stage]:
    """Write and verify a bundle at `out`, which must not exist. Returns the parity of each stage.

    Raises FileExistsError, or ParityError when a stage is beyond its tolerance; then nothing is left behind.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already: choose another place, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        stages = _write(trained, work, out.name, progress)
        failed = [s for s in stages if not s.passed]
        if failed:
            raise ParityError("parity failed:\n" + "\n".join(map(str, failed)))
        Bundle.open(work)
        work.chmod(0o755)
        work.rename(out)
        return stages
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(trained: Trained, work: Path, name: str, progress: Callable[[str], None]) -> list[Stage]:
    crop, recipe = trained.recipe.crop, trained.recipe
    device = Device("cpu", False, max(1, torch.get_num_threads()))
    rng = np.random.default_rng(0)
    # Three at a time: the graphs are traced with two, and must take any number.
    pixels = rng.normal(0, 0.6, (3, 3, crop.encoder, crop.encoder)).astype(np.float32)
    stages: list[Stage] = []

    progress("detector")
    shutil.copyfile(trained.detector, work / "detector.onnx")

    progress("parser")
    module = write_parser(trained.parser, work / "parser.onnx", size=crop.parser)
    store_fp16(work / "parser.onnx")
    wide = rng.normal(0, 0.6, (3, 3, crop.parser, crop.parser)).astype(np.float32)
    stages += graph_stages(module, work / "parser.onnx", {"pixels": wide}, ["label_map"], TOLERANCES["parser"], device)

    progress("encoder")
    module = write_encoder(
        trained.encoder, trained.adapter, work / "encoder.onnx", size=crop.encoder, map_size=crop.parser
    )
    store_int8(work / "encoder.onnx")
    blocks = rng.integers(0, len(MASK_CLASSES), (3, 8, 8)).astype(np.uint8)
    inputs = {
        "pixels": pixels,
        "label_map": np.kron(blocks, np.ones((1, crop.parser // 8, crop.parser // 8), np.uint8)),
        "characteristics": np.arange(len(trained.calibration)),
    }
    outputs = ["logits", "image_tokens", "region_tokens", "region_area"]
    stages += graph_stages(module, work / "encoder.onnx", inputs, outputs, TOLERANCES["encoder"], device)

    if trained.closeup:
        progress("close-up")
        module = write_closeup(trained.closeup, work / "closeup.onnx", size=recipe.closeup.size)
        store_int8(work / "closeup.onnx")
        window = rng.normal(0, 0.6, (3, 3, recipe.closeup.size, recipe.closeup.size)).astype(np.float32)
        inputs = {"pixels": window, "outputs": np.arange(sum(PARTS.values()))}
        stages += graph_stages(module, work / "closeup.onnx", inputs, ["logits"], TOLERANCES["closeup"], device)

    progress("knowledge")
    with torch.no_grad():
        text = trained.encoder.head.ccm()
    module = write_knowledge(text, trained.adapter, work / "knowledge.onnx")
    store_fp16(work / "knowledge.onnx")
    numbers = np.arange(len(trained.calibration))
    inputs = {"characteristics": numbers, "states": numbers % len(STATES)}
    stages += graph_stages(
        module, work / "knowledge.onnx", inputs, ["knowledge_tokens"], TOLERANCES["knowledge"], device
    )
    with torch.no_grad():
        findings = module(torch.tensor([0, 15, 24, 31]), torch.tensor([0, 0, 1, 1]))
        prompt = _prompt_rows(trained, torch.from_numpy(pixels[:1]), findings)

    progress("question")
    module = write_question(trained.question, work / "question.onnx")
    store_fp16(work / "question.onnx")
    (work / WORDS).write_text(words_of_questions(trained.vocabulary.tokens), encoding="utf-8")
    inputs = {"tokens": rng.integers(0, len(trained.vocabulary.tokens), (3, 11))}
    stages += graph_stages(
        module, work / "question.onnx", inputs, ["relevance", "kinds"], TOLERANCES["question"], device
    )

    progress(f"llm ({recipe.llm.quantization})")
    spec = LlmSpec(
        "llm.gguf",
        trained.llm.config.hidden_size,
        recipe.llm.context,
        PROMPT,
        recipe.llm.max_question,
        recipe.llm.max_answer,
    )
    full = work / "llm-f32.gguf"
    write_llama(trained.llm, trained.vocabulary, full, name=name)
    # The conversion is exact whatever follows; rounding is judged where the LLM was trained to speak.
    checks = {
        "f32": (full, ["Is she wearing glasses?", "Describe this face. Ünïcode 123 <|im_end|>"]),
        recipe.llm.quantization: (work / "llm.gguf", list(SPOKEN)),
    }
    quantize(full, work / "llm.gguf", recipe.llm.quantization)
    for precision, (path, texts) in checks.items():
        # The LLM learned on the weights that are shipped; what it would say with others says nothing.
        taught = precision == "q4_0"
        tolerance = ROUNDED if taught else LLM_TOLERANCES[precision]
        with rounded(trained.llm.model.layers) if taught else nullcontext():
            found = llm_stages(
                trained.llm,
                _plain(trained),
                path,
                spec,
                prompt,
                texts,
                tolerance,
                device,
                mean=precision != "f32",
            )
        stages += [Stage(f"{s.name} {precision}", s.cosine, s.error, s.tolerance) for s in found]
    full.unlink()

    progress("manifest")
    (work / CARD).write_text(model_card(trained, name, stages))
    (work / MANIFEST).write_text(_manifest(trained, work, name, spec, stages).to_json())
    return stages


def _prompt_rows(trained: Trained, pixels: torch.Tensor, findings: torch.Tensor) -> np.ndarray[Any, Any]:
    """(L,width) embeddings of a whole prompt about a face, laid out as the runtime does."""
    tokenizer = trained.vocabulary.tokenizer()

    def text(words: str) -> torch.Tensor:
        return trained.llm.model.embed_tokens(torch.tensor(tokenizer.encode(words).ids))

    blocks = torch.randint(0, len(MASK_CLASSES), (1, 8, 8), generator=torch.Generator().manual_seed(0))
    label_map = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    features = trained.encoder.features(pixels, label_map)
    face = [trained.adapter.image_tokens(features)[0], trained.adapter.region_tokens(features)[0]]
    question = text(PROMPT.after_face + "Describe this face.")
    parts = [text(PROMPT.before_face), *face, question, findings, text(PROMPT.before_answer)]
    return np.asarray(torch.cat(parts).numpy())


class _PlainTokenizer:
    """Tokenizes as the runtime does a user's text: control tokens are plain characters."""

    def __init__(self, tokenizer: object) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # type: ignore[attr-defined]

    def encode(self, text: str) -> object:
        return self._tokenizer.encode(text)  # type: ignore[attr-defined]


def _plain(trained: Trained) -> _PlainTokenizer:
    return _PlainTokenizer(trained.vocabulary.tokenizer())


def _manifest(trained: Trained, work: Path, name: str, llm: LlmSpec, stages: list[Stage]) -> Manifest:
    crop = trained.recipe.crop
    side = crop.encoder // 32
    mean, std = (MEAN, MEAN, MEAN), (STD, STD, STD)
    files = {
        p.name: FileEntry(hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size) for p in sorted(work.iterdir())
    }
    template = [(float(x), float(y)) for x, y in crop.template]
    return Manifest(
        format=FORMAT,
        version=VERSION,
        min_runtime=__version__,
        name=name,
        created=datetime.date.today().isoformat(),
        files=files,
        detector=DetectorSpec("detector.onnx", SCORE_THRESHOLD, NMS_THRESHOLD, SIDES),
        crop=CropSpec((template[0], template[1], template[2], template[3], template[4])),
        parser=ParserSpec("parser.onnx", crop.parser, mean, std, MASK_CLASSES),
        encoder=EncoderSpec("encoder.onnx", crop.encoder, mean, std, side * side, llm.width),
        closeup=closeup_spec(trained.recipe) if trained.closeup else None,
        knowledge=KnowledgeSpec("knowledge.onnx", STATES),
        question=QuestionSpec(
            "question.onnx", LIST_FROM, share=SHARE, kinds=KINDS, opposites=OPPOSITE_WORDS, words=WORDS
        ),
        regions=REGIONS,
        characteristics=characteristic_specs(trained.calibration, closeup=trained.closeup is not None),
        rules=RULES,
        soft_weight=trained.recipe.judgement.soft_weight,
        switches=SWITCHES,
        llm=llm,
        licences=licences(trained),
        provenance={
            "recipe": trained.recipe.name,
            "training data": training_data(trained.sets),
            "exporter": f"faceinsight {__version__}, torch {torch.__version__}",
        },
        parity={s.name: round(s.error, 8) for s in stages},
    )
