"""A LLaVA checkpoint and the face parts of a FaceInsight bundle to a verified bundle, in steps that resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faceinsight import __version__
from faceinsight.bundle.bundle import MANIFEST, Bundle
from faceinsight.bundle.manifest import Manifest
from faceinsight.bundle.specs import LlmSpec, VisionSpec
from faceinsight.perception.clip_pixels import to_pixels
from faceinsight_models.recipe import LlavaRecipe
from faceinsight_models.storage import LLM, VISION

from .atomic import Steps, require_space
from .attach import Attached
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.lora import LoraAdapter, MergedCheckpoint
from .face_parts import face_files, take_face_parts
from .gguf.llm import llm_bytes, write_gguf
from .gguf.quantize import quantize
from .gguf.tokenizer import GgufVocabulary, read_vocabulary
from .llava_manifest import llava_manifest, prompt_spec, require_recipe, vision_spec, with_adapter_tokens
from .onnx.vision import write_vision
from .parity.llava import pictures, verify_llava
from .parity.reference import Reference
from .parity.stages import Stage
from .precisions import BUNDLE_LLM_PRECISIONS, LLM_PRECISIONS, VISION_PRECISIONS

#: Bytes of the disk for everything but the LLM: vision encoder, face parts, and what is written on the way.
SPACE_BESIDE_LLM = 1_500_000_000
#: The LLM's 16-bit conversion, from which llama.cpp quantizes.
LLM_F16 = "llm-f16.gguf"


@dataclass(frozen=True)
class ExportOptions:
    """How much precision is given up, and where.

    Attributes:
        vision: one of VISION_PRECISIONS.
        llm: one of BUNDLE_LLM_PRECISIONS.
        tokens: image tokens for the LLM; None: all.
        method: how fewer tokens are reached (onnx/token_merging.py).
        lora: folder of a LoRA adapter to merge.

    Raises:
        ValueError: a precision is unknown.
    """

    vision: str = "fp32"
    llm: str = "q4_k_m"
    tokens: int | None = None
    method: str = "merge"
    lora: Path | None = None

    @property
    def precisions(self) -> tuple[str, str]:
        """Of the vision encoder and of the LLM."""
        return self.vision, self.llm

    def __post_init__(self) -> None:
        for what, value, known in (
            ("vision", self.vision, VISION_PRECISIONS),
            ("llm", self.llm, BUNDLE_LLM_PRECISIONS),
        ):
            if value not in known:
                raise ValueError(f"--{what} {value!r}; expected one of {', '.join(known)}")


def export_llava(
    folder: Path,
    out: Path,
    *,
    recipe: str,
    options: ExportOptions = ExportOptions(),
    face: str = "nano",
    attach: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Stage]:
    """Write and verify a bundle.

    An interrupted export goes on with the step it was in, if folder, recipe, options, face parts and run are the same.

    Args:
        folder: the checkpoint; it is only read.
        out: the bundle's folder; it must not exist.
        recipe: name or file of the prompt that the checkpoint was trained with.
        options: precisions, image tokens, LoRA.
        face: name or folder of the bundle that lends detector, parser, encoder and question encoder.
        attach: run folder of `faceinsight-train attach`; without it the LLM is given findings in words.
        progress: called with the name of each step.

    Returns:
        The parity of each stage.

    Raises:
        FileExistsError: `out` exists already.
        CheckpointError: the checkpoint cannot be converted exactly.
        OSError: the disk is too small.
        ValueError: recipe or run do not fit the checkpoint.
        ParityError: a stage is beyond its tolerance.
    """
    rules = LlavaRecipe.load(recipe)
    checkpoint = open_checkpoint(folder, options.lora)
    parts = Bundle.open(face)
    attached = open_attached(attach, parts, folder, options.lora)
    vision = vision_spec(checkpoint, tokens=options.tokens, method=options.method, margin=rules.margin)
    needed = disk_bytes(checkpoint, options.llm)
    vocabulary = read_vocabulary(folder, checkpoint.text_config)
    reference = open_reference(folder, options.lora)
    require_recipe(rules, reference, recipe)
    steps = Steps(out, _settings(folder, rules, options, parts, attached), progress=progress)
    require_space(out.parent, needed)
    work = steps.folder
    steps.run("face parts", lambda: take_face_parts(parts, work, attached), face_files(parts, attached))
    _write_vision(steps, checkpoint, options)
    _write_llm(steps, checkpoint, vocabulary, options.llm, out.name)
    llm = _llm_spec(rules, vision, parts.manifest)
    compare = partial(verify_llava, precisions=options.precisions, method=options.method, progress=progress)
    stages = compare(reference, work, vision, llm, attached=attached)
    origin = checkpoint.folder.name, _provenance(recipe, options)
    manifest = llava_manifest(parts.manifest, work, out.name, vision, llm, *origin, stages)
    _complete(steps, with_adapter_tokens(manifest, attached) if attached else manifest)
    return stages


def disk_bytes(checkpoint: Checkpoint, precision: str) -> int:
    """What an export needs at most: the LLM's 16-bit conversion, the quantized LLM, and everything else."""
    fp16 = llm_bytes(checkpoint, "f16")
    return SPACE_BESIDE_LLM + fp16 + (int(fp16 * LLM_PRECISIONS[precision].size) if precision != "f16" else 0)


def _settings(
    folder: Path, rules: LlavaRecipe, options: ExportOptions, parts: Bundle, attached: Attached | None
) -> dict[str, str]:
    """What the steps of an export depend on."""
    settings = {
        "checkpoint": str(folder.resolve()),
        "recipe": repr(rules),
        "options": repr(options),
        "face": parts.sha256,
        "exporter": __version__,
    }
    return settings | ({"attached": attached.sha256} if attached else {})


def _complete(steps: Steps, manifest: Manifest) -> None:
    """Write the manifest, check the bundle, and give it its name."""
    (steps.folder / MANIFEST).write_text(manifest.to_json())
    Bundle.open(steps.folder)
    steps.finish()


def _provenance(recipe: str, options: ExportOptions) -> dict[str, str]:
    """How the bundle was made, for its manifest."""
    return {
        "recipe": recipe,
        "vision precision": options.vision,
        "llm precision": options.llm,
        "image tokens by": options.method,
        "LoRA": options.lora.name if options.lora else "none",
    }


def _llm_spec(rules: LlavaRecipe, vision: VisionSpec, face: Manifest) -> LlmSpec:
    prompt = prompt_spec(rules, face.llm.prompt)
    return LlmSpec(LLM, vision.width, rules.context, prompt, rules.max_question, rules.max_answer)


def _write_vision(steps: Steps, checkpoint: Checkpoint, options: ExportOptions) -> None:
    path = steps.folder / VISION
    steps.run(
        f"vision ({options.vision})",
        lambda: convert_vision(
            checkpoint, path, precision=options.vision, tokens=options.tokens, method=options.method
        ),
        [VISION],
    )


def _write_llm(steps: Steps, checkpoint: Checkpoint, vocabulary: GgufVocabulary, precision: str, name: str) -> None:
    """The 16-bit conversion, and what llama.cpp quantizes of it."""
    work = steps.folder
    converted = LLM if precision == "f16" else LLM_F16
    steps.run(
        "llm (f16)",
        lambda: write_gguf(
            checkpoint, vocabulary, work / converted, precision="f16", name=name, progress=_bar("llm (f16)")
        ),
        [converted] if precision == "f16" or not (work / LLM).is_file() else [],
    )
    if precision != "f16":
        steps.run(f"llm ({precision})", lambda: quantize(work / converted, work / LLM, precision), [LLM])
        (work / converted).unlink(missing_ok=True)


def open_checkpoint(folder: Path, lora: Path | None = None) -> Checkpoint:
    """A checkpoint folder, with an adapter merged in as it is read.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: checkpoint or adapter cannot be read whole, or do not fit together.
    """
    checkpoint = Checkpoint.open(folder)
    return MergedCheckpoint(checkpoint, LoraAdapter.open(lora)) if lora else checkpoint


def open_reference(folder: Path, lora: Path | None = None) -> Reference:
    """Transformers' own model of a folder, with an adapter added.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: transformers does not read the folder whole.
    """
    return Reference.open(folder, LoraAdapter.open(lora) if lora else None)


def open_attached(run: Path | None, face: Bundle, checkpoint: Path, lora: Path | None) -> Attached | None:
    """What was trained for this checkpoint, if anything.

    Raises:
        FileNotFoundError: the run has not finished.
        ValueError: the run is of another checkpoint or face bundle, or a LoRA changes its LLM.
    """
    if run and lora:
        raise ValueError(
            "--attach was trained with the checkpoint as it is, --lora changes its LLM: merge the adapter into the "
            "checkpoint with PEFT first, then train with that"
        )
    return Attached.open(run, face, checkpoint) if run else None


def convert_vision(checkpoint: Checkpoint, path: Path, *, precision: str, tokens: int | None, method: str) -> None:
    """Vision encoder and projector to ONNX, as `write_vision` does; a reduced precision is judged on `pictures`.

    For one image: faces are shown to the LLM one at a time, and TensorRT takes memory for the largest batch that the
    graph allows.
    """
    images = to_pixels(pictures(), vision_spec(checkpoint, tokens=tokens))
    write_vision(checkpoint, path, precision=precision, tokens=tokens, method=method, images=images, batch=1)


def verify_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    lora: Path | None = None,
    face: str = "nano",
    attach: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Stage]:
    """Compare a finished bundle with its checkpoint again.

    Args:
        bundle: made by `export_llava`.
        folder: its checkpoint.
        lora: the adapter that was merged in, if any.
        face: the bundle that lent the encoder; with `attach`.
        attach: the run that its region and knowledge tokens were made of, if any.
        progress: called with the name of each step.

    Raises:
        ParityError: a stage is beyond its tolerance.
        ValueError: the bundle was not made so.
    """
    m = bundle.manifest
    if not m.vision:
        raise ValueError(f"{bundle.path} was not made from a LLaVA checkpoint: it has no vision encoder of its own")
    if bool(m.knowledge) != bool(attach):
        raise ValueError(f"{bundle.path} was made with{'' if m.knowledge else 'out'} --attach: verify it the same way")
    return verify_llava(
        open_reference(folder, lora),
        bundle.path,
        m.vision,
        m.llm,
        precisions=(m.provenance["vision precision"], m.provenance["llm precision"]),
        method=m.provenance["image tokens by"],
        attached=open_attached(attach, Bundle.open(face), folder, lora),
        progress=progress,
    )


def _bar(name: str) -> Callable[[int, int], None]:
    from tqdm import tqdm

    bar = tqdm(desc=name, unit="B", unit_scale=True, mininterval=1)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
