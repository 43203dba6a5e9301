"""One instance, several threads: everybody gets what they asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from faceinsight import FaceInsight
from faceinsight.imaging import load_image


@pytest.fixture(scope="module")
def shared():
    with FaceInsight.load("nano", device="cpu", threads=1) as fi:
        yield fi


def test_photos_from_several_threads_do_not_mix(shared, photo):
    """OpenCV's detector remembers the size of a picture between two calls: unguarded, it raised cv2.error, or gave one
    thread the other's face."""
    image = load_image(photo)
    shots = [image, np.ascontiguousarray(image[:, ::-1]), image[: image.shape[0] * 3 // 4], np.roll(image, 40, 1)]
    alone = [shared.perceive(x) for x in shots]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.perceive, shots * 6))
    for i, faces in enumerate(together):
        wanted = alone[i % len(shots)]
        assert [f.box for f in faces] == [f.box for f in wanted]
        assert [x.state for f in faces for x in f.labels] == [x.state for f in wanted for x in f.labels]


def test_questions_from_several_threads_wait_for_each_other(shared, photo):
    image = load_image(photo)
    faces = [shared.perceive(x)[0] for x in (image, np.ascontiguousarray(image[:, ::-1]))]
    asked = [(faces[i % 2], q) for i, q in enumerate(("Is she smiling?", "Does she have a hat on?") * 3)]
    alone = [shared.ask(*a).text for a in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda a: shared.ask(*a).text, asked)) == alone
        chosen = [pool.submit(shared.choose, faces[0], ["Is she smiling?"]) for _ in range(3)]
        told = [pool.submit(shared.ask, faces[1], "Describe this face.") for _ in range(3)]
        assert len({f.result().text for f in told}) == 1
        assert len({f.result()[0].probabilities["Yes"].__round__(3) for f in chosen}) == 1
