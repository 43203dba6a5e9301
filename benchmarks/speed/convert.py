"""Does a checkpoint of real size convert in bounded memory? Vicuna-7B's shape, random float16 weights in 1 GB shards.

    python benchmarks/speed/convert.py FOLDER --out convert.json                 (7B: 30 GB of disk, ten minutes)
    python benchmarks/speed/convert.py FOLDER --out convert.json --layers 2      (tries the script)

Each conversion is the command that users run, in a process of its own: seconds, and the process's peak memory. A 16-bit
LLM is written and then quantized in process by llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from faceinsight import __version__
from faceinsight.bench.state import machine
from faceinsight.host.machine import cores

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from checkpoints import sentencepiece

WIDTH, INNER, VOCABULARY = 4096, 11008, 32064
SHARD = 10**9
KINDS = ("q4_0", "q4_k_m")


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as transformers saves a LLaVA-1.5."""
    at = "language_model.model"
    yield f"{at}.embed_tokens.weight", (VOCABULARY, WIDTH)
    for i in range(layers):
        for name in "qkvo":
            yield f"{at}.layers.{i}.self_attn.{name}_proj.weight", (WIDTH, WIDTH)
        for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
            yield f"{at}.layers.{i}.mlp.{name}_proj.weight", shape
        for name in ("input", "post_attention"):
            yield f"{at}.layers.{i}.{name}_layernorm.weight", (WIDTH,)
    yield f"{at}.norm.weight", (WIDTH,)
    yield "language_model.lm_head.weight", (VOCABULARY, WIDTH)


def write_checkpoint(folder: Path, layers: int) -> None:
    """Shards are written one at a time, from one block of random numbers that is read from another place each time."""
    sentencepiece(folder)
    text = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
    }
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"model_type": "clip_vision_model"},
        "image_token_index": 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    block = (rng.standard_normal(2**27, np.float32) * WIDTH**-0.5).astype(np.float16)
    shard: dict[str, Any] = {}
    index: dict[str, str] = {}

    def flush() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name)
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in tensors(layers):
        size = int(np.prod(shape))
        start = int(rng.integers(len(block)))
        values = np.take(block, np.arange(start, start + size), mode="wrap").reshape(shape)
        shard[name] = np.ones(shape, np.float16) if len(shape) == 1 else values
        if sum(v.nbytes for v in shard.values()) > SHARD:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def convert(checkpoint: Path, kind: str) -> dict[str, float]:
    """`faceinsight-export llm`: seconds, peak memory in MB, size of the file."""
    out = checkpoint.with_name(f"{kind}.gguf")
    out.unlink(missing_ok=True)
    script = (
        "import sys; from faceinsight_export.cli import main; from faceinsight.bench.state import peak_mb; "
        "code = main(sys.argv[1:]); print(peak_mb()); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "llm", str(checkpoint), "--llm", kind, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the conversion failed:\n{done.stderr[-2000:]}")
    result = {
        "seconds": round(time.perf_counter() - began, 1),
        "peak RSS MB": round(float(done.stdout.split()[-1])),
        "file MB": round(out.stat().st_size / 1e6, 1),
    }
    out.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    checkpoint = args.folder / "checkpoint"
    if not (checkpoint / "model.safetensors.index.json").exists():
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir(parents=True)
        write_checkpoint(checkpoint, args.layers)
    parameters = sum(int(np.prod(shape)) for _, shape in tensors(args.layers))
    result = {
        "faceinsight": __version__,
        "machine": machine(),
        "threads": cores(),
        "layers": args.layers,
        "parameters": parameters,
        "checkpoint MB": round(sum(p.stat().st_size for p in checkpoint.glob("*.safetensors")) / 1e6),
        "largest shard MB": round(max(p.stat().st_size for p in checkpoint.glob("*.safetensors")) / 1e6),
        "conversions": {kind: convert(checkpoint, kind) for kind in args.kinds},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
