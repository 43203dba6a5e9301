"""YuNet on ONNX Runtime finds what OpenCV's own FaceDetectorYN finds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from faceinsight import FaceInsight
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight.errors import BundleError
from faceinsight.perception.yunet import PARTS, STRIDES, YuNet

SIDE = 640


def published(path: Path) -> Path:
    """The shipped detector for pictures of one size, as it was published."""
    onnx = pytest.importorskip("onnx", reason="the published graph is made with onnx")
    model = onnx.load(str(Bundle.open("nano").file("detector.onnx")))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = SIDE
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = (SIDE // int(output.name.split("_")[1])) ** 2
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def opencv(tmp_path_factory) -> Any:
    model = published(tmp_path_factory.mktemp("yunet") / "published.onnx")
    return cv2.FaceDetectorYN.create(str(model), "", (SIDE, SIDE), 0.05, 0.3, 5000)


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    session = Device("cpu", False, 2).session(Bundle.open("nano").file("detector.onnx"))
    return YuNet(session, "detector.onnx", score_threshold=0.05, nms_threshold=0.3)


@pytest.mark.parametrize(
    ("width", "height"), [(512, 512), (640, 427), (333, 500), (160, 160), (97, 41), (48, 48), (8, 8), (1280, 33)]
)
def test_it_finds_what_opencv_finds(yunet: YuNet, opencv, photo, width: int, height: int):
    """In rows of the same order; sums in another order differ by less than a thousandth of a pixel."""
    picture = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    opencv.setInputSize((width, height))
    expected = opencv.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    assert yunet.detect(picture) == pytest.approx(np.zeros((0, 15)) if expected is None else expected, abs=2e-3)


def test_of_many_that_overlap_the_same_ones_stay(yunet: YuNet, opencv, photo, insight: FaceInsight):
    """Small boxes, of which each pixel decides."""
    (face,) = insight.perception.detector.detect(photo)
    x, y, w, h = (round(v) for v in face.box)
    tile = cv2.resize(photo[y : y + h, x : x + w], (24, 32), interpolation=cv2.INTER_AREA)
    crowd = np.tile(tile, (15, 20, 1))
    opencv.setInputSize(crowd.shape[1::-1])
    expected = opencv.detect(cv2.cvtColor(crowd, cv2.COLOR_RGB2BGR))[1]
    assert len(expected) > 200
    found = yunet.detect(crowd)
    assert len(found) == len(expected)
    assert np.abs(found[:, None, :4] - expected[:, :4]).sum(2).min(1) == pytest.approx(0, abs=0.01)


class Scripted:
    """A session whose outputs are given: nothing anywhere, but for some cells of the finest grid."""

    def __init__(self, width: int, height: int, cells: dict[int, list[float]]) -> None:
        """cells: number -> cls, obj, four of the box, ten of the landmarks."""
        grids = {s: (width // s) * (height // s) for s in STRIDES}
        self.arrays = {f"{p}_{s}": np.zeros((1, n, PARTS[p]), np.float32) for p in PARTS for s, n in grids.items()}
        for number, values in cells.items():
            start = 0
            for part, length in PARTS.items():
                self.arrays[f"{part}_8"][0, number] = values[start : start + length]
                start += length

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", shape=(1, 3, "height", "width"))]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=n, shape=(1, "cells", a.shape[2])) for n, a in self.arrays.items()]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, names, feeds):
        return [self.arrays[n] for n in names]


def test_cells_become_boxes_and_landmarks():
    values = [0.9, 0.4, 0.5, 0.25, np.log(2), np.log(4), *np.arange(10) / 8]
    # Column 3, row 2 of a grid of 8 x 4 cells.
    session = Scripted(64, 32, {2 * 8 + 3: values})
    found = YuNet(session, "d.onnx", score_threshold=0.5, nms_threshold=0.3).detect(np.zeros((32, 64, 3), np.uint8))
    points = [[8 * 3 + x, 8 * 2 + x + 1] for x in range(0, 10, 2)]
    expected = [28 - 8, 18 - 16, 16, 32, *np.ravel(points), np.sqrt(0.36)]
    assert found == pytest.approx(np.float32([expected]), abs=1e-5)


def test_boxes_without_size_are_dropped():
    fine = [1, 1, 0, 0, 1, 1, *[0] * 10]
    endless, nowhere = [1, 1, 0, 0, 1000, 1, *[0] * 10], [1, 1, 0, 0, 1, 1, np.nan, *[0] * 9]
    session = Scripted(64, 32, {0: endless, 3: fine, 7: nowhere})
    found = YuNet(session, "d.onnx", score_threshold=0.5, nms_threshold=0.3).detect(np.zeros((32, 64, 3), np.uint8))
    assert found[:, 14].tolist() == [1]
    assert np.isfinite(found).all()


def test_a_graph_for_one_size_is_refused(tmp_path):
    """Bundles made before the detector ran on ONNX Runtime have one."""
    session = Device("cpu", False, 1).session(published(tmp_path / "detector.onnx"))
    with pytest.raises(BundleError, match=r"detector\.onnx takes pictures of 640 x 640 px only.*make it again"):
        YuNet(session, "detector.onnx", score_threshold=0.5, nms_threshold=0.3)
