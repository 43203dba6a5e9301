"""Faces are found whoever else is in the photo."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from faceinsight import FaceInsight
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight.perception import image as imaging
from faceinsight.perception.pipeline import Perception
from faceinsight.perception.tiles import OVERLAP, SPOT, brightened, pieces, spot, tiles


@pytest.mark.parametrize("side", [8, 12, 15])
def test_a_crowd_is_found_whole(insight: FaceInsight, photo, side: int):
    """With 200 boxes before the suppression of those that overlap, 109 of 225 faces had been found."""
    (face,) = insight.perception.detector.detect(photo)
    x, y, w, h = (round(v) for v in face.box)
    alone = photo[y - h // 4 : y + h + h // 4, x - w // 3 : x + w + w // 3]
    tile = cv2.resize(alone, (640 // side, 640 // side), interpolation=cv2.INTER_AREA)
    assert len(insight.perception.detector.detect(np.tile(tile, (side, side, 1)))) == side**2


def test_boxes_off_the_photo_are_dropped(insight: FaceInsight, photo, monkeypatch):
    detector = insight.perception.detector
    rows = np.tile(np.float32([10, 10, 40, 50, *[30, 30] * 5, 0.9]), (3, 1))
    rows[1, 0], rows[2, 3] = 2000, -3

    class Network:
        def detect(self, picture):
            return rows.copy()

    monkeypatch.setattr(detector, "network", Network())
    (found,) = detector.detect(photo)
    assert found.box == (10, 10, 40, 50)


def test_it_runs_on_the_cpu_whatever_the_graphs_run_on():
    """A TensorRT plan takes pictures of one size."""
    cpu, elsewhere = Device("cpu", False, 1), []

    class Gpu:
        batch = 8

        def on_cpu(self) -> Device:
            return cpu

        def session(self, model: Path):
            elsewhere.append(model.name)
            return cpu.session(model)

    perception = Perception.load(Bundle.open("nano"), Gpu())
    assert sorted(elsewhere) == ["closeup.onnx", "encoder.onnx", "knowledge.onnx", "parser.onnx"]
    assert perception.detector.network.graph.providers == ("CPUExecutionProvider",)


def test_the_cpu_of_a_gpu_device_has_its_threads():
    gpu = Device("cuda", True, 3, strict=False)
    assert gpu.on_cpu() == Device("cpu", False, 3)


@pytest.fixture(scope="module")
def alone(insight: FaceInsight, photo) -> NDArray[np.uint8]:
    """Head and hair, 2.2 times as wide as the face."""
    (face,) = insight.perception.detector.detect(photo)
    x, y, w, h = (round(v) for v in face.box)
    return photo[y - h // 2 : y + h + h // 3, x - round(0.6 * w) : x + w + round(0.6 * w)]


def put(canvas: NDArray[np.uint8], head: NDArray[np.uint8], x: int, y: int, width: int) -> None:
    """The head at x, y, its face as wide as that."""
    size = round(width * 2.2)
    small = cv2.resize(head, (size, round(size * head.shape[0] / head.shape[1])), interpolation=cv2.INTER_AREA)
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small


def wall(width: int, height: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), (150, 160, 170), np.uint8)


@pytest.mark.parametrize("far", [50, 60])
@pytest.mark.parametrize(("width", "height"), [(3840, 2160), (4000, 3000), (4608, 3456)])
def test_far_faces_are_found_beside_a_near_one(insight: FaceInsight, alone, width: int, height: int, far: int):
    """The first look is at 640 pixels: it had found the near one and left it at that."""
    canvas = wall(width, height)
    put(canvas, alone, 300, 300, 500)
    for x in range(1800, 3600, 400):
        put(canvas, alone, x, 1500, far)
    found = insight.perception.detector.detect(canvas)
    assert len(found) == 6
    assert found[0].box[2] == pytest.approx(500, rel=0.2)
    assert [f.box[2] for f in found[1:]] == pytest.approx([far] * 5, rel=0.3)


@pytest.mark.parametrize(("width", "height"), [(12000, 480), (480, 12000), (9000, 1700), (39000, 400)])
def test_strips_are_looked_at_in_pieces(insight: FaceInsight, alone, width: int, height: int):
    canvas = wall(width, height)
    places = [(w, h) for w in range(20, width - 200, 1900) for h in range(20, height - 200, 1900)]
    for x, y in places:
        put(canvas, alone, x, y, 90)
    found = insight.perception.detector.detect(canvas)
    assert len(found) == len(places)
    assert all(np.isfinite(f.box).all() for f in found)


def looked_at(insight: FaceInsight, image: NDArray[np.uint8], monkeypatch) -> tuple[int, int]:
    """Faces found, and pixels that the network saw."""
    detector = insight.perception.detector
    network, pixels = detector.network, []

    class Counted:
        def detect(self, image):
            pixels.append(image.shape[0] * image.shape[1])
            return network.detect(image)

    with monkeypatch.context() as patch:
        patch.setattr(detector, "network", Counted())
        return len(detector.detect(image)), sum(pixels)


def test_where_nothing_else_is_no_closer_look_is_taken(insight: FaceInsight, photo, alone, monkeypatch):
    canvas = wall(4000, 3000)
    put(canvas, alone, 300, 300, 500)
    assert looked_at(insight, canvas, monkeypatch) == (1, 640 * 480)
    assert looked_at(insight, photo, monkeypatch) == (1, 512 * 512)
    put(canvas, alone, 3000, 1500, 60)
    found, pixels = looked_at(insight, canvas, monkeypatch)
    assert found == 2
    assert pixels < 3 * 640 * 480


def test_a_large_photo_of_one_person_shows_one(insight: FaceInsight, photo):
    """Closer looks at hair, cloth and skin find no face in them."""
    assert len(insight.perception.detector.detect(cv2.resize(photo, (4000, 4000), interpolation=cv2.INTER_CUBIC))) == 1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 960), (4000, 3000), (39000, 400), (7, 9000)])
def test_tiles_and_pieces_cover_all(width: int, height: int):
    for windows, overlap in ((tiles(width, height), OVERLAP), (pieces(width, height, 640), min(width, height))):
        columns, rows = sorted({(x, w) for x, _, w, _ in windows}), sorted({(y, h) for _, y, _, h in windows})
        assert len(windows) == len(columns) * len(rows)
        for cuts, length in ((columns, width), (rows, height)):
            assert cuts[0][0] == 0
            assert sum(cuts[-1]) == length
            assert all(a + n - b >= min(overlap, n) for (a, n), (b, _) in itertools.pairwise(cuts))


def test_boxes_are_in_the_pixels_of_the_photo_itself(insight: FaceInsight, photo, face, monkeypatch):
    """Also of a JPEG that is decoded at half its width; the label map still lies where the face is."""
    monkeypatch.setattr(imaging, "MAX_PIXELS", 256 * 256)
    (found,) = insight.perceive(bytes(cv2.imencode(".jpg", photo[:, :, ::-1])[1]))
    assert np.abs(np.subtract(found.box, face.box)).max() < 10
    assert np.abs(found.landmarks - face.landmarks).max() < 6
    centre = np.append(face.landmarks.mean(0), 1)
    assert np.abs(found.matrix @ centre - face.matrix @ centre).max() < 6


def test_a_frame_of_a_video_is_bgr(insight: FaceInsight, photo, face):
    (found,) = insight.perceive(photo[:, :, ::-1], bgr=True)
    assert found.key == face.key


def faint(head: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """As in fog, of which a share is let through."""
    return np.uint8(share * head + (1 - share) * 165)


def test_what_is_nearly_a_face_is_detected_by_itself(insight: FaceInsight, alone):
    """These leave a trace in the closest tiles, which were the last look."""
    canvas = wall(1920, 1080)
    put(canvas, alone, 100, 100, 200)
    for x in range(900, 1700, 220):
        put(canvas, faint(alone, 0.3), x, 600, 28)
    found = insight.perception.detector.detect(canvas)
    assert [f.box[2] for f in found] == pytest.approx([200, 28, 28, 28, 28], rel=0.3)


@pytest.mark.parametrize("width", [60, 100])
def test_a_face_that_the_frame_cuts_is_found_beside_another(insight: FaceInsight, alone, width: int):
    """The look past the border had been taken only where nothing was found."""
    canvas = wall(640, 480)
    put(canvas, alone, 20, 100, 90)
    wider = np.concatenate([canvas, canvas], 1)
    put(wider, alone, 640 - width, 60, width)
    found = insight.perception.detector.detect(np.ascontiguousarray(wider[:, :640]))
    assert len(found) == 2
    assert max(f.box[0] + f.box[2] for f in found) == pytest.approx(640, abs=0.1 * width)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_turned_face_has_the_landmarks_of_the_upright_one(insight: FaceInsight, alone, turns: int):
    """In fog it had not been found; where it is, the crop is made of its landmarks."""
    canvas = faint(np.pad(alone, ((160, 160), (160, 160), (0, 0)), constant_values=165), 0.15)
    (upright,) = insight.perception.detector.detect(canvas)
    (found,) = insight.perception.detector.detect(np.ascontiguousarray(np.rot90(canvas, turns)))
    x, y = upright.landmarks.T
    h, w = canvas.shape[:2]
    expected = np.stack((y, w - x) if turns == 1 else (w - x, h - y), 1)
    assert np.abs(found.landmarks - expected).max() < 0.1 * upright.box[2]


@pytest.mark.parametrize("part", [30, 40])
def test_a_dark_photo_is_brightened(insight: FaceInsight, photo, face, part: int):
    (found,) = insight.perception.detector.detect(photo // part)
    assert np.abs(np.subtract(found.box, face.box)).max() < 10


def test_neither_a_bright_nor_a_black_photo_is_brightened(photo):
    assert brightened(photo) is None
    assert brightened(photo * 0) is None


@pytest.mark.parametrize("width", [20, 25])
def test_the_smallest_faces_are_found_where_no_other_is(insight: FaceInsight, alone, width: int):
    """At 1280 pixels they leave no trace, and no closer look had been taken."""
    canvas = wall(4000, 3000)
    for x in range(300, 3600, 550):
        put(canvas, alone, x, 1500, width)
    assert len(insight.perception.detector.detect(canvas)) == 6


@pytest.mark.parametrize("box", [(300, 200, 40, 50), (-20, -30, 50, 60), (630, 400, 400, 500), (639, 479, 16, 16)])
def test_a_spot_knows_where_it_is(box):
    """Pixels that hold their own place, brought back from the spot."""
    rows, columns = np.mgrid[:480, :640]
    photo = np.stack([columns * 255 / 640, rows * 255 / 480, np.full((480, 640), 255)], 2).astype(np.uint8)
    picture, corner, step = spot(photo, box)
    assert picture.shape == (SPOT, SPOT, 3)
    y, x = np.argwhere(picture[:, :, 2] == 255)[::7].T
    there = (np.stack([x, y], 1) + corner + 0.5) * step
    assert np.abs(there / (640, 480) * 255 - picture[y, x, :2]).max() < max(2, 1.5 * step.max() * 255 / 480)
