"""Packs the trained parts of a run into one small file, and unpacks it into a run folder to train on from.

    faceinsight-train pack work/run --out nano.pt
    faceinsight-train unpack nano.pt --bundle nano --out work/again

Half precision, and without the LLM: its weights are taken from the bundle's GGUF.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from faceinsight.bundle.bundle import Bundle

from .nets.llm import BpeVocabulary, load_gguf
from .storage import MIN_ELEMENTS

#: Part -> the file of a run folder that a next training starts from.
FILES = {
    "parser": "parser.pt",
    "encoder": "base.pt",
    "closeup": "closeup.pt",
    "question": "question.pt",
    "adapter": "align.pt",
}


def pack(run: Path, path: Path) -> None:
    """Write the parts of a run.

    Raises:
        FileNotFoundError: a step has not finished.
    """
    llm = _load(run / "llm.pt")
    adapter = {k.removeprefix("adapter."): v for k, v in llm.items() if k.startswith("adapter.")}
    parts = {name: _load(run / f"{name}.pt") for name in ("parser", "encoder", "closeup", "question")} | {
        "adapter": adapter
    }
    torch.save({name: {k: _halved(v) for k, v in part.items()} for name, part in parts.items()}, path)


def unpack(path: Path, bundle: str, run: Path) -> None:
    """Make a run folder in which parser, close-up and question encoder are finished, and encoder, adapter and LLM start
    as they are here.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: it is another kind of file.
    """
    if run.exists() and any(run.iterdir()):
        raise FileExistsError(f"{run} is not empty: choose another place, or remove it first")
    parts = _load(path)
    if set(parts) != set(FILES):
        raise ValueError(f"{path} holds {', '.join(sorted(parts))[:80]}; expected {', '.join(sorted(FILES))}")
    opened = Bundle.open(bundle)
    source = opened.file(opened.manifest.llm.file)
    run.mkdir(parents=True, exist_ok=True)
    for name, file in FILES.items():
        torch.save({k: v.float() if v.is_floating_point() else v for k, v in parts[name].items()}, run / file)
    torch.save(load_gguf(source).state_dict(), run / "small.pt")
    BpeVocabulary.from_gguf(source).save(run / "vocabulary.json")


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() and value.numel() >= MIN_ELEMENTS else value


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    return torch.load(path, weights_only=True, map_location="cpu")
