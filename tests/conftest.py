"""Shared fixtures: the shipped bundle on the CPU, and one real public-domain photo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from paths import PHOTO

from faceinsight import Face, FaceInsight


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """NASA's portrait of Eileen Collins, RGB (512,512,3)."""
    return np.ascontiguousarray(cv2.imread(str(PHOTO))[:, :, ::-1])


@pytest.fixture(scope="session")
def insight() -> Iterator[FaceInsight]:
    with FaceInsight.load("nano", device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def face(insight: FaceInsight) -> Face:
    (found,) = insight.perceive(PHOTO)
    return found


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle of random weights (tiny_bundle.py)."""
    tiny_bundles = pytest.importorskip("tiny_bundle", reason="needs onnx and gguf", exc_type=ImportError)
    return tiny_bundles.make(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Iterator[FaceInsight]:
    with FaceInsight.load(tiny_bundle, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def tiny_face(tiny: FaceInsight) -> Face:
    (found,) = tiny.perceive(PHOTO)
    return found
