"""FaceInsight's own tokens for a user's LLaVA: what `faceinsight-train attach` made, to ONNX and through the gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle, sha256_of
from faceinsight.bundle.manifest import Manifest
from faceinsight.types import STATES
from faceinsight_models.llava.adapter_record import WEIGHTS, AdapterRecord, load_adapter
from faceinsight_models.llava.frozen import fingerprint
from faceinsight_models.llava.region_features import FEATURES, RegionFeatureEncoder
from faceinsight_models.nets.encoder import KnowledgeGraph, RegionGraph
from faceinsight_models.nets.graphs import write_knowledge, write_regions
from faceinsight_models.storage import ENCODER, KNOWLEDGE

from .onnx.fp16_weights import store_fp16
from .parity.stages import Stage, compare

#: Largest relative errors: the face's logits go through the same weights; of the new graphs weights are stored in half
#: precision.
TOLERANCES = {"face logits": 1e-4, "region tokens": 0.01, "knowledge tokens": 0.005}
#: Before the names in the graph that is put behind the encoder: both have been made by the same exporter.
_PREFIX = "attached."


@dataclass(frozen=True)
class Attached:
    """A trained adapter, and the encoder of a face bundle behind which it runs. Open it with `Attached.open`.

    Attributes:
        record: what the adapter was trained for.
        adapter: the torch module.
        encoder: the face bundle's encoder, with its region features as an output.
        face: the face bundle's manifest.
        sha256: of the adapter's weights.
    """

    record: AdapterRecord
    adapter: Any
    encoder: RegionFeatureEncoder
    face: Manifest
    sha256: str

    @classmethod
    def open(cls, run: Path, face: Bundle, checkpoint: Path) -> Attached:
        """Read a finished run, and check that it belongs to this face bundle and checkpoint.

        Raises:
            FileNotFoundError: the run has not finished.
            ValueError: it was made with another LLaVA, or for another face bundle's encoder.
        """
        record, adapter = AdapterRecord.load(run), load_adapter(run)
        name = face.manifest.encoder.file
        if record.encoder != face.manifest.files[name].sha256:
            raise ValueError(
                f"{run} was trained on the regions that {record.face!r} sees, {face.path} has another encoder: "
                "give --face the bundle it was trained with, or train again"
            )
        if record.checkpoint != fingerprint(checkpoint):
            raise ValueError(
                f"{run} was trained with another checkpoint than {checkpoint}: its tokens mean nothing to this LLM; "
                "give the one it was trained with, or train again"
            )
        encoder = RegionFeatureEncoder.open(face.file(name))
        return cls(record, adapter, encoder, face.manifest, sha256_of(run / WEIGHTS))

    def write(self, folder: Path) -> None:
        """encoder.onnx, whose region tokens are of the LLM's width, and knowledge.onnx."""
        regions = folder / "regions.onnx"
        write_regions(self.adapter, regions, regions=self.encoder.regions, region_width=self.encoder.width)
        store_fp16(regions)
        _join(self.encoder, regions, folder / ENCODER)
        regions.unlink()
        write_knowledge(self.encoder.text, self.adapter, folder / KNOWLEDGE)
        store_fp16(folder / KNOWLEDGE)


def _join(encoder: RegionFeatureEncoder, regions: Path, target: Path) -> None:
    """The encoder, and behind its region features the graph that makes tokens of them."""
    face = encoder.of(["logits", FEATURES, "region_area"])
    projector = onnx.compose.add_prefix(onnx.load(regions), _PREFIX, rename_inputs=False, rename_outputs=False)
    projector.ir_version = face.ir_version
    outputs = ["logits", "region_tokens", "region_area"]
    model = onnx.compose.merge_models(face, projector, io_map=[(FEATURES, FEATURES)], outputs=outputs)
    onnx.checker.check_model(model)
    onnx.save(model, target)


@dataclass(frozen=True, slots=True)
class ReferenceTokens:
    """Tokens of the reference, with which the LLM is then compared.

    Attributes:
        regions: (T,width) of the visible regions of a face.
        knowledge: (K,width) of a few findings.
    """

    regions: NDArray[np.float32]
    knowledge: NDArray[np.float32]


def attached_stages(attached: Attached, folder: Path, device: Device) -> tuple[list[Stage], ReferenceTokens]:
    """Compare the graphs in `folder` with the face bundle's encoder and the adapter in torch, on the same inputs."""
    rng, face = np.random.default_rng(0), attached.face
    size, side = face.encoder.size, face.parser.size
    blocks = rng.integers(0, len(face.parser.classes), (3, 8, 8)).astype(np.uint8)
    inputs = {
        "pixels": rng.normal(0, 0.6, (3, 3, size, size)).astype(np.float32),
        "label_map": np.kron(blocks, np.ones((1, side // 8, side // 8), np.uint8)),
        "characteristics": np.arange(len(face.characteristics)),
    }
    with_features = folder / "features.onnx"
    try:
        attached.encoder.save(with_features, ["logits", FEATURES, "region_area"])
        logits, features, area = device.session(with_features).run(None, inputs)
    finally:
        with_features.unlink(missing_ok=True)
    outputs = ["logits", "region_tokens"]
    found_logits, found_tokens = device.session(folder / ENCODER).run(outputs, inputs)
    ids = inputs["characteristics"]
    findings = {"characteristics": ids, "states": ids % len(STATES)}
    (found_knowledge,) = device.session(folder / KNOWLEDGE).run(["knowledge_tokens"], findings)
    with torch.no_grad():
        tokens = RegionGraph(attached.adapter)(torch.from_numpy(features)).numpy()
        graph = KnowledgeGraph(attached.encoder.text, attached.adapter)
        knowledge = graph(*(torch.from_numpy(v) for v in findings.values())).numpy()
    pairs = {
        "face logits": (logits, found_logits),
        "region tokens": (tokens, found_tokens),
        "knowledge tokens": (knowledge, found_knowledge),
    }
    stages = [compare(name, *pair, TOLERANCES[name]) for name, pair in pairs.items()]
    return stages, ReferenceTokens(tokens[0][area[0] > 0], knowledge[[0, 15, 24, 31]])
