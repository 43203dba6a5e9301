"""A user's LLaVA checkpoint to a verified bundle that answers; what is not the checkpoint's is caught and named."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from paths import PHOTO

from faceinsight import FaceInsight
from faceinsight.backends.tensorrt.engines import key_of
from faceinsight.backends.tensorrt.target import EngineTarget
from faceinsight.bench.steps import PREFIX, Stopwatch, one_round
from faceinsight.bundle.bundle import Bundle
from faceinsight.diagnostics.fit import estimate
from faceinsight_export import atomic as steps
from faceinsight_export import llava_bundle as llava
from faceinsight_export.checkpoint import families
from faceinsight_export.checkpoint.checkpoint import Checkpoint
from faceinsight_export.cli import main
from faceinsight_export.llava_bundle import ExportOptions, export_llava
from faceinsight_export.onnx.vision_reference import VisionShape
from faceinsight_export.parity import llava as llava_parity
from faceinsight_export.parity.reference import Reference
from faceinsight_export.parity.stages import ParityError
from faceinsight_models.recipe import LlavaRecipe, llava_recipes

pytestmark = pytest.mark.slow

RECIPE = "llava-1.5-7b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny LLaVA in the old layout, large enough that its prompt fits."""
    out = tmp_path_factory.mktemp("llava") / "checkpoint"
    checkpoints.llava(out, new=False, image_size=56, max_position_embeddings=2048)
    return out


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    stages = export_llava(folder, out, recipe=RECIPE, options=ExportOptions("fp32", "f16"))
    assert [s.name for s in stages] == [
        "pixels", "vision features", "image tokens", "prompt tokens", "llm logits", "greedy text",
    ]  # fmt: skip
    assert all(s.passed for s in stages)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "the checkpoint was changed"
    return out


def test_the_runtime_runs_a_users_llava(bundle: Path, photo, face, insight):
    with FaceInsight.load(bundle, device="cpu", threads=1) as fi:
        (found,) = fi.perceive(photo)
        # The face parts are nano's: the same labels.
        assert found.labels == face.labels
        assert found.picture is not None
        assert found.picture.shape == (56, 56, 3)
        first = fi.ask(found, "Is she smiling?", max_tokens=4)
        assert first.timings.tokens <= 4
        assert [x.name for x in first.labels] == [x.name for x in insight.ask(face, "Is she smiling?").labels]
        again = fi.ask(found, "Is she smiling?", max_tokens=4)
        assert (again.text, again.confidence) == (first.text, first.confidence)
        # Another picture, other image tokens.
        other = dataclasses.replace(found, picture=found.picture[::-1].copy(), key="upside down")
        assert fi.vision is not None
        assert not np.allclose(fi.vision.encode_face(other), fi.vision.encode_face(found))
        fi.forget()
        assert fi.ask(found, "Is she smiling?", max_tokens=4).text == first.text


def test_the_vision_encoder_takes_one_image(bundle: Path):
    """The runtime looks at one face at a time; TensorRT takes memory for the largest batch that the graph allows."""
    target = EngineTarget("10.3.0", 0, "Orin", 8, 8, 87, 12060, integrated=True)
    ((name, shapes),) = key_of(bundle / "vision.onnx", target).profile
    assert name == "pixels"
    assert {shape[0] for shape in shapes} == {1}


def test_findings_are_told_in_words(bundle: Path, photo):
    with FaceInsight.load(bundle, device="cpu", threads=1) as fi:
        (found,) = fi.perceive(photo)
        told = fi.questions.findings(found, fi.questions.label_ids("Is she wearing glasses?"))
        assert told == " (Measured on this face: The person is not wearing glasses.)"
        assert fi.questions.findings(found, fi.questions.label_ids("What is the capital of France?")) == ""
        assert "woman" not in fi.questions.findings(found, fi.questions.label_ids("Is she a woman?"))


def test_everything_is_named_in_the_manifest(bundle: Path):
    m = Bundle.open(bundle).manifest
    assert (m.vision.image_tokens, m.vision.width, m.llm.width) == (16, 64, 64)
    assert m.provenance["llm precision"] == "f16"
    assert m.parity["greedy text"] == 0
    assert "nano: logits" in m.parity
    assert any("checkpoint" in x.licence for x in m.licences)
    assert not list(bundle.parent.glob(".*"))


def test_what_it_needs_is_known_before_it_is_loaded(bundle: Path):
    names = [p.name for p in estimate(Bundle.open(bundle), memory=8_000_000_000).parts]
    assert "vision.onnx" in names


def test_a_finished_bundle_is_verified_again(folder: Path, bundle: Path, capsys):
    assert main(["verify", str(bundle), "--checkpoint", str(folder)]) == 0
    assert "greedy text" in capsys.readouterr().out
    assert main(["verify", "nano", "--checkpoint", str(folder)]) == 1
    assert "was not made from a LLaVA checkpoint" in capsys.readouterr().err


def test_single_parts(folder: Path, tmp_path: Path, capsys):
    assert (
        main(
            [
                "vision",
                str(folder),
                "--vision",
                "fp16",
                "--tokens",
                "4",
                "--method",
                "pool",
                "--out",
                str(tmp_path / "v.onnx"),
            ]
        )
        == 0
    )
    assert main(["llm", str(folder), "--llm", "q8_0", "--out", str(tmp_path / "l.gguf")]) == 0
    assert main(["llm", str(folder), "--out", str(tmp_path / "l.gguf")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.gguf", "v.onnx"]


def verify(folder: Path, bundle: Path, **changes) -> None:
    m = Bundle.open(bundle).manifest
    vision = dataclasses.replace(m.vision, **changes)
    llava_parity.verify_llava(Reference.open(folder), bundle, vision, m.llm, precisions=("fp32", "f16"))


def failed(error: pytest.ExceptionInfo[ParityError]) -> list[str]:
    return [line.split("  ")[0].strip() for line in str(error.value).splitlines() if "FAILED" in line]


def test_a_wrong_mean_and_a_wrong_filter_fail_at_the_pixels(folder: Path, bundle: Path, monkeypatch):
    verify(folder, bundle)
    with pytest.raises(ParityError) as e:
        verify(folder, bundle, mean=(0.5, 0.5, 0.5))
    assert failed(e) == ["pixels"]
    import cv2

    def bilinear(images, spec):
        return llava_parity_pixels([cv2.resize(i, (spec.size, spec.size)) for i in images], spec)

    llava_parity_pixels = llava_parity.to_pixels
    monkeypatch.setattr(llava_parity, "to_pixels", bilinear)
    with pytest.raises(ParityError) as e:
        verify(folder, bundle)
    assert failed(e) == ["pixels"]


def planted(folder: Path, tmp_path: Path) -> list[str]:
    with pytest.raises(ParityError) as e:
        export_llava(folder, tmp_path / "faulty", recipe=RECIPE, options=ExportOptions("fp32", "f16"))
    assert not (tmp_path / "faulty").exists(), "a bundle that fails is not finished"
    return failed(e)


def test_a_wrong_hidden_state_fails_at_the_vision_features(folder: Path, tmp_path: Path, monkeypatch):
    read = VisionShape.read
    deeper = lambda config: dataclasses.replace(read(config), feature_layers=(2,))  # noqa: E731
    monkeypatch.setattr(VisionShape, "read", staticmethod(deeper))
    assert "vision features" in planted(folder, tmp_path)


def test_a_transposed_projector_fails_at_the_image_tokens(folder: Path, tmp_path: Path, monkeypatch):
    get = Checkpoint.get

    def transposed(self, name):
        value = get(self, name)
        writing = (tmp_path / ".faulty.part" / ".vision.onnx.part").exists()
        return value.T if name == "multi_modal_projector.linear_2.weight" and writing else value

    # Only while the graph is written: the LLM is read by the same.
    monkeypatch.setattr(Checkpoint, "get", transposed)
    assert planted(folder, tmp_path) == ["image tokens"]


def test_unturned_rope_fails_at_the_logits(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(families, "interleave_rope", lambda weight, heads: weight)
    assert "llm logits" in planted(folder, tmp_path)


def test_an_interrupted_export_goes_on(folder: Path, tmp_path: Path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    quantize, said = llava.quantize, []
    monkeypatch.setattr(llava, "quantize", stop)
    options = ExportOptions("fp32", "q8_0", tokens=8)
    with pytest.raises(KeyboardInterrupt):
        export_llava(folder, tmp_path / "out", recipe=RECIPE, options=options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(llava, "quantize", quantize)
    export_llava(folder, tmp_path / "out", recipe=RECIPE, options=options, progress=said.append)
    assert "vision (fp32): finished earlier" in said
    assert "llm (f16): finished earlier" in said
    m = Bundle.open(tmp_path / "out").manifest
    assert m.vision.image_tokens == 8
    assert "llm-f16.gguf" not in m.files
    with pytest.raises(FileExistsError):
        export_llava(folder, tmp_path / "out", recipe=RECIPE, options=options)


def test_too_small_a_disk_is_seen_first(folder: Path, tmp_path: Path, monkeypatch):
    small = shutil._ntuple_diskusage(10, 9, 1)
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: small)
    with pytest.raises(OSError, match=r"0\.0 GB free on this disk, the export needs 1\.5 GB"):
        export_llava(folder, tmp_path / "out", recipe=RECIPE)


def test_recipes_are_strict(tmp_path: Path):
    assert all(LlavaRecipe.load(name).stop for name in llava_recipes())
    with pytest.raises(FileNotFoundError, match=r"llava-1\.5-7b"):
        LlavaRecipe.load("llava-9")
    (tmp_path / "own.toml").write_text('before_face = "x"\n')
    with pytest.raises(ValueError, match="after_face"):
        LlavaRecipe.load(str(tmp_path / "own.toml"))
    with pytest.raises(ValueError, match="--llm 'q9'; expected one of f16"):
        ExportOptions(llm="q9")


def test_bench_tells_the_vision_encoder_from_the_prefix(bundle: Path):
    watch = Stopwatch()
    with FaceInsight.load(bundle, device="cpu", threads=1) as fi:
        tokens = one_round(watch, fi, PHOTO)
        encoder = fi.vision.graph.name
        assert [g.name for g in fi.graphs][-1] == encoder
        assert tokens.prefix >= Bundle.open(bundle).manifest.vision.image_tokens
    assert {"vision encoder", PREFIX} <= {s.name for s in watch.steps()}
