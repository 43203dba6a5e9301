"""Parity of the parts that an adapter adds to a LLaVA bundle: region and knowledge tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faceinsight.backends.device import Device
from faceinsight.types import STATES
from faceinsight_models.llava.region_features import FEATURES
from faceinsight_models.nets.encoder import KnowledgeGraph, RegionGraph
from faceinsight_models.storage import ENCODER, KNOWLEDGE

from ..attach import Attached
from .stages import Stage, compare

#: Largest relative errors: the face's logits go through the same weights; of the new graphs weights are stored in half
#: precision.
TOLERANCES = {"face logits": 1e-4, "region tokens": 0.01, "knowledge tokens": 0.005}


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
