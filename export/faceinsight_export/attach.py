"""FaceInsight's own tokens for a user's LLaVA: what `faceinsight-train attach` made, to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from faceinsight.bundle.bundle import Bundle, sha256_of
from faceinsight.bundle.manifest import Manifest
from faceinsight_models.llava.adapter_record import WEIGHTS, AdapterRecord, load_adapter
from faceinsight_models.llava.frozen import fingerprint
from faceinsight_models.llava.region_features import FEATURES, RegionFeatureEncoder
from faceinsight_models.nets.graphs import write_knowledge, write_regions
from faceinsight_models.storage import ENCODER, KNOWLEDGE

from .onnx.fp16_weights import store_fp16

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
        """Write encoder.onnx, whose region tokens are of the LLM's width, and knowledge.onnx."""
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
