"""FaceInsight's parts for a LLaVA that stays as it is: training, export, and what its LLM then sees."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import checkpoints
import cv2
import numpy as np
import pytest
import torch

from faceinsight import FaceInsight
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.gguf_header import GgufHeader
from faceinsight.bundle.manifest import Manifest
from faceinsight.diagnostics.fit import estimate
from faceinsight.errors import BundleError, RequestError
from faceinsight.perception.clip_pixels import to_pixels
from faceinsight_export import attach as export_attach
from faceinsight_export.attach import Attached
from faceinsight_export.cli import main as export
from faceinsight_export.llava_bundle import ExportOptions, export_llava, open_attached, verify_bundle
from faceinsight_export.parity.attach import attached_stages
from faceinsight_export.parity.stages import ParityError
from faceinsight_models.cli import main as train
from faceinsight_models.llava.adapter_record import AdapterRecord, load_adapter
from faceinsight_models.llava.frozen import FrozenLlava
from faceinsight_models.recipe import LLAVA_RECIPES, LlavaRecipe
from faceinsight_models.taxonomy import CELEBA, MASK_CLASSES, REGIONS
from faceinsight_models.train import attach as training
from faceinsight_models.train.conversation import FACE_SLOT, IGNORE, KNOWLEDGE_SLOT, Conversation, PromptTokens
from faceinsight_models.train.llm import forward_answers

pytestmark = pytest.mark.slow

CPU = Device("cpu", False, 1)
EXACT = ExportOptions("fp32", "f16")
STAGES = [
    "pixels", "vision features", "image tokens", "face logits", "region tokens", "knowledge tokens", "prompt tokens",
    "llm logits", "greedy text",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny LLaVA, large enough that its prompt fits."""
    out = tmp_path_factory.mktemp("llava") / "checkpoint"
    checkpoints.llava(out, new=False, image_size=56, max_position_embeddings=2048)
    return out


@pytest.fixture(scope="module")
def data(photo, tmp_path_factory) -> Path:
    """Labelled pictures of a face: brighter, darker, mirrored, ... with labels drawn at random."""
    out, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    lines = ["file,split," + ",".join(CELEBA)]
    with zipfile.ZipFile(out / "celebahq.zip", "w") as archive:
        for i in range(9):
            picture = np.clip(photo * (0.6 + 0.1 * i), 0, 255).astype(np.uint8)[:, :: 1 - 2 * (i % 2)]
            archive.writestr(f"{i}.jpg", cv2.imencode(".jpg", picture[:, :, ::-1])[1].tobytes())
            lines.append(f"{i}.jpg,train," + ",".join(map(str, rng.integers(0, 2, len(CELEBA)))))
    (out / "celebahq.csv").write_text("\n".join(lines))
    return out


def recipe(path: Path, steps: int) -> Path:
    """The shipped prompt, and little training."""
    schedules = f"""
[attach]
faces = 6
turns = 2
accumulation_steps = 2
[attach.align]
steps = 60
batch = 4
lr = 3e-3
[attach.train]
steps = {steps}
batch = 4
lr = 3e-3
ema_decay = 0.9
checkpoint_every = 4
"""
    path.write_text((LLAVA_RECIPES / "llava-1.5-7b.toml").read_text() + schedules)
    return path


def attach(folder: Path, data: Path, out: Path, rules: Path) -> int:
    options = ["--data", str(data), "--out", str(out), "--recipe", str(rules)]
    return train(["attach", str(folder), *options])


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def run(folder: Path, data: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    before = hashes(folder)
    assert attach(folder, data, out / "attached", recipe(out / "recipe.toml", 61)) == 0
    assert hashes(folder) == before, "the checkpoint was changed"
    return out / "attached"


@pytest.fixture(scope="module")
def bundle(folder: Path, run: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    stages = export_llava(folder, out, recipe="llava-1.5-7b", options=EXACT, attach=run)
    assert [s.name for s in stages] == STAGES
    assert all(s.passed for s in stages)
    return out


@pytest.fixture(scope="module")
def fi(bundle: Path):
    with FaceInsight.load(bundle, device="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def seen(fi: FaceInsight, photo):
    (found,) = fi.perceive(photo)
    return found


@pytest.fixture(scope="module")
def llava(folder: Path) -> FrozenLlava:
    return FrozenLlava.open(folder, margin=2.0, device=torch.device("cpu"))


def test_training_lowers_the_loss(run: Path):
    for name in ("align", "attach"):
        log = [json.loads(line)["loss"] for line in (run / f"{name}.log.jsonl").read_text().splitlines()]
        assert np.mean(log[-2:]) < 0.9 * log[0], (name, log)
    assert AdapterRecord.load(run).sets == {"celebahq": 8}


def test_it_resumes_to_the_same_weights_and_nothing_of_the_llava_learns(
    folder: Path, data: Path, tmp_path: Path, monkeypatch
):
    rules = recipe(tmp_path / "recipe.toml", 11)
    assert attach(folder, data, tmp_path / "whole", rules) == 0
    count, loss, opened, load = 0, training.answer_loss, [], FrozenLlava.open

    def stop(*args):
        nonlocal count
        count += 1
        if count == 13:  # in the second pass of the seventh step
            raise KeyboardInterrupt
        return loss(*args)

    def keep(*args, **options):
        opened.append(load(*args, **options))
        return opened[-1]

    monkeypatch.setattr(training, "answer_loss", stop)
    monkeypatch.setattr(FrozenLlava, "open", keep)
    with pytest.raises(KeyboardInterrupt):
        attach(folder, data, tmp_path / "broken", rules)
    with pytest.raises(FileNotFoundError, match="has not finished"):
        load_adapter(tmp_path / "broken")
    assert attach(folder, data, tmp_path / "broken", rules) == 0
    whole, broken = (torch.load(tmp_path / d / "attach.pt", weights_only=True) for d in ("whole", "broken"))
    aligned = torch.load(tmp_path / "whole" / "align.pt", weights_only=True)
    assert whole.keys() == broken.keys() == aligned.keys()
    assert all(torch.equal(whole[k], broken[k]) for k in whole)
    assert not any(k.startswith("image") for k in whole)
    learned = {k for k in whole if not torch.equal(whole[k], aligned[k])}
    assert {"region.into.0.weight", "region.out.2.weight", "text.0.weight", "state.weight"} <= learned
    fresh = load(folder, margin=2.0, device=torch.device("cpu"))
    for part in ("body", "output", "tower", "projector"):
        for used in opened:
            expected, found = getattr(fresh, part).state_dict(), getattr(used, part).state_dict()
            assert all(torch.equal(expected[k], found[k]) for k in expected), part
            assert all(p.grad is None for p in getattr(used, part).parameters()), part


def test_a_run_belongs_to_one_llava_and_one_encoder(folder: Path, data: Path, run: Path, tmp_path: Path, capsys):
    other = tmp_path / "other"
    checkpoints.llava(other, new=True, image_size=56, max_position_embeddings=2048, num_hidden_layers=1)
    assert attach(other, data, run, recipe(tmp_path / "recipe.toml", 61)) == 1
    assert "was begun with another checkpoint" in capsys.readouterr().err
    options = ["--recipe", "llava-1.5-7b", "--out", str(tmp_path / "out"), "--attach", str(run)]
    assert export(["bundle", str(other), *options]) == 1
    assert "was trained with another checkpoint" in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    (moved / "attached.json").write_text(
        json.dumps(dataclasses.asdict(AdapterRecord.load(run)) | {"encoder": "0" * 64})
    )
    assert export(["bundle", str(folder), *options[:-1], str(moved)]) == 1
    assert "has another encoder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="merge the adapter"):
        open_attached(run, Bundle.open("nano"), folder, tmp_path)
    assert train(["attach", str(tmp_path), "--data", str(data), "--out", str(tmp_path / "x")]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_an_encoder_with_regions_of_its_own_will_do(
    folder: Path, data: Path, bundle: Path, tmp_path: Path, capsys
):
    options = ["--data", str(data), "--out", str(tmp_path / "x")]
    assert train(["attach", str(folder), "--face", str(bundle), *options]) == 1
    assert "as nano is, with region tokens of its own" in capsys.readouterr().err


def test_what_is_trained_is_what_is_run(fi: FaceInsight, llava: FrozenLlava, seen, photo):
    """The same tokens, the same picture, and the same place for everything: the same logits."""
    rules, tokenizer = LlavaRecipe.load("llava-1.5-7b"), fi.language.tokenizer
    words = PromptTokens.of(rules, llava.tokens)
    for ours, text, first in (
        (words.before, rules.before_face, True), (words.after, rules.after_face, True),
        (words.between, rules.between, True), (words.follow, rules.follow, False),
        (words.answer, rules.before_answer, False), (words.reply("Yes."), " Yes.", False),
    ):  # fmt: skip
        assert ours == tokenizer.encode(text, special=True, at_start=first), text
    assert words.stop == [2]
    pixels = llava.pixels(photo, seen.box)
    assert np.array_equal(pixels, to_pixels([seen.picture], fi.vision._spec)[0])
    image = llava.image_tokens(torch.from_numpy(pixels)[None])[0]
    assert np.allclose(image, fi.vision.encode_image(seen), atol=1e-4 * float(image.abs().max()))

    question = "Is she wearing glasses, and is there a hat?"
    about = fi.questions.label_ids(question)
    known = fi.questions.findings(seen, about)
    assert known.shape == (len(about), 64)
    assert len(known)
    visible = [FACE_SLOT] * (len(image) + len(seen.tokens))
    parts = [words.before, visible, words.after, words.encode(question), [KNOWLEDGE_SLOT] * len(known), words.answer]
    tokens = np.array([t for p in [*parts, words.reply("No.")[:1]] for t in p])
    labels = np.where(np.arange(len(tokens)) == len(tokens) - 1, tokens, IGNORE)
    places = np.arange(len(tokens)), np.repeat([0, 1], [sum(map(len, parts[:3])), sum(map(len, parts[3:])) + 1])
    none = np.zeros(0, np.int64)
    conversation = Conversation([0], False, [none], none, none, tokens, labels, *places)
    face, findings = torch.cat([image, torch.from_numpy(seen.tokens)]), torch.from_numpy(known)
    with torch.no_grad():
        expected = forward_answers(llava.body, llava.head, [conversation], face, findings).logits[0].numpy()
    language = fi.language
    language.prefill([seen])
    query = fi.questions.query(question, (seen,))
    language.llm.decode(language._suffix(query.token_ids, query.findings), language.prefix.length)
    found = language.llm.logits().copy()
    language.forget()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_the_llm_sees_the_regions(fi: FaceInsight, seen, monkeypatch):
    """What a face shows in its regions matters, and no cache takes one face for another."""
    assert seen.tokens.shape == (sum(a > 0 for a in seen.areas.values()), 64)
    assert fi.questions.findings(seen, np.arange(3)).shape == (3, 64)
    question = ["Is she smiling?"]
    first = fi.choose(seen, question)[0].probabilities
    blank = dataclasses.replace(seen, tokens=np.zeros_like(seen.tokens), key="blank")
    assert fi.choose(blank, question)[0].probabilities["Yes"] != pytest.approx(first["Yes"], rel=1e-3)
    assert fi.choose(seen, question)[0].probabilities == pytest.approx(first, rel=1e-6)
    answer = fi.ask(seen, "Is she wearing glasses?", max_tokens=4)
    assert [x.name for x in answer.labels] == ["Eyeglasses"]
    assert fi.ask(seen, "Is she wearing glasses?", max_tokens=4).text == answer.text
    fi.forget()
    assert fi.ask(seen, "Is she wearing glasses?", max_tokens=4).text == answer.text


def test_the_same_picture_with_other_regions_is_another_face(fi: FaceInsight, seen, photo, monkeypatch):
    hair, hat = MASK_CLASSES.index("hair"), MASK_CLASSES.index("hat")
    worn = np.where(seen.label_map == hair, hat, seen.label_map).astype(np.uint8)
    monkeypatch.setattr(fi.perception.encoders, "_parser", lambda pixels: [worn[None]])
    (other,) = fi.perceive(photo)
    assert np.array_equal(other.picture, seen.picture)
    assert other.areas["hat"] > 0.1 > seen.areas["hat"]
    assert other.key != seen.key
    said = [fi.choose(f, ["Is she smiling?"])[0].probabilities["Yes"] for f in (seen, other, seen, other)]
    assert said[:2] == pytest.approx(said[2:], rel=1e-6)
    assert said[0] != pytest.approx(said[1], rel=1e-3)


def test_findings_decide_as_tokens(fi: FaceInsight, seen):
    """The LLM hears what was found: another finding, other logits."""
    number = next(i for i, x in enumerate(seen.labels) if x.name == "Eyeglasses")
    other = tuple(dataclasses.replace(x, state="yes") if i == number else x for i, x in enumerate(seen.labels))
    worn = dataclasses.replace(seen, labels=other)
    told = [fi.questions.findings(f, np.array([number])) for f in (worn, seen)]
    assert not np.allclose(*told)
    asked = ["Is she wearing glasses?"]
    no, yes, again = (fi.choose(f, asked)[0].probabilities["Yes"] for f in (seen, worn, seen))
    # One token of two hundred, to an LLM of random weights: little, but beyond rounding, which the repetition shows.
    assert abs(yes - no) > 100 * abs(again - no)
    assert abs(yes - no) > 1e-5


def test_a_face_of_another_bundle_is_refused(fi: FaceInsight, seen, face):
    with pytest.raises(RequestError, match="another bundle"):
        fi.ask(face, "Is she smiling?")
    with pytest.raises(RequestError, match=r"another bundle: tokens of shape \(\d+, 32\)"):
        fi.ask(dataclasses.replace(seen, tokens=seen.tokens[:, :32], key="narrow"), "Is she smiling?")


def told_in_words(bundle: Bundle) -> Bundle:
    """The same bundle, had it been made without an adapter."""
    m = bundle.manifest
    prompt = dataclasses.replace(m.llm.prompt, findings="({findings})")
    encoder, llm = dataclasses.replace(m.encoder, width=0), dataclasses.replace(m.llm, prompt=prompt)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(m, encoder=encoder, llm=llm, knowledge=None))


def test_the_manifest_says_so_and_fit_counts_it(bundle: Path):
    opened = Bundle.open(bundle)
    m, without = opened.manifest, told_in_words(opened)
    assert (m.encoder.image_tokens, m.encoder.width, m.knowledge.file) == (0, 64, "knowledge.onnx")
    assert (m.image_tokens, m.face_tokens, without.manifest.face_tokens) == (16, 16 + len(REGIONS), 16)
    assert m.llm.prompt.findings == ""
    assert {"face logits", "region tokens", "knowledge tokens"} <= m.parity.keys()
    assert "celebahq (8 faces)" in m.licences[-1].source
    decoding = {}
    for name, which in (("with", opened), ("without", without)):
        short = dataclasses.replace(which.manifest.llm, max_question=8)  # so that the face is the longest part
        asked = dataclasses.replace(which, manifest=dataclasses.replace(which.manifest, llm=short))
        parts = {p.name: p.bytes for p in estimate(asked, memory=10**9, floor=0).parts}
        assert {"encoder.onnx", "knowledge.onnx", "vision.onnx"} <= parts.keys()
        decoding[name] = parts["decoding"]
    # 4 bytes x (2 x feed-forward + 8 x width + heads x context) for each token.
    heads = GgufHeader.read(opened.file(m.llm.file)).number("attention.head_count")
    per_token = 4 * (2 * 96 + 8 * 64 + heads * m.llm.context)
    assert decoding["with"] - decoding["without"] == len(REGIONS) * per_token


def test_a_manifest_of_half_an_adapter_is_refused(bundle: Path):
    text = Bundle.open(bundle).manifest.to_json()
    for old, new, message in (
        ('"image_tokens": 0', '"image_tokens": 16', "encoder.image_tokens is 0"),
        ('"width": 64\n },\n "knowledge"', '"width": 0\n },\n "knowledge"', "or both speak"),
        ('"width": 64\n },\n "knowledge"', '"width": 32\n },\n "knowledge"', "encoder.width 32 does not fit"),
    ):
        assert text.count(old) == 1, old
        with pytest.raises(BundleError, match=message):
            Manifest.from_json(text.replace(old, new))


def spoiled(adapter, fault: str):
    """An adapter with a fault that no size gives away."""
    adapter = copy.deepcopy(adapter)
    with torch.no_grad():
        if fault == "regions in another order":
            adapter.region_name.weight.copy_(adapter.region_name.weight.flip(0))
        elif fault == "a transposed linear":
            adapter.region.out[2].weight.copy_(adapter.region.out[2].weight.T.clone())
        elif fault == "states in another order":
            adapter.state.weight.copy_(adapter.state.weight[[1, 0, 2, 3]])
    return adapter


def failed(error: pytest.ExceptionInfo[ParityError]) -> list[str]:
    return [line.split("  ")[0].strip() for line in str(error.value).splitlines() if "FAILED" in line]


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("regions in another order", "region tokens"),
        ("a transposed linear", "region tokens"),
        ("states in another order", "knowledge tokens"),
    ],
)
def test_the_gate_names_the_fault(fault: str, stage: str, run: Path, folder: Path, bundle: Path, tmp_path: Path):
    attached = Attached.open(run, Bundle.open("nano"), folder)
    dataclasses.replace(attached, adapter=spoiled(attached.adapter, fault)).write(tmp_path)
    stages, _ = attached_stages(attached, tmp_path, CPU)
    assert [s.name for s in stages if not s.passed] == [stage]


def test_a_bundle_that_fails_is_not_finished(folder: Path, run: Path, tmp_path: Path, monkeypatch):
    write = export_attach.write_regions
    faulty = lambda adapter, *a, **o: write(spoiled(adapter, "regions in another order"), *a, **o)  # noqa: E731
    monkeypatch.setattr(export_attach, "write_regions", faulty)
    with pytest.raises(ParityError) as e:
        export_llava(folder, tmp_path / "faulty", recipe="llava-1.5-7b", options=EXACT, attach=run)
    assert failed(e) == ["region tokens"]
    assert not (tmp_path / "faulty").exists()


def test_a_finished_bundle_is_verified_again(folder: Path, run: Path, bundle: Path, capsys):
    assert export(["verify", str(bundle), "--checkpoint", str(folder), "--attach", str(run)]) == 0
    assert "region tokens" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was made with --attach"):
        verify_bundle(Bundle.open(bundle), folder)
