"""The ONNX graphs of the recipe: their names, inputs and outputs are written here and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ..storage import IR_VERSION, OPSET
from .closeup import CloseupGraph, CloseupNet
from .encoder import Adapter, EncoderGraph, FaceEncoder, KnowledgeGraph, RegionGraph
from .parser import FaceParser, LabelMap
from .question import QuestionNet


def write_detector(yunet: Path, path: Path) -> None:
    """YuNet as it was published, for pictures of 640 x 640 px, as a graph for any size: input (1,3,H,W), H and W
    multiples of 32; its weights and operators are the same."""
    model = onnx.load(yunet)
    height, width = model.graph.input[0].type.tensor_type.shape.dim[2:]
    height.dim_param, width.dim_param = "height", "width"
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "cells" + output.name[output.name.rindex("_") :]
    # Sizes in between, of the one size.
    model.graph.ClearField("value_info")
    onnx.save(model, path)


def write_parser(parser: FaceParser, path: Path, *, size: int) -> nn.Module:
    """Pixels (B,3,size,size) -> label_map (B,size,size) uint8. Returns the torch module that the graph must equal."""
    module = LabelMap(parser).eval()
    _write(module, {"pixels": torch.zeros(2, 3, size, size)}, ("label_map",), path, batch=("pixels",))
    return module


def write_encoder(encoder: FaceEncoder, adapter: Adapter, path: Path, *, size: int, map_size: int) -> nn.Module:
    """pixels, label_map (B,map_size,map_size) uint8, characteristics (K,) -> logits, tokens and region areas."""
    module = EncoderGraph(encoder, adapter).eval()
    inputs = {
        "pixels": torch.zeros(2, 3, size, size),
        "label_map": torch.zeros(2, map_size, map_size, dtype=torch.uint8),
        "characteristics": torch.arange(5),
    }
    outputs = ("logits", "image_tokens", "region_tokens", "region_area")
    _write(module, inputs, outputs, path, batch=("pixels", "label_map"), count=("characteristics",))
    return module


def write_closeup(closeup: CloseupNet, path: Path, *, size: int) -> nn.Module:
    """Pixels (B,3,size,size), outputs (M,) -> logits (B,M)."""
    module = CloseupGraph(closeup).eval()
    inputs = {"pixels": torch.zeros(2, 3, size, size), "outputs": torch.arange(5)}
    _write(module, inputs, ("logits",), path, batch=("pixels",), count=("outputs",))
    return module


def write_regions(adapter: Adapter, path: Path, *, regions: int, region_width: int) -> nn.Module:
    """region_features (B,regions,region_width) -> region_tokens (B,regions,width)."""
    module = RegionGraph(adapter).eval()
    inputs = {"region_features": torch.zeros(2, regions, region_width)}
    _write(module, inputs, ("region_tokens",), path, batch=("region_features",))
    return module


def write_knowledge(text: Tensor, adapter: Adapter, path: Path) -> nn.Module:
    """Characteristics (K,), states (K,) -> knowledge_tokens (K,width); text (N,dt): refined features of all."""
    module = KnowledgeGraph(text, adapter).eval()
    inputs = {"characteristics": torch.arange(5), "states": torch.zeros(5, dtype=torch.int64)}
    _write(module, inputs, ("knowledge_tokens",), path, count=("characteristics", "states"))
    return module


def write_question(question: QuestionNet, path: Path) -> nn.Module:
    """Tokens (B,L) -> relevance (B,N) and kinds (B,M), one question per row, without padding."""
    module = question.eval()
    _write(
        module,
        {"tokens": torch.zeros(2, 7, dtype=torch.int64)},
        ("relevance", "kinds"),
        path,
        batch=("tokens",),
        length=True,
    )
    return module


def _write(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    path: Path,
    *,
    batch: tuple[str, ...] = (),
    count: tuple[str, ...] = (),
    length: bool = False,
) -> None:
    dims = {name: torch.export.Dim("batch") for name in batch} | {name: torch.export.Dim("count") for name in count}
    # Advice about the trace, and (onnx_ir) one line for each constant that is stored once instead of twice.
    for noisy in ("torch.onnx", "onnx_ir.passes.common.initializer_deduplication"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.onnx.export(
        module.to(memory_format=torch.contiguous_format),
        kwargs=inputs,
        f=path,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes={name: {0: dims[name]} | ({1: torch.export.Dim("length")} if length else {}) for name in inputs},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    _bare(path)


def _bare(path: Path) -> None:
    """Drop the exporter's notes: beside each node it writes the files and lines of the machine it ran on."""
    model = onnx.load(path)
    model.ir_version = IR_VERSION
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)
