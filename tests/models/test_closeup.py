"""The close-up: what it is taught, what it is shown, and what the runtime makes of it on a real photo."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from faceinsight import FaceInsight
from faceinsight.perception.closeup import Closeup as CloseupReader
from faceinsight.perception.closeup import CloseupReading
from faceinsight_models.data.faces import Faces
from faceinsight_models.data.labels import AGE_YEARS, utkface_labels
from faceinsight_models.nets import lcm
from faceinsight_models.nets.closeup import FAULTS, PARTS, TELLS, YEARS, CloseupGraph, CloseupNet
from faceinsight_models.nets.mobilenet import MEAN_BGR, MobileNet, tfjs_weights
from faceinsight_models.recipe import Recipe
from faceinsight_models.taxonomy import AGES, EXCLUSIVE_GROUPS, EXPRESSIONS, NAMES, RACES, RULES
from faceinsight_models.train.closeup_targets import (
    age_targets,
    choice_loss,
    completed,
    expression_targets,
    race_targets,
)
from faceinsight_models.train.views import Views


def columns(names):
    return [NAMES.index(n) for n in names]


def faces(labels, years=None, *, images=(), folder=None, name="fairface"):
    """Rows with these labels; with pictures if some are given, whose landmarks lie where the template wants them."""
    template = Recipe.load("nano").crop.points()
    archive = Path(name)
    if folder is not None:
        archive = folder / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for i, image in enumerate(images):
                out.writestr(f"{i}.png", cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    count = len(labels)
    years = np.full(count, np.nan, np.float32) if years is None else np.array(years, np.float32)
    landmarks = np.stack([template * 160 - 0.5] * count).astype(np.float32)
    return Faces(
        (archive,), np.zeros(count, np.int64), tuple(f"{i}.png" for i in range(count)), landmarks,
        np.asarray(labels, np.float32), years, np.full(count, "train"), template,
    )  # fmt: skip


def unknown(count=1):
    return np.full((count, len(NAMES)), np.nan, np.float32)


def test_what_a_set_does_not_say_gets_no_gradient():
    labels = unknown(2)
    labels[0, columns(RACES)] = np.eye(7)[2]
    both = faces(labels)
    targets = {"years": age_targets(both), "race": race_targets(both), "expression": expression_targets(both)}
    sizes = {"years": YEARS, "race": 7, "expression": 8}
    for name, size in sizes.items():
        z = torch.randn(2, size, requires_grad=True)
        values, kind = targets[name].rows(np.array([0, 1]))
        choice_loss(z, values, kind).sum().backward()
        taught = z.grad.abs().sum(1) > 0
        assert taught.tolist() == [name == "race", False]


def test_rules_do_not_teach_what_no_label_speaks_of():
    constraint, ages = lcm.LogicalConstraint(NAMES, RULES), columns(AGES)
    logits = torch.randn(1, len(NAMES), generator=torch.Generator().manual_seed(0)).requires_grad_()
    known = torch.zeros(1, len(NAMES), dtype=torch.bool)
    known[0, columns(EXPRESSIONS)] = True
    (gradient,) = torch.autograd.grad(constraint(logits.sigmoid(), known), logits)
    assert gradient[0, ages].abs().max() == 0
    assert gradient[0, columns(EXPRESSIONS)].abs().max() > 0
    # The fault that was here: without a label, "exactly one" alone pulls age towards one certain member.
    (fault,) = torch.autograd.grad(constraint(logits.sigmoid(), torch.ones_like(known)), logits)
    assert fault[0, ages].abs().max() > 0


def test_labels_of_utkface_name_one_of_several():
    rows = [
        {"age": "1", "gender": "Female", "race": "Asian"},
        {"age": "104", "gender": "Male", "race": "Others"},
    ]
    labels = utkface_labels(rows)
    named = [{n for n in NAMES if labels[i, NAMES.index(n)] == 1} for i in range(2)]
    assert named[0] == {"Age_0_2", "East_Asian", "Southeast_Asian"}
    assert named[1] == {"Age_70", "Male", "Latino_Hispanic", "Middle_Eastern"}
    targets = age_targets(faces(labels, [1, 104]))
    assert targets.kind.tolist() == [1, 1]
    assert targets.values[0].argmax() == 1
    assert targets.values[1].argmax() == YEARS - 1
    assert np.allclose(targets.values.sum(1), 1)


def test_a_range_is_met_by_all_of_it():
    labels = unknown()
    labels[0, columns(AGES)] = np.eye(9)[3]
    values, kind = age_targets(faces(labels)).rows(np.array([0]))
    first, last = AGE_YEARS[3]
    inside, outside = torch.full((1, YEARS), -20.0), torch.zeros(1, YEARS)
    inside[0, first : last + 1] = 5.0
    assert choice_loss(inside, values, kind).item() == pytest.approx(0, abs=1e-4)
    assert choice_loss(outside, values, kind).item() == pytest.approx(-np.log(10 / YEARS), abs=1e-4)


def test_weak_labels_bound_a_guess_and_never_make_one():
    labels = unknown(2)
    labels[:, NAMES.index("Young")], labels[:, NAMES.index("Smiling")] = [0, 1], [1, 0]
    labels[:, NAMES.index("Gray_Hair")] = 0
    both = faces(labels)
    ages, moods = age_targets(both), expression_targets(both)
    assert ages.values[0, :28].sum() == 0
    assert ages.values[1, 50:].sum() == 0
    happy = list(EXPRESSIONS).index("Happiness")
    assert moods.values[:, happy].tolist() == [1, 0]
    guess = np.full((2, 8), 0.02, np.float32)
    guess[:, happy] = 0.86
    full = completed(moods, guess)
    assert full.kind.tolist() == [1, 1]
    assert full.values[0, happy] > 0.9
    assert full.values[1, happy] == 0
    assert np.allclose(full.values.sum(1), 1)


def test_what_is_said_stands_above_a_guess():
    labels = unknown(2)
    labels[0, columns(RACES)] = np.eye(7)[1]
    said = race_targets(faces(labels))
    guess = np.tile(np.eye(7, dtype=np.float32)[5], (2, 1))
    full = completed(said, guess)
    assert full.values[0].argmax() == 1
    assert full.values[1].argmax() == 5


def test_views_say_what_was_done_to_them(tmp_path: Path, photo):
    image = cv2.resize(photo[:280, 60:340], (160, 160))
    one = faces(unknown(), images=[image], folder=tmp_path)
    recipe = Recipe.load("nano")
    views = Views.of(one, recipe.closeup.template(recipe.crop), recipe.closeup.size)
    drawn = [views(0, np.random.default_rng(i)) for i in range(300)]
    again = views(0, np.random.default_rng(7))
    assert np.array_equal(again.image, drawn[7].image)
    assert all(d.image.shape == (160, 160, 3) and d.image.dtype == np.uint8 for d in drawn)
    spoilt = {name: [d for d in drawn if d.faults[i] == 1] for i, name in enumerate(FAULTS)}
    assert all(spoilt.values()), {k: len(v) for k, v in spoilt.items()}
    dark = np.mean([d.image.mean() for d in spoilt["dark"]])
    assert dark < 0.35 * np.mean([d.image.mean() for d in drawn])
    assert {d.turn for d in drawn} == {-1, 0, 1, 2, 3}
    # A face that lies, or none, teaches nothing about the person.
    assert all(d.legible == (d.turn == 0) for d in drawn)


def test_what_lies_outside_a_picture_is_filled_in_many_ways(tmp_path: Path):
    white = np.full((160, 160, 3), 250, np.uint8)
    one = faces(unknown(), images=[white], folder=tmp_path)
    # Zoomed out so far that the picture ends within the crop.
    one.landmarks[:] = (one.landmarks - 80) * 1.6 + 80
    recipe = Recipe.load("nano")
    views = Views.of(one, recipe.closeup.template(recipe.crop), recipe.closeup.size)
    corners = np.array([views(0, np.random.default_rng(i)).image[2, 2] for i in range(120)]).astype(int)
    grey = np.abs(corners - 127).max(1) < 12
    bright = corners.min(1) > 200
    assert 0.02 < grey.mean() < 0.5
    assert 0.1 < bright.mean() < 0.9
    assert len({tuple(c // 16) for c in corners}) > 15


def faceres(folder: Path) -> Path:
    """Random weights in the published file's form."""
    rng, entries, data = np.random.default_rng(0), [], b""

    def add(name, *shape):
        nonlocal data
        values = rng.normal(0, 0.1, shape).astype(np.float16)
        quantization = {"dtype": "float16", "original_dtype": "float32"}
        entries.append({"name": name, "shape": list(shape), "dtype": "float32", "quantization": quantization})
        data += values.tobytes()

    from faceinsight_models.nets.mobilenet import BLOCKS

    add("conv1/convolution/merged_input", 3, 3, 3, 32)
    add("conv1_bn/batchnorm_1/sub", 32)
    cin = 32
    for i, (cout, _) in enumerate(BLOCKS, start=1):
        add(f"conv_dw_{i}/depthwise_kernel", 3, 3, cin, 1)
        add(f"conv_dw_{i}_bn/batchnorm_1/mul", cin)
        add(f"conv_dw_{i}_bn/batchnorm_1/sub", cin)
        add(f"conv_pw_{i}/convolution/merged_input", 1, 1, cin, cout)
        add(f"conv_pw_{i}_bn/batchnorm_1/sub", cout)
        cin = cout
    (folder / "faceres.bin").write_bytes(data)
    manifest = {"weightsManifest": [{"paths": ["faceres.bin"], "weights": entries}]}
    (folder / "faceres.json").write_text(json.dumps(manifest))
    return folder


def test_published_weights_keep_their_input(tmp_path: Path):
    """BGR minus means in their makers' code, RGB scaled in ours: one first layer."""
    weights = tfjs_weights(faceres(tmp_path) / "faceres.json")
    model = MobileNet()
    model.load_faceres(tmp_path, mean=127.0, std=128.0)
    rgb = np.random.default_rng(1).integers(0, 256, (9, 9, 3)).astype(np.float32)
    bgr = rgb[:, :, ::-1] - np.array(MEAN_BGR, np.float32)
    kernel = weights["conv1/convolution/merged_input"]
    # At stride 2 TensorFlow pads right and below only: output (1,1) reads pixels 2 to 4.
    expected = (bgr[2:5, 2:5, :, None] * kernel).sum((0, 1, 2)) + weights["conv1_bn/batchnorm_1/sub"]
    pixels = torch.from_numpy(((rgb - 127) / 128).transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        found = model.stem(torch.nn.functional.pad(pixels, (0, 1, 0, 1)))[0, :, 1, 1].numpy()
    assert np.allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    (tmp_path / "faceres.bin").write_bytes((tmp_path / "faceres.bin").read_bytes() + b"\0\0")
    with pytest.raises(ValueError, match="list of weights"):
        tfjs_weights(tmp_path / "faceres.json")


def test_graph_computes_only_the_outputs_it_is_asked_for():
    torch.manual_seed(0)
    model = CloseupNet().eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = torch.cat(list(model.forward_with_flip(pixels).values()), 1)
        chosen = torch.tensor([5, 110, 3, 125])
        assert torch.allclose(CloseupGraph(model)(pixels, chosen), whole[:, chosen], atol=1e-4)
        turned = torch.cat(list(model.forward_with_flip(pixels.flip(-1)).values()), 1)
    assert torch.allclose(whole, turned, atol=1e-4)
    assert whole.shape[1] == sum(PARTS.values()) == YEARS + len(TELLS) + len(FAULTS) + 4


class Spy:
    """A session that remembers which outputs it was asked for."""

    def __init__(self, session):
        self._session, self.asked = session, []

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, names, feeds):
        self.asked.append(feeds["outputs"].tolist())
        return self._session.run(names, feeds)


def test_what_is_switched_off_is_not_computed(photo):
    with FaceInsight.load("nano", device="cpu", allow=["race"], deny=["expression"]) as fi:
        graph = fi.perception.encoders.closeup.graph
        graph._session = spy = Spy(graph._session)
        (face,) = fi.perceive(photo)
    (asked,) = spy.asked
    assert min(asked) >= YEARS
    tells = {TELLS[i - YEARS] for i in asked if i < YEARS + len(TELLS)}
    assert tells == set(TELLS) & set(fi.perception.enabled)
    assert tells >= set(RACES)
    assert face.age is None


@pytest.fixture(scope="module")
def everything():
    with FaceInsight.load("nano", device="cpu", allow=["gender", "age", "race"]) as fi:
        yield fi


def test_age_in_years_agrees_with_the_bins(everything, photo):
    (face,) = everything.perceive(photo)
    assert face.age.low <= face.age.years <= face.age.high
    likeliest = max((x for x in face.labels if x.name in AGES), key=lambda x: x.probability)
    first, last = AGE_YEARS[list(AGES).index(likeliest.name)]
    assert first - 10 <= face.age.years <= last + 10
    assert everything.report(face).to_dict()["age"]["years"] == face.age.years


def test_age_is_read_off_the_years(everything):
    reader: CloseupReader = everything.perception.encoders.closeup
    years = np.zeros((1, YEARS), np.float32)
    years[0, 30:40] = 0.1
    seen = CloseupReading(np.empty(0, np.int64), np.empty((1, 0)), years, np.zeros((1, 6)), np.eye(4)[:1])
    bins = np.zeros(9)
    bins[4] = 1
    age = reader.age(seen, 0, bins)
    assert (age.years, age.low, age.high) == (34.5, 30, 38)
    # Calibration moves mass between bins, and the years with it.
    years[0, 40:50], bins[4], bins[5] = 0.1, 0.1, 0.9
    assert reader.age(seen, 0, bins).years == pytest.approx(0.1 * 34.5 + 0.9 * 44.5, abs=0.06)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_that_lies_is_righted(insight, photo, turns):
    (upright,) = insight.perceive(photo)
    found = insight.perceive(np.ascontiguousarray(np.rot90(photo, turns)))
    assert found
    face = found[0]
    states = {x.name: x.state for x in upright.labels}
    contradicting = [x.name for x in face.labels if {x.state, states[x.name]} == {"yes", "no"}]
    assert not contradicting
    # Landmarks are those of the turned photo.
    size = photo.shape[0]
    x, y = upright.landmarks.T
    expected = {
        1: np.stack([y, size - 1 - x], 1),
        2: np.stack([size - 1 - x, size - 1 - y], 1),
        3: np.stack([size - 1 - y, x], 1),
    }[turns]
    assert np.abs(face.landmarks - expected).max() < 8


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("blurred", lambda x: cv2.GaussianBlur(x, (0, 0), 9)),
        ("dark", lambda x: np.clip(x * 0.03, 0, 255).astype(np.uint8)),
    ],
)
def test_a_picture_that_cannot_be_read_claims_less(insight, photo, name, spoil):
    (clear,) = insight.perceive(photo)
    assert clear.quality.value > 0.8
    assert clear.quality.reason is None
    seen = insight.perception.encoders.encode(
        *(spoil(c[0])[None] for c in crops(insight, photo)), insight.perception.characteristic_ids
    )
    poor = insight.perception.encoders.read(seen, 0)
    assert poor.quality.reason == name
    claims = lambda labels: sum(x.state in ("yes", "no") for x in labels)  # noqa: E731
    assert claims(poor.labels) < 0.8 * claims(clear.labels)


def crops(insight, photo):
    perception = insight.perception
    return perception.crops(photo, perception.detector.detect(photo))[1:]


def test_what_a_mask_hides_is_not_visible(insight, photo):
    (clear,) = insight.perceive(photo)
    assert clear.label("Smiling").state == "yes"
    nose, right, left = clear.landmarks[2], clear.landmarks[3], clear.landmarks[4]
    width = left[0] - right[0]
    masked = photo.copy()
    top, bottom = int(nose[1]), int(right[1] + 1.1 * width)
    cv2.rectangle(masked, (int(right[0] - 0.8 * width), top), (int(left[0] + 0.8 * width), bottom), (170, 200, 220), -1)
    (face,) = insight.perceive(masked)
    assert face.quality.covered == ("mouth hidden",)
    for name in ("Smiling", "Mouth_Slightly_Open", "No_Beard", *EXCLUSIVE_GROUPS["expression"]):
        label = face.label(name)
        if label is not None:
            assert (label.state, label.probability) == ("not visible", None)


def test_a_view_depends_on_its_generator_alone(tmp_path):
    """A resumed training sees what an unbroken one would."""
    rng = np.random.default_rng(0)
    own = faces(unknown(4), images=rng.integers(0, 256, (4, 160, 160, 3), dtype=np.uint8), folder=tmp_path)
    recipe = Recipe.load("nano")

    def views():
        return Views.of(own, recipe.closeup.template(recipe.crop), recipe.closeup.size)

    unbroken, resumed = views(), views()
    for seed in range(40):
        first = unbroken(seed % 4, np.random.default_rng(seed))
        if seed >= 20:
            assert (first.image == resumed(seed % 4, np.random.default_rng(seed)).image).all()


@pytest.mark.parametrize("degrees", [60, 90, -60])
def test_a_face_that_looks_upright_but_lies_askew_is_righted(insight, photo, degrees):
    """With landmarks that are wrong the crop looks half upright; "not smiling" had been claimed of it."""
    turn = cv2.getRotationMatrix2D((255.5, 255.5), degrees, 1)
    tilted = cv2.warpAffine(photo, turn, (512, 512), borderValue=(128, 128, 128))
    (face,) = insight.perceive(tilted)
    assert {x.name: x.state for x in face.labels}["Smiling"] == "yes"


def test_nothing_is_claimed_of_a_face_that_is_too_small(insight, photo):
    """Its face is about 11 pixels wide; smile, hat and glasses had been claimed."""
    faces = insight.perceive(cv2.resize(photo[60:200, 150:300], (20, 14), interpolation=cv2.INTER_AREA))
    assert faces
    assert faces[0].quality.reason == "too small"
    assert all(x.state in ("unsure", "not visible") for x in faces[0].labels)
