"""How the parser is trained: rare parts, what is known to be worn or not, boundaries."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from faceinsight_models.data.faces import Faces, Masks
from faceinsight_models.taxonomy import MASK_CLASSES, NAMES
from faceinsight_models.train.hats import Hats, dyed
from faceinsight_models.train.parser import (
    WORN,
    Pairs,
    dice_loss,
    edges,
    halved,
    lent,
    parser_loss,
    taught,
    unlabelled_rows,
)
from faceinsight_models.train.statistics import count_statistics

pytestmark = pytest.mark.slow

SKIN, HAIR, HAT, NECKLACE = (MASK_CLASSES.index(n) for n in ("skin", "hair", "hat", "neck_l"))
NUMBERS = [MASK_CLASSES.index(n) for n in WORN]


def test_the_parser_learns_where_things_are():
    """Trained against halved targets and doubled again, a map comes back where it was, to half a pixel."""
    target = torch.zeros(1, 32, 32, dtype=torch.int64)
    target[:, 10:18, 9:21] = 1
    share = halved(target, 2)
    assert share[0, 1, 5, 4] == 0.5  # columns 8 and 9: half of the cell
    doubled = F.interpolate(share, scale_factor=2.0, mode="bilinear", align_corners=False)
    again = doubled.argmax(1)
    centre = lambda m: (m[0] == 1).nonzero().float().mean(0)  # noqa: E731
    assert torch.allclose(centre(again), centre(target), atol=0.26)
    perfect = share.clamp(min=1e-6).log()
    assert parser_loss(perfect, share, 1)[0] < parser_loss(perfect.roll(1, 3), share, 1)[0]
    assert dice_loss(perfect, share) < 0.02
    target[:, :4] = 255
    assert halved(target, 2)[0, :, 0].sum() == 0


def test_boundaries_weigh_more():
    share = halved(torch.arange(32).ge(16).long().expand(1, 32, 32), 2)
    edge = edges(share)[0, 0]
    assert edge[:, 7:9].eq(1).all()
    assert edge[:, :6].eq(0).all()
    assert edge[:, 10:].eq(0).all()


def test_overlap_is_judged_on_pairs_only():
    """A teacher that misses a class must not teach by overlap that it is not there."""
    share = torch.zeros(2, 2, 8, 8)
    share[:, 0] = 1
    logits = torch.zeros(2, 2, 8, 8)
    logits[1, 1] = 9  # far off, in the second one, which is no pair
    right = logits.clone()
    right[1] = 0
    dice = [parser_loss(z, share, 1)[1]["dice"] for z in (logits, right)]
    assert dice[0] == dice[1]


@pytest.fixture
def masks():
    """Six pairs; the first wears a hat, the second a necklace; hair on the right of all."""
    maps = np.full((6, 16, 16), SKIN, np.uint8)
    maps[:, :, 12:] = HAIR
    maps[0, :4], maps[1, 14:] = HAT, NECKLACE
    crops = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40 + np.zeros((6, 16, 16, 3), np.uint8)
    return Masks(crops, maps, np.array([1, 1, 1, 1, 0, 0], bool), np.arange(6))


def test_statistics_are_counted_anew():
    """A norm folded into its convolution never saw a batch: in training it is another model."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                torch.nn.Conv2d(8, 4, 1), torch.nn.BatchNorm2d(4)).eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight.mul_(20)
        model[1].bias.add_(3)
    x = torch.randn(16, 3, 12, 12) + 1
    before, folded = model(x), model.train()(x)
    model[1].reset_running_stats()
    model[4].reset_running_stats()
    assert (folded - before).abs().mean() > 1
    count_statistics(model, [x[:8], x[8:]])
    assert torch.allclose(model.eval()(x), before, atol=1e-3)
    assert torch.allclose(model.train()(x), before, atol=1e-2)


def test_what_is_rare_is_drawn_and_pasted(masks):
    pairs = Pairs.of(masks)
    assert {n: [int(crop[0, 0, 0]) for crop, _ in donors] for n, donors in pairs.donors.items()} == {
        HAT: [0],
        NECKLACE: [40],
    }
    counts = np.bincount(pairs.chosen, minlength=6)
    assert counts.tolist() == [WORN["hat"][1], WORN["neck_l"][1], 1, 1, 0, 0]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        crop, labels = pairs._worn(rng, masks.crops[2], masks.masks[2])
        worn = {n for n in (HAT, NECKLACE) if (labels == n).any()}
        seen |= worn
        if NECKLACE in worn:
            # Its pixels come with it, and it stays under the hair.
            assert (crop[labels == NECKLACE] == 40).all()
            assert (labels[:, 12:] == NECKLACE).sum() == 0
        assert (crop[(labels == SKIN) | (labels == HAIR)] == 80).all()
    assert seen == {HAT, NECKLACE}
    assert (masks.masks[2] != HAT).all(), "a pair itself is not changed"


def test_what_the_teacher_finds_is_pasted_too(masks):
    pairs = Pairs.of(masks)
    found = np.full((3, 16, 16), SKIN, np.uint8)
    found[0, :3], found[1, 0, 0] = HAT, HAT  # a hat, and one pixel of one
    guessed = Pairs(np.zeros((3, 16, 16, 3), np.uint8), found, np.arange(3), {})
    donors = lent(pairs, guessed)
    assert [len(donors[n]) for n in (HAT, NECKLACE)] == [2, 1]
    assert (donors[HAT][1][1] == found[0]).all()
    assert len(pairs.donors[HAT]) == 1, "what the pairs hold is not changed"


def test_what_is_not_worn_is_not_taught():
    p = torch.full((1, len(MASK_CLASSES), 1, 3), 0.005)
    p[0, HAT, 0, 0] = 0.9  # surely a hat
    p[0, HAT, 0, 1], p[0, HAIR, 0, 1] = 0.4, 0.5  # perhaps one
    p[0, SKIN, 0, 2], p[0, HAIR, 0, 2] = 0.5, 0.4  # neither hat nor sure
    p /= p.sum(1, keepdim=True)

    def labels(said: float) -> list[int]:
        told = torch.full((1, len(NUMBERS)), float("nan"))
        told[0, NUMBERS.index(HAT)] = said
        return taught(p, told, NUMBERS)[0, 0].tolist()

    assert labels(1) == [HAT, HAT, 255]
    assert labels(float("nan")) == [HAT, 255, 255]
    assert HAT not in labels(0)
    assert labels(0)[1] == HAIR, "without the hat the hair is sure"


def test_faces_to_label_are_chosen_by_what_they_wear():
    count = 400
    labels = np.full((count, len(NAMES)), np.nan, np.float32)
    labels[:, NAMES.index("Wearing_Necklace")] = np.arange(count) < 30
    labels[:, NAMES.index("Wearing_Hat")] = np.arange(count) >= 395
    none = np.empty(0)
    faces = Faces(
        (), np.zeros(count, np.int64), ("",) * count, none, labels, none, np.array(["train"] * 390 + ["val"] * 10), none
    )
    rows = unlabelled_rows(faces, 100)
    assert len(rows) == len(set(rows)) == 100
    assert (rows < 390).all()
    share = WORN["neck_l"][2]
    assert (rows < 30).sum() >= int(share * 100) > 30 * 100 / 390


def test_hats_are_put_on_heads():
    crops, masks = np.full((2, 64, 64, 3), 90, np.uint8), np.zeros((2, 64, 64), np.uint8)
    masks[0, 4:20, 10:50] = HAT
    crops[0, 4:20, 10:50] = np.arange(40)[None, :, None] + 150
    own = Masks(crops, masks, np.array([True, True]), np.arange(2))
    hats = Hats.of(own)
    assert len(hats.crops) == 1
    still = np.eye(3)[:2]
    known = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        face, labels = hats.put(rng, np.zeros((32, 32, 3), np.uint8), np.full((16, 16), SKIN, np.uint8), still)
        # In the frame of the face, half as large as that of the pair; below it nothing changes.
        assert face[3:9, 8:24].any(2).mean() > 0.7
        assert not face[14:].any()
        known += (labels == HAT).any()
        if (labels == HAT).any():
            rows = np.flatnonzero((labels == HAT).any(1))
            assert rows[0] >= 0
            assert rows[-1] < 7
    assert 5 < known < 25, "the map knows of every second one"
    bare = Masks(crops[1:], masks[1:], np.array([True]), np.arange(1))
    assert Hats.of(bare) is None


def test_a_dyed_hat_keeps_its_folds():
    rng = np.random.default_rng(0)
    hat = np.repeat(rng.integers(80, 120, (20, 20, 1), dtype=np.uint8), 3, 2)
    inside = np.ones((20, 20), bool)
    for _ in range(5):
        other = dyed(rng, hat, inside)
        middle = (other > 5) & (other < 250)
        for c in range(3):
            if middle[..., c].all():
                assert np.corrcoef(hat[..., 0].ravel(), other[..., c].ravel())[0, 1] > 0.95
