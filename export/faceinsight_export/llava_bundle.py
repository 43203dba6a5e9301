"""A LLaVA checkpoint and the face parts of a FaceInsight bundle to a verified bundle, in steps that resume."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faceinsight import __version__
from faceinsight.bundle.bundle import MANIFEST, Bundle, sha256_of
from faceinsight.bundle.manifest import (
    LANGUAGE,
    SCOPE,
    UNCLEAR,
    EncoderSpec,
    FileEntry,
    KnowledgeSpec,
    Licence,
    LlmSpec,
    Manifest,
    PromptSpec,
    VisionSpec,
)
from faceinsight.perception.clip_pixels import to_pixels
from faceinsight.types import STATES
from faceinsight_models.llava.pixels import preprocessing
from faceinsight_models.recipe import LlavaRecipe, llava_recipes

from .atomic import Steps, require_space
from .attach import Attached
from .card import terms, training_data
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.lora import LoraAdapter, MergedCheckpoint
from .face_parts import VOCABULARY, take_face_parts
from .gguf.llm import llm_bytes, write_gguf
from .gguf.quantize import quantize
from .gguf.tokenizer import read_vocabulary
from .onnx.token_merging import TokenReduction
from .onnx.vision import PRECISIONS, write_vision
from .onnx.vision_reference import VisionShape
from .parity.llava import pictures, verify_llava
from .parity.reference import Reference
from .parity.stages import Stage

#: Size of a quantized LLM relative to its 16-bit conversion, at most.
SHARES = {"f16": 1.0, "q8_0": 0.54, "q6_k": 0.42, "q5_k_m": 0.37, "q5_0": 0.36, "q4_k_m": 0.32, "q4_0": 0.3}
#: How an LLM that was not trained on knowledge tokens is told what was found.
FINDINGS = " (Measured on this face: {findings})"
NOT_VISIBLE = "It is not visible whether {who} {phrase}."
#: Reasons to decline that hold for an LLM which only knows the report.
OPEN = (SCOPE, UNCLEAR, LANGUAGE)
#: What looks like a control token in a recipe.
_MARK = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class ExportOptions:
    """How much precision is given up, and where: `vision` one of vision.PRECISIONS, `llm` one of SHARES; image tokens
    for the LLM and how they are reached (token_budget.py); a LoRA adapter's folder to merge."""

    vision: str = "fp32"
    llm: str = "q4_k_m"
    tokens: int | None = None
    method: str = "merge"
    lora: Path | None = None

    def __post_init__(self) -> None:
        for what, value, known in (("vision", self.vision, PRECISIONS), ("llm", self.llm, SHARES)):
            if value not in known:
                raise ValueError(f"--{what} {value!r}; expected one of {', '.join(known)}")


def export_llava(
    folder: Path,
    out: Path,
    *,
    recipe: str,
    choice: ExportOptions = ExportOptions(),
    face: str = "nano",
    attach: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Stage]:
    """Write and verify a bundle at `out`, which must not exist. Returns the parity of each stage.

    attach: run folder of `faceinsight-train attach`; without it the LLM is told in words what was found.
    An interrupted export goes on with the step it was in, if folder, recipe, choice, face parts and run are the same.
    Raises FileExistsError, CheckpointError, OSError for too small a disk, ValueError for a run that does not fit,
    ParityError naming the stage that failed.
    """
    rules = LlavaRecipe.load(recipe)
    checkpoint = open_checkpoint(folder, choice.lora)
    parts = Bundle.open(face)
    attached = open_attached(attach, parts, folder, choice.lora)
    vision = vision_spec(checkpoint, tokens=choice.tokens, method=choice.method, margin=rules.margin)
    half = llm_bytes(checkpoint, "f16")
    words = read_vocabulary(folder, checkpoint.text_config)
    reference = open_reference(folder, choice.lora)
    require_recipe(rules, reference, recipe)
    settings = {
        "checkpoint": str(folder.resolve()),
        "recipe": repr(rules),
        "choice": repr(choice),
        "face": parts.sha256,
        "exporter": __version__,
    }
    settings |= {"attached": attached.sha256} if attached else {}
    steps = Steps(out, settings, progress=progress)
    require_space(out.parent, 1_500_000_000 + half + int(half * SHARES[choice.llm]) * (choice.llm != "f16"))
    work = steps.folder

    taken = ["detector.onnx", "parser.onnx", "encoder.onnx", "question.onnx", VOCABULARY]
    taken += ["closeup.onnx"] if parts.manifest.closeup else []
    taken += ["knowledge.onnx"] if attached else []
    steps.run("face parts", lambda: take_face_parts(parts, work, attached), taken)
    steps.run(
        f"vision ({choice.vision})",
        lambda: convert_vision(
            checkpoint, work / "vision.onnx", precision=choice.vision, tokens=choice.tokens, method=choice.method
        ),
        ["vision.onnx"],
    )
    converted = "llm.gguf" if choice.llm == "f16" else "llm-f16.gguf"
    steps.run(
        "llm (f16)",
        lambda: write_gguf(
            checkpoint, words, work / converted, precision="f16", name=out.name, progress=_bar("llm (f16)")
        ),
        [converted] if choice.llm == "f16" or not (work / "llm.gguf").is_file() else [],
    )
    if choice.llm != "f16":
        steps.run(
            f"llm ({choice.llm})",
            lambda: quantize(work / converted, work / "llm.gguf", choice.llm),
            ["llm.gguf"],
        )
        (work / converted).unlink(missing_ok=True)
    llm = LlmSpec(
        "llm.gguf",
        vision.width,
        rules.context,
        prompt(rules, parts.manifest.llm.prompt),
        rules.max_question,
        rules.max_answer,
    )
    stages = verify_llava(
        reference,
        work,
        vision,
        llm,
        precisions=(choice.vision, choice.llm),
        method=choice.method,
        attached=attached,
        progress=progress,
    )
    manifest = _manifest(parts.manifest, work, out.name, vision, llm, checkpoint, choice, recipe, stages)
    if attached:
        manifest = _with_tokens(manifest, attached)
    (work / MANIFEST).write_text(manifest.to_json())
    Bundle.open(work)
    steps.finish()
    return stages


def open_checkpoint(folder: Path, lora: Path | None = None) -> Checkpoint:
    """A checkpoint folder, with an adapter merged in as it is read. Raises CheckpointError or FileNotFoundError."""
    checkpoint = Checkpoint.open(folder)
    return MergedCheckpoint(checkpoint, LoraAdapter.open(lora)) if lora else checkpoint


def open_reference(folder: Path, lora: Path | None = None) -> Reference:
    """transformers' own model of a folder, with an adapter added. Raises CheckpointError or FileNotFoundError."""
    return Reference.open(folder, LoraAdapter.open(lora) if lora else None)


def require_recipe(rules: LlavaRecipe, reference: Reference, recipe: str) -> None:
    """Raises ValueError unless what ends an answer, and each `<mark>` of the prompt, is one token of this checkpoint.

    The runtime stops at the first token of `stop`; a mark that is text here is a control token of another family's.
    """
    texts = (rules.before_face, rules.after_face, rules.before_answer, rules.between, rules.follow)
    for mark in (rules.stop, *sorted({m for text in texts for m in _MARK.findall(text)})):
        count = len(reference.tokens(mark))
        if count != 1:
            what = "stops at" if mark == rules.stop else "has"
            raise ValueError(
                f"recipe {recipe} {what} {mark!r}, which must be one token and is {count} in {reference.folder}: it is "
                f"of another family of LLMs; --recipe {', '.join(llava_recipes())}, or a .toml file with the prompt "
                "that this checkpoint was trained with"
            )


def convert_vision(checkpoint: Checkpoint, path: Path, *, precision: str, tokens: int | None, method: str) -> None:
    """Vision encoder and projector to ONNX; a reduced precision is judged on pictures. Raises as write_vision does."""
    images = to_pixels(pictures(), vision_spec(checkpoint, tokens=tokens))
    write_vision(checkpoint, path, precision=precision, tokens=tokens, method=method, images=images)


def open_attached(run: Path | None, face: Bundle, checkpoint: Path, lora: Path | None) -> Attached | None:
    """What was trained for this checkpoint, if anything. Raises as Attached.open does, and ValueError beside a LoRA."""
    if run and lora:
        raise ValueError(
            "--attach was trained with the checkpoint as it is, --lora changes its LLM: merge the adapter into the "
            "checkpoint with PEFT first, then train with that"
        )
    return Attached.open(run, face, checkpoint) if run else None


def verify_bundle(
    bundle: Bundle,
    folder: Path,
    *,
    lora: Path | None = None,
    face: str = "nano",
    attach: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Stage]:
    """Compare a finished bundle with its checkpoint again, and with the adapter's run and its face bundle where it was
    made with one. Raises ParityError, or ValueError for another bundle."""
    m = bundle.manifest
    if not m.vision:
        raise ValueError(f"{bundle.path} was not made from a LLaVA checkpoint: it has no vision encoder of its own")
    if bool(m.knowledge) != bool(attach):
        raise ValueError(f"{bundle.path} was made with{'' if m.knowledge else 'out'} --attach: verify it the same way")
    attached = open_attached(attach, Bundle.open(face), folder, lora)
    precisions = m.provenance["vision precision"], m.provenance["llm precision"]
    return verify_llava(
        open_reference(folder, lora),
        bundle.path,
        m.vision,
        m.llm,
        precisions=precisions,
        method=m.provenance["image tokens by"],
        attached=attached,
        progress=progress,
    )


def vision_spec(
    checkpoint: Checkpoint, *, tokens: int | None, method: str = "merge", margin: float = 2.0
) -> VisionSpec:
    """What the checkpoint says of its vision encoder. Raises ValueError for a preprocessing that is not CLIP's, and for
    a number of tokens that its grid does not have."""
    shape = VisionShape.read(checkpoint.config)
    mean, std = preprocessing(checkpoint.folder, shape.size)
    count = (
        shape.side**2 + (not shape.drop_class) if tokens is None else TokenReduction(shape.side, tokens, method).tokens
    )
    width = checkpoint.shape("multi_modal_projector.linear_2.weight")[0]
    return VisionSpec(
        "vision.onnx", shape.size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), "mean", count, width, margin
    )


def prompt(recipe: LlavaRecipe, spoken: PromptSpec) -> PromptSpec:
    """The recipe's prompt; what is said of findings is the face bundle's."""
    return dataclasses.replace(
        spoken,
        before_face=recipe.before_face,
        after_face=recipe.after_face,
        before_answer=recipe.before_answer,
        stop=recipe.stop,
        between=recipe.between,
        follow=recipe.follow,
        findings=FINDINGS,
        statements=spoken.statements | {"not visible": NOT_VISIBLE},
        # An LLM that sees the whole picture may answer more than a report holds; judgements stay declined.
        declines={k: v for k, v in spoken.declines.items() if k not in OPEN},
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


def _manifest(
    face: Manifest,
    work: Path,
    name: str,
    vision: VisionSpec,
    llm: LlmSpec,
    checkpoint: Checkpoint,
    choice: ExportOptions,
    recipe: str,
    stages: list[Stage],
) -> Manifest:
    files = {p.name: _entry(p) for p in sorted(work.iterdir()) if p.suffix in (".onnx", ".gguf")}
    own = Licence(
        "vision encoder, projector and LLM",
        "that of the checkpoint",
        checkpoint.folder.name,
        "not checked by the exporter: see where the checkpoint comes from",
    )
    e = face.encoder
    kept = {f"{face.name}: {k}": v for k, v in face.parity.items() if k in ("label_map", "logits", "relevance")}
    return dataclasses.replace(
        face,
        name=name,
        min_runtime=__version__,
        created=datetime.date.today().isoformat(),
        files=files,
        detector=dataclasses.replace(face.detector, file="detector.onnx"),
        parser=dataclasses.replace(face.parser, file="parser.onnx"),
        encoder=EncoderSpec("encoder.onnx", e.size, e.mean, e.std, 0, 0),
        closeup=face.closeup and dataclasses.replace(face.closeup, file="closeup.onnx"),
        vision=vision,
        knowledge=None,
        question=dataclasses.replace(face.question, file="question.onnx", vocabulary=VOCABULARY, words=None),
        llm=llm,
        licences=(*face.licences, own),
        provenance={
            "recipe": recipe,
            "vision precision": choice.vision,
            "llm precision": choice.llm,
            "image tokens by": choice.method,
            "LoRA": choice.lora.name if choice.lora else "none",
            "face parts": f"{face.name}: {face.provenance.get('exporter', '')}",
            "exporter": f"faceinsight {__version__}",
        },
        parity=kept | {s.name: round(s.error, 8) for s in stages},
    )


def _with_tokens(manifest: Manifest, attached: Attached) -> Manifest:
    """Region tokens behind the image tokens, knowledge tokens instead of words."""
    sets = attached.record.sets
    own = Licence(
        "region and knowledge projectors", "as the training data", f"trained here on {training_data(sets)}", terms(sets)
    )
    return dataclasses.replace(
        manifest,
        encoder=dataclasses.replace(manifest.encoder, width=manifest.llm.width),
        knowledge=KnowledgeSpec("knowledge.onnx", STATES),
        llm=dataclasses.replace(manifest.llm, prompt=dataclasses.replace(manifest.llm.prompt, findings="")),
        licences=(*manifest.licences, own),
        provenance=manifest.provenance | {"region and knowledge tokens": f"sha256 {attached.sha256}"},
    )


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_of(path), path.stat().st_size)
