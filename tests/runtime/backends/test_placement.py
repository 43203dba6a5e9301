"""Nothing falls to the CPU without a word: every graph against the operators that ONNX Runtime's CUDA provider has.

tests/data/cuda_operators.json holds those of them that our graphs use, by version and type.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from paths import ROOT

from faceinsight import DeviceError
from faceinsight.backends import device
from faceinsight.backends.device import Device
from faceinsight.backends.placement import CPU_ONLY, require_gpu_operators
from faceinsight.bundle.bundle import Bundle

KERNELS = json.loads((ROOT / "tests" / "data" / "cuda_operators.json").read_text())["operators"]


def type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()


def left_to_the_cpu(path: Path) -> set[str]:
    """Operators of a graph that have no CUDA kernel for their version and types."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    (opset,) = (o.version for o in model.opset_import if o.domain == "")
    graph = model.graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    kinds |= {t.name: t.data_type for t in graph.initializer}
    return {n.op_type for n in graph.node if not has_kernel(n, opset, kinds)}


def has_kernel(node: onnx.NodeProto, opset: int, kinds: dict[str, int]) -> bool:
    schema, kernel = onnx.defs.get_schema(node.op_type, opset, node.domain), KERNELS.get(node.op_type)
    if kernel is None:
        return False
    first, last = kernel["since"]
    taken = [
        (name, formal[min(i, len(formal) - 1)].type_str)
        for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs))
        for i, name in enumerate(names)
        if name
    ]
    fits = all(type_name(kinds[name]) in kernel["types"].get(t, [type_name(kinds[name])]) for name, t in taken)
    return first <= schema.since_version <= (last or schema.since_version) and fits


def require_all_or_refusal(path: Path) -> bool:
    """Was it refused? It must be, exactly if it would compute on the CPU."""
    if not (left := left_to_the_cpu(path)):
        require_gpu_operators(path)
        return False
    with pytest.raises(DeviceError) as raised:
        require_gpu_operators(path)
    assert all(op in str(raised.value) for op in left)
    return True


@pytest.mark.parametrize("name", Bundle.open("nano").graph_files)
def test_every_shipped_graph_runs_on_the_gpu(name: str):
    assert not require_all_or_refusal(Bundle.open("nano").file(name))


def test_the_graphs_of_the_small_bundle_run_on_the_gpu(tiny_bundle: Path):
    for path in sorted(tiny_bundle.glob("*.onnx")):
        if path.name != "detector.onnx":  # runs on the CPU
            assert not require_all_or_refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [None, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-static"])
def test_every_vision_encoder_runs_on_the_gpu_or_is_refused(
    precision: str, tokens: int | None, tmp_path: Path, vision_checkpoint
):
    from faceinsight_export.onnx.vision import write_vision

    source, images = vision_checkpoint
    path = tmp_path / "vision.onnx"
    write_vision(source, path, precision=precision, tokens=tokens, images=images, min_cosine=0)
    assert require_all_or_refusal(path) == (precision == "int8")


@pytest.fixture(scope="module")
def vision_checkpoint():
    """Tensors of a tiny random LLaVA-1.5, and pixels."""
    pytest.importorskip("transformers")
    import numpy as np
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from faceinsight_export.checkpoint.checkpoint import canonical

    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    llm = LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=llm, image_token_index=98))
    tensors = {canonical(name): t.detach().numpy() for name, t in model.state_dict().items()}

    class Checkpoint:
        config = model.config.to_dict()
        get = staticmethod(tensors.__getitem__)

    pixels = np.random.default_rng(0).normal(size=(4, 3, 56, 56)).astype(np.float32)
    Checkpoint.tensors = tensors
    return Checkpoint(), pixels


def test_the_table_knows_what_is_missing():
    """Of what is refused, the table has nothing but int8 x int8, and versions and types count."""
    assert CPU_ONLY & KERNELS.keys() == {"MatMulInteger"}
    assert KERNELS["MatMulInteger"]["types"]["T1"] == ["int8"]
    kinds = dict.fromkeys("xyz", TensorProto.UINT8)
    assert not has_kernel(helper.make_node("Equal", ["x", "y"], ["z"]), 18, kinds)
    assert not has_kernel(helper.make_node("Resize", ["x"], ["y"]), 19, kinds)
    assert has_kernel(helper.make_node("Resize", ["x"], ["y"]), 18, kinds)


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    """A product of float32 x (2,2) with int8 weights, quantized as it comes."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [2, 2]),
    ]
    weight = helper.make_tensor("w", TensorProto.INT8, [2, 2], [1, 2, 3, 4])
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "vision.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_device_asked_for_by_name_refuses_it(dynamic: Path, name: str):
    with pytest.raises(DeviceError, match=r"DynamicQuantizeLinear and MatMulInteger.*--vision fp16 or int8-static"):
        Device(name, True, 1).session(dynamic)


class Opened:
    """A session."""


def test_auto_runs_it_on_the_cpu_as_a_whole_and_says_so(dynamic: Path, caplog, monkeypatch):
    opened = []
    monkeypatch.setattr(device, "open_session", lambda model, name, **more: opened.append(name) or Opened())
    caplog.set_level(logging.WARNING)
    Device("cuda", True, 1, strict=False).session(dynamic)
    assert opened == ["cpu"]
    assert "vision.onnx on the CPU" in caplog.text
    Device("cpu", False, 1).session(dynamic)
    assert opened == ["cpu", "cpu"]
