"""Is the bundle what the checkpoint is? Stage by stage, transformers against the runtime, on the same inputs.

The reference is transformers' own model of the folder (reference.py), which shares no reading with the exporter. Each
stage is given the reference's output of the stage before, so that a fault is named where it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.loader import load_llm
from faceinsight.backends.llama_cpp.model import EXACT
from faceinsight.bundle.specs import LlmSpec, PromptSpec, VisionSpec
from faceinsight.host.machine import cores
from faceinsight.perception.clip_pixels import to_pixels

from ..attach import Attached
from ..onnx.token_merging import TokenReduction, reduce
from ..onnx.writer import FLOAT, HALF
from ..precisions import LLM_PRECISIONS, VISION_PRECISIONS
from .attach import ReferenceTokens, attached_stages
from .reference import Reference, logits
from .stages import LlmProbe, ParityError, Stage, compare

QUESTION = "Is the person in the picture smiling, or not?"
#: What people type, whose tokens are compared too.
TYPED = (
    "Is she wearing glasses?",
    "  two  spaces,\n\nnew lines \t tabs and a trailing space ",
    "Ünïcode 123 4567, 漢字, 😀; don't, they'LL, I'd",
)
#: Tokens of an answer that are compared.
ANSWER = 24


def pictures(count: int = 4, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """RGB pictures (H,W,3) of several shapes: smooth fields with edges and grain, more like photos than noise is."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        height, width = ((352, 480), (500, 333), (336, 336), (240, 261))[i % 4]
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        image = np.zeros((height, width, 3))
        for _ in range(6):
            (fy, fx), phase, color = rng.normal(0, 6, 2), rng.uniform(0, 6.3), rng.normal(0, 35, 3)
            wave = np.sin(fy * y + fx * x + phase)
            image += (wave if rng.random() < 0.7 else np.sign(wave))[..., None] * color
        image += 128 + rng.normal(0, 4, image.shape)
        out.append(np.clip(image, 0, 255).astype(np.uint8))
    return out


def verify_llava(
    reference: Reference,
    folder: Path,
    vision: VisionSpec,
    llm: LlmSpec,
    *,
    precisions: tuple[str, str],
    method: str = "merge",
    attached: Attached | None = None,
    images: Sequence[NDArray[np.uint8]] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Stage]:
    """Compare the files in `folder` with transformers' own model of the checkpoint.

    Args:
        reference: the model.
        folder: of the bundle.
        vision: its vision encoder, as in the manifest.
        llm: its LLM, as in the manifest.
        precisions: of the vision encoder and of the LLM.
        method: by which image tokens were reduced.
        attached: what its region and knowledge tokens were made of, if it has any.
        images: RGB pictures (H,W,3); by default `pictures`.
        progress: called with the name of each stage.

    Returns:
        The parity of each stage.

    Raises:
        ParityError: a stage is beyond its tolerance; the message has the whole table.
    """
    photos = list(images or pictures())
    device = Device("cpu", False, cores())
    progress("verify: pixels")
    pixels = reference.pixels(photos)
    stages = [compare("pixels", pixels, to_pixels(photos, vision), 1e-6)]
    progress("verify: vision")
    features, tokens = reference.encode_image(pixels[:2], lambda x: _reduced(x, vision.image_tokens, method))
    stages += _vision_stages(folder / vision.file, pixels[:2], features, tokens, precisions[0], device)
    adapter_tokens = None
    if attached:
        progress("verify: region and knowledge tokens")
        adapter_stages, adapter_tokens = attached_stages(attached, folder, device)
        stages += adapter_stages
    progress(f"verify: llm ({precisions[1]})")
    stages += _llm_stages(reference, folder / llm.file, llm, tokens[0], precisions[1], device, adapter_tokens)
    if not all(s.passed for s in stages):
        raise ParityError("parity failed:\n" + "\n".join(map(str, stages)))
    return stages


def _reduced(features: NDArray[np.float32], count: int, method: str) -> NDArray[np.float32]:
    if features.shape[1] == count:
        return features
    return reduce(features, TokenReduction(round(features.shape[1] ** 0.5), count, method))


def _vision_stages(
    path: Path,
    pixels: NDArray[np.float32],
    features: NDArray[np.float32],
    tokens: NDArray[np.float32],
    precision: str,
    device: Device,
) -> list[Stage]:
    tolerance, rms = VISION_PRECISIONS[precision].tolerance, precision != "fp32"
    with_features = path.with_suffix(".features.onnx")
    try:
        # What a protobuf message lacks can be added at its end: the features become an output of a copy.
        shutil.copyfile(path, with_features)
        name = _features_of(path)
        info = onnx.helper.make_tensor_value_info(name, HALF if precision == "fp16" else FLOAT, None)
        with open(with_features, "ab") as f:
            f.write(onnx.ModelProto(graph=onnx.GraphProto(output=[info])).SerializeToString())
        session = device.session(with_features)
        parts = [session.run([name, "image_tokens"], {"pixels": p[None]}) for p in pixels]
    finally:
        with_features.unlink(missing_ok=True)
    found_features, found_tokens = (np.concatenate(x).astype(np.float32) for x in zip(*parts, strict=True))
    return [
        compare("vision features", features, found_features, tolerance, rms=rms),
        compare("image tokens", tokens, found_tokens, tolerance, rms=rms),
    ]


def _features_of(path: Path) -> str:
    """Name of the value that enters the token reduction or the projector."""
    names = [str(o) for n in onnx.load(path).graph.node for o in n.output]
    return "features" if "features" in names else next(n for n in names if n.startswith("features."))


def _llm_stages(
    reference: Reference,
    path: Path,
    spec: LlmSpec,
    image_tokens: NDArray[np.float32],
    precision: str,
    device: Device,
    adapter_tokens: ReferenceTokens | None,
) -> list[Stage]:
    """Of a face's image tokens, and of its region tokens and findings where there are any, laid out as in use."""
    prompt = spec.prompt
    llm = load_llm(path, device, n_embd=spec.width, n_ctx=spec.context, parameters=EXACT)
    with LlmProbe(llm, spec) as probe:
        before = probe.tokenizer.encode(prompt.before_face, special=True, at_start=True)
        question = [
            *probe.tokenizer.encode(prompt.after_face, special=True, at_start=True),
            *probe.tokenizer.encode(QUESTION),
        ]
        before_answer = probe.tokenizer.encode(prompt.before_answer, special=True)
        parts, after = [reference.embed(before), image_tokens], [*question, *before_answer]
        if adapter_tokens:
            parts, after = (
                [*parts, adapter_tokens.regions, reference.embed(question), adapter_tokens.knowledge],
                before_answer,
            )
        embeddings = np.concatenate(parts).astype(np.float32)
        answer = probe.greedy(after, ANSWER, embeddings)
        found = probe.logits([*after, *answer], embeddings)
        typed = [probe.tokenizer.encode(text, at_start=True) for text in TYPED]
    tolerance = LLM_PRECISIONS[precision].tolerance
    expected = logits(reference.model, [*after, *answer], embeddings)
    at = range(len(after) - 1, len(after) - 1 + len(answer))
    # Where two words are as good as equally likely, rounding may choose between them.
    slack = tolerance * np.abs(expected).max()
    other = [bool(expected[p].max() - expected[p, t] > slack) for p, t in zip(at, answer, strict=True)]
    return [
        _token_stage(reference, [before, [*question, *before_answer], *typed], prompt),
        compare("llm logits", expected, found, tolerance, rms=LLM_PRECISIONS[precision].quantized),
        Stage("greedy text", 1 - float(np.mean(other)), float(np.mean(other)), 0.0),
    ]


def _token_stage(reference: Reference, found: list[list[int]], prompt: PromptSpec) -> Stage:
    """Tokens before and behind the image, and of typed text: transformers' tokenizer against the runtime's."""
    texts = prompt.before_face, prompt.after_face + QUESTION + prompt.before_answer, *TYPED
    wrong = [reference.tokens(t) != f for t, f in zip(texts, found, strict=True)]
    return Stage("prompt tokens", 1 - float(np.mean(wrong)), float(np.mean(wrong)), 0.0)
