"""What a bundle around a user's LLaVA takes from a FaceInsight bundle: detector, parser, knowledge head, questions.

The head and the question encoder were trained by this package and speak to any LLM: in words (`PromptSpec.findings`),
or in region and knowledge tokens where an adapter was trained for it (attach.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import onnx

from faceinsight.bundle.bundle import Bundle
from faceinsight_models.llava.region_features import pruned
from faceinsight_models.nets.llm import BpeVocabulary

from .attach import Attached
from .gguf.quantize import gguf_vocabulary

VOCABULARY = "question.gguf"
#: What of the encoder's outputs does not depend on an LLM.
OUTPUTS = ("logits", "region_area")


def take_face_parts(bundle: Bundle, folder: Path, attached: Attached | None = None) -> None:
    """Write detector.onnx, parser.onnx, encoder.onnx, question.onnx, question.gguf; closeup.onnx where the bundle has
    one; with an adapter, knowledge.onnx."""
    m = bundle.manifest
    parts = {"detector.onnx": m.detector.file, "parser.onnx": m.parser.file, "question.onnx": m.question.file}
    if m.closeup:
        parts["closeup.onnx"] = m.closeup.file
    for name, file in parts.items():
        shutil.copyfile(bundle.file(file), folder / name)
    if attached:
        attached.write(folder)
    else:
        cut(bundle.file(m.encoder.file), folder / "encoder.onnx")
    write_vocabulary(BpeVocabulary.from_gguf(bundle.file(m.llm.file)), folder / VOCABULARY)


def cut(source: Path, target: Path) -> None:
    """The encoder without the outputs that are tokens for its own LLM, and without what only they need."""
    try:
        onnx.save(pruned(onnx.load(source), OUTPUTS), target)
    except ValueError as e:
        raise ValueError(f"{source} is {e}") from None


def write_vocabulary(vocabulary: BpeVocabulary, path: Path) -> None:
    """A GGUF with a vocabulary and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(vocabulary.tokens))
    gguf_vocabulary(vocabulary).add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
