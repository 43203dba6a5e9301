"""The architecture and its training, on small sizes."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faceinsight.labels import NO, YES
from faceinsight_models import calibration, dialogue, lcm
from faceinsight_models.augment import augment_pair
from faceinsight_models.ccm import CorrelationModule, cooccurrence, correlation_graph
from faceinsight_models.encoder import EncoderGraph
from faceinsight_models.question import QuestionEncoder
from faceinsight_models.recipe import Recipe, Schedule
from faceinsight_models.segmentation import RegionPool, SegmentationEncoder, coarse
from faceinsight_models.train.encoder import build_adapter, build_encoder, view
from faceinsight_models.train.llm import tree_mask
from faceinsight_models.train.loop import train
from faceinsight_models.vocabulary import CHARACTERISTICS, MASK_CLASSES, NAMES, REGIONS, RULES
from faceinsight_models.wordings import CONCEPTS, mentions


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
    before = constraint(logits.sigmoid())
    (gradient,) = torch.autograd.grad(before, logits)
    assert constraint((logits - gradient).sigmoid()) < before
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
    return build_encoder(F.normalize(torch.randn(40, 16)), torch.eye(40)).eval()


def test_encoder_uses_both_inputs(encoder):
    torch.manual_seed(1)
    pixels, maps = torch.randn(1, 3, 128, 128), torch.randint(0, 19, (1, 64, 64))
    with torch.no_grad():
        base = encoder(pixels, maps)
        assert not torch.allclose(base, encoder(pixels + 0.5, maps))
        assert not torch.allclose(base, encoder(pixels, (maps + 1) % 19))
        assert torch.allclose(base, encoder(torch.cat([pixels, -pixels]), torch.cat([maps, maps]))[:1], atol=1e-4)


def test_graph_computes_only_the_chosen_characteristics(encoder):
    adapter = build_adapter(states=4, width=32)
    graph = EncoderGraph(encoder, adapter).eval()
    pixels, maps = torch.randn(2, 3, 128, 128), torch.randint(0, 19, (2, 256, 256), dtype=torch.uint8)
    chosen = torch.tensor([7, 3, 31])
    with torch.no_grad():
        logits, image, region, area = graph(pixels, maps, chosen)
        assert torch.allclose(logits, encoder(pixels, coarse(maps))[:, chosen], atol=1e-5)
    assert (logits.shape, image.shape) == ((2, 3), (2, 16, 32))
    assert region.shape == (2, len(REGIONS), 32)
    assert area.shape == (2, len(REGIONS))


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


def test_view_moves_crop_and_map_together():
    rng = np.random.default_rng(1)
    label_map = np.zeros((64, 64), np.uint8)
    label_map[20:40, 10:30] = 13
    crop = np.kron(label_map > 0, np.ones((2, 2)))[:, :, None].repeat(3, 2).astype(np.uint8) * 255
    for _ in range(10):
        x, y = view(rng, crop, label_map, 64)
        assert x[y == 13].mean() > x[y == 0].mean() + 60


def test_calibration_recovers_a_known_scaling():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 2))
    truth = 1 / (1 + np.exp(-(0.6 * logits + [0.4, -1.0])))
    fitted = calibration.fit(logits, (rng.random(truth.shape) < truth).astype(np.uint8))
    assert np.allclose(fitted, [[0.6, 0.4], [0.6, -1.0]], atol=0.06)


def test_question_encoder_ignores_padding():
    torch.manual_seed(0)
    model = QuestionEncoder(torch.randn(50, 24), torch.randn(6, 16), width=8).eval()
    tokens = torch.randint(0, 50, (1, 5))
    padded = torch.cat([tokens, torch.randint(0, 50, (1, 4))], 1)
    mask = torch.arange(9)[None] < 5
    assert torch.allclose(model(tokens), model(padded, mask), atol=1e-5)
    assert not torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-3)


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
            assert any(m in answer for m in mentions(concept.name)), answer


def test_answers_follow_states():
    states = dict.fromkeys(NAMES, NO)
    states |= {"Smiling": YES, "Brown_Hair": YES, "Wavy_Hair": YES, "No_Beard": YES}
    assert dialogue.describe(states) == (
        "The person has wavy brown hair and is smiling. The person is not wearing glasses or a hat and has no beard."
    )
    beard = next(c for c in CONCEPTS if c.name == "No_Beard")
    assert dialogue.closed_answer(beard, beard.state(states)) == "No, the person has no beard."
    assert beard.state({}) is None


def test_switched_off_groups_are_never_spoken_of():
    rng = np.random.default_rng(0)
    states = {c.name: int(rng.integers(4)) for c in CHARACTERISTICS if c.group == ""}
    for _ in range(3000):
        answer = dialogue.turn(rng, states).answer
        words = answer.lower().replace(".", " ").replace(",", " ").split()
        for name in ("Male", "Young", "Attractive"):
            assert not set(mentions(name)) & set(words), answer
