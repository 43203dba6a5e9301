"""Which graphs ONNX Runtime runs on the GPU: what its CUDA provider lacks goes to the CPU without a word.

`get_providers()` names CUDA first all the same, and each operator that is left out costs two copies and a wait.
"""

from __future__ import annotations

from pathlib import Path

from ..bundle.onnx_header import OnnxHeader
from ..errors import DeviceError

#: Arithmetic that the CUDA provider leaves to the CPU (docs/OperatorKernels.md of microsoft/onnxruntime). It has
#: MatMulInteger of int8 and int8 only, and DynamicQuantizeLinear gives uint8.
CPU_ONLY = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"})


def require_gpu_operators(model: Path) -> None:
    """Raises DeviceError for a graph that would compute on the CPU, BundleError for a file that is no ONNX model."""
    found = sorted({node.op for node in OnnxHeader.read(model).nodes} & CPU_ONLY)
    if found:
        raise DeviceError(
            f"{model.name} computes with {' and '.join(found)}, which ONNX Runtime has for the CPU only: it was "
            "exported for CPUs. Export it with --vision fp16 or int8-static for a GPU, or choose device='cpu'"
        )
