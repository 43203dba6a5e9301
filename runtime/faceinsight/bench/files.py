"""Where a result goes: JSON, and what is made of it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RequestError
from .chart import chart
from .result import Result
from .text import markdown

#: What the files in a folder are called.
NAME = "bench"


def result_file(path: Path) -> Path:
    """The JSON file of a result, given itself or the folder that it is in. Raises RequestError."""
    if not path.is_dir():
        return path
    if not (file := path / f"{NAME}.json").is_file():
        raise RequestError(f"{path} holds no {file.name}: expected a folder that `faceinsight bench --out` made")
    return file


def targets(out: Path) -> tuple[Path, Path, Path]:
    """The JSON, markdown and PNG files of `out`, a folder or a name that ends in .json.

    Raises RequestError now, not after an hour of measuring, where they could not be written.
    """
    base = out.with_suffix("") if out.suffix == ".json" else out / NAME
    if out.is_file() and out.suffix != ".json":
        raise RequestError(f"{out} is a file; expected a folder, or a name that ends in .json")
    above = next((p for p in base.absolute().parents if p.exists()), base)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RequestError(f"{out} cannot be written: {above} is not a folder that you can write to")
    return base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.md"), base.with_name(f"{base.name}.png")


def save(result: Result, files: tuple[Path, Path, Path]) -> None:
    """Raises RequestError."""
    texts = (result.to_json().encode(), markdown(result).encode(), chart(result))
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for path, data in zip(files, texts, strict=True):
            path.write_bytes(data)
    except OSError as e:
        raise RequestError(f"{files[0].parent} cannot be written: {e.strerror}") from e
