"""Trained parts -> a verified bundle, written to a temporary folder and renamed into place."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceinsight import __version__
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import MANIFEST, Bundle
from faceinsight.bundle.manifest import FORMAT, VERSION, Manifest
from faceinsight.bundle.specs import (
    CropSpec,
    EncoderSpec,
    FileEntry,
    KnowledgeSpec,
    LlmSpec,
    ParserSpec,
    QuestionSpec,
)
from faceinsight.types import STATES
from faceinsight_models.data.augment import MEAN, STD
from faceinsight_models.dialogue.concepts import OPPOSITE_WORDS
from faceinsight_models.dialogue.outside import KINDS, words_of_questions
from faceinsight_models.nets.closeup import PARTS, CloseupNet
from faceinsight_models.nets.encoder import KnowledgeGraph
from faceinsight_models.nets.graphs import (
    write_closeup,
    write_detector,
    write_encoder,
    write_knowledge,
    write_parser,
    write_question,
)
from faceinsight_models.nets.question import SHARE
from faceinsight_models.parts import Trained
from faceinsight_models.specs import DETECTOR_SPEC, characteristic_specs, closeup_spec
from faceinsight_models.storage import CLOSEUP, DETECTOR, ENCODER, KNOWLEDGE, LLM, PARSER, QUESTION, WORDS
from faceinsight_models.taxonomy import MASK_CLASSES, REGIONS, RULES, SWITCHES
from faceinsight_models.train.conversation import DESCRIBED_FROM, DESCRIBED_SURE, LIST_FROM
from faceinsight_models.train.llm import PROMPT
from faceinsight_models.train.rounded import rounded

from .atomic import new_folder
from .card import CARD, licences, model_card, training_data
from .gguf.quantize import quantize, write_llama
from .onnx.fp16_weights import store_fp16
from .onnx.int8_weights import store_int8
from .parity.stages import ParityError, Stage, graph_stages, llm_stages
from .precisions import LLM_PRECISIONS

#: Relative to a stage's largest value. How weights are stored (8 bit in encoder and close-up, half precision elsewhere)
#: sets them, not the conversion: with float32 weights the graphs agree to 1e-5 (tests/export/test_bundle.py).
TOLERANCES = {
    "parser": 0.01,
    "encoder": 0.05,
    "closeup": 0.05,
    "knowledge": 0.005,
    "question": 0.005,
}
#: For an LLM whose reference computes with the same rounded weights: llama.cpp rounds what goes in, too.
ROUNDED = 0.1
#: Texts on which the float32 conversion is compared.
TEXTS = ("Is she wearing glasses?", "Describe this face. Ünïcode 123 <|im_end|>")
#: Answers of the kind the LLM is trained to give: where its quantized weights are compared with the reference.
SAMPLE_ANSWERS = ("No, the person is not wearing glasses.", "The person has wavy brown hair and is smiling.")
#: Characteristics and states of the findings in the prompt on which the LLM is compared.
SAMPLE_FINDINGS = ((0, 0), (15, 0), (24, 1), (31, 1))


def export_bundle(trained: Trained, out: Path, *, progress: Callable[[str], None] = lambda text: None) -> list[Stage]:
    """Write and verify a bundle.

    Args:
        trained: the finished parts of a training run.
        out: the bundle's folder; it must not exist.
        progress: called with the name of each part before it is written.

    Returns:
        The parity of each stage.

    Raises:
        FileExistsError: `out` exists already.
        ParityError: a stage is beyond its tolerance; then nothing is left behind.
    """
    with new_folder(out) as folder:
        writer = _BundleWriter(trained, folder, out.name)
        for name, write in writer.stages():
            progress(name)
            write()
        failed = [s for s in writer.parity if not s.passed]
        if failed:
            raise ParityError("parity failed:\n" + "\n".join(map(str, failed)))
        Bundle.open(folder)
    return writer.parity


class _BundleWriter:
    """One bundle: a method writes each part and compares it with the torch module that it came from.

    Attributes:
        parity: the comparisons made so far.
    """

    def __init__(self, trained: Trained, folder: Path, name: str) -> None:
        self.trained, self.folder, self.name = trained, folder, name
        self.parity: list[Stage] = []
        self._device = Device("cpu", False, max(1, torch.get_num_threads()))
        self._rng = np.random.default_rng(0)
        #: Encoder crops. Three at a time: the graphs are traced with two, and must take any number.
        self._pixels = self._random_pixels(trained.recipe.crop.encoder)
        llm = trained.recipe.llm
        width = trained.llm.config.hidden_size
        self._llm_spec = LlmSpec(LLM, width, llm.context, PROMPT, llm.max_question, llm.max_answer)

    def stages(self) -> Iterable[tuple[str, Callable[[], None]]]:
        """The parts in the order in which they are written, and their names."""
        yield "detector", self.detector
        yield "parser", self.parser
        yield "encoder", self.encoder
        if closeup := self.trained.closeup:
            yield "close-up", lambda: self.closeup(closeup)
        yield "knowledge", self.knowledge
        yield "question", self.question
        yield f"llm ({self.trained.recipe.llm.quantization})", self.llm
        yield "manifest", self.manifest

    def detector(self) -> None:
        """YuNet, for pictures of any size."""
        write_detector(self.trained.detector, self.folder / DETECTOR)

    def parser(self) -> None:
        """The face parser, weights in half precision."""
        size = self.trained.recipe.crop.parser
        module = write_parser(self.trained.parser, self.folder / PARSER, size=size)
        store_fp16(self.folder / PARSER)
        self._compare(module, PARSER, {"pixels": self._random_pixels(size)}, ["label_map"], TOLERANCES["parser"])

    def encoder(self) -> None:
        """The encoder, weights in 8 bits."""
        crop, path = self.trained.recipe.crop, self.folder / ENCODER
        module = write_encoder(
            self.trained.encoder, self.trained.adapter, path, size=crop.encoder, map_size=crop.parser
        )
        store_int8(path)
        blocks = self._rng.integers(0, len(MASK_CLASSES), (3, 8, 8)).astype(np.uint8)
        inputs = {
            "pixels": self._pixels,
            "label_map": np.kron(blocks, np.ones((1, crop.parser // 8, crop.parser // 8), np.uint8)),
            "characteristics": np.arange(len(self.trained.calibration)),
        }
        outputs = ["logits", "image_tokens", "region_tokens", "region_area"]
        self._compare(module, ENCODER, inputs, outputs, TOLERANCES["encoder"])

    def closeup(self, closeup: CloseupNet) -> None:
        """The close-up, weights in 8 bits."""
        size, path = self.trained.recipe.closeup.size, self.folder / CLOSEUP
        module = write_closeup(closeup, path, size=size)
        store_int8(path)
        parts: NDArray[np.int64] = np.arange(sum(PARTS.values()))
        inputs: dict[str, NDArray[Any]] = {"pixels": self._random_pixels(size), "outputs": parts}
        self._compare(module, CLOSEUP, inputs, ["logits"], TOLERANCES["closeup"])

    def knowledge(self) -> None:
        """Knowledge tokens, weights in half precision."""
        path = self.folder / KNOWLEDGE
        module = write_knowledge(self._refined_text(), self.trained.adapter, path)
        store_fp16(path)
        ids = np.arange(len(self.trained.calibration))
        inputs = {"characteristics": ids, "states": ids % len(STATES)}
        self._compare(module, KNOWLEDGE, inputs, ["knowledge_tokens"], TOLERANCES["knowledge"])

    def question(self) -> None:
        """The question encoder, weights in half precision, and the words that it knows."""
        tokens, path = self.trained.vocabulary.tokens, self.folder / QUESTION
        module = write_question(self.trained.question, path)
        store_fp16(path)
        (self.folder / WORDS).write_text(words_of_questions(tokens), encoding="utf-8")
        inputs = {"tokens": self._rng.integers(0, len(tokens), (3, 11))}
        self._compare(module, QUESTION, inputs, ["relevance", "kinds"], TOLERANCES["question"])

    def llm(self) -> None:
        """The LLM: the float32 conversion must be exact, the quantized file near it where it was trained to speak."""
        quantization, fp32 = self.trained.recipe.llm.quantization, self.folder / "llm-f32.gguf"
        write_llama(self.trained.llm, self.trained.vocabulary, fp32, name=self.name)
        quantize(fp32, self.folder / LLM, quantization)
        with torch.no_grad():
            prompt = self._prompt_embeddings()
        self._compare_llm("f32", fp32, TEXTS, prompt)
        self._compare_llm(quantization, self.folder / LLM, SAMPLE_ANSWERS, prompt)
        fp32.unlink()

    def manifest(self) -> None:
        """Model card and manifest."""
        (self.folder / CARD).write_text(model_card(self.trained, self.name, self.parity))
        (self.folder / MANIFEST).write_text(self._manifest().to_json())

    def _random_pixels(self, size: int) -> NDArray[np.float32]:
        """(3,3,size,size)."""
        return self._rng.normal(0, 0.6, (3, 3, size, size)).astype(np.float32)

    def _compare(
        self, module: Any, file: str, inputs: dict[str, NDArray[Any]], outputs: Sequence[str], tolerance: float
    ) -> None:
        self.parity += graph_stages(module, self.folder / file, inputs, outputs, tolerance, self._device)

    def _compare_llm(self, precision: str, path: Path, texts: Sequence[str], prompt: NDArray[Any]) -> None:
        # The LLM learned on the weights that are shipped; what it would say with others says nothing.
        trained_so = precision == "q4_0"
        with rounded(self.trained.llm.model.layers) if trained_so else nullcontext():
            stages = llm_stages(
                self.trained.llm,
                _plain_tokenizer(self.trained),
                path,
                self._llm_spec,
                prompt,
                texts,
                ROUNDED if trained_so else LLM_PRECISIONS[precision].tolerance,
                self._device,
                rms=precision != "f32",
            )
        self.parity += [Stage(f"{s.name} {precision}", s.cosine, s.error, s.tolerance) for s in stages]

    def _refined_text(self) -> torch.Tensor:
        """T^L (N,dt)."""
        with torch.no_grad():
            return torch.as_tensor(self.trained.encoder.head.ccm())

    def _prompt_embeddings(self) -> NDArray[np.float32]:
        """(L,width) embeddings of a whole prompt about a face, laid out as the runtime does."""
        trained, tokenizer = self.trained, self.trained.vocabulary.tokenizer()

        def text(words: str) -> torch.Tensor:
            return torch.as_tensor(trained.llm.model.embed_tokens(torch.tensor(tokenizer.encode(words).ids)))

        blocks = torch.randint(0, len(MASK_CLASSES), (1, 8, 8), generator=torch.Generator().manual_seed(0))
        label_map = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
        features = trained.encoder.features(torch.from_numpy(self._pixels[:1]), label_map)
        face = [trained.adapter.image_tokens(features)[0], trained.adapter.region_tokens(features)[0]]
        ids, states = torch.tensor(SAMPLE_FINDINGS).unbind(1)
        findings = KnowledgeGraph(self._refined_text(), trained.adapter)(ids, states)
        question = text(PROMPT.after_face + "Describe this face.")
        parts = [text(PROMPT.before_face), *face, question, findings, text(PROMPT.before_answer)]
        return np.asarray(torch.cat(parts).numpy(), np.float32)

    def _manifest(self) -> Manifest:
        trained, crop, llm = self.trained, self.trained.recipe.crop, self._llm_spec
        patches = (crop.encoder // 32) ** 2
        mean, std = (MEAN, MEAN, MEAN), (STD, STD, STD)
        files = {
            p.name: FileEntry(hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size)
            for p in sorted(self.folder.iterdir())
        }
        template = [(float(x), float(y)) for x, y in crop.template]
        return Manifest(
            format=FORMAT,
            version=VERSION,
            min_runtime=__version__,
            name=self.name,
            created=datetime.date.today().isoformat(),
            files=files,
            detector=DETECTOR_SPEC,
            crop=CropSpec((template[0], template[1], template[2], template[3], template[4])),
            parser=ParserSpec(PARSER, crop.parser, mean, std, MASK_CLASSES),
            encoder=EncoderSpec(ENCODER, crop.encoder, mean, std, patches, llm.width),
            closeup=closeup_spec(trained.recipe) if trained.closeup else None,
            knowledge=KnowledgeSpec(KNOWLEDGE, STATES),
            question=QuestionSpec(
                QUESTION,
                LIST_FROM,
                share=SHARE,
                kinds=KINDS,
                opposites=OPPOSITE_WORDS,
                words=WORDS,
                uncased=True,
                described_from=DESCRIBED_FROM,
                described_sure=DESCRIBED_SURE,
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
            parity={s.name: round(s.error, 8) for s in self.parity},
        )


class _PlainTokenizer:
    """Tokenizes as the runtime does a user's text: control tokens are plain characters."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> Any:
        """The tokenizers library's encoding."""
        return self._tokenizer.encode(text)


def _plain_tokenizer(trained: Trained) -> _PlainTokenizer:
    return _PlainTokenizer(trained.vocabulary.tokenizer())
