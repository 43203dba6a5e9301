"""Why the LLM and the graphs run as they do: each setting against its alternatives, on this machine.

    python benchmarks/speed/settings.py --out settings.json

LLM: quantization, threads, flash attention, type of the KV cache. Speed of a prompt and of single tokens, and how often
its words to ten questions about views of a photo are those of the float32 LLM (which is not shipped: the shipped LLM,
written out in float32, stands for it; the shipped quantization is then exact by construction, the others show what a
step down costs). Graphs: ONNX Runtime's session options, and 8-bit convolutions with the labels they change.
Arms are interleaved. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Before ONNX Runtime: it switches the telemetry off.
from faceinsight import __version__

# isort: split

import llama_cpp
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from faceinsight import Face, FaceInsight
from faceinsight.backends.device import Device
from faceinsight.backends.llama_cpp.model import EXACT, Llm
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.specs import LlmSpec
from faceinsight.host.machine import cores
from faceinsight.language.generation import AnswerGenerator
from faceinsight.perception.alignment import normalize
from faceinsight.perception.image import load_image
from faceinsight.perception.pipeline import Perception
from faceinsight_export.gguf.quantize import quantize, write_llama
from faceinsight_models.nets.llm import BpeVocabulary, load_gguf
from soak import PHOTO, QUESTIONS, state, view

#: Tokens of a prompt, of a question about a known face, and of an answer.
PROMPT, QUESTION, ANSWER = 128, 16, 24


@dataclass(frozen=True)
class LlmArm:
    """One LLM setting; the shipped ones where nothing else is said."""

    kind: str = "q8_0"
    threads: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    repack: bool = True

    def open(self, path: Path, spec: LlmSpec) -> Llm:
        device = Device("cpu", False, self.threads or cores())
        return Llm(path, device, n_embd=spec.width, n_ctx=spec.context, parameters=self.parameters, repack=self.repack)


LLM_ARMS = {
    "as shipped": LlmArm(),
    "f16": LlmArm("f16"),
    "q6_k": LlmArm("q6_k"),
    "q5_0": LlmArm("q5_0"),
    "q4_0": LlmArm("q4_0"),
    "one thread": LlmArm(threads=1),
    "with flash attention": LlmArm(parameters={"flash_attn_type": 1}),
    "8-bit KV cache, flash attention": LlmArm(parameters={"type_k": 8, "type_v": 8, "flash_attn_type": 1}),
    "batches of 64": LlmArm(parameters={"n_ubatch": 64}),
    # Where llama.cpp was compiled for it: then no weights are rearranged either.
    "without AMX": LlmArm(repack=False),
}


def interleaved(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each arm; every round runs all of them, from another one on."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            arms[name]()
            if turn >= 2:
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: round(float(np.median(t)), 3) for name, t in times.items()}


def llm_files(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """The shipped LLM in each quantization of the arms."""
    source = bundle.file(bundle.manifest.llm.file)
    full = folder / "f32.gguf"
    write_llama(load_gguf(source), BpeVocabulary.from_gguf(source), full, name="nano")
    out = {"f32": full}
    for kind in dict.fromkeys(a.kind for a in LLM_ARMS.values()):
        out[kind] = folder / f"{kind}.gguf"
        quantize(full, out[kind], kind)
    return out


def llm_speed(files: Mapping[str, Path], spec: LlmSpec, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a prompt, of a question behind it and of a token, per arm."""
    opened = {name: a.open(files[a.kind], spec) for name, a in LLM_ARMS.items()}
    rng = np.random.default_rng(0)
    tokens = rng.integers(300, 4000, PROMPT).tolist()

    def prompt(llm: Llm) -> None:
        llm.truncate(0)
        llm.decode([tokens], 0)

    def question(llm: Llm) -> None:
        llm.truncate(PROMPT)
        llm.decode([tokens[:QUESTION]], PROMPT)

    def answer(llm: Llm) -> None:
        llm.truncate(PROMPT + QUESTION)
        for i in range(ANSWER):
            llm.decode([tokens[i : i + 1]], PROMPT + QUESTION + i)

    out: dict[str, dict[str, float]] = {name: {} for name in opened}
    for what, run, per in (("prompt", prompt, PROMPT), ("question", question, 1), ("token", answer, ANSWER)):
        for name, ms in interleaved({n: partial(run, x) for n, x in opened.items()}, rounds).items():
            value = round(per / ms * 1e3, 1) if what == "prompt" else round(ms / per, 3)
            out[name][{"prompt": "prompt tokens/s", "question": "question ms", "token": "token ms"}[what]] = value
    for llm in opened.values():
        llm.close()
    return out


def answers(insight: FaceInsight, faces: list[Face]) -> list[tuple[str, float]]:
    """Own words and the first word's probability, of each face and question."""
    out = []
    for face in faces:
        for question in QUESTIONS:
            pieces = list(insight.unchecked(face, question))
            out.append(("".join(map(str, pieces)), pieces[0].probability))
    return out


def llm_words(files: Mapping[str, Path], bundle: Bundle, faces: list[Face]) -> dict[str, dict[str, float]]:
    """Per arm: share of answers that are the reference's word for word, and the error of the first probability."""

    def words(path: Path, arm: LlmArm) -> list[tuple[str, float]]:
        with FaceInsight.load(bundle.path, device="cpu") as insight:
            insight.language.close()
            spec = bundle.manifest.llm
            insight.language = AnswerGenerator(arm.open(path, spec), spec)
            # The question encoder reads by the LLM's tokenizer, which went with the LLM.
            insight.questions.tokenizer = insight.questions._llm_tokenizer = insight.language.tokenizer
            return answers(insight, faces)

    reference = words(files["f32"], LlmArm("f32", parameters=EXACT))
    out = {}
    for name, arm in LLM_ARMS.items():
        found = words(files[arm.kind], arm)
        same = [a[0] == b[0] for a, b in zip(reference, found, strict=True)]
        errors = [abs(a[1] - b[1]) for a, b in zip(reference, found, strict=True)]
        out[name] = {"same words": round(float(np.mean(same)), 4), "first probability off by": round(max(errors), 4)}
    return out


def graph_inputs(insight: FaceInsight, faces: int) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]]]:
    """The parser's inputs (N,3,S,S) for views of the photo, and the views."""
    rng, photo = np.random.default_rng(1), load_image(PHOTO)
    crops: list[NDArray[np.uint8]] = []
    views: list[NDArray[np.uint8]] = []
    while len(crops) < faces:
        picture = view(photo, rng)
        found = insight.perception.detector.detect(picture)
        if found:
            crops.append(insight.perception.crops(picture, found[:1])[1][0])
            views.append(picture)
    spec = insight.manifest.parser
    return normalize(np.stack(crops), spec.mean, spec.std), views


class CalibrationImages(quantization.CalibrationDataReader):  # type: ignore[misc]
    """One input after the other, for ONNX Runtime's static quantizer."""

    def __init__(self, pixels: NDArray[np.float32]) -> None:
        self._rest = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        x = next(self._rest, None)
        return None if x is None else {"pixels": x[None]}


def parser_arms(bundle: Bundle, folder: Path, pixels: NDArray[np.float32]) -> dict[str, Any]:
    """The parser's graph with other session options, and with 8-bit convolutions."""
    path = bundle.file(bundle.manifest.parser.file)

    def session(file: Path = path, **changes: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = changes.pop("threads", cores())
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", changes.pop("spinning", "0"))
        for key, value in changes.pop("entries", {}).items():
            options.add_session_config_entry(key, value)
        for name, size in changes.pop("sizes", {}).items():
            options.add_free_dimension_override_by_name(name, size)
        for name, value in changes.items():
            setattr(options, name, value)
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(quantized),
        CalibrationImages(pixels[: len(pixels) // 2]),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["Conv"],
    )
    level = onnxruntime.GraphOptimizationLevel
    return {
        "as shipped": session(),
        "spinning threads": session(spinning="1"),
        "one thread": session(threads=1),
        "no graph optimisation": session(graph_optimization_level=level.ORT_DISABLE_ALL),
        "with plans for memory": session(enable_mem_pattern=True),
        "batch fixed to 1": session(sizes={"batch": 1}),
        "without prepacking": session(entries={"session.disable_prepacking": "1"}),
        "8-bit convolutions": session(quantized),
    }


def together(count: int, rounds: int) -> dict[str, float]:
    """Parser and encoder on so many faces at a time, in a process of its own: milliseconds a face, and the memory that
    running takes."""
    bundle, device = Bundle.open("nano"), Device("cpu", False, cores())
    perception = Perception.load(bundle, device)
    (crops, quantized), before = (np.zeros((count, s, s, 3), np.uint8) for s in (256, 128)), state()["RSS MB"]
    ids = perception.characteristic_ids
    ms = interleaved({"run": lambda: perception.encoders.encode(crops, quantized, ids)}, rounds)["run"]
    return {"ms a face": round(ms / count, 2), "MB": round(state()["RSS MB"] - before, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--faces", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--together", type=int, metavar="N", help="parser and encoder on N faces at a time, and no more"
    )
    args = parser.parse_args()
    if args.together:
        print(json.dumps(together(args.together, args.rounds)))
        return
    if not args.out:
        parser.error("--out FILE is needed")
    bundle = Bundle.open(args.bundle)
    result: dict[str, Any] = {
        "faceinsight": __version__,
        "onnxruntime": onnxruntime.__version__,
        "llama-cpp-python": llama_cpp.__version__,
        "machine": machine(),
        "threads": cores(),
        "bundle sha256": bundle.sha256,
        "faces": args.faces,
        "rounds": args.rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with FaceInsight.load(args.bundle, device="cpu") as insight:
            pixels, views = graph_inputs(insight, args.faces)
            faces = [insight.perceive(v)[0] for v in views]
        files = llm_files(bundle, folder)
        words, speed = llm_words(files, bundle, faces), llm_speed(files, bundle.manifest.llm, args.rounds)
        result["llm"] = {
            n: {"file MB": round(files[a.kind].stat().st_size / 1e6, 1)} | speed[n] | words[n]
            for n, a in LLM_ARMS.items()
        }
        arms = parser_arms(bundle, folder, pixels)
        last = pixels[-1:]
        times = interleaved({n: partial(s.run, None, {"pixels": last}) for n, s in arms.items()}, args.rounds)
        held = pixels[len(pixels) // 2 :]
        maps = {n: np.concatenate([s.run(None, {"pixels": x[None]})[0] for x in held]) for n, s in arms.items()}
        result["parser"] = {
            n: {"ms": ms, "pixels with another label": round(float((maps[n] != maps["as shipped"]).mean()), 5)}
            for n, ms in times.items()
        }
    result["faces at a time"] = {}
    for count in (1, 2, 4, 8):
        command = [sys.executable, __file__, "--together", str(count), "--rounds", str(args.rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result["faces at a time"][count] = json.loads(done.stdout.splitlines()[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
