"""What is wrong with a folder of labelled faces is one line, before hours of training."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import pytest
from paths import PHOTO

pytest.importorskip("torch")

from faceinsight_models.cli import main
from faceinsight_models.data.faces import load_pictures, require
from faceinsight_models.taxonomy import CELEBA

FAIR = "file,split,age,gender,race\n"


def write(folder: Path, name: str, table: str, *files: str) -> None:
    (folder / f"{name}.csv").write_text(table)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for file in files:
            archive.writestr(file, PHOTO.read_bytes())


def celeba(folder: Path, split: str = "train") -> None:
    write(folder, "celebahq", f"file,split,{','.join(CELEBA)}\n" + f"0.png,{split}{',0' * 40}\n" * 2, "0.png")


def masks(folder: Path, table: str = "file,mask,split,hq_idx\n0.png,0m.png,train,0\n") -> None:
    write(folder, "celebamask", table, "0.png", "0m.png")


def said(folder: Path, capsys, step: str = "all") -> str:
    args = [step, "--data", str(folder), "--assets", str(folder / "assets"), "--out", str(folder / "run")]
    assert main(args) == 1
    captured = capsys.readouterr().err
    assert len(captured.splitlines()) == 1
    return captured


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path, capsys):
    assert "--data" in said(tmp_path / "nowhere", capsys)
    assert "no such folder" in said(tmp_path / "nowhere", capsys)
    assert "holds none of celebahq.csv, fairface.csv" in said(tmp_path, capsys)


def test_portraits_alone_need_masks(tmp_path: Path, capsys):
    celeba(tmp_path)
    assert "holds no celebamask.csv: parser and encoder learn from CelebAMask-HQ's pairs" in said(tmp_path, capsys)
    # Steps that see no mask, and runs in which parser and encoder are finished, go on: to the assets here.
    assert "run faceinsight-train assets" in said(tmp_path, capsys, "closeup")
    masks(tmp_path)
    assert "run faceinsight-train assets" in said(tmp_path, capsys)
    (tmp_path / "celebamask.csv").unlink()
    (tmp_path / "run").mkdir()
    for name in ("parser.pt", "encoder.pt"):
        (tmp_path / "run" / name).write_bytes(b"")
    assert "run faceinsight-train assets" in said(tmp_path, capsys)


def test_a_column_that_is_missing_is_named(tmp_path: Path, capsys):
    celeba(tmp_path)
    masks(tmp_path, "file,mask,split\n0.png,0m.png,train\n")
    assert "celebamask.csv has no column hq_idx; found file, mask, split" in said(tmp_path, capsys)
    write(tmp_path, "fairface", "file,split,age,gender\n")
    assert "fairface.csv has no column race; found" in said(tmp_path, capsys)
    (tmp_path / "fairface.csv").write_text("")
    assert "found nothing" in said(tmp_path, capsys)


def test_values_splits_and_archives(tmp_path: Path, capsys):
    write(tmp_path, "fairface", FAIR + "0.png,train,20-29,Male,White\n1.png,train,20 to 29,Male,White\n", "0.png")
    assert "fairface.csv, 1.png: a value is not in the set's words: {'split': 'train', 'age': '20 to 29'" in said(
        tmp_path, capsys
    )
    write(tmp_path, "fairface", FAIR + "0.png,training,20-29,Male,White\n", "0.png")
    assert "fairface.csv: fewer than two rows have the split train" in said(tmp_path, capsys)
    write(tmp_path, "fairface", FAIR + "0.png,train,20-29,Male,White\n" * 2, "0.png")
    require(tmp_path)
    (tmp_path / "fairface.zip").write_bytes(b"no zip")
    assert "fairface.zip is no zip" in said(tmp_path, capsys)
    (tmp_path / "fairface.zip").unlink()
    assert "fairface.zip is not there, fairface.csv is" in said(tmp_path, capsys)


def test_a_picture_that_the_archive_lacks(tmp_path: Path):
    write(tmp_path, "fairface", FAIR + "0.png,train,20-29,Male,White\n1.png,train,20-29,Male,White\n", "0.png")
    faces = load_pictures(tmp_path)
    assert faces.picture(0).shape == cv2.imread(str(PHOTO)).shape
    with pytest.raises(ValueError, match=r"fairface.zip holds no 1.png, which its CSV names"):
        faces.picture(1)
