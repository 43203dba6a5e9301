"""The sets as their makers publish them: attributes, splits, masks; what is damaged is left out, and said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import datasets
import masks
from faceinsight_models.taxonomy import CELEBA, EXPRESSIONS, MASK_CLASSES, NAMES

FERPLUS = ("Usage", "Image name", *(n.lower() for n in EXPRESSIONS), "unknown", "NF")


def picture(path: Path, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side, 3), 90, np.uint8))


def named(sample: datasets.Sample) -> set[str]:
    return {n for n, v in zip(NAMES, sample.labels, strict=True) if v == 1}


def values(*on: str) -> list[str]:
    return ["1" if n in on else "-1" for n in CELEBA]


def celebamaskhq(folder: Path) -> None:
    """Two pictures as published; the first is a validation picture of CelebA."""
    lines = ["2", " ".join(CELEBA)]
    lines += [f"0.jpg  {' '.join(values('Bald'))}", f"1.jpg  {' '.join(values('Young'))}"]
    folder.mkdir(parents=True)
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    mapping = "idx         orig_idx    orig_file\n0 119613 119614.jpg\n1 99094 099095.jpg\n"
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
    for index in (0, 1):
        picture(folder / "CelebA-HQ-img" / f"{index}.jpg", 64)
        part = np.zeros((32, 32, 3), np.uint8)
        part[8:24, 8:24] = 255
        place = folder / "CelebAMask-HQ-mask-anno" / "0"
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index:05d}_skin.png"), part)
        part[:] = 0
        part[8:12, 8:24] = 255
        cv2.imwrite(str(place / f"{index:05d}_hair.png"), part)


def test_kaggle_celeba(tmp_path: Path):
    rows = [",".join(("image_id", *CELEBA)), ",".join(("000001.jpg", *values("Male")))]
    rows += [",".join(("000002.jpg", *values("Smiling")))]
    (tmp_path / "list_attr_celeba.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000002.jpg,2\n")
    picture(tmp_path / "img_align_celeba" / "img_align_celeba" / "000002.jpg")
    (sample,) = datasets.find(tmp_path, "test")["celeba"]
    assert named(sample) == {"Smiling"}
    assert sample.read().shape == (20, 20, 3)
    with pytest.raises(FileNotFoundError, match="split 'val'"):
        datasets.find(tmp_path, "val")


def test_celeba_in_its_makers_folders(tmp_path: Path):
    for folder in ("Anno", "Eval"):
        (tmp_path / folder).mkdir()
    table = f"1\n{' '.join(CELEBA)}\n000009.jpg {' '.join(values('Bald'))}\n"
    (tmp_path / "Anno" / "list_attr_celeba.txt").write_text(table)
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("000009.jpg 1\n")
    picture(tmp_path / "Img" / "img_align_celeba" / "000009.jpg")
    (sample,) = datasets.find(tmp_path, "val")["celeba"]
    assert (named(sample), sample.read().shape) == ({"Bald"}, (20, 20, 3))


def test_celebamask_hq_follows_celebas_partition(tmp_path: Path):
    celebamaskhq(tmp_path / "CelebAMask-HQ")
    both = datasets.find(tmp_path, "val")["celeba"]
    assert [named(s) for s in both] == [{"Bald"}, {"Young"}]
    assert any("no list_eval_partition" in n for n in datasets.notes(tmp_path, "val"))
    (tmp_path / "list_eval_partition.txt").write_text("099095.jpg 0\n119614.jpg 1\n")
    (one,) = datasets.find(tmp_path, "val")["celeba"]
    assert named(one) == {"Bald"}
    assert not datasets.notes(tmp_path, "val")
    assert [name for name, _ in masks.pairs(tmp_path, "val")] == ["0.jpg"]
    assert one.read().shape == (64, 64, 3)


def test_published_masks_are_laid_over_each_other_and_resized(tmp_path: Path):
    celebamaskhq(tmp_path / "CelebAMask-HQ")
    pairs = masks.pairs(tmp_path, "val")
    _, mask = pairs[0][1]()
    hair, skin = MASK_CLASSES.index("hair"), MASK_CLASSES.index("skin")
    assert (mask[9, 12], mask[20, 12], mask[0, 0]) == (hair, skin, 0)
    (tmp_path / "CelebAMask-HQ" / "CelebA-HQ-img" / "1.jpg").write_bytes(b"\xff\xd8\xff nothing")

    def parse(image: np.ndarray) -> np.ndarray:
        exact = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST)
        return np.where(exact == hair, skin, exact).astype(np.uint8)

    found = masks.parsing(parse, MASK_CLASSES, pairs)
    # A quarter of the face is hair that the parser calls skin: precision 3/4, recall 1.
    assert found["F1"]["skin"] == pytest.approx(6 / 7)
    assert (found["F1"]["hair"], found["F1"]["background"]) == (0, 1)
    assert (found["pairs"], found["damaged"]) == (1, {"n": 1, "first": ["1.jpg"]})


def test_fairface_beside_ferplus_is_not_dropped(tmp_path: Path):
    picture(tmp_path / "fairface-img-margin025-trainval" / "val" / "1.jpg")
    head = "file,age,gender,race,service_test\n"
    (tmp_path / "fairface_label_val.csv").write_text(f"{head}val/1.jpg,30-39,Male,Black,False\n")
    row = {"Usage": "PrivateTest", "Image name": "fer0.png", "happiness": 10}
    (tmp_path / "fer2013new.csv").write_text(f"{','.join(FERPLUS)}\n{','.join(str(row.get(h, 0)) for h in FERPLUS)}\n")
    pixels = " ".join(["200"] * (48 * 48))
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n3,{pixels},PrivateTest\n")
    found = datasets.find(tmp_path, "test")
    assert set(found) == {"fairface", "ferplus"}
    assert named(found["fairface"][0]) == {"Age_30_39", "Black", "Male"}
    assert found["fairface"][0].read().shape == (20, 20, 3)
    grey = found["ferplus"][0].read()
    assert grey.shape == (48, 48, 3)
    assert (grey == 200).all()
    (note,) = datasets.notes(tmp_path, "test")
    assert "validation" in note


def test_utkface_of_the_training_layout(tmp_path: Path):
    rows = ["file,split,age,gender,race", "0.png,train,7,Male,White", "1.png,val,83,Female,Others"]
    (tmp_path / "utkface.csv").write_text("\n".join(rows) + "\n")
    with zipfile.ZipFile(tmp_path / "utkface.zip", "w") as archive:
        archive.writestr("1.png", cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    (sample,) = datasets.find(tmp_path, "val")["utkface"]
    assert (sample.years, sample.name) == (83.0, "1.png")
    assert named(sample) == {"Age_70", "Latino_Hispanic", "Middle_Eastern"}
    assert sample.read().shape == (9, 9, 3)


def test_masks_alone_are_enough(tmp_path: Path):
    (tmp_path / "celebamask.csv").write_text("file,mask,hq_idx,split\n")
    assert datasets.find(tmp_path, "val") == {}


def test_what_cannot_be_read_is_named(tmp_path: Path):
    for name in ("20_0_0_1.jpg", "30_0_0_1.jpg", "40_0_0_1.jpg"):
        picture(tmp_path / name)
    (tmp_path / "30_0_0_1.jpg").write_bytes((tmp_path / "20_0_0_1.jpg").read_bytes()[:60])
    kept, damaged = datasets.sound(datasets.find(tmp_path, "val")["utkface"], "utkface")
    assert [s.years for s in kept] == [20, 40]
    assert damaged == ["30_0_0_1.jpg"]


def test_fewer_pictures_are_taken_from_everywhere():
    samples = [datasets.Sample(lambda: np.zeros((1, 1, 3), np.uint8), np.zeros(1, np.float32), k) for k in range(10)]
    assert [s.years for s in datasets.spread(samples, 3)] == [0, 3, 6]
    assert len(datasets.spread(samples, 99)) == 10
