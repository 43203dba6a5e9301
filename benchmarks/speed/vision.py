"""What does a LLaVA-1.5 checkpoint's vision cost: to export, and to run, beside torch?

    python benchmarks/speed/vision.py --out vision.json
    python benchmarks/speed/vision.py --out vision.json --peers FOLDER  (made by peers/weights.py: llama.cpp's CLIP too)
    python benchmarks/speed/vision.py --out vision.json --tiny --rounds 2      (tries the script, measures nothing)

CLIP ViT-L/14-336 and a projector to a 1.1B LLM's width, weights random and seeded: figures of time and memory are those
of the real ones, cosines are not (real weights have outliers that random ones lack). Exports run in processes of their
own. Arms are interleaved; all of them, torch's too, leave out the last layer, which LLaVA-1.5 does not use.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Before ONNX Runtime: it switches the telemetry off.
from faceinsight import __version__

# isort: split

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.backends.session import Session
from faceinsight.bench.state import machine, peak_mb
from faceinsight.bundle.specs import VisionSpec
from faceinsight.host.machine import cores
from faceinsight.perception.clip_pixels import to_pixels
from faceinsight.perception.image import load_image
from faceinsight_export.onnx.int8 import agreement
from faceinsight_export.onnx.vision import write_vision
from faceinsight_export.onnx.vision_reference import PROJECTOR, TOWER, VisionShape
from llama_clip import LlamaClip

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FULL = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
TINY = (
    FULL
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"image_size": 56}
)
#: What is exported: name -> precision, share of the image tokens that is kept.
EXPORTS = {"fp32": ("fp32", 1), "fp16": ("fp16", 1), "int8": ("int8", 1), "int8-static": ("int8-static", 1),
           "int8, a quarter of the tokens": ("int8", 4)}  # fmt: skip
#: Half precision has no kernels on most CPUs: it is exported for the figures, but not timed.
TIMED = [name for name in EXPORTS if name != "fp16"]


class Seeded:
    """A checkpoint whose tensors are made when they are read, from a seed of their name."""

    def __init__(self, *, tiny: bool) -> None:
        self.vision = TINY if tiny else FULL
        self.width = 96 if tiny else 2048
        self.config = {"model_type": "llava", "vision_config": self.vision, "projector_hidden_act": "gelu"}

    def get(self, name: str) -> NDArray[np.float32]:
        """Weights as a fresh network has them: activations neither grow nor fade."""
        shape = self._shape(name)
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if name.endswith("bias"):
            return np.asarray(values * np.float32(0.02))
        if len(shape) == 1:
            return np.asarray(1 + values * np.float32(0.1))
        return np.asarray(values * np.float32(np.prod(shape[1:]) ** -0.5))

    def _shape(self, name: str) -> tuple[int, ...]:
        width, inner, patch = (self.vision[k] for k in ("hidden_size", "intermediate_size", "patch_size"))
        places = (self.vision["image_size"] // patch) ** 2 + 1
        matrices = {
            "patch_embedding": (width, 3, patch, patch),
            "position_embedding": (places, width),
            "fc1": (inner, width),
            "fc2": (width, inner),
            "linear_1": (self.width, width),
            "linear_2": (self.width, self.width),
        }
        *_, layer, kind = ("", *name.split("."))
        if layer.endswith("_proj"):
            shape: tuple[int, ...] = (width, width)
        else:
            shape = matrices.get(layer, (width,))
        return shape if kind == "weight" else shape[:1]


class TorchVision(torch.nn.Module):
    """transformers' tower without its last layer, and the projector."""

    def __init__(self, source: Seeded) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        layers = source.vision["num_hidden_layers"] - 1
        self.tower = CLIPVisionModel(CLIPVisionConfig(**(source.vision | {"num_hidden_layers": layers})))
        self.linear_1 = torch.nn.Linear(source.vision["hidden_size"], source.width)
        self.linear_2 = torch.nn.Linear(source.width, source.width)
        with torch.no_grad():
            for name, value in self.named_parameters():
                prefix = TOWER if name.startswith("tower.") else PROJECTOR
                value.copy_(torch.from_numpy(source.get(f"{prefix}.{name.removeprefix('tower.vision_model.')}")))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.tower(pixels).last_hidden_state[:, 1:]
        return self.linear_2(torch.nn.functional.gelu(self.linear_1(features)))


def spec(source: Seeded) -> VisionSpec:
    size = source.vision["image_size"]
    return VisionSpec("vision.onnx", size, MEAN, STD, "mean", (size // 14) ** 2, source.width)


def images(source: Seeded) -> NDArray[np.float32]:
    """Four crops of the photo: (4,3,size,size)."""
    photo = load_image(PHOTO)
    return to_pixels([photo, photo[:300], photo[:, 100:400], photo[100:, 100:]], spec(source))


def export(name: str, path: Path, source: Seeded) -> dict[str, float | None]:
    """Write one file; seconds, and this process's peak memory before and after."""
    precision, share = EXPORTS[name]
    pixels = images(source)
    VisionShape.read(source.config)  # imports transformers
    before = peak_mb()
    began = time.perf_counter()
    tokens = None if share == 1 else spec(source).image_tokens // share
    write_vision(source, path, precision=precision, tokens=tokens, images=pixels, min_cosine=0.0)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "file MB": round(path.stat().st_size / 1e6, 1),
        "peak RSS MB": peak_mb(),
        "peak RSS MB before": before,
    }


def _tokens(session: Session, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(session.run(None, {"pixels": pixels})[0], np.float32)


def interleave(arms: dict[str, Callable[[], Any]], rounds: int, *, warmup: int = 2) -> dict[str, dict[str, float]]:
    """Milliseconds of each arm: every round runs all of them once, from another one on."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds + warmup):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            arms[name]()
            if turn >= warmup:
                times[name].append((time.perf_counter() - began) * 1e3)
    out = {}
    for name, values in times.items():
        low, median, high = np.percentile(values, [10, 50, 90])
        out[name] = {"n": rounds, "p10 ms": round(low, 2), "p50 ms": round(median, 2), "p90 ms": round(high, 2)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="of peers/weights.py: times llama.cpp's CLIP too")
    parser.add_argument("--tiny", action="store_true", help="a small model: tries the script, measures nothing")
    parser.add_argument("--export", nargs=2, metavar=("NAME", "PATH"), help="write one file and print what it took")
    args = parser.parse_args()
    source = Seeded(tiny=args.tiny)
    torch.set_num_threads(args.threads)
    if args.export:
        print(json.dumps(export(args.export[0], Path(args.export[1]), source)))
        return
    if not args.out:
        parser.error("--out FILE is needed")

    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(EXPORTS)}
        exports = {}
        for name, path in paths.items():
            command = [sys.executable, __file__, "--threads", str(args.threads), "--export", name, str(path)]
            done = subprocess.run(command + ["--tiny"] * args.tiny, check=True, capture_output=True, text=True)
            exports[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, exports[name], file=sys.stderr)
        result = measure(source, paths, args.rounds, args.threads, args.peers)

    result = {
        "faceinsight": __version__,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "provider": "CPUExecutionProvider",
        "threads": args.threads,
        "machine": machine(),
        "model": "tiny (no measurement)" if args.tiny else "CLIP ViT-L/14-336 + projector to 2048, random weights",
        "export": exports,
    } | result
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(source: Seeded, paths: dict[str, Path], rounds: int, threads: int, peers: Path | None) -> dict[str, Any]:
    """Latency of one image by each arm, and how near its tokens are to torch float32's. llama.cpp's CLIP has other
    random weights of the same shape, and pads and scales the picture itself."""
    device = Device("cpu", False, threads)
    pixels, photo = images(source)[:1], load_image(PHOTO)
    tensor = torch.from_numpy(pixels)
    single = TorchVision(source).eval()
    brain = TorchVision(source).eval().to(torch.bfloat16)
    arms: dict[str, Callable[[], Any]] = {
        "torch float32": lambda: single(tensor),
        "torch bfloat16": lambda: brain(tensor.to(torch.bfloat16)).float(),
    }
    for name in TIMED:
        session = device.session(paths[name])
        arms[f"ONNX Runtime {name}"] = partial(_tokens, session, pixels)
    ours = dict(arms)
    if peers:
        arms["llama.cpp's CLIP, float16"] = partial(
            LlamaClip(peers / "clip.gguf", peers / "ours" / "llm.gguf", threads=threads), photo
        )
    with torch.inference_mode():
        expected = single(tensor).numpy()
        cosines = {}
        for name, arm in ours.items():
            found = np.asarray(arm())
            if found.shape == expected.shape:
                likeness = agreement(expected, found)
                cosines[name] = {"mean": round(likeness.mean, 6), "worst": round(likeness.worst, 6)}
        latency = interleave(arms, rounds)
    before = interleave({"pad, resize, normalise a 512 px photo": lambda: to_pixels([photo], spec(source))}, rounds)
    return {"latency": latency | before, "cosine to torch float32": cosines, "peak RSS MB of all arms": peak_mb()}


if __name__ == "__main__":
    main()
