"""What a bundle around a user's LLaVA takes from a FaceInsight bundle: detector, parser, knowledge head, questions.

The head and the question encoder were trained by this package and speak to any LLM: in words (`PromptSpec.findings`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import onnx

from faceinsight.bundle import Bundle
from faceinsight_models.llm import BpeVocabulary

from .gguf_file import vocabulary_of

VOCABULARY = "question.gguf"
#: What of the encoder's outputs does not depend on an LLM.
OUTPUTS = ("logits", "region_area")


def take_face_parts(bundle: Bundle, folder: Path) -> None:
    """Write detector.onnx, parser.onnx, encoder.onnx, question.onnx and question.gguf."""
    m = bundle.manifest
    for spec, name in ((m.detector, "detector.onnx"), (m.parser, "parser.onnx"), (m.question, "question.onnx")):
        shutil.copyfile(bundle.file(spec.file), folder / name)
    cut(bundle.file(m.encoder.file), folder / "encoder.onnx")
    write_vocabulary(BpeVocabulary.from_gguf(bundle.file(m.llm.file)), folder / VOCABULARY)


def cut(source: Path, target: Path) -> None:
    """The encoder without the outputs that are tokens for its own LLM, and without what only they need."""
    model = onnx.load(source)
    graph = model.graph
    kept = [o for o in graph.output if o.name in OUTPUTS]
    if len(kept) != len(OUTPUTS):
        found = ", ".join(o.name for o in graph.output)
        raise ValueError(f"{source} has outputs {found}; expected {' and '.join(OUTPUTS)} among them")
    del graph.output[:]
    graph.output.extend(kept)
    needed = set(OUTPUTS)
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    nodes.reverse()
    del graph.node[:]
    graph.node.extend(nodes)
    weights = [w for w in graph.initializer if w.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def write_vocabulary(vocabulary: BpeVocabulary, path: Path) -> None:
    """A GGUF with a vocabulary and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(vocabulary.tokens))
    vocabulary_of(vocabulary).add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
