"""The bundle `nano` on torch and transformers: the same weights, and of our runtime only what needs no inference.

Detection, alignment, labels and rules are the runtime's own (OpenCV and numpy); every network runs in torch, the LLM in
transformers. llama.cpp's CLIP format does not hold such an encoder, so its chat handler and server cannot take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.tokenizer import as_uncased
from faceinsight.backends.session import TensorInfo
from faceinsight.bundle.bundle import Bundle
from faceinsight.language.question_encoder import QuestionEncoder
from faceinsight.perception.detector import FaceDetector
from faceinsight.perception.encoders import FaceEncoders
from faceinsight.perception.image import load_image
from faceinsight.perception.pipeline import Perception
from greedy import Greedy, shorten

WEIGHTS = Path(__file__).parents[2] / "models" / "weights" / "nano.pt"


def write(folder: Path) -> None:
    """What somebody on transformers would have: the parts' state dicts, and the LLM as save_pretrained writes it."""
    from faceinsight_models.nets.llm import load_gguf
    from faceinsight_models.weights import unpack

    bundle = Bundle.open("nano")
    unpack(WEIGHTS, "nano", folder)
    load_gguf(bundle.file(bundle.manifest.llm.file)).save_pretrained(folder / "llm")


class TorchSession:
    """A torch module where the runtime expects a session."""

    def __init__(self, module: Any, inputs: Sequence[str], outputs: Sequence[str], shapes: dict[str, int]) -> None:
        """shapes: number of axes of each value."""
        self._module, self._inputs, self._outputs = module.eval(), inputs, outputs
        self._shapes = shapes

    def get_inputs(self) -> list[TensorInfo]:
        """Names, and as many free axes as each has."""
        return [TensorInfo(n, (None,) * self._shapes[n]) for n in self._inputs]

    def get_outputs(self) -> list[TensorInfo]:
        """Names, and as many free axes as each has."""
        return [TensorInfo(n, (None,) * self._shapes[n]) for n in self._outputs]

    def get_providers(self) -> list[str]:
        """What computes."""
        return ["torch"]

    def run(self, names: Sequence[str] | None, feeds: dict[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Outputs of these names; None: all."""
        import torch

        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(np.ascontiguousarray(feeds[n])) for n in self._inputs))
        found = found if isinstance(found, tuple) else (found,)
        by_name = dict(zip(self._outputs, found, strict=True))
        return [by_name[n].numpy() for n in names or self._outputs]


class NanoTokenizer:
    """nano's tokenizer from the tokenizers library, with the methods of the runtime's."""

    def __init__(self, path: Path) -> None:
        from faceinsight_models.nets.llm import BpeVocabulary

        self._tokenizer = BpeVocabulary.load(path).tokenizer()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text).ids)

    def encode_question(self, question: str, after: str | None = None, *, uncased: bool = False) -> list[int]:
        """Token ids of a question that follows no other."""
        return self.encode(as_uncased(question) if uncased else question)

    def text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


class TransformersNano(Greedy):
    """best: it keeps the keys and values of the last face by hand; else every question begins at the pixels."""

    def __init__(self, folder: Path, *, best: bool) -> None:
        import torch
        from transformers import LlamaForCausalLM

        from faceinsight.host.machine import cores
        from faceinsight.types import STATES
        from faceinsight_models.nets.closeup import CloseupGraph
        from faceinsight_models.nets.encoder import EncoderGraph, KnowledgeGraph
        from faceinsight_models.nets.parser import LabelMap
        from faceinsight_models.parts import load_closeup, load_encoder, load_parser, load_question
        from faceinsight_models.recipe import Recipe
        from faceinsight_models.train.build import build_adapter

        torch.set_num_threads(cores())
        self._torch, self._best = torch, best
        recipe, bundle = Recipe.load("nano"), Bundle.open("nano")
        m = bundle.manifest
        self._model = LlamaForCausalLM.from_pretrained(folder / "llm", torch_dtype=torch.float32).eval()
        encoder = load_encoder(folder, recipe, "base.pt")
        adapter = build_adapter(
            text_width=recipe.encoder.text_width,
            segmentation=recipe.encoder.segmentation_width,
            states=len(STATES),
            width=self._model.config.hidden_size,
        )
        adapter.load_state_dict(torch.load(folder / "align.pt", weights_only=True))
        detector = FaceDetector(m.detector, Device("cpu", False, cores()).session(bundle.file(m.detector.file)))
        axes = {
            "pixels": 4,
            "label_map": 3,
            "characteristics": 1,
            "outputs": 1,
            "states": 1,
            "tokens": 2,
            "logits": 2,
            "image_tokens": 3,
            "region_tokens": 3,
            "region_area": 2,
            "knowledge_tokens": 2,
            "relevance": 2,
            "kinds": 2,
        }
        parser = TorchSession(LabelMap(load_parser(folder)), ["pixels"], ["label_map"], axes)
        seen = ["logits", "image_tokens", "region_tokens", "region_area"]
        graph = TorchSession(EncoderGraph(encoder, adapter), ["pixels", "label_map", "characteristics"], seen, axes)
        knowledge = KnowledgeGraph(encoder.head.ccm(), adapter)
        knowledge_session = TorchSession(knowledge, ["characteristics", "states"], ["knowledge_tokens"], axes)
        closer = TorchSession(CloseupGraph(load_closeup(folder)), ["pixels", "outputs"], ["logits"], axes)
        self._perception = Perception(m, detector, FaceEncoders(m, parser, graph, knowledge_session, closer))
        self._tokens = NanoTokenizer(folder / "vocabulary.json")
        question = TorchSession(load_question(folder), ["tokens"], ["relevance", "kinds"], axes)
        tokens: Any = self._tokens
        self._questions = QuestionEncoder(
            m,
            question,
            tokens,
            tokens,
            self._perception.characteristic_ids,
            self._perception.encoders.knowledge_tokens(),
        )
        self._prompt = m.llm.prompt
        self._known: tuple[Any, Any, Any, int] | None = None

    def show(self, picture: Path) -> Any:
        return load_image(picture)

    def _rows(self, *parts: Any) -> Any:
        """Embeddings (1,T,width) of texts and of rows that are embeddings already."""
        torch, table = self._torch, self._model.get_input_embeddings()
        rows = [
            table(torch.tensor(self._tokens.encode(p))) if isinstance(p, str) else torch.from_numpy(p)
            for p in parts
            if len(p)
        ]
        return torch.cat(rows)[None]

    def _first(self, picture: Any, question: str) -> Any:
        """The LLM's output behind a question."""
        if not self._best or self._known is None or self._known[0] is not picture:
            (face,) = self._perception.perceive(picture)
            prefix = self._rows(self._prompt.before_face, face.tokens, self._prompt.after_face)
            past = self._model(inputs_embeds=prefix, use_cache=True)[self._cache]
            self._known = (picture, face, past, past.get_seq_length())
        _, face, past, length = self._known
        shorten(past, length)
        findings = self._questions.findings(face, self._questions.label_ids(question))
        asked = self._rows(question, findings, self._prompt.before_answer)
        return self._model(inputs_embeds=asked, use_cache=True, **{self._cache: past})
