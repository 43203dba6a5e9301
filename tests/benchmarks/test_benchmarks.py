"""The benchmarks' own arithmetic, and the layouts they read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import PHOTO

import datasets
import metrics
import nano
import run
from faceinsight_models.taxonomy import AGES, CELEBA, EXPRESSIONS, NAMES

pytestmark = pytest.mark.slow


def test_auc_and_average_precision_by_hand():
    score, label = np.array([0.9, 0.8, 0.3, 0.3]), np.array([1, 0, 1, 0])
    # Pairs (positive above negative): 0.9>0.8, 0.9>0.3, 0.3<0.8, 0.3=0.3 counts half.
    assert metrics.auc(score, label) == pytest.approx(2.5 / 4)
    assert metrics.average_precision(score, label) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(metrics.auc(score, np.ones(4)))


def test_calibration_error_is_zero_when_probabilities_are_right():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = (rng.random(200_000) < p).astype(float)
    assert metrics.ece(p, y) < 0.01
    assert metrics.ece(p / 2, y) == pytest.approx(0.25, abs=0.01)


def test_intervals_cover():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(500):
        low, high = metrics.wilson(int((rng.random(80) < 0.9).sum()), 80)
        covered += low <= 0.9 <= high
    assert covered / 500 > 0.92
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_macro_f1_counts_classes_alike():
    label = np.array([0] * 9 + [1])
    assert metrics.macro_f1(np.zeros(10, int), label, 3) == pytest.approx((18 / 19 + 0) / 2)
    assert metrics.balanced(np.array([True, True, False]), np.array([True, False, False])) == pytest.approx(0.75)


def test_only_the_surest_answer():
    curve = metrics.abstention(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 0]))
    assert (curve["100%"], curve["50%"]) == (0.5, 1.0)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 16, 3), 90, np.uint8))


def named(sample) -> set[str]:
    return {n for n, v in zip(NAMES, sample.labels, strict=True) if v == 1}


def test_published_layouts(tmp_path: Path):
    celeba = tmp_path / "celeba"
    picture(celeba / "img_align_celeba" / "000002.jpg")
    values = " ".join("1" if n in ("Smiling", "Male") else "-1" for n in CELEBA)
    (celeba / "list_attr_celeba.txt").write_text(f"2\n{' '.join(CELEBA)}\n000001.jpg {values}\n000002.jpg {values}\n")
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n")
    (sample,) = datasets.find(celeba, "val")["celeba"]
    assert named(sample) == {"Smiling", "Male"}
    assert sample.read().shape == (20, 16, 3)

    fairface = tmp_path / "fairface"
    picture(fairface / "val" / "1.jpg")
    (fairface / "fairface_label_val.csv").write_text(
        "file,age,gender,race,service_test\nval/1.jpg,3-9,Female,East Asian,False\n"
    )
    (sample,) = datasets.find(fairface, "val")["fairface"]
    assert named(sample) == {"Age_3_9", "East_Asian"}
    assert sample.read().shape == (20, 16, 3)

    utkface = tmp_path / "utkface"
    for name in ("61_1_2_20170109150557335.jpg", "104_0_0_20170109150557335.jpg", "readme_1_2_3.txt"):
        picture(utkface / name) if name.endswith("jpg") else (utkface / name).write_text("")
    old, sixty = datasets.find(utkface, "test")["utkface"]
    assert (sixty.years, named(sixty)) == (61.0, {"Age_60_69", "East_Asian", "Southeast_Asian"})
    assert (old.years, named(old)) == (104.0, {"Age_70", "Male", "White"})
    assert len(datasets.YEARS) == len(AGES)

    ferplus = tmp_path / "ferplus"
    picture(ferplus / "FER2013Valid" / "fer0.png")
    header = ["Usage", "Image name", *(n.lower() for n in EXPRESSIONS), "unknown", "NF"]
    votes = {"happiness": 7, "neutral": 3}
    lines = [",".join(header)]
    for name, unknown in (("fer0.png", 0), ("fer1.png", 5)):
        row = {"Usage": "PublicTest", "Image name": name, "unknown": unknown} | votes
        lines.append(",".join(str(row.get(h, 0)) for h in header))
    (ferplus / "fer2013new.csv").write_text("\n".join(lines) + "\n")
    (sample,) = datasets.find(ferplus, "val")["ferplus"]
    assert sample.labels[NAMES.index("Happiness")] == pytest.approx(0.7)
    with pytest.raises(FileNotFoundError, match="holds none"):
        datasets.find(tmp_path / "nothing", "val")


def test_nano_on_transformers_is_the_same_model(tmp_path: Path, insight, face):
    """A peer that runs something else would be no peer: the same tokens are likeliest, in both ways of running it."""
    import torch

    nano.write(tmp_path)
    questions = ("Is she smiling?", "Does she have a hat on?", "Describe this face.")
    ours = ["".join(map(str, insight.unchecked(face, q, max_tokens=1))) for q in questions]
    for best in (True, False):
        arm = nano.TransformersNano(tmp_path, best=best)
        picture = arm.show(PHOTO)
        with torch.inference_mode():
            ids = [int(arm._first(picture, q).logits[0, -1].argmax()) for q in questions]
        assert [arm._tokens.text(i) for i in ids] == ours


def test_ratios_are_of_the_same_round():
    ours, theirs = {"a": [1.0, 2.0, 4.0]}, {"a": [2.0, 6.0, 40.0], "b": [1.0]}
    assert run.ratios(ours, theirs) == {"a": 3.0}
    assert run.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"p50": 3.0, "p25": 2.0, "p75": 4.0, "n": 5}


def test_the_graph_fills_what_is_not_known():
    """Of ten faces with i nine have j, of ten without it one: who has i is expected to have j, more than anybody."""
    ablation = pytest.importorskip("ablation")
    labels = np.zeros((22, 2), np.float32)
    labels[:10, 0] = labels[:9, 1] = labels[10, 1] = 1
    labels[20:, 1] = np.nan
    labels[20, 0], labels[21, 0] = 1, np.nan
    out = ablation.filled(labels, smoothing=0)
    assert out[20, 1] == pytest.approx(0.9)
    assert np.isnan(out[21]).all(), "of a face of which nothing is known nothing is expected"
    assert (out[:20] == labels[:20]).all()


def test_a_regression_finds_what_tells():
    hidden_regions = pytest.importorskip("hidden_regions")
    x = np.random.default_rng(0).integers(0, 2, (500, 3)).astype(np.float32)
    p = hidden_regions.regression(x, x[:, [1]], np.eye(3, dtype=np.float32))
    assert p[:, 0].round().tolist() == [0, 1, 0]


def test_labels_are_damaged_as_an_arm_says():
    ablation = pytest.importorskip("ablation")
    rng = np.random.default_rng(0)
    labels = np.full((400, len(ablation.NAMES)), np.nan, np.float32)
    labels[:, ablation.ATTRIBUTES] = 0
    kept = ablation.damaged(labels, ablation.Variant(kept=0.1), rng)[:, ablation.ATTRIBUTES]
    assert 0.08 < (~np.isnan(kept)).mean() < 0.12
    wrong = ablation.damaged(labels, ablation.Variant(flipped=0.25), rng)[:, ablation.ATTRIBUTES]
    assert 0.22 < wrong.mean() < 0.28
    assert np.array_equal(ablation.damaged(labels, ablation.Variant(), rng), labels, equal_nan=True)
