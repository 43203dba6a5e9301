"""The same random weights in every peer's format: a LLaVA-1.5 checkpoint, our bundles, GGUF files of LLM and CLIP.

    python benchmarks/peers/weights.py FOLDER            (CLIP ViT-L/14-336 and a 1.1B Llama; 15 minutes, 12 GB)
    python benchmarks/peers/weights.py FOLDER --tiny
    python benchmarks/peers/weights.py FOLDER --llm      (FOLDER/llm.gguf alone, in 4 bits; minutes, 5 GB)

Latency does not depend on what the weights say. Seconds and peak memory of each export are kept in FOLDER/exports.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from faceinsight_export.checkpoint.checkpoint import Checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from checkpoints import sentencepiece

VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
#: TinyLlama's shape.
LLM = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32064, "max_position_embeddings": 2048,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TINY_VISION = VISION | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
}
TINY_LLM = LLM | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
#: Bundle -> options of the export. At tiny sizes 8 bits are too few; and random features resemble each other so little
#: that 8 bits change which of them merge, which the gate refuses: here they are pooled, which takes the same time.
BUNDLES = {
    "ours": ["--vision", "{vision}", "--llm", "q4_0"],
    "ours-quarter": ["--vision", "{vision}", "--llm", "q4_0", "--tokens", "{quarter}", "--method", "pool"],
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def texts() -> list[str]:
    """English and code, which every Python has with it: so a question becomes about as many tokens as in a real LLM."""
    paths = sorted(Path(json.__file__).parents[1].glob("*.py"))
    return [" ".join(p.read_text(errors="replace").split()) for p in paths]


def write_checkpoint(folder: Path, *, tiny: bool) -> None:
    """As save_pretrained writes it, float16, in shards."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    if tiny:
        sentencepiece(folder)
    else:
        sentencepiece(folder, words=16_000, corpus=texts())
    vision = CLIPVisionConfig(**(TINY_VISION if tiny else VISION), projection_dim=768)
    text = LlamaConfig(**(TINY_LLM if tiny else LLM))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    model = LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        # As a fresh network: activations neither grow nor fade.
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data = noise * scale + (parameter.data if parameter.ndim < 2 else 0)
    model.half().save_pretrained(folder, max_shard_size="1GB")


def write_llm_alone(folder: Path, *, tiny: bool) -> None:
    """FOLDER/llm.gguf in 4 bits, of a checkpoint that is removed again."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "llm.gguf").exists():
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        checkpoint = Path(place)
        sentencepiece(checkpoint)
        torch.manual_seed(0)
        numbers = TINY_LLM if tiny else LLM
        LlamaForCausalLM(LlamaConfig(**numbers)).half().save_pretrained(checkpoint, max_shard_size="1GB")
        run = "import sys; from faceinsight_export.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", run, "llm", str(checkpoint), "--llm", "q4_0"]
        subprocess.run([*command, "--out", str(folder / "llm.gguf")], check=True)


def write_clip(checkpoint: Checkpoint, path: Path) -> None:
    """Vision tower and projector as llama.cpp's CLIP reads them, float16 matrices."""
    config = checkpoint.config["vision_config"]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    numbers = {
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "projection_dim": config.get("projection_dim", 768),
    }
    for name, value in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", config.get("layer_norm_eps", 1e-5))
    writer.add_array("clip.vision.image_mean", MEAN)
    writer.add_array("clip.vision.image_std", STD)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_out",
        "layer_norm1": "ln1",
        "layer_norm2": "ln2",
        "mlp.fc1": "ffn_up",
        "mlp.fc2": "ffn_down",
    }
    names = {
        "vision_tower.vision_model.embeddings.class_embedding": "v.class_embd",
        "vision_tower.vision_model.embeddings.patch_embedding.weight": "v.patch_embd.weight",
        "vision_tower.vision_model.embeddings.position_embedding.weight": "v.position_embd.weight",
    }
    for kind in ("weight", "bias"):
        names[f"vision_tower.vision_model.pre_layrnorm.{kind}"] = f"v.pre_ln.{kind}"
        for i, mm in ((1, 0), (2, 2)):
            names[f"multi_modal_projector.linear_{i}.{kind}"] = f"mm.{mm}.{kind}"
        for layer in range(config["num_hidden_layers"]):
            for theirs, mine in parts.items():
                names[f"vision_tower.vision_model.encoder.layers.{layer}.{theirs}.{kind}"] = (
                    f"v.blk.{layer}.{mine}.{kind}"
                )
    for theirs, mine in names.items():
        value = checkpoint.get(theirs)
        matrix = value.ndim > 1 and not mine.startswith("v.position")
        writer.add_tensor(mine, np.ascontiguousarray(value, np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(checkpoint: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Our exporter in a process of its own: seconds, peak memory, what it says of parity."""
    began = time.perf_counter()
    # Its own peak, as Linux has it: a child's resource usage begins with that of its parent.
    run = (
        "import sys; from faceinsight_export.cli import main; from faceinsight.bench.state import peak_mb; "
        "code = main(sys.argv[1:]); print(peak_mb()); sys.exit(code)"
    )
    command = [sys.executable, "-c", run, "bundle", str(checkpoint), "--out", str(out)]
    done = subprocess.run([*command, "--recipe", "llava-1.5-7b", *options], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the export failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    manifest = json.loads((out / "manifest.json").read_text())
    return {
        "options": options,
        "seconds": round(time.perf_counter() - began, 1),
        "peak RSS MB": round(float(done.stdout.split()[-1])),
        "files MB": {k: round(v["bytes"] / 1e6, 1) for k, v in manifest["files"].items()},
        "error per stage": manifest["parity"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--llm", action="store_true", help="the LLM alone")
    args = parser.parse_args()
    folder, checkpoint = args.folder, args.folder / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    if args.llm:
        write_llm_alone(folder, tiny=args.tiny)
        return
    if not (checkpoint / "config.json").exists():
        write_checkpoint(checkpoint, tiny=args.tiny)
    opened = Checkpoint.open(checkpoint)
    if not (folder / "clip.gguf").exists():
        write_clip(opened, folder / "clip.gguf")
    vision = opened.config["vision_config"]
    fill = {
        "quarter": (vision["image_size"] // vision["patch_size"]) ** 2 // 4,
        "vision": "fp32" if args.tiny else "int8",
    }
    path = folder / "exports.json"
    exports = json.loads(path.read_text()) if path.exists() else {}
    for name, options in BUNDLES.items():
        if not (folder / name).exists():
            exports[name] = export(checkpoint, folder / name, [o.format(**fill) for o in options])
            path.write_text(json.dumps(exports, indent=1) + "\n")
    print(json.dumps(exports, indent=1))


if __name__ == "__main__":
    main()
