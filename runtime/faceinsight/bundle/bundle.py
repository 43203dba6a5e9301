"""A bundle on disk: found by name or path, verified byte by byte before anything in it is used."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .._version import __version__
from ..errors import BundleError, BundleNotFoundError
from ..host.machine import cores
from .manifest import Manifest

MANIFEST = "manifest.json"
_MAX_MANIFEST = 4_000_000


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: its folder, its manifest and the manifest's own fingerprint."""

    path: Path
    manifest: Manifest
    sha256: str

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(f.bytes for f in self.manifest.files.values())

    @property
    def graph_files(self) -> list[str]:
        """The ONNX models that run on the device: all but the detector, which runs on the CPU."""
        return [n for n in self.manifest.files if n.endswith(".onnx") and n != self.manifest.detector.file]

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> Bundle:
        """Open by path, or by the name of a bundle that came with the package ("nano").

        Checks the version, every file's size and sha256, and that each is a plain file inside the folder.
        Raises BundleNotFoundError or BundleError.
        """
        path = locate(name)
        text = _read_manifest(path / MANIFEST)
        manifest = Manifest.from_json(text.decode("utf-8", "replace"))
        if _version(manifest.min_runtime) > _version(__version__):
            raise BundleError(
                f"{path} needs faceinsight {manifest.min_runtime}, this is {__version__}: update faceinsight"
            )
        # Hashing is a large part of a cold start, and leaves Python's lock to others.
        with ThreadPoolExecutor(cores()) as pool:
            checks = [pool.submit(_verify, path, file, e.bytes, e.sha256) for file, e in manifest.files.items()]
            for check in checks:
                check.result()
        return cls(path, manifest, hashlib.sha256(text).hexdigest())


def locate(name: str | os.PathLike[str]) -> Path:
    """Folder of a bundle given by path or by a shipped name."""
    if not isinstance(name, (str, os.PathLike)):
        raise BundleNotFoundError(f"bundle {name!r}: expected the name of a shipped one, or a folder")
    path = Path(name)
    if (path / MANIFEST).is_file():
        return path
    shipped = _shipped()
    if isinstance(name, str) and name in shipped:
        return shipped[name]
    known = ", ".join(sorted(shipped)) or "none"
    if path.exists():
        raise BundleNotFoundError(f"{path} holds no {MANIFEST}: it is not a bundle")
    raise BundleNotFoundError(
        f"no bundle {str(name)!r}: it is neither a folder nor a shipped bundle (shipped: {known})"
    )


def _shipped() -> dict[str, Path]:
    # Found by path only: importing the models package is not the runtime's business.
    spec = find_spec("faceinsight_models")
    if spec is None or spec.submodule_search_locations is None:
        return {}
    roots = [Path(p) / "bundles" for p in spec.submodule_search_locations]
    return {m.parent.name: m.parent for root in roots for m in root.glob(f"*/{MANIFEST}")}


def _read_manifest(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise BundleError(f"{path} has {path.stat().st_size:,} bytes; a manifest has at most {_MAX_MANIFEST:,}")
        return path.read_bytes()
    except OSError as e:
        raise BundleNotFoundError(f"{path} cannot be read: {e}") from e


def _verify(folder: Path, name: str, size: int, sha256: str) -> None:
    if name != Path(name).name or name in ("", ".", "..", MANIFEST) or "\\" in name or "\0" in name:
        raise BundleError(f"manifest.json: files: {name!r} is not a plain file name")
    path = folder / name
    try:
        status = path.lstat()
    except OSError:
        raise BundleNotFoundError(
            f"{path} is missing: the manifest lists it; export or install the bundle again"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file (links are refused)")
    if status.st_size != size:
        raise BundleError(f"{path} has {status.st_size:,} bytes, the manifest says {size:,}: the file is damaged")
    found = sha256_of(path)
    if found != sha256:
        raise BundleError(f"{path} has sha256 {found}, the manifest says {sha256}: the file is damaged")


def sha256_of(path: Path) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")[:3]
    if not all(p.isdigit() for p in parts):
        raise BundleError(f"manifest.json: min_runtime {text!r} is not a version like 0.1.0")
    return tuple(int(p) for p in parts)
