"""What ran, where and how: read from what is loaded, not from what was asked for."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from .._version import __version__
from ..backends.device import Device
from ..backends.llama_cpp.bindings import import_llama, llama_version
from ..backends.ort import PROVIDERS, import_onnxruntime
from ..bundle.bundle import Bundle
from ..bundle.gguf_header import GgufHeader
from ..bundle.onnx_header import OnnxHeader
from ..errors import DeviceError
from ..host.jetson import read_jetson
from ..host.machine import cores
from .nvml import Nvml
from .result import Conditions
from .state import governor, machine

#: ggml's types by number (ggml.h, enum ggml_type).
GGML = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    20: "IQ4_NL",
    23: "IQ4_XS",
    30: "BF16",
}
#: onnx.TensorProto.DataType.
ONNX = {1: "float32", 2: "uint8", 3: "int8", 10: "float16", 16: "bfloat16", 21: "uint4", 22: "int4"}


def require_active(device: Device, providers: Mapping[str, Sequence[str]]) -> None:
    """Raises DeviceError where a graph does not run on the device: its figures would pass for the device's.

    providers: graph file -> what is active, the first choice first.
    """
    for file, active in providers.items():
        native = device.name == "tensorrt" and active[0].startswith("TensorRT ")
        if active[0] != PROVIDERS[device.name] and not native:
            raise DeviceError(
                f"no figures: {file} runs on {active[0]}, the device is {device.name!r}. `faceinsight doctor` says "
                "why; --device cpu measures the CPU"
            )


def conditions(
    *,
    bundle: Bundle,
    asked: str,
    device: Device,
    providers: dict[str, tuple[str, ...]],
    gpu_layers: int,
    photo: Path,
    photo_size: tuple[int, int],
    faces: int,
    question: str,
    rounds: int,
    nvml: Nvml | None,
    root: Path,
) -> Conditions:
    """Everything that a figure depends on. root: where the machine's /etc, /proc and /sys are."""
    jetson = read_jetson(root)
    board = jetson.model if jetson else None
    return Conditions(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine(root),
        cores=cores(),
        threads=device.threads,
        asked=asked,
        device=device.name,
        providers=providers,
        gpu=(nvml.name() if nvml else board) if device.name != "cpu" or device.llm_on_gpu else None,
        llm_on_gpu=device.llm_on_gpu,
        gpu_layers=gpu_layers,
        llama_build=_llama_build(),
        versions=_versions(providers) | ({"Jetson Linux": jetson.l4t} if jetson and jetson.l4t else {}),
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        quantisation=quantisation(bundle),
        power_mode=jetson.mode if jetson else None,
        governor=governor(root),
        photo=photo.name,
        photo_sha256=hashlib.sha256(photo.read_bytes()).hexdigest(),
        photo_size=photo_size,
        faces=faces,
        question=question,
        rounds=rounds,
    )


def quantisation(bundle: Bundle) -> dict[str, str]:
    """How each model file stores most of its weights, by bytes; of a GGUF the bits per weight too."""
    out = {}
    for name in bundle.manifest.files:
        kinds: Counter[str] = Counter()
        if name.endswith(".gguf"):
            header = GgufHeader.read(bundle.file(name))
            for tensor in header.tensors:
                kinds[GGML.get(tensor.kind, f"ggml type {tensor.kind}")] += tensor.bytes
            if not header.tensors:
                continue  # a vocabulary alone
            bits = f", {8 * sum(kinds.values()) / header.parameters:.1f} bits a weight"
        elif name.endswith(".onnx"):
            for weight in OnnxHeader.read(bundle.file(name)).weights.values():
                if weight.kind in ONNX:
                    kinds[ONNX[weight.kind]] += weight.bytes({})
            bits = ""
        if kinds:
            out[name] = kinds.most_common(1)[0][0] + bits
    return out


def _llama_build() -> str:
    """Backends and instruction sets that this llama.cpp uses here: two builds of one version differ by factors."""
    text = import_llama().llama_print_system_info().decode("utf-8", "replace")
    return " ".join(part.strip().replace(" = 1", "") for part in text.split("|") if part.strip())


def _versions(providers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    import cv2
    import numpy

    out = {
        "faceinsight": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": import_onnxruntime().__version__,
        "llama-cpp-python": llama_version(),
    }
    native = next((p[0] for p in providers.values() if p[0].startswith("TensorRT ")), None)
    return out | ({"tensorrt": native.removeprefix("TensorRT ")} if native else {})
