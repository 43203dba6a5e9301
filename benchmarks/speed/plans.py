"""Which TensorRT plans can be built without a GPU, and how far TF32 and fp16 are from float32 in these graphs.

    make test-nvidia                                                          (installs the wheels into work/nvidia)
    work/nvidia/bin/python benchmarks/speed/plans.py --out plans.json

Plans of nano's graphs and of a tiny LLaVA's vision encoder are built through the package's own cache and child process,
by TensorRT-RTX's builder behind TensorRT's own Python bindings (nvidia_builder.py). No plan is run: that needs a GPU.

TensorRT multiplies float32 as TF32: operands rounded to 10 bits. That is emulated on the CPU: ONNX Runtime runs the
graph with the operands of all products rounded so. Graphs of float32 are also built in fp16: the graph that TensorRT is
given then runs with every tensor of it that is half rounded so. The figure is plan_check's, which new plans are
accepted by.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from faceinsight.backends.ort import open_session
from faceinsight.backends.plan_check import deviation
from faceinsight.backends.tensorrt.engines import TOLERANCE, EngineCache, key_of
from faceinsight.backends.tensorrt.half import HALF
from faceinsight.backends.tensorrt.rewrite import for_tensorrt
from faceinsight.backends.tensorrt.shapes import shapes_to_compare
from faceinsight.backends.tensorrt.target import EngineTarget
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.onnx_header import FLOAT, FLOAT16
from faceinsight.errors import DeviceError
from faceinsight_export.onnx.vision import write_vision
from nvidia_builder import RTX, make_tensorrt
from vision import Seeded, images, spec

#: Vision encoders: name -> precision, and the part of the image tokens that is kept.
VISION = {
    f"{precision}{', fewer tokens' if share > 1 else ''}": (precision, share)
    for precision in ("fp32", "fp16", "int8-static")
    for share in (1, 4)
}
#: What keys are made of where no GPU is.
NOWHERE = EngineTarget("0", 0, "none", 0, 0, 0, 0, integrated=False)
#: What has products of float32, by operator: the operands.
PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (0, 1)}


def write_tiny_vision(path: Path, precision: str, share: int = 1) -> None:
    """A vision encoder of random weights in the real layout, as an export writes it."""
    source = Seeded(tiny=True)
    tokens = None if share == 1 else spec(source).image_tokens // share
    write_vision(source, path, precision=precision, tokens=tokens, batch=1, images=images(source), min_cosine=0.0)


@contextmanager
def nvidia(folder: Path, wheels: Path) -> Iterator[EngineTarget]:
    """`tensorrt` for this process and its children; what plans are built for. Raises FileNotFoundError."""
    site = folder / "site"
    make_tensorrt(site, wheels, build=True)
    before = list(sys.path)
    sys.path[:0] = [str(site), str(wheels)]
    try:
        import tensorrt

        yield EngineTarget(tensorrt.__version__, 0, "none", 0, 0, 0, 0, integrated=False)
    finally:
        sys.path[:] = before


def build(model: Path, target: EngineTarget, folder: Path, *, precision: str = "fp32") -> dict[str, Any]:
    """Build a plan in a child process. Raises DeviceError with TensorRT's reason."""
    cache, key = EngineCache(folder, compare=lambda model, plan, key: None), key_of(model, target, precision=precision)
    began = time.perf_counter()
    plan = cache.build(key, model, lambda line: None)
    seconds = time.perf_counter() - began
    return {"plan MB": round(len(plan.data) / 1e6, 2), "seconds": round(seconds, 1)}


def with_tf32(model: Path, out: Path) -> bool:
    """The model with the operands of its products rounded to TF32; False where it has none of float32.

    x rounded to 11 bits, 10 of them stored, is (8193 x) - (8193 x - x) in float32 (Veltkamp's splitting).
    """
    proto = onnx.load(model)
    if _is_half(proto):
        return False
    factor = numpy_helper.from_array(np.array(2**13 + 1, np.float32), "tf32.factor")
    proto.graph.initializer.append(factor)
    nodes = []
    for number, node in enumerate(proto.graph.node):
        for place in PRODUCTS.get(node.op_type, ()):
            name = node.input[place]
            made = [f"tf32.{number}.{place}.{step}" for step in range(3)]
            nodes.append(helper.make_node("Mul", [name, "tf32.factor"], [made[0]]))
            nodes.append(helper.make_node("Sub", [made[0], name], [made[1]]))
            nodes.append(helper.make_node("Sub", [made[0], made[1]], [made[2]]))
            node.input[place] = made[2]
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, out)
    return any(node.op_type in PRODUCTS for node in nodes)


def _is_half(proto: Any) -> bool:
    """Does it compute in half precision?"""
    weights = {t.name: t.data_type for t in proto.graph.initializer}
    products = [n for n in proto.graph.node if n.op_type in PRODUCTS]
    return any(weights.get(name) == onnx.TensorProto.FLOAT16 for n in products for name in n.input)


def tf32_deviation(model: Path, folder: Path) -> float | None:
    """plan_check's figure of the graph in TF32, as emulated; None where it multiplies no float32."""
    rounded = folder / f"tf32-{model.name}"
    if not with_tf32(model, rounded):
        return None
    return _deviation(model, rounded)


def half_deviation(model: Path, folder: Path) -> float | None:
    """plan_check's figure of the graph in fp16, as emulated; None where nothing in it becomes half."""
    rounded = folder / f"fp16-{model.name}"
    return _deviation(model, rounded) if with_half(model, rounded) else None


def with_half(model: Path, out: Path) -> bool:
    """The graph that TensorRT is given in fp16, in float32 with every half tensor rounded; False where it has none.

    ONNX Runtime's CPU provider does not round by itself: it has few kernels for half precision, runs the others in
    float32, and drops the conversions between two of them. It keeps those that a graph states.
    """
    proto = onnx.load(for_tensorrt(model, out.with_suffix(".given"), half=True))
    halves = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    for weight in proto.graph.initializer:
        if weight.name in halves:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    nodes = []
    for node in proto.graph.node:
        rounding = []
        for place, name in enumerate(node.output):
            if name.endswith(HALF):
                node.output[place] = f"{name}.exact"
                rounding.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=FLOAT16))
                rounding.append(helper.make_node("Cast", [f"{name}.rounded"], [name], to=FLOAT))
        if rounding and node.op_type == "Cast":
            node.attribute[0].i = FLOAT
        nodes += [node, *rounding]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, out)
    return bool(halves)


def _deviation(model: Path, emulated: Path) -> float:
    session = open_session(emulated, "cpu", threads=2, strict=True)
    return deviation(model, session, shapes_to_compare(key_of(model, NOWHERE).profile))


def precisions(graph: str) -> tuple[str, ...]:
    """What plans of a graph are built in: one that states types of its own stays as it is."""
    return ("fp32",) if "fp16" in graph or "int8" in graph else ("fp32", "fp16")


EMULATED = {"fp32": tf32_deviation, "fp16": half_deviation}


def graphs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every graph that a plan is built of."""
    bundle = Bundle.open("nano")
    for name in bundle.graph_files:
        yield f"nano, {name}", bundle.file(name)
    for name, (precision, share) in VISION.items():
        path = folder / f"vision-{precision}-{share}.onnx"
        write_tiny_vision(path, precision, share)
        yield f"tiny vision encoder, {name}", path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    installed = Path(sysconfig.get_path("purelib"))
    parser.add_argument("--wheels", type=Path, default=installed, help="where they are installed (with this Python)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, nvidia(Path(name), args.wheels) as target:
        folder, rows = Path(name), []
        for graph, path in graphs(folder):
            for precision in precisions(graph):
                row = {"graph": graph, "ONNX MB": round(path.stat().st_size / 1e6, 2), "precision": precision}
                row |= build(path, target, folder / "engines", precision=precision)
                row["emulated on the CPU"] = EMULATED[precision](path, folder)
                rows.append(row)
                print(row, flush=True)
        int8 = folder / "vision.onnx"
        write_tiny_vision(int8, "int8")
        try:
            build(int8, target, folder / "engines")
        except DeviceError as e:
            refused = str(e)
        else:
            raise SystemExit("an int8 encoder for CPUs was built: nothing refused it")
    library = next((args.wheels / RTX).glob("libtensorrt_rtx.so.*")).name
    result = {
        "bindings": target.version,
        "builder": f"TensorRT-RTX {library.removeprefix('libtensorrt_rtx.so.')}",
        "tolerance": TOLERANCE,
        "graphs": rows,
        "tiny vision encoder, int8": refused,
        "executed on a GPU": False,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
