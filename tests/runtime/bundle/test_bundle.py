"""The bundle format: what is damaged, inconsistent or too new is refused, with both sides shown."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceinsight import BundleError, BundleNotFoundError, FaceInsight, FaceInsightError
from faceinsight.bundle.bundle import Bundle, locate
from faceinsight.bundle.manifest import Manifest

NANO = locate("nano")


@pytest.fixture
def manifest() -> dict[str, Any]:
    return json.loads((NANO / "manifest.json").read_text())


@pytest.fixture
def small(tmp_path: Path, manifest: dict[str, Any]) -> Path:
    """A bundle with nano's manifest and tiny files: all that opening looks at."""
    rng = np.random.default_rng(0)
    for name in manifest["files"]:
        data = rng.bytes(3000)
        (tmp_path / name).write_bytes(data)
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write(tmp_path, manifest)
    return tmp_path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A full copy of nano."""
    shutil.copytree(NANO, tmp_path / "copy")
    return tmp_path / "copy"


def write(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def reseal(folder: Path, change: dict[str, Any]) -> None:
    """Apply changes to the manifest and make all hashes right again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for path, value in change.items():
        at = manifest
        *parents, last = path.split(".")
        for key in parents:
            at = at[key]
        at[last] = value
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write(folder, manifest)


def test_shipped_graphs_name_no_file_of_the_machine_that_wrote_them():
    for path in NANO.glob("*.onnx"):
        assert b".py" not in path.read_bytes(), path.name


def test_nano_opens_and_round_trips(manifest):
    bundle = Bundle.open("nano")
    assert json.loads(bundle.manifest.to_json()) == manifest
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
    assert bundle.bytes < 60e6


def test_unknown_bundle_lists_what_is_shipped(tmp_path):
    with pytest.raises(BundleNotFoundError, match="shipped: nano"):
        Bundle.open("pico")
    with pytest.raises(BundleNotFoundError, match=r"holds no manifest\.json"):
        Bundle.open(tmp_path)


def test_missing_file(small):
    (small / "parser.onnx").unlink()
    with pytest.raises(BundleNotFoundError, match=r"parser\.onnx is missing"):
        Bundle.open(small)


def test_flipped_byte_shows_both_hashes(small, manifest):
    data = bytearray((small / "llm.gguf").read_bytes())
    data[1234] ^= 1
    (small / "llm.gguf").write_bytes(data)
    with pytest.raises(
        BundleError, match=f"{hashlib.sha256(data).hexdigest()}.*{manifest['files']['llm.gguf']['sha256']}"
    ):
        Bundle.open(small)


def test_symbolic_link_is_refused(small, tmp_path):
    real = small / "elsewhere"
    (small / "parser.onnx").rename(real)
    (small / "parser.onnx").symlink_to(real)
    with pytest.raises(BundleError, match="regular file"):
        Bundle.open(small)


@pytest.mark.parametrize("name", ["../parser.onnx", "/etc/hostname", "a/b", ".."])
def test_file_names_cannot_leave_the_folder(small, manifest, name):
    manifest["files"][name] = manifest["files"]["parser.onnx"]
    write(small, manifest)
    with pytest.raises(BundleError, match="plain file name"):
        Bundle.open(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1, this runtime reads version 2"),
        ({"format": "zip"}, "format is 'zip'"),
        ({"min_runtime": "99.0.0"}, "needs faceinsight 99.0.0"),
        ({"min_runtime": "soon"}, "not a version"),
        ({"encoder.width": 577}, "encoder.width 577 does not fit llm.width 576"),
        ({"encoder.size": "128"}, "encoder.size: expected int, found str '128'"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"soft_weight": -1}, "soft_weight"),
        ({"crop.template": [[0, 0]] * 4}, "expected 5 items, found 4"),
    ],
)
def test_wrong_manifest_names_the_field(small, change, message):
    reseal(small, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(small)


@pytest.mark.slow
def test_widths_are_checked_against_the_graphs(copied):
    reseal(copied, {"encoder.size": 160})
    with pytest.raises(BundleError, match=r"pixels.*128, 128.*160, 160"):
        FaceInsight.load(copied, device="cpu")
    reseal(copied, {"encoder.size": 128, "encoder.width": 640, "llm.width": 640})
    with pytest.raises(BundleError, match=r"576.*640"):
        FaceInsight.load(copied, device="cpu")


@pytest.mark.slow
def test_damaged_models_with_a_right_hash_are_still_errors(copied):
    for name in ("parser.onnx", "llm.gguf", "detector.onnx"):
        data = (copied / name).read_bytes()
        (copied / name).write_bytes(data[: len(data) // 3])
        reseal(copied, {})
        with pytest.raises(BundleError, match=name):
            FaceInsight.load(copied, device="cpu")
        (copied / name).write_bytes(data)


def mutate(rng: np.random.Generator, node: Any) -> None:
    """Change one random place of a JSON document."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if isinstance(node[key], (dict, list)) and len(node[key]) and rng.random() < 0.85:
            node = node[key]
            continue
        kind = rng.integers(3)
        if kind == 0:
            del node[key]
        else:
            node[key] = [None, -1, 1e308, float("nan"), "x", [], {}, True, "../x", 10**30][rng.integers(10)]
        return


def test_200_mutated_manifests(small):
    rng = np.random.default_rng(5)
    clean = json.loads((small / "manifest.json").read_text())
    refused = 0
    for _ in range(200):
        damaged = copy.deepcopy(clean)
        mutate(rng, damaged)
        write(small, damaged)
        try:
            Bundle.open(small)
        except FaceInsightError:
            refused += 1
    # What is left are changes of meaning, not of form: a phrase, a provenance note, a dropped default.
    assert refused > 120


def test_200_garbled_manifest_texts(small):
    rng = np.random.default_rng(6)
    clean, refused = (small / "manifest.json").read_bytes(), 0
    for _ in range(200):
        data = bytearray(clean)
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] = rng.integers(256)
        (small / "manifest.json").write_bytes(data)
        try:
            Bundle.open(small)
        except FaceInsightError:
            refused += 1
    # A character within a sentence is another sentence; anywhere else the manifest does not read.
    assert refused > 100


def test_200_truncated_bundles(small, manifest):
    rng = np.random.default_rng(7)
    names = [*manifest["files"], "manifest.json"]
    for _ in range(200):
        name = names[rng.integers(len(names))]
        data = (small / name).read_bytes()
        (small / name).write_bytes(data[: rng.integers(len(data))])
        with pytest.raises(BundleError):
            Bundle.open(small)
        (small / name).write_bytes(data)
    Bundle.open(small)
