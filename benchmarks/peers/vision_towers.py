"""Vision encoders for llama-server, of random weights: time is measured with them, never quality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np


@dataclass(frozen=True)
class Tower:
    """A vision encoder, as wide as it is tall.

    Attributes:
        name: of the arm.
        image, patch: sides in pixels; merge: patches that become one image token, per side.
        width, hidden, layers, heads: of the transformer.
    """

    name: str
    image: int
    patch: int
    merge: int
    width: int
    hidden: int
    layers: int
    heads: int

    @property
    def tokens(self) -> int:
        """Image tokens that the LLM reads."""
        return (self.image // self.patch // self.merge) ** 2


TOWERS = (
    # SmolVLM-256M's, which makes 64 tokens of each part of a picture. Here a picture is one part; there it is up to 17.
    Tower("llama-server, SigLIP-B/16 at 512", 512, 16, 4, 768, 3072, 12, 12),
    # The width of a ViT-Ti; pixels and tokens as nano's face encoder has them.
    Tower("llama-server, ViT-Ti/16 at 128", 128, 16, 2, 192, 768, 12, 3),
)


def write_tower(tower: Tower, width: int, path: Path) -> int:
    """A vision encoder and its projector for llama.cpp's mtmd, in the layout of Gemma 3: SigLIP, averages of merge x
    merge patches, one matrix. Weights are random and seeded, matrices float16.

    Args:
        tower: its sizes.
        width: of the LLM.
        path: file to write.

    Returns:
        How many parameters it has.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": tower.image,
        "patch_size": tower.patch,
        "embedding_length": tower.width,
        "feed_forward_length": tower.hidden,
        "block_count": tower.layers,
        "attention.head_count": tower.heads,
        "projection_dim": width,
        "projector.scale_factor": tower.merge,
    }
    for name, value in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    count = 0

    def add(name: str, *shape: int, gain: bool = False) -> None:
        nonlocal count
        noise = rng.standard_normal(shape, np.float32)
        matrix = len(shape) > 1 and not name.startswith("v.position")
        value = noise / math.sqrt(math.prod(shape[1:])) if matrix else noise * 0.02 + float(gain)
        writer.add_tensor(name, value.astype(np.float16 if matrix else np.float32))
        count += value.size

    add("v.patch_embd.weight", tower.width, 3, tower.patch, tower.patch)
    add("v.patch_embd.bias", tower.width)
    add("v.position_embd.weight", (tower.image // tower.patch) ** 2, tower.width)
    for layer in range(tower.layers):
        for norm in ("ln1", "ln2"):
            add(f"v.blk.{layer}.{norm}.weight", tower.width, gain=True)
            add(f"v.blk.{layer}.{norm}.bias", tower.width)
        sizes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (tower.width, tower.width))
        sizes |= {"ffn_up": (tower.hidden, tower.width), "ffn_down": (tower.width, tower.hidden)}
        for name, shape in sizes.items():
            add(f"v.blk.{layer}.{name}.weight", *shape)
            add(f"v.blk.{layer}.{name}.bias", shape[0])
    add("v.post_ln.weight", tower.width, gain=True)
    add("v.post_ln.bias", tower.width)
    add("mm.input_projection.weight", tower.width, width)
    add("mm.soft_emb_norm.weight", tower.width, gain=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count
