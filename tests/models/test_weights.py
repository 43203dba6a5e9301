"""Training goes on from a finished model: its parts in one small file, and back into a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight_export.bundle import TOLERANCES
from faceinsight_models.cli import main
from faceinsight_models.llava.region_features import FEATURES, RegionFeatureEncoder
from faceinsight_models.nets.closeup import PARTS, CloseupGraph
from faceinsight_models.nets.encoder import EncoderGraph
from faceinsight_models.nets.segmentation import coarse
from faceinsight_models.parts import load_closeup, load_encoder, load_parser
from faceinsight_models.recipe import Recipe
from faceinsight_models.train.build import build_adapter
from faceinsight_models.weights import pack, unpack

pytestmark = pytest.mark.slow

WEIGHTS = ROOT / "models" / "weights" / "nano.pt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "nano"
    assert main(["unpack", str(WEIGHTS), "--out", str(out)]) == 0
    return out


def test_the_shipped_weights_are_those_of_the_shipped_bundle(run: Path):
    recipe, bundle = Recipe.load("nano"), Bundle.open("nano")
    encoder = load_encoder(run, recipe, "base.pt")
    adapter = build_adapter(
        text_width=recipe.encoder.text_width, segmentation=recipe.encoder.segmentation_width, states=4,
        width=bundle.manifest.llm.width,
    )  # fmt: skip
    adapter.load_state_dict(torch.load(run / "align.pt", weights_only=True))
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 0.6, (2, 3, 128, 128)).astype(np.float32)
    maps = np.kron(rng.integers(0, 19, (2, 8, 8)), np.ones((1, 32, 32))).astype(np.uint8)
    inputs = {"pixels": pixels, "label_map": maps, "characteristics": np.arange(64)}
    session = Device("cpu", False, 1).session(bundle.file(bundle.manifest.encoder.file))
    found = session.run(["logits", "image_tokens", "region_tokens"], inputs)
    with torch.no_grad():
        expected = EncoderGraph(encoder, adapter).eval()(*(torch.from_numpy(v) for v in inputs.values()))
    for name, a, b in zip(("logits", "image tokens", "region tokens"), expected, found, strict=False):
        # The bundle holds its weights in 8 bits: as far apart as its exporter's gate allows.
        assert np.abs(a.numpy() - b).max() <= TOLERANCES["encoder"] * np.abs(b).max(), name
    closeup, window = load_closeup(run), rng.normal(0, 0.6, (2, 3, 160, 160)).astype(np.float32)
    close = {"pixels": window, "outputs": np.arange(sum(PARTS.values()))}
    (logits,) = Device("cpu", False, 1).session(bundle.file(bundle.manifest.closeup.file)).run(None, close)
    with torch.no_grad():
        expected = CloseupGraph(closeup)(*(torch.from_numpy(v) for v in close.values())).numpy()
    assert np.abs(expected - logits).max() <= TOLERANCES["closeup"] * np.abs(expected).max()
    # What an adapter for another LLM is trained on, laid open in the bundle, is what the torch encoder has there.
    tapped = RegionFeatureEncoder.open(bundle.file(bundle.manifest.encoder.file))
    tapped.save(run / "features.onnx", [FEATURES])
    (features,) = (
        Device("cpu", False, 1)
        .session(run / "features.onnx")
        .run(None, {k: inputs[k] for k in inputs if k != "characteristics"})
    )
    with torch.no_grad():
        regions = encoder.features(torch.from_numpy(pixels), coarse(torch.from_numpy(maps))).regions.numpy()
    assert np.abs(regions - features).max() <= TOLERANCES["encoder"] * np.abs(features).max()
    refined = torch.nn.functional.normalize(encoder.head.ccm().detach(), dim=-1)
    assert torch.allclose(torch.nn.functional.normalize(tapped.text, dim=-1), refined, atol=2e-3)
    assert load_parser(run) is not None
    assert set(torch.load(run / "small.pt", weights_only=True)) >= {"model.norm.weight", "model.embed_tokens.weight"}


def test_what_was_packed_is_what_is_unpacked(run: Path, tmp_path: Path):
    encoder, parser = (torch.load(run / f, weights_only=True) for f in ("base.pt", "parser.pt"))
    adapter = torch.load(run / "align.pt", weights_only=True)
    finished = tmp_path / "finished"
    finished.mkdir()
    torch.save(encoder, finished / "encoder.pt")
    torch.save(parser, finished / "parser.pt")
    for part in ("question.pt", "closeup.pt"):
        torch.save(torch.load(run / part, weights_only=True), finished / part)
    torch.save({f"adapter.{k}": v for k, v in adapter.items()} | {"llm.x": torch.ones(1)}, finished / "llm.pt")
    pack(finished, tmp_path / "small.pt")
    unpack(tmp_path / "small.pt", "nano", tmp_path / "again")
    again = torch.load(tmp_path / "again" / "base.pt", weights_only=True)
    assert again.keys() == encoder.keys()
    # What was half precision once loses nothing the second time.
    assert all(torch.equal(again[k], encoder[k]) for k in encoder)


def test_what_cannot_be_unpacked_is_refused(run: Path, tmp_path: Path, capsys):
    assert main(["unpack", str(WEIGHTS), "--out", str(run)]) == 1
    assert "is not empty" in capsys.readouterr().err
    torch.save({"other": {}}, tmp_path / "other.pt")
    assert main(["unpack", str(tmp_path / "other.pt"), "--out", str(tmp_path / "out")]) == 1
    assert "expected adapter, closeup, encoder, parser" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["pack", str(tmp_path), "--out", str(tmp_path / "x.pt")]) == 1
    assert "llm.pt is missing" in capsys.readouterr().err
