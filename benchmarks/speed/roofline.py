"""How near do parser, encoder and LLM come to what this machine can compute?

    python benchmarks/speed/roofline.py --out roofline.json

Floating-point operations of convolutions and matrix products are counted from the graphs' shapes; the roof is a plain
float32 matrix product in the same ONNX Runtime with the same threads. Depthwise convolutions cannot reach it: they move
more bytes than they compute. Of the LLM, the operations of a face's prefix, of a question and of a token are counted,
beside that roof and beside the speed at which memory is read: each of them needs all weights once. Quantized weights
may go above the float32 roof. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

# Before ONNX Runtime: it switches the telemetry off.
from faceinsight import __version__

# isort: split

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.loader import load_llm
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.gguf_header import GgufHeader
from faceinsight.host.machine import cores
from faceinsight.language.generation import AnswerGenerator

ROUNDS, SIDE = 40, 1024
#: Rows of a question with its findings.
QUESTION = 24


def operations(path: Path, feeds: dict[str, Any]) -> dict[str, float]:
    """Operator -> multiplications and additions of a run on these inputs, depthwise convolutions apart."""
    model = onnx.load(path)
    counted = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    # Shapes as they are, not as they are stated: every value in question becomes an output of one run.
    made = {o for n in model.graph.node for o in n.output}
    names = list(dict.fromkeys(v for n in counted for v in (n.input[0], n.output[0]) if v in made))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {n: v.shape for n, v in zip(names, session.run(names, feeds), strict=True)}
    shapes |= {n: v.shape for n, v in feeds.items()}
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer}
    # Weights stored in half precision are cast first.
    weights |= {
        n.output[0]: weights[n.input[0]] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in weights
    }
    out: dict[str, float] = {}
    for node in counted:
        size = float(np.prod(shapes[node.output[0]]))
        if node.op_type == "Conv":
            weight = weights[node.input[1]]
            name, each = "depthwise Conv" if weight[1] == 1 else "Conv", float(np.prod(weight[1:]))
        else:
            name, each = "MatMul", float((shapes | weights)[node.input[0]][-1])
        out[name] = out.get(name, 0) + 2 * size * each
    return out


def median(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds."""
    times = []
    for _ in range(rounds + rounds // 8):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times[rounds // 8 :]))


def roof(device: Device, folder: Path) -> float:
    """Operations per second of a plain matrix product."""
    shape = [SIDE, SIDE]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "ab"]
    product = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        inputs,
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
    )
    path = folder / "product.onnx"
    onnx.save(helper.make_model(product, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    session = device.session(path)
    path.unlink()
    rng = np.random.default_rng(0)
    feeds = {n: rng.normal(size=shape).astype(np.float32) for n in "ab"}
    return 2 * SIDE**3 / median(lambda: session.run(None, feeds))


def bandwidth() -> float:
    """Bytes per second that all cores together read from memory."""
    buffers = [np.ones(32 * 2**20, np.float32) for _ in range(cores())]
    with ThreadPoolExecutor(len(buffers)) as pool:
        seconds = median(lambda: list(pool.map(lambda b: np.dot(b, b), buffers)))
    return sum(b.nbytes for b in buffers) / seconds


def language(bundle: Bundle, device: Device, peak: float, memory: float) -> dict[str, Any]:
    """Milliseconds and operations of the LLM per kind of work."""
    m, header = bundle.manifest, GgufHeader.read(bundle.file(bundle.manifest.llm.file))
    # Rows are looked up in the token embeddings; they are a matrix only where they are the output too, of one row.
    blocks = [t for t in header.tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    output = next((t for t in header.tensors if t.name == "output.weight"), None)
    output = output or next(t for t in header.tensors if t.name == "token_embd.weight")
    each, weights = sum(int(np.prod(t.shape)) for t in blocks), sum(t.bytes for t in (*blocks, output))
    attention = 4 * header.number("block_count") * header.number("embedding_length")
    llm = load_llm(bundle.file(m.llm.file), device, n_embd=m.llm.width, n_ctx=m.llm.context)
    rng = np.random.default_rng(0)
    face, out = m.face_tokens, dict[str, Any]()
    works = {
        "the prompt before a face": (AnswerGenerator(llm, m.llm).prefix.system_len, 0),
        "a face's tokens": (face, 0),
        "a question": (QUESTION, face),
        "a token": (1, face),
        "four tokens at once": (4, face),
    }
    rows = {n: rng.normal(0, 0.02, (n, m.llm.width)).astype(np.float32) for n, _ in works.values()}
    for what, (count, behind) in works.items():
        llm.truncate(0)
        llm.decode([rows[face]], 0)

        def work(count: int = count, behind: int = behind) -> None:
            llm.truncate(behind)
            llm.decode([rows[count]], behind)
            llm.logits()

        seconds = median(work, rounds=8)
        flop = 2 * each * count + 2 * int(np.prod(output.shape)) + attention * count * (behind + count / 2)
        out[what] = {
            "rows": count,
            "ms": round(seconds * 1e3, 2),
            "GFLOP": round(flop / 1e9, 3),
            "share of the roof": round(flop / seconds / peak, 3),
            "share of the memory's speed": round(weights / seconds / memory, 3),
        }
    llm.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bundle, device = Bundle.open(args.bundle), Device.resolve("cpu")
    m = bundle.manifest
    rng = np.random.default_rng(0)
    peak = roof(device, args.out.parent)
    pixels = {s.file: rng.normal(0, 0.6, (1, 3, s.size, s.size)).astype(np.float32) for s in (m.parser, m.encoder)}
    label_map = np.kron(rng.integers(0, 19, (1, 16, 16)), np.ones((1, m.parser.size // 16, m.parser.size // 16)))
    feeds: dict[str, dict[str, Any]] = {
        m.parser.file: {"pixels": pixels[m.parser.file]},
        m.encoder.file: {
            "pixels": pixels[m.encoder.file],
            "label_map": label_map.astype(np.uint8),
            "characteristics": np.arange(len(m.characteristics)),
        },
    }
    graphs: dict[str, dict[str, Any]] = {}
    for name, inputs in feeds.items():
        session = device.session(bundle.file(name))
        seconds = median(partial(session.run, None, inputs))
        counted = operations(bundle.file(name), inputs)
        total = sum(counted.values())
        graphs[name] = {
            "ms": round(seconds * 1e3, 3),
            "GFLOP": {k: round(v / 1e9, 4) for k, v in counted.items()},
            "share of the roof": round(total / seconds / peak, 3),
        }
    memory = bandwidth()
    llm_figures = language(bundle, device, peak, memory)
    seconds = sum(g["ms"] for g in graphs.values()) / 1e3
    flop = sum(sum(g["GFLOP"].values()) for g in graphs.values()) * 1e9
    result = {
        "faceinsight": __version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": machine(),
        "threads": cores(),
        "bundle sha256": bundle.sha256,
        "roof GFLOP/s": round(peak / 1e9, 1),
        "graphs": graphs,
        "together": {"ms": round(seconds * 1e3, 3), "share of the roof": round(flop / seconds / peak, 3)},
        "memory GB/s": round(memory / 1e9, 1),
        "language": llm_figures,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
