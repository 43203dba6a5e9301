"""What the manifest of a LLaVA bundle says: of its vision encoder, prompt, files, licences and origin."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from faceinsight import __version__
from faceinsight.bundle.bundle import sha256_of
from faceinsight.bundle.manifest import Manifest
from faceinsight.bundle.specs import (
    LANGUAGE,
    SCOPE,
    UNCLEAR,
    EncoderSpec,
    FileEntry,
    KnowledgeSpec,
    Licence,
    LlmSpec,
    PromptSpec,
    VisionSpec,
)
from faceinsight.types import STATES
from faceinsight_models.llava.pixels import preprocessing
from faceinsight_models.recipe import LlavaRecipe, llava_recipes
from faceinsight_models.storage import (
    CLOSEUP,
    DETECTOR,
    ENCODER,
    KNOWLEDGE,
    PARSER,
    QUESTION,
    QUESTION_VOCABULARY,
    VISION,
)

from .attach import Attached
from .card import terms, training_data
from .checkpoint.checkpoint import Checkpoint
from .onnx.token_merging import TokenReduction
from .onnx.vision_reference import VisionShape
from .parity.reference import Reference
from .parity.stages import Stage

#: How findings are given to an LLM that was not trained on knowledge tokens.
FINDINGS = " (Measured on this face: {findings})"
NOT_VISIBLE = "It is not visible whether {who} {phrase}."
#: Reasons to decline that only hold for an LLM which knows nothing but the report.
REPORT_ONLY_DECLINES = (SCOPE, UNCLEAR, LANGUAGE)
#: Stages of the face bundle whose parity still holds.
FACE_STAGES = ("label_map", "logits", "relevance")
#: What looks like a control token in a recipe.
_MARK = re.compile(r"<[^<>\s]+>")


def require_recipe(rules: LlavaRecipe, reference: Reference, recipe: str) -> None:
    """Refuse a recipe of another family of LLMs.

    What ends an answer, and each `<mark>` of the prompt, must be one token: the runtime stops at the first token of
    `stop`, and a mark that is text here is a control token of another family's.

    Raises:
        ValueError: a mark is not one token of this checkpoint.
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


def vision_spec(
    checkpoint: Checkpoint, *, tokens: int | None, method: str = "merge", margin: float = 2.0
) -> VisionSpec:
    """The vision encoder's part of the manifest, from the checkpoint's configuration.

    Raises:
        ValueError: the preprocessing is not CLIP's, or the grid cannot be reduced to so many tokens.
    """
    shape = VisionShape.read(checkpoint.config)
    mean, std = preprocessing(checkpoint.folder, shape.size)
    count = shape.side**2 + (not shape.drop_class)
    if tokens is not None:
        count = TokenReduction(shape.side, tokens, method).tokens
    width = checkpoint.shape("multi_modal_projector.linear_2.weight")[0]
    return VisionSpec(
        VISION, shape.size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), "mean", count, width, margin
    )


def prompt_spec(recipe: LlavaRecipe, face: PromptSpec) -> PromptSpec:
    """The recipe's prompt; statements about findings are the face bundle's."""
    return dataclasses.replace(
        face,
        before_face=recipe.before_face,
        after_face=recipe.after_face,
        before_answer=recipe.before_answer,
        stop=recipe.stop,
        between=recipe.between,
        follow=recipe.follow,
        findings=FINDINGS,
        statements=face.statements | {"not visible": NOT_VISIBLE},
        # An LLM that sees the whole picture may answer more than a report holds; judgements stay declined.
        declines={k: v for k, v in face.declines.items() if k not in REPORT_ONLY_DECLINES},
    )


def llava_manifest(
    face: Manifest,
    work: Path,
    name: str,
    vision: VisionSpec,
    llm: LlmSpec,
    checkpoint: str,
    provenance: Mapping[str, str],
    stages: Sequence[Stage],
) -> Manifest:
    """The manifest of a bundle that gives its LLM findings in words.

    Args:
        face: manifest of the bundle that lent the face parts.
        work: folder of the bundle's files.
        name: of the bundle.
        vision: its vision encoder.
        llm: its LLM and prompt.
        checkpoint: name of the checkpoint's folder, for the licence ledger.
        provenance: how it was made.
        stages: its parity.
    """
    e = face.encoder
    licence = Licence(
        "vision encoder, projector and LLM",
        "that of the checkpoint",
        checkpoint,
        "not checked by the exporter: see where the checkpoint comes from",
    )
    face_parity = {f"{face.name}: {k}": v for k, v in face.parity.items() if k in FACE_STAGES}
    return dataclasses.replace(
        face,
        name=name,
        min_runtime=__version__,
        created=datetime.date.today().isoformat(),
        files={p.name: _entry(p) for p in sorted(work.iterdir()) if p.suffix in (".onnx", ".gguf")},
        detector=dataclasses.replace(face.detector, file=DETECTOR),
        parser=dataclasses.replace(face.parser, file=PARSER),
        encoder=EncoderSpec(ENCODER, e.size, e.mean, e.std, 0, 0),
        closeup=face.closeup and dataclasses.replace(face.closeup, file=CLOSEUP),
        vision=vision,
        knowledge=None,
        question=dataclasses.replace(face.question, file=QUESTION, vocabulary=QUESTION_VOCABULARY, words=None),
        llm=llm,
        licences=(*face.licences, licence),
        provenance={
            **provenance,
            "face parts": f"{face.name}: {face.provenance.get('exporter', '')}",
            "exporter": f"faceinsight {__version__}",
        },
        parity=face_parity | {s.name: round(s.error, 8) for s in stages},
    )


def with_adapter_tokens(manifest: Manifest, attached: Attached) -> Manifest:
    """The manifest with region tokens behind the image tokens, and knowledge tokens instead of words."""
    sets = attached.record.sets
    licence = Licence(
        "region and knowledge projectors", "as the training data", f"trained here on {training_data(sets)}", terms(sets)
    )
    return dataclasses.replace(
        manifest,
        encoder=dataclasses.replace(manifest.encoder, width=manifest.llm.width),
        knowledge=KnowledgeSpec(KNOWLEDGE, STATES),
        llm=dataclasses.replace(manifest.llm, prompt=dataclasses.replace(manifest.llm.prompt, findings="")),
        licences=(*manifest.licences, licence),
        provenance=manifest.provenance | {"region and knowledge tokens": f"sha256 {attached.sha256}"},
    )


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_of(path), path.stat().st_size)
