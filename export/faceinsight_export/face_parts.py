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
from faceinsight_models.storage import CLOSEUP, DETECTOR, ENCODER, KNOWLEDGE, PARSER, QUESTION, QUESTION_VOCABULARY

from .attach import Attached
from .gguf.quantize import gguf_vocabulary

#: What of the encoder's outputs does not depend on an LLM.
OUTPUTS = ("logits", "region_area")


def face_files(bundle: Bundle, attached: Attached | None) -> list[str]:
    """Names of the files that `take_face_parts` writes."""
    names = [DETECTOR, PARSER, ENCODER, QUESTION, QUESTION_VOCABULARY]
    return [*names, *([CLOSEUP] if bundle.manifest.closeup else []), *([KNOWLEDGE] if attached else [])]


def take_face_parts(bundle: Bundle, folder: Path, attached: Attached | None = None) -> None:
    """Write detector, parser, encoder, question encoder and its vocabulary; the close-up where the bundle has one; with
    an adapter, the knowledge graph (`face_files`)."""
    m = bundle.manifest
    parts = {DETECTOR: m.detector.file, PARSER: m.parser.file, QUESTION: m.question.file}
    if m.closeup:
        parts[CLOSEUP] = m.closeup.file
    for name, file in parts.items():
        shutil.copyfile(bundle.file(file), folder / name)
    if attached:
        attached.write(folder)
    else:
        cut(bundle.file(m.encoder.file), folder / ENCODER)
    write_vocabulary(BpeVocabulary.from_gguf(bundle.file(m.llm.file)), folder / QUESTION_VOCABULARY)


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
