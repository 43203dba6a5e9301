"""A bundle of random weights, made in a second: for tests of decoding, caches, threads and policy, which must not move
with each training of the shipped one.

It has the shipped bundle's detector, tokenizer, characteristics and prompt; everything else is small and seeded. Its
graphs are plain ONNX: the parser calls bright pixels skin, the encoder multiplies a crop's mean colour by random
weights, the question encoder knows the words that each characteristic is mentioned by. What its LLM says is gibberish,
always the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from faceinsight.backends.llama_cpp.tokenizer import GgufTokenizer
from faceinsight.bundle.bundle import MANIFEST, Bundle
from faceinsight.bundle.manifest import Manifest
from faceinsight.bundle.specs import FileEntry
from faceinsight.types import STATES

#: Embedding width, layers, heads and feed-forward width of the LLM; side of both crops; image tokens of a face.
WIDTH, LAYERS, HEADS, FEED_FORWARD, SIDE, IMAGE_TOKENS = 64, 2, 4, 128, 64, 4
FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8


def make(folder: Path, *, seed: int = 0) -> Path:
    """Write the bundle into a new folder; returns it."""
    folder.mkdir(parents=True)
    shipped = Bundle.open("nano")
    rng = np.random.default_rng(seed)
    shutil.copyfile(shipped.file("detector.onnx"), folder / "detector.onnx")
    write_llm(folder / "llm.gguf", shipped.file("llm.gguf"), rng)
    m = shipped.manifest
    regions, n = len(m.regions), len(m.characteristics)
    write_parser(folder / "parser.onnx")
    write_encoder(folder / "encoder.onnx", rng, n, regions)
    write_knowledge(folder / "knowledge.onnx", rng, n)
    write_question(folder / "question.onnx", folder / "llm.gguf", m)
    files = {p.name: FileEntry(hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size) for p in folder.iterdir()}
    plain = [dataclasses.replace(c, covered_by=(), poor=None) for c in m.characteristics]
    manifest = dataclasses.replace(
        m,
        name="tiny",
        files=dict(sorted(files.items())),
        parser=dataclasses.replace(m.parser, size=SIDE),
        encoder=dataclasses.replace(m.encoder, size=SIDE, image_tokens=IMAGE_TOKENS, width=WIDTH),
        question=dataclasses.replace(m.question, kinds=(), words=None),
        characteristics=tuple(plain),
        llm=dataclasses.replace(m.llm, width=WIDTH, max_answer=24),
        closeup=None,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def write_llm(path: Path, shipped: Path, rng: np.random.Generator) -> None:
    """A Llama of random weights in float32, with the tokenizer of another GGUF."""
    writer, reader = GGUFWriter(path, "llama"), GGUFReader(shipped)
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].contents())
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(n_vocab)

    def add(name: str, *shape: int) -> None:
        scale = 1.0 if name == "token_embd" else 1.5 * shape[-1] ** -0.5
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, scale, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    add("token_embd", n_vocab, WIDTH)
    add("output_norm", WIDTH)
    add("output", n_vocab, WIDTH)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{name}", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}", WIDTH, WIDTH)
        add(f"blk.{i}.ffn_gate", FEED_FORWARD, WIDTH)
        add(f"blk.{i}.ffn_up", FEED_FORWARD, WIDTH)
        add(f"blk.{i}.ffn_down", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_parser(path: Path) -> None:
    """Bright pixels are skin (class 1), others background."""
    shape = ["batch", 3, SIDE, SIDE]
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "channel"], ["brightness"], keepdims=0),
        helper.make_node("Greater", ["brightness", "zero"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["label_map"], to=UINT8),
    ]
    constants = {"channel": np.array([1]), "zero": np.float32(0)}
    _save(path, nodes, [("pixels", FLOAT, shape)], [("label_map", UINT8, ["batch", SIDE, SIDE])], constants)


def write_encoder(path: Path, rng: np.random.Generator, n: int, regions: int) -> None:
    """Mean colour (B,3) times random weights: logits, image and region tokens; every region has a tenth of the crop."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "to_logits"], ["all"]),
        helper.make_node("Gather", ["all", "characteristics"], ["logits"], axis=1),
        helper.make_node("MatMul", ["mean", "to_area"], ["none"]),
        helper.make_node("Add", ["none", "tenth"], ["region_area"]),
        # So that the label map is an input that matters.
        helper.make_node("Cast", ["label_map"], ["map"], to=FLOAT),
        helper.make_node("ReduceMean", ["map", "map_axes"], ["share"], keepdims=1),
        helper.make_node("Reshape", ["share", "column"], ["bright"]),
        helper.make_node("Concat", ["mean", "bright"], ["seen"], axis=1),
    ]
    constants: dict[str, NDArray[Any]] = {
        "axes": np.array([2, 3]),
        "map_axes": np.array([1, 2]),
        "column": np.array([-1, 1]),
        "to_logits": rng.normal(0, 4, (3, n)).astype(np.float32),
        "to_area": np.zeros((3, regions), np.float32),
        "tenth": np.full(regions, 0.1, np.float32),
    }
    for name, count in (("image_tokens", IMAGE_TOKENS), ("region_tokens", regions)):
        constants[f"to_{name}"] = rng.normal(0, 2, (4, count * WIDTH)).astype(np.float32)
        constants[f"{name}_shape"] = np.array([-1, count, WIDTH])
        nodes.append(helper.make_node("MatMul", ["seen", f"to_{name}"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    inputs = [
        ("pixels", FLOAT, ["batch", 3, SIDE, SIDE]),
        ("label_map", UINT8, ["batch", SIDE, SIDE]),
        ("characteristics", INT64, ["count"]),
    ]
    outputs = [
        ("logits", FLOAT, ["batch", "count"]),
        ("region_area", FLOAT, ["batch", regions]),
        ("image_tokens", FLOAT, ["batch", IMAGE_TOKENS, WIDTH]),
        ("region_tokens", FLOAT, ["batch", regions, WIDTH]),
    ]
    _save(path, nodes, inputs, outputs, constants)


def write_knowledge(path: Path, rng: np.random.Generator, n: int) -> None:
    """A random vector for each characteristic, and one for each state."""
    nodes = [
        helper.make_node("Gather", ["words", "characteristics"], ["who"]),
        helper.make_node("Gather", ["values", "states"], ["what"]),
        helper.make_node("Add", ["who", "what"], ["knowledge_tokens"]),
    ]
    constants = {
        "words": rng.normal(0, 2, (n, WIDTH)).astype(np.float32),
        "values": rng.normal(0, 2, (len(STATES), WIDTH)).astype(np.float32),
    }
    inputs = [("characteristics", INT64, ["count"]), ("states", INT64, ["count"])]
    _save(path, nodes, inputs, [("knowledge_tokens", FLOAT, ["count", WIDTH])], constants)


def write_question(path: Path, llm: Path, manifest: Manifest) -> None:
    """A question is about what it mentions: relevance is the highest of its tokens'."""
    tokenizer = GgufTokenizer(llm, follow="\n", max_question=96)
    table = np.full((tokenizer.n_vocab, len(manifest.characteristics)), -1, np.float32)
    for i, c in enumerate(manifest.characteristics):
        for word in c.mentions:
            table[tokenizer.encode(f" {word}")[-1:], i] = 1
    everything = [not c.group for c in manifest.characteristics]
    table[tokenizer.encode("Describe")[0]] = np.where(everything, 1, -1)
    tokenizer.close()
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["each"]),
        helper.make_node("ReduceMax", ["each", "length"], ["relevance"], keepdims=0),
    ]
    outputs = [("relevance", FLOAT, ["batch", len(manifest.characteristics)])]
    _save(path, nodes, [("tokens", INT64, ["batch", "length"])], outputs, {"table": table, "length": np.array([1])})


Value = tuple[str, int, Sequence[str | int]]


def _save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, NDArray[Any]],
) -> None:
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    ends = [[helper.make_tensor_value_info(*x) for x in side] for side in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), path.stem, *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
