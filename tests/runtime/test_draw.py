"""Pictures that can be read, whatever the photo, the faces and the words are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import PHOTO

from faceinsight import Face, RequestError, letters
from faceinsight import draw as pictures
from faceinsight.cli.main import main
from faceinsight.draw import draw, encode


@pytest.fixture
def written(monkeypatch) -> list[tuple[str, float]]:
    """What is written, and in which size."""
    out: list[tuple[str, float]] = []

    def write(image, text, at, scale, colour, weight=1):
        assert 0 <= at[0] < image.shape[1]
        out.append((text, scale))
        letters.write(image, text, at, scale, colour, weight)

    monkeypatch.setattr(pictures, "write", write)
    return out


def texts(written: list[tuple[str, float]]) -> list[str]:
    return [text for text, _ in written]


def test_text_and_lines_grow_with_the_photo(photo, face: Face, written):
    small = draw(photo, [face], talk=[("Why?", "So.")])
    sizes = [scale for _, scale in written]
    written.clear()
    large = np.kron(photo, np.ones((6, 6, 1), np.uint8))
    double = np.array([[1 / 6, 0, 0], [0, 1 / 6, 0], [0, 0, 1]])
    near = dataclasses.replace(
        face, box=tuple(6 * v for v in face.box), landmarks=face.landmarks * 6,
        matrix=(np.vstack([face.matrix, [0, 0, 1]]) @ double)[:2].astype(np.float32),
    )  # fmt: skip
    wide = draw(large, [near], talk=[("Why?", "So.")])
    grown = np.array([scale for _, scale in written]) / sizes
    assert grown == pytest.approx(3072 / pictures._SIDE, rel=1e-6)
    # A panel keeps its share of the picture, within what the small photo was enlarged.
    shares = [1 - photo_width / p.shape[1] for photo_width, p in ((640, small), (3072, wide))]
    assert shares[1] == pytest.approx(shares[0], abs=0.1)


@pytest.mark.parametrize(
    ("shape", "widest"),
    [
        ((1, 512), 1280 + 420),
        ((512, 1), 421),
        ((1, 8000), 8420),
        ((266, 60_000), 8192 + 420),
        ((400, 7000), 7000 + 800),
    ],
)
def test_strips_stay_within_bounds(shape: tuple[int, int], widest: int):
    picture = draw(np.zeros((*shape, 3), np.uint8), [])
    assert picture.shape[1] <= widest
    assert 640 <= picture.shape[0] <= 1300


@pytest.mark.parametrize(
    ("count", "panels", "more"), [(1, 1, 0), (3, 3, 0), (4, 4, 0), (8, 8, 0), (9, 8, 1), (40, 8, 32)]
)
def test_every_face_has_a_panel_or_is_counted(photo, face: Face, written, count: int, panels: int, more: int):
    draw(photo, [face] * count)
    assert sum(t.startswith("Face ") for t in texts(written)) == panels
    assert [t for t in texts(written) if t.startswith("+")] == [f"+{more} more faces without a panel"] * bool(more)
    assert {str(n + 1) for n in range(count)} <= set(texts(written))


def test_the_picture_says_which_face_the_questions_are_about(photo, face: Face, written):
    draw(photo, [face, face], talk=[("Who?", "She.")], about=2)
    assert "About face 2:" in texts(written)
    written.clear()
    draw(photo, [face], talk=[("Who?", "She.")])
    assert not any(t.startswith("About") for t in texts(written))


@pytest.mark.parametrize(
    ("text", "kept", "missing"),
    [
        ("Is she smiling?", "Is she smiling?", 0),
        ("Smile \N{THUMBS UP SIGN} \N{SMILING FACE WITH OPEN MOUTH}", "Smile  ", 2),
        ("هل تبتسم", " ", 7),
        ("שלום she", " she", 4),
        ("नमस्ते", "", 6),
        ("tab\tand\nline", "tab and line", 0),
        ("a\N{ZERO WIDTH JOINER}b", "ab", 0),
        ("\udcff?", "?", 1),
    ],
)
def test_what_cannot_be_drawn_is_left_out_and_counted(text: str, kept: str, missing: int):
    assert letters.drawable(text) == (kept, missing)


def test_accents_are_drawn_where_the_font_has_them():
    """OpenCV 5 has outlines of them; before, there was ASCII only, and a question mark for all else."""
    composed = ("Größe", 0) if hasattr(cv2, "FontFace") else ("Gre", 2)
    assert letters.drawable("Größe") == composed
    assert letters.drawable("Gro\N{COMBINING DIAERESIS}ße") == composed


def test_a_question_of_which_nothing_is_left_has_a_note(photo, face: Face, written):
    draw(photo, [face], talk=[("هل تبتسم", "Yes.")])
    assert "(...)" in texts(written)
    assert "(7 characters left out, which cannot be drawn here)" in texts(written)


def test_a_long_word_is_broken(photo, face: Face, written):
    picture = draw(photo, [face], talk=[("x" * 400, "Yes.")])
    lines = [t for t in texts(written) if t.startswith("xx")]
    assert "".join(lines) == "x" * 400
    assert all(letters.text_width(t, 0.55) < picture.shape[1] for t in lines)


def test_the_parsing_fades_towards_the_edge_of_the_crop(photo, face: Face):
    whole = dataclasses.replace(
        face, label_map=np.full_like(face.label_map, 17), landmarks=np.zeros((0, 2), np.float32)
    )
    changed = np.abs(draw(photo, [whole])[:, :640].astype(int) - draw(photo, [])[:, :640]).max(2)
    changed[:, :] *= changed < 120  # without the box and its number
    rows = np.flatnonzero(changed.max(1) > 2)
    middle = changed[(rows[0] + rows[-1]) // 2]
    inside = np.flatnonzero(middle)
    assert middle[inside[:4]].max() < 12
    assert middle.max() > 20


def test_neighbours_do_not_paint_over_each_other(photo, face: Face):
    """Where two crops overlap, a pixel has the colour of the face that is nearer, in whichever order they come."""
    blank = dataclasses.replace(face, landmarks=np.zeros((0, 2), np.float32), box=(-99.0, -99.0, 1.0, 1.0))
    one = dataclasses.replace(blank, label_map=np.full_like(face.label_map, 4))
    matrix = face.matrix + np.array([[0, 0, -60], [0, 0, 0]], np.float32)
    two = dataclasses.replace(blank, label_map=np.full_like(face.label_map, 14), matrix=matrix)
    first, second = (draw(photo, faces)[:, :640] for faces in ([one, two], [two, one]))
    assert (first == second).mean() > 0.999


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [(".webp", (20, 16_384)), (".jpg", (65_501, 8)), (".JPEG", (8, 65_501)), (".webp", (16_384, 20))],
)
def test_a_picture_that_a_format_cannot_hold_is_refused(suffix: str, shape: tuple[int, int]):
    with pytest.raises(RequestError, match=r"pixels, (webp|jpe?g) holds [\d,]+ a side: name a file that ends in .png"):
        encode(np.zeros((*shape, 3), np.uint8), suffix)
    assert encode(np.zeros((*shape, 3), np.uint8), ".PNG").startswith(b"\x89PNG")


def test_a_picture_at_the_limit_is_written():
    for suffix, limit in pictures.FORMATS.items():
        if limit < 10**6:
            assert encode(np.zeros((4, limit, 3), np.uint8), suffix)


def test_no_face_gives_a_picture_and_an_exit_code(tmp_path: Path, capsys):
    grey, out = tmp_path / "grey.png", tmp_path / "out.png"
    cv2.imwrite(str(grey), np.full((200, 300, 3), 128, np.uint8))
    assert main(["draw", str(grey), "-o", str(out)]) == 0
    assert main(["draw", str(grey), "Is she smiling?", "-o", str(out)]) == 1
    assert "no face found, so nothing was asked" in capsys.readouterr().err
    assert cv2.imread(str(out)).shape[0] == 640
    assert main(["draw", str(PHOTO), "Is she smiling?", "--face", "2", "-o", str(tmp_path / "x.png")]) == 1
    assert not (tmp_path / "x.png").exists()
