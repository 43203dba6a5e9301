"""YUV4MPEG2, read as it is written, and refused as it must not be."""

from __future__ import annotations

import io
import random

import cv2
import numpy as np
import pytest
from paths import PHOTO

from faceinsight.camera.y4m import Frame, Y4mError, Y4mReader, parse_header


def reader(data: bytes) -> Y4mReader:
    stream = io.BytesIO(data)

    def read(count: int) -> bytes:
        found = stream.read(count)
        if len(found) < count:
            raise EOFError
        return found

    return Y4mReader(read)


def i420(width: int, height: int, value: int = 0) -> bytes:
    return bytes([value]) * (width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2))


def test_frames_and_a_size_that_changes():
    data = b"YUV4MPEG2 W6 H4 F15:1 Ip A1:1 C420jpeg\n"
    data += b"FRAME\n" + i420(6, 4, 1) + b"FRAME Ixyz\n" + i420(6, 4, 2)
    data += b"YUV4MPEG2 W5 H3 F15:1\nFRAME\n" + i420(5, 3, 3)
    found, ticks = reader(data), iter(range(9))
    for size, value in (((6, 4), 1), ((6, 4), 2), ((5, 3), 3)):
        time, planes = found.next(lambda: next(ticks))
        assert found.size == size
        assert planes == i420(*size, value)
        assert time == value - 1
    with pytest.raises(EOFError):
        found.next(lambda: 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "expected a header"),
        (b"JFIF", "expected a header"),
        (b"FRAME", "expected a header"),
        (b"YUV4MPEG2", "expected a header"),
        (b"YUV4MPEG2 W640", "a size of 640x"),
        (b"YUV4MPEG2 W0 H480", "a size of 0x480"),
        (b"YUV4MPEG2 W-1 H480", "a size of -1x480"),
        (b"YUV4MPEG2 W99999 H99999", "at most"),
        (b"YUV4MPEG2 W640 H480 C444", "found C444"),
        (b"YUV4MPEG2 W640 H480 C420p10", "found C420p10"),
        (b"YUV4MPEG2 W640 H480 Cmono", "found Cmono"),
    ],
    ids=repr,
)
def test_what_is_none_is_named(line: bytes, words: str):
    with pytest.raises(Y4mError, match=words):
        parse_header(line)
    with pytest.raises(Y4mError, match=words):
        reader(line + b"\n").next(lambda: 0)


def test_rubbish_ends_soon():
    """Random bytes, and whole streams with bytes changed: an error or frames, never more than one frame is read."""
    rng = random.Random(17)
    good = b"YUV4MPEG2 W64 H48 F15:1 C420jpeg\n" + (b"FRAME\n" + i420(64, 48, 7)) * 3
    for i in range(500):
        data = bytearray(rng.randbytes(2000) if i % 2 else good)
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = reader(bytes(data))

        def five(found: Y4mReader = found) -> None:
            for _ in range(5):
                found.next(lambda: 0)

        with pytest.raises((Y4mError, EOFError)):
            five()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 48), (64, 47), (63, 47), (2, 2), (1, 1)])
def test_colors_are_those_of_the_picture(width: int, height: int):
    photo = cv2.resize(cv2.imread(str(PHOTO)), (width + width % 2, height + height % 2))
    planes = cv2.cvtColor(photo, cv2.COLOR_BGR2YUV_I420).ravel()
    rows, columns = photo.shape[:2]
    y = planes[: rows * columns].reshape(rows, columns)[:height, :width]
    frame = Frame(1, 0.0, width, height, y.tobytes() + planes[rows * columns :].tobytes())
    rgb = frame.image
    assert (rgb.shape, rgb.dtype) == ((height, width, 3), np.uint8)
    expected = cv2.cvtColor(planes.reshape(rows * 3 // 2, columns), cv2.COLOR_YUV2RGB_I420)[:height, :width]
    inside = (slice(0, height - height % 2 or None), slice(0, width - width % 2 or None))
    assert np.array_equal(rgb[inside], expected[inside])
    assert np.abs(rgb.astype(int) - expected).mean() < 6


def test_luma_is_taken_from_all_over_the_picture():
    width, height = 1280, 720
    planes = np.zeros((height, width), np.uint8)
    planes[:, 640:] = 200
    frame = Frame(1, 0.0, width, height, planes.tobytes() + bytes(width * height // 2))
    sample = frame.luma()
    assert 1500 < len(sample) < 3500
    assert sum(sample) / len(sample) == pytest.approx(100, abs=6)
