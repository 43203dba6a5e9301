"""The architecture and its training, on small sizes."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faceinsight.language.claims import ClaimChecker, sentences
from faceinsight.types import HIDDEN, NO, STATES, UNSURE, YES, Label
from faceinsight_models.data import labels as labels_of
from faceinsight_models.data.augment import augment_pair
from faceinsight_models.data.faces import Faces, Mixture
from faceinsight_models.dialogue import answers as dialogue
from faceinsight_models.dialogue import turns
from faceinsight_models.dialogue.concepts import BY_NAME, CONCEPTS, denials, mentions
from faceinsight_models.dialogue.wordings import closed_question, compound_question
from faceinsight_models.nets import lcm
from faceinsight_models.nets.ccm import CorrelationModule, complete, cooccurrence, correlation_graph
from faceinsight_models.nets.encoder import EncoderGraph, Features
from faceinsight_models.nets.question import QuestionNet
from faceinsight_models.nets.segmentation import RegionPool, SegmentationEncoder, coarse
from faceinsight_models.recipe import Recipe, Schedule
from faceinsight_models.specs import characteristic_specs, specialized
from faceinsight_models.taxonomy import (
    AGES,
    CELEBA,
    CHARACTERISTICS,
    EXCLUSIVE_MEMBERS,
    EXPRESSIONS,
    FLIP_CLASSES,
    HAIR_COLORS,
    MASK_CLASSES,
    NAMES,
    RACES,
    REGIONS,
    RULES,
    SWITCHES,
)
from faceinsight_models.train import calibration
from faceinsight_models.train.align import align, holding, membership
from faceinsight_models.train.build import build_adapter, build_encoder
from faceinsight_models.train.conversation import drill, enabled
from faceinsight_models.train.encoded import EncodedFaces
from faceinsight_models.train.encoder import view
from faceinsight_models.train.llm import tree_mask
from faceinsight_models.train.loop import train
from faceinsight_models.train.tasks import TaskLoss
from faceinsight_models.training_free import EvidenceHead


def test_cooccurrence_is_conditional_on_the_row():
    labels = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], np.uint8)
    assert cooccurrence(labels).tolist() == [[1.0, 0.25], [1.0, 1.0]]


def test_graph_keeps_dependence_and_drops_base_rate():
    rng = np.random.default_rng(0)
    frequent = rng.random(4000) < 0.8
    rare = rng.random(4000) < 0.1
    caused = rare | (rng.random(4000) < 0.05)
    graph = correlation_graph(np.stack([frequent, rare, caused], 1).astype(np.uint8), tau=0.4, lift=1.2, keep=0.8)
    assert np.allclose(graph.sum(1), 1)
    assert graph[1, 2] == pytest.approx(0.2)  # rare hears from what it implies
    assert graph[1, 0] == graph[2, 0] == 0  # everybody co-occurs with the frequent one
    assert graph[0, 0] == 1


def test_ccm_mixes_neighbours_only():
    torch.manual_seed(0)
    graph = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    module = CorrelationModule(torch.randn(3, 8), graph, hidden=6, out=4)
    module.features.requires_grad_()
    (gradient,) = torch.autograd.grad(module()[0].sum(), module.features)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() > 0
    assert gradient[2].abs().sum() == 0


def enumerate_probability(p, holds):
    return sum(
        np.prod([q if b else 1 - q for q, b in zip(p, bits, strict=True)])
        for bits in product((False, True), repeat=len(p))
        if holds(bits)
    )


def test_rule_losses_are_log_probabilities_of_the_rule():
    p = [0.3, 0.8, 0.45]
    t = torch.tensor([p])
    cases = [
        (lcm.exclusion(t[:, 0], t[:, 1]), lambda b: not (b[0] and b[1])),
        (lcm.implication(t[:, 0], t[:, 1]), lambda b: not b[0] or b[1]),
        (lcm.at_least_one(t), any),
        (lcm.exactly_one(t), lambda b: sum(b) == 1),
    ]
    for loss, holds in cases:
        assert loss.item() == pytest.approx(-np.log(enumerate_probability(p, holds)), abs=1e-5)


def test_logical_constraint_pushes_towards_the_rules():
    torch.manual_seed(0)
    logits = torch.full((1, len(NAMES)), 1.5, requires_grad=True)
    constraint = lcm.LogicalConstraint(NAMES, RULES)
    known = torch.ones_like(logits, dtype=torch.bool)
    before = constraint(logits.sigmoid(), known)
    (gradient,) = torch.autograd.grad(before, logits)
    assert constraint((logits - gradient).sigmoid(), known) < before
    assert gradient[0, NAMES.index("Black_Hair")] > 0
    with pytest.raises(ValueError, match="rule kind"):
        lcm.LogicalConstraint(NAMES, [type(RULES[0])("sometimes", ("Bald",), True)])


def test_region_pool_reads_only_its_region():
    label_map = torch.zeros(1, 64, 64, dtype=torch.long)
    label_map[:, 8:16, 16:24] = MASK_CLASSES.index("hair")
    patches = torch.arange(64.0).reshape(1, 64, 1)
    features, area = RegionPool(MASK_CLASSES, REGIONS)(label_map, patches)
    hair = list(REGIONS).index("hair")
    assert features[0, hair, 0] == 1 * 8 + 2  # patch row 1, column 2
    assert area[0, hair] == pytest.approx(1 / 64)
    assert features[0, hair, 2:4].tolist() == pytest.approx([-0.1875, -0.3125])
    assert area[0].count_nonzero() == 1
    assert features[0, list(REGIONS).index("hat"), -1] == 0


def test_coarse_keeps_the_class_at_the_cell_centre():
    fine = torch.zeros(1, 256, 256, dtype=torch.uint8)
    fine[:, 100:140] = 5
    assert (coarse(fine)[0, 25:35] == 5).all()
    assert coarse(fine).shape == (1, 64, 64)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder(F.normalize(torch.randn(len(NAMES), 16)), torch.eye(len(NAMES))).eval()


def test_encoder_uses_both_inputs(encoder):
    torch.manual_seed(1)
    pixels, maps = torch.randn(1, 3, 128, 128), torch.randint(0, 19, (1, 64, 64))
    with torch.no_grad():
        base = encoder(pixels, maps)
        assert not torch.allclose(base, encoder(pixels + 0.5, maps))
        assert not torch.allclose(base, encoder(pixels, (maps + 1) % 19))
        assert torch.allclose(base, encoder(torch.cat([pixels, -pixels]), torch.cat([maps, maps]))[:1], atol=1e-4)


def test_a_face_and_its_mirror_image_are_judged_alike(encoder):
    torch.manual_seed(2)
    pixels, maps = torch.randn(2, 3, 128, 128), torch.randint(0, 19, (2, 64, 64))
    turned, mirrored = pixels.flip(-1), torch.tensor(FLIP_CLASSES)[maps].flip(-1)
    with torch.no_grad():
        features, logits = encoder.forward_with_flip(pixels, maps)
        assert torch.allclose(logits, (encoder(pixels, maps) + encoder(turned, mirrored)) / 2, atol=1e-5)
        assert torch.allclose(logits, encoder.forward_with_flip(turned, mirrored)[1], atol=1e-5)
        assert torch.allclose(features.image, encoder.features(pixels, maps).image, atol=1e-5)


def test_a_specialised_encoder_begins_as_it_was_and_touches_only_its_own(encoder):
    model = copy.deepcopy(encoder)
    torch.manual_seed(3)
    pixels, maps = torch.randn(2, 3, 128, 128), torch.randint(0, 19, (2, 64, 64))
    with torch.no_grad():
        before = model(pixels, maps)
        model.specialize()
        assert torch.allclose(model(pixels, maps), before, atol=1e-5)
        for parameter in (*model.own.parameters(), *model.head.own.parameters()):
            parameter.mul_(1.1)
        features, after = model.features(pixels, maps), model(pixels, maps)
    own = torch.tensor(specialized())
    assert not torch.isclose(after[:, own], before[:, own], atol=1e-5).all(0).any()
    assert torch.allclose(after[:, ~own], before[:, ~own], atol=1e-5)
    # What the LLM sees is not touched either.
    assert torch.allclose(features.image, encoder.features(pixels, maps).image, atol=1e-5)
    assert sum(own) == 39
    assert {"Male", *EXCLUSIVE_MEMBERS}.isdisjoint(n for n, o in zip(NAMES, own, strict=True) if o)


def test_graph_computes_only_the_chosen_characteristics(encoder):
    adapter = build_adapter(states=4, width=32)
    graph = EncoderGraph(encoder, adapter).eval()
    pixels, maps = torch.randn(2, 3, 128, 128), torch.randint(0, 19, (2, 256, 256), dtype=torch.uint8)
    chosen = torch.tensor([7, 3, 31])
    with torch.no_grad():
        logits, image, region, area = graph(pixels, maps, chosen)
        assert torch.allclose(logits, encoder.forward_with_flip(pixels, coarse(maps))[1][:, chosen], atol=1e-5)
    assert (logits.shape, image.shape) == ((2, 3), (2, 16, 32))
    assert region.shape == (2, len(REGIONS), 32)
    assert area.shape == (2, len(REGIONS))


def test_training_free_head_reads_sizes_and_passes_them_on():
    count, regions = len(NAMES), list(REGIONS)
    graph = torch.eye(count)
    glasses, neighbour = NAMES.index("Eyeglasses"), NAMES.index("Gray_Hair")
    graph[neighbour, [neighbour, glasses]] = torch.tensor([0.8, 0.2])
    mean, std = torch.full((len(regions),), 0.1), torch.full((len(regions),), 0.1)
    head = EvidenceHead(torch.randn(count, 8), graph, torch.full((count,), -2.0), mean, std)
    area = torch.full((1, len(regions)), 0.01)
    usual = head.score(Features(None, None, area), head.text_features(), torch.arange(count))[0]
    assert torch.allclose(usual, torch.full((count,), -2.0), atol=1e-5)
    area[0, regions.index("glasses")] = 0.09
    seen = head.score(Features(None, None, area), head.text_features(), torch.arange(count))[0]
    assert seen[glasses] == pytest.approx(-2 + 2 * 2.0, abs=1e-4)
    assert seen[neighbour] == pytest.approx(-2 + 0.2 / 2 * 2 * 2.0, abs=1e-4)
    assert (seen - usual).abs().gt(1e-5).sum() == 2


def test_segmentation_encoder_tells_maps_apart():
    torch.manual_seed(0)
    model = SegmentationEncoder(19, width=24)
    a, b = torch.zeros(1, 64, 64), torch.full((1, 64, 64), 13.0)
    assert model(a).shape == (1, 64, 24)
    assert not torch.allclose(model(a), model(b))


def test_pair_augmentation_moves_image_and_mask_together():
    rng = np.random.default_rng(0)
    mask = np.zeros((128, 128), np.uint8)
    mask[40:80, 20:60] = 13
    crop = np.repeat((mask > 0)[:, :, None], 3, 2).astype(np.uint8) * 255
    for _ in range(10):
        x, y = augment_pair(rng, crop, mask, 96)
        inside, outside = x[y == 13].mean(), x[y == 0].mean()
        assert inside > outside + 60


def faces_of(tmp_path: Path, images, labels, *, name="celebahq"):
    """A set of pictures whose landmarks lie where the template wants them, so that the crop is the picture."""
    template = np.array(Recipe.load("nano").crop.template, np.float32)
    path = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"{i}.png", cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    landmarks = np.stack([template * x.shape[0] - 0.5 for x in images]).astype(np.float32)
    count = len(images)
    return Faces(
        (path,), np.zeros(count, np.int64), tuple(f"{i}.png" for i in range(count)), landmarks,
        labels, np.full(count, np.nan, np.float32), np.full(count, "train"), template,
    )  # fmt: skip


def test_view_moves_crop_and_map_together(tmp_path: Path):
    rng = np.random.default_rng(1)
    label_map = np.zeros((64, 64), np.uint8)
    label_map[20:40, 10:30] = 13
    crop = np.kron(label_map > 0, np.ones((2, 2)))[:, :, None].repeat(3, 2).astype(np.uint8) * 255
    faces = faces_of(tmp_path, [crop], np.zeros((1, len(NAMES)), np.float32))
    assert np.abs(faces.crop(0, 128).astype(int) - crop).max() <= 1
    inside = outside = 0.0
    for _ in range(20):
        x, y = view(rng, faces, 0, label_map, 64)
        inside, outside = inside + x[y == 13].mean(), outside + x[y == 0].mean()
    # Summed over views: in some of them something stands before the face.
    assert inside > outside + 20 * 60


def test_sets_are_drawn_by_their_shares_and_never_validation(tmp_path: Path):
    labels = np.zeros((6, len(NAMES)), np.float32)
    faces = faces_of(tmp_path, [np.zeros((8, 8, 3), np.uint8)] * 6, labels)
    part = np.array(["train", "val", "train", "train", "calibration", "val"])
    both = dataclasses.replace(
        faces, archives=(Path("celebahq.zip"), Path("ferplus.zip")), source=np.array([0, 0, 0, 1, 1, 1]), part=part
    )
    rows = Mixture(both, {"celebahq": 0.25, "ferplus": 0.75}).draw(4000, np.random.default_rng(0))
    assert set(rows) == {0, 2, 3}
    assert (rows == 3).mean() == pytest.approx(0.75, abs=0.03)


def test_labels_of_the_three_sets_say_only_what_they_know():
    row = {"age": "more than 70", "race": "East Asian", "gender": "Male"}
    (labels,) = labels_of.fairface_labels([row])
    known = {n for n, v in zip(NAMES, labels, strict=True) if not np.isnan(v)}
    assert known == {"Male", *AGES, *RACES}
    assert {n for n, v in zip(NAMES, labels, strict=True) if v == 1} == {"Male", "Age_70", "East_Asian"}
    votes = {f"votes_{n.lower()}": "0" for n in EXPRESSIONS} | {"votes_happiness": "6", "votes_neutral": "2"}
    (labels,) = labels_of.ferplus_labels([votes])
    assert labels[NAMES.index("Happiness")] == pytest.approx(0.75)
    assert labels[NAMES.index("Neutral")] == pytest.approx(0.25)
    assert np.isnan(labels[NAMES.index("Smiling")])
    (labels,) = labels_of.celebahq_labels([dict.fromkeys(CELEBA, "1")])
    assert {n for n, v in zip(NAMES, labels, strict=True) if v == 1} == set(CELEBA)


def test_task_loss_hears_only_known_labels():
    torch.manual_seed(0)
    logits = torch.randn(3, len(NAMES), requires_grad=True)
    labels = torch.full((3, len(NAMES)), torch.nan)
    labels[0, [NAMES.index("Smiling"), NAMES.index("Bald")]] = torch.tensor([1.0, 0.0])
    ages = [NAMES.index(n) for n in AGES]
    labels[1, ages] = F.one_hot(torch.tensor(3), len(ages)).float()
    labels[2, NAMES.index("Male")] = 1
    loss, figures = TaskLoss(weight=0.5)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    heard = {(r, NAMES[c]) for r, c in gradient.nonzero().tolist()}
    assert heard == {(0, "Smiling"), (0, "Bald"), (2, "Male"), *((1, n) for n in AGES)}
    assert set(figures) == {"attributes", "gender", "age"}
    # A gender known alone is a task of its own: it does not drown among the attributes.
    male = gradient[2, NAMES.index("Male")]
    assert male.item() == pytest.approx((logits[2, NAMES.index("Male")].sigmoid().item() - 1), abs=1e-6)


def test_unknown_labels_are_guessed_for_the_graph():
    labels = np.array([[1, np.nan], [0, 1]], np.float32)
    assert complete(labels, np.array([[0.5, 0.7], [0.1, 0.2]], np.float32)).tolist() == [
        [1, pytest.approx(0.7)],
        [0, 1],
    ]


def test_calibration_recovers_a_known_scaling():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, len(NAMES)))
    labels = np.full(logits.shape, np.nan)
    k, ages = NAMES.index("Smiling"), [NAMES.index(n) for n in AGES]
    labels[:, k] = rng.random(20000) < 1 / (1 + np.exp(-(0.6 * logits[:, k] - 1.0)))
    shift = np.linspace(-1, 1, len(ages))
    # Gumbel noise draws from the softmax.
    drawn = (0.5 * logits[:, ages] + shift + rng.gumbel(size=(20000, len(ages)))).argmax(1)
    labels[:, ages] = np.eye(len(ages))[drawn]
    fitted = calibration.fit_scaling(logits, labels)
    assert np.allclose(fitted[k], [0.6, -1.0], atol=0.06)
    assert np.allclose(fitted[ages, 0], 0.5, atol=0.03)
    assert np.allclose(fitted[ages, 1] - fitted[ages, 1].mean(), shift, atol=0.1)
    assert fitted[NAMES.index("Bald")].tolist() == [1, 0]


RISKS = {"age": 0.3, "race": 0.3, "expression": 0.3}


def test_bands_keep_the_stated_risk_for_yes_and_for_no():
    rng = np.random.default_rng(0)
    p = np.full((20000, len(NAMES)), 0.5)
    labels = np.full(p.shape, np.nan)
    k, sure, rare = (NAMES.index(n) for n in ("Oval_Face", "Eyeglasses", "Goatee"))
    p[:, k], p[:, sure], p[:, rare] = rng.random(20000), rng.choice([0.01, 0.99], 20000), 0.7 * rng.random(20000) ** 4
    labels[:, [k, sure, rare]] = rng.random((20000, 3)) < p[:, [k, sure, rare]]
    bands = calibration.abstention_thresholds(p, labels, risk=0.1, choice_risk=RISKS, miss=1.0)
    low, high = bands[k]
    assert (labels[p[:, k] >= high, k] == 0).mean() == pytest.approx(0.1, abs=0.015)
    assert (labels[p[:, k] <= low, k] == 1).mean() == pytest.approx(0.1, abs=0.015)
    assert bands[sure].tolist() == [0.5, 0.5]
    # Its "yes" is never right nine times of ten, however often its "no" is.
    assert bands[rare, 1] == 1
    assert bands[rare, 0] > 0.2


def test_few_of_those_who_have_it_are_told_they_have_not():
    rng = np.random.default_rng(0)
    p = np.full((20000, len(NAMES)), 0.5)
    labels = np.full(p.shape, np.nan)
    hat = NAMES.index("Wearing_Hat")
    p[:, hat] = 0.6 * rng.random(20000) ** 6
    labels[:, hat] = rng.random(20000) < p[:, hat]
    low = {
        miss: calibration.abstention_thresholds(p, labels, risk=0.1, choice_risk=RISKS, miss=miss)[hat, 0]
        for miss in (1.0, 0.1)
    }
    told = {
        m: ((p[:, hat] <= bound) & (labels[:, hat] == 1)).sum() / (labels[:, hat] == 1).sum()
        for m, bound in low.items()
    }
    assert told[0.1] == pytest.approx(0.1, abs=0.01)
    assert told[1.0] > 0.3


def test_fewer_people_leave_more_in_doubt():
    """Who has it is told that they have not by a share with a margin: of twelve people hardly anything is known."""
    hat = NAMES.index("Wearing_Hat")
    rng = np.random.default_rng(0)

    def bound(people: int) -> float:
        count = 40 * people
        labels = np.full((count, len(NAMES)), np.nan)
        labels[:, hat] = np.arange(count) < count // 20
        p = np.full((count, len(NAMES)), 0.5)
        p[:, hat] = np.where(labels[:, hat] == 1, rng.uniform(0, 1, count), 0.002)
        # Every one of them is seen twice.
        faces = np.arange(count) // 2
        table = calibration.abstention_thresholds(p, labels, risk=0.1, choice_risk=RISKS, miss=0.2, faces=faces)
        return float((p[labels[:, hat] == 1, hat] <= table[hat, 0]).mean())

    few, many = bound(12), bound(1200)
    assert few < 0.12
    assert 0.16 < many <= 0.2


def test_a_promise_holds_in_each_group_by_itself():
    rng = np.random.default_rng(0)
    p = np.full((20000, len(NAMES)), 0.5)
    labels = np.full(p.shape, np.nan)
    male, child = NAMES.index("Male"), rng.random(20000) < 0.1
    p[:, male] = rng.random(20000)
    # Of children the probability says less than it claims.
    truth = np.where(child, 0.5 + 0.6 * (p[:, male] - 0.5), p[:, male])
    labels[:, male] = rng.random(20000) < truth
    bands = [
        calibration.abstention_thresholds(p, labels, groups, risk=0.2, choice_risk=RISKS, miss=1.0)[male]
        for groups in ([], [child], [~child])
    ]
    assert bands[0][1] < bands[1][1]
    assert bands[2][1] <= bands[0][1]
    # A group of one kind (men, asked about being men) says nothing.
    men = labels[:, male] == 1
    same = calibration.abstention_thresholds(p, labels, [men], risk=0.2, choice_risk=RISKS, miss=1.0)[male]
    assert same.tolist() == bands[0].tolist()


def test_hair_has_a_colour_where_it_can_be_seen():
    labels = np.zeros((5, len(NAMES)))
    labels[1, NAMES.index("Black_Hair")] = labels[2, NAMES.index("Bald")] = labels[3, NAMES.index("Wearing_Hat")] = 1
    labels[4] = np.nan
    assert calibration.unnamed(labels).tolist() == [True, False, False, False, False]
    rng = np.random.default_rng(0)
    hair = [NAMES.index(n) for n in HAIR_COLORS]
    logits, table = rng.normal(0, 1, (4000, len(NAMES))), np.full((4000, len(NAMES)), np.nan)
    chosen = rng.integers(0, 4, 4000)
    table[:, hair] = np.eye(4)[chosen]
    table[:, [NAMES.index("Bald"), NAMES.index("Wearing_Hat")]] = 0
    logits[np.arange(4000), np.array(hair)[chosen]] += 3
    # A third is not named by anybody. That lowers how probable it is that a colour is named, and must not teach when to
    # say that hair has not this colour.
    table[:1300, hair] = 0
    p = calibration.probabilities(logits, calibration.fit_scaling(logits, table))
    assert p[:, hair].sum(1).mean() == pytest.approx(2700 / 4000, abs=0.03)
    assert (p[:, hair].argmax(1) == chosen).mean() > 0.85
    limits = [
        calibration.abstention_thresholds(p[rows], table[rows], risk=0.1, choice_risk=RISKS, miss=0.1)[hair, 0]
        for rows in (slice(None), slice(1300, None))
    ]
    assert limits[0].tolist() == limits[1].tolist()
    assert (limits[0] > 0).all()


def test_question_encoder_ignores_padding():
    torch.manual_seed(0)
    model = QuestionNet(torch.randn(50, 24), torch.randn(6, 16), width=8).eval()
    tokens = torch.randint(0, 50, (1, 5))
    padded = torch.cat([tokens, torch.randint(0, 50, (1, 4))], 1)
    mask = torch.arange(9)[None] < 5
    for alone, beside, turned in zip(model(tokens), model(padded, mask), model(tokens.flip(1)), strict=True):
        assert torch.allclose(alone, beside, atol=1e-5)
        assert not torch.allclose(alone, turned, atol=1e-3)


def test_what_the_encoder_saw_is_kept_for_that_encoder_and_those_faces(tmp_path: Path):
    rows, file = np.array([3, 5, 9]), tmp_path / "seen.pt"
    seen = EncodedFaces(
        rows, torch.randn(3, 4, 8).half(), torch.randn(3, 2, 6).half(), torch.rand(3, 2), np.eye(3, 7, dtype=np.float32)
    )
    assert EncodedFaces.load(file, "a", rows) is None
    seen.save(file, "a")
    kept = EncodedFaces.load(file, "a", rows)
    assert kept is not None
    assert torch.equal(kept.image, seen.image)
    assert torch.equal(kept.regions, seen.regions)
    assert torch.equal(kept.area, seen.area)
    assert np.array_equal(kept.logits, seen.logits)
    assert EncodedFaces.load(file, "b", rows) is None
    assert EncodedFaces.load(file, "a", rows + 1) is None


@pytest.mark.slow
def test_aligned_tokens_say_what_holds_and_nothing_switched(encoder, tmp_path: Path):
    torch.manual_seed(0)
    adapter = build_adapter(states=4, width=48)
    count, hat, male = 256, NAMES.index("Wearing_Hat"), NAMES.index("Male")
    labels = np.random.default_rng(0).integers(0, 2, (count, len(NAMES))).astype(np.float32)
    regions = torch.randn(count, len(REGIONS), encoder.head.view.region[0].in_features) * 0.1
    regions[:, :, 1 : 1 + len(REGIONS)] += 2 * torch.eye(len(REGIONS))
    regions[:, :, 0] += 3 * torch.from_numpy(labels[:, hat])[:, None] - 1.5
    seen = EncodedFaces(
        np.arange(count), torch.randn(count, 4, 1280).half() * 0.1, regions.half(), torch.ones(count, len(REGIONS)),
        np.zeros(labels.shape, np.float32),
    )  # fmt: skip
    held = holding(labels, seen.logits)
    assert abs(held[:, hat]).min() > 0.5
    assert not held[:, male].any()
    text = torch.randn(len(NAMES), 256)
    views = {name: getattr(encoder.head.view, name).state_dict() for name in ("image", "region")}
    align(
        adapter, seen, labels, table=torch.randn(64, 48), encode=lambda text: [ord(c) % 64 for c in text], views=views,
        text=text, out=tmp_path, schedule=Schedule(steps=300, batch=64, lr=1e-3, ema_decay=0.9),
    )  # fmt: skip
    with torch.no_grad():
        tokens = adapter.region(regions)[:, list(REGIONS).index("hat")]
        along = tokens @ (adapter.text(text)[hat])
    with_hat, without = along[labels[:, hat] == 1], along[labels[:, hat] == 0]
    assert (with_hat[:, None] > without).float().mean() > 0.95
    assert with_hat.mean() > 0 > without.mean()


def test_regions_speak_of_what_they_show():
    member = membership()
    assert member[list(REGIONS).index("face")].all()
    assert member[list(REGIONS).index("hat")].sum() == 1
    assert member[list(REGIONS).index("hat"), NAMES.index("Wearing_Hat")]


def test_looking_leaves_little_to_guess_from():
    """Of the rare and the common alike: over many faces about as many answers are yes as no."""
    rng = np.random.default_rng(0)
    names = [c.name for c in CHARACTERISTICS if c.group == "" and c.name != "Blurry"]
    rates = dict(zip(names, np.tile([0.03, 0.1, 0.3, 0.5, 0.85], len(names))[: len(names)].tolist(), strict=True))
    answers: dict[float, list[bool]] = {p: [] for p in rates.values()}
    for _ in range(8000):
        states = {n: YES if rng.random() < p else NO for n, p in rates.items()} | {"Happiness": UNSURE, "Male": YES}
        asked = turns.look_turn(rng, states, rates)
        (name,) = asked.about
        concept = BY_NAME[name]
        answers[rates[name]].append(asked.answer.startswith("Yes") != concept.inverted)
    assert min(map(len, answers.values())) > 500
    sampling_weights = {p: float(np.mean(a)) for p, a in answers.items()}
    assert all(0.35 < share < 0.65 for share in sampling_weights.values()), sampling_weights


def test_tree_mask_separates_turns():
    turns = torch.tensor([[0, 0, 1, 1, 2, 2, -1]])
    mask = tree_mask(turns)[0, 0] == 0
    assert mask[3].tolist() == [True, True, True, True, False, False, False]
    assert mask[5].tolist() == [True, True, False, False, True, True, False]
    assert mask[1].tolist() == [True, True, False, False, False, False, False]


def test_recipe_is_strict(tmp_path: Path):
    assert Recipe.load("nano").crop.encoder == 128
    with pytest.raises(FileNotFoundError, match="shipped: nano"):
        Recipe.load("giga")
    (tmp_path / "x.toml").write_text('name = "x"\ncolour = 1\n')
    with pytest.raises(ValueError, match="unknown field 'colour'"):
        Recipe.load(str(tmp_path / "x.toml"))


def fit(out: Path, schedule: Schedule, *, stop_at: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    count = 0

    def loss(batch):
        nonlocal count
        count += 1
        if stop_at is not None and count > stop_at:
            raise KeyboardInterrupt
        return ((model(batch) - batch.sum(1, keepdim=True)) ** 2).mean(), {}

    def load(indices, rng):
        return data[indices] + float(rng.normal()) * 0.01

    train(model, name="toy", out=out, schedule=schedule, count=64, load=load, loss=loss)
    return model.weight.detach()


def test_resumed_training_equals_unbroken(tmp_path: Path):
    schedule = Schedule(steps=30, batch=8, lr=0.05, checkpoint_every=10)
    whole = fit(tmp_path / "a", schedule)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", schedule, stop_at=17)
    assert torch.equal(fit(tmp_path / "b", schedule), whole)
    first = json.loads((tmp_path / "b" / "toy.log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0


def test_resuming_with_another_schedule_is_refused(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Schedule(steps=30, batch=8, lr=0.05, checkpoint_every=10), stop_at=17)
    with pytest.raises(ValueError, match="belongs to"):
        fit(tmp_path, Schedule(steps=40, batch=8, lr=0.05, checkpoint_every=10))


def test_every_characteristic_can_be_asked_about():
    concepts = {c.name for c in CONCEPTS}
    assert concepts == {c.name for c in CHARACTERISTICS if c.group != "never"}
    for concept in CONCEPTS:
        assert not set(concept.words) & set(concept.heldout)
        assert mentions(concept.name)
        for state in (YES, NO):
            answer = dialogue.closed_answer(concept, state).lower()
            assert any(m.lower() in answer for m in (*mentions(concept.name), *denials(concept.name))), answer


def test_answers_follow_states():
    states = dict.fromkeys(NAMES, NO)
    states |= {"Smiling": YES, "Brown_Hair": YES, "Wavy_Hair": YES, "No_Beard": YES}
    assert dialogue.describe(states) == (
        "The person has wavy brown hair and is smiling. The person is not wearing glasses or a hat."
    )
    beard = next(c for c in CONCEPTS if c.name == "No_Beard")
    assert dialogue.closed_answer(beard, beard.state(states)) == "No, the person has no beard."
    assert beard.state({}) is None


def drawn(rng, groups=tuple(SWITCHES)):
    chosen = enabled(groups)
    return {NAMES[i]: int(s) for i, s in zip(chosen, drill(rng, chosen), strict=True)}


def test_switched_off_groups_are_never_spoken_of():
    rng = np.random.default_rng(0)
    off = {n for n in NAMES if n not in drawn(rng, ())}
    spoken = [re.escape(m) for n in off for m in (*mentions(n), *denials(n))]
    words = re.compile(rf"\b(?:{'|'.join(spoken)})\b", re.IGNORECASE)
    for _ in range(3000):
        answer = turns.turn(rng, drawn(rng, ())).answer
        assert not words.search(answer), answer


def grounding() -> ClaimChecker:
    return ClaimChecker(characteristic_specs(np.tile([1, 0, 0.4, 0.6, 0, 1], (len(NAMES), 1))))


def as_labels(states):
    return [Label(n, "", "", 0.5, STATES[s], "") for n, s in states.items()]


def test_true_answers_are_grounded():
    """What training teaches is never taken for a contradiction, about one face or two."""
    rng, check, claims = np.random.default_rng(0), grounding(), 0
    for _ in range(3000):
        faces = [drawn(rng)] if rng.random() < 0.7 else [drawn(rng), drawn(rng)]
        turn = turns.turn(rng, *faces) if len(faces) == 1 else turns.pair_turn(rng, *faces)
        for sentence in sentences(turn.answer):
            claims += len(list(check.claims(sentence, faces=len(faces))))
            assert not check.contradicts(sentence, [as_labels(f) for f in faces]), (turn, sentence)
            assert not check.self_contradicts(sentence), sentence
            assert not check.repeats(sentence, len(faces)), sentence
    assert claims > 3000


def test_false_answers_are_caught():
    """The answer for the opposite finding contradicts the labels: every concept, alone and of two."""
    rng, check = np.random.default_rng(0), grounding()
    for _ in range(5):
        states, beside = drawn(rng), drawn(rng)
        for concept in CONCEPTS:
            if states[concept.name] not in (YES, NO):
                continue
            wrong = states | {concept.name: 1 - states[concept.name]}
            text = dialogue.closed_answer(concept, concept.state(wrong))
            assert check.contradicts(text, [as_labels(states)]), text
            assert check.self_contradicts(
                text.replace("Yes,", "No,") if "Yes," in text else text.replace("No,", "Yes,")
            ), text
            text = dialogue.who_answer(concept, wrong, beside)
            assert check.contradicts(text, [as_labels(states), as_labels(beside)]), text
        for _ in range(100):
            concepts = turns.compound(rng, states)
            one = concepts[rng.integers(len(concepts))]
            if states[one.name] in (YES, NO):
                wrong = states | {one.name: 1 - states[one.name]}
                text = dialogue.compound_answer(concepts, [c.state(wrong) for c in concepts])
                assert any(check.contradicts(s, [as_labels(states)]) for s in sentences(text)), text
    doubtful = as_labels(dict.fromkeys(NAMES, UNSURE))
    assert check.contradicts("The person is wearing a hat.", [doubtful])
    assert not check.contradicts("I am not sure whether the person is wearing a hat.", [doubtful])
    hat = NAMES.index("Wearing_Hat")
    certain = [replace(x, state="no") if i == hat else x for i, x in enumerate(doubtful)]
    for hedged in (
        "I am not sure, but the person is probably wearing a hat.",
        "The person may be wearing a hat.",
        "The person seems to be wearing a hat.",
        "Perhaps the person is wearing a hat, but I am not sure.",
    ):
        assert not check.contradicts(hedged, [doubtful]), hedged
        assert check.contradicts(hedged, [certain]), hedged


@pytest.mark.parametrize(
    ("smile", "glasses", "answer"),
    [
        (YES, YES, "Yes, the person is smiling and is wearing glasses."),
        (NO, NO, "No, the person is not smiling and is not wearing glasses."),
        (NO, YES, "The person is wearing glasses, but is not smiling."),
        (YES, UNSURE, "The person is smiling. I am not sure whether the person is wearing glasses."),
        (HIDDEN, HIDDEN, "I cannot tell whether the person is smiling or is wearing glasses."),
        (None, YES, f"The person is wearing glasses. {dialogue.DECLINE_OFF}"),
    ],
)
def test_several_questions_in_one_are_all_answered(smile, glasses, answer):
    concepts = [BY_NAME["Smiling"], BY_NAME["Eyeglasses"]]
    assert dialogue.compound_answer(concepts, [smile, glasses]) == answer


def test_several_questions_in_one_name_each_thing():
    """Held out or not, each concept is said by one of its words; nothing is asked beside its opposite."""
    rng = np.random.default_rng(0)
    for i in range(2000):
        concepts = turns.compound(rng, drawn(rng))
        assert len({c.name for c in concepts}) == len(concepts) in (2, 3)
        assert not {"Straight_Hair", "Wavy_Hair"} <= {c.name for c in concepts}
        text = compound_question(rng, concepts, heldout=i % 2 == 0).lower()
        for c in concepts:
            assert any(x.lower() in text for x in (c.words, c.heldout)[i % 2 == 0]), (text, c)


def test_pairs_are_compared():
    smiles, frowns = (dict.fromkeys(NAMES, NO) | {"Smiling": s} for s in (YES, NO))
    smile = BY_NAME["Smiling"]
    assert dialogue.who_answer(smile, smiles, frowns) == "Only the first person is smiling."
    assert dialogue.who_answer(smile, frowns, frowns) == "Neither person is smiling."
    assert dialogue.both_answer(smile, smiles, smiles) == "Yes, each of them is smiling."
    assert dialogue.different_answer(smiles, frowns) == "Only the first person is smiling."
    assert dialogue.common_answer(smiles, smiles) == "Each of them is smiling."


def test_views_of_one_face_do_not_count_as_so_many_faces():
    rng = np.random.default_rng(0)
    faces = np.repeat(np.arange(300), 4)
    p = rng.random(300)[faces]
    wrong = (rng.random(300) > 0.5 + p[::4] / 2)[faces]
    # Each face four times says what it says once; as many others would say more.
    once = calibration.surest(p[::4], wrong[::4], 0.15, lowest=0.0)
    views = calibration.surest(p, wrong, 0.15, lowest=0.0, faces=faces)
    others = calibration.surest(p, wrong, 0.15, lowest=0.0)
    assert views == pytest.approx(once, abs=0.02)
    assert others < once - 0.02
    # Of faces of their own nothing changes, whatever their order.
    order = rng.permutation(300)
    assert calibration.surest(p[::4][order], wrong[::4][order], 0.15, lowest=0.0, faces=order) == once


def test_what_one_has_is_also_asked_of_the_part():
    rng = np.random.default_rng(0)
    asked = {
        name: {closed_question(rng, BY_NAME[name]).lower().rstrip("?") for _ in range(1500)}
        for name in ("Black_Hair", "Narrow_Eyes", "Eyeglasses")
    }
    assert "is the hair black" in asked["Black_Hair"]
    assert "are her eyes narrow" in asked["Narrow_Eyes"]
    assert not any(q.startswith(("is the a ", "is her a ")) for q in asked["Eyeglasses"])
    # Most people ask plainly.
    assert "is she wearing glasses" in asked["Eyeglasses"]
    assert not any("  " in q or "{" in q for found in asked.values() for q in found)
