"""The encoder and the adapter of this taxonomy, untrained."""

from __future__ import annotations

from torch import Tensor

from ..nets.ccm import CorrelationModule
from ..nets.encoder import Adapter, FaceEncoder, KnowledgeHead, region_width
from ..nets.segmentation import RegionPool, SegmentationEncoder
from ..specs import region_indices, specialized
from ..taxonomy import MASK_CLASSES, REGIONS


def build_encoder(text: Tensor, graph: Tensor, *, width: int = 256, segmentation: int = 96) -> FaceEncoder:
    """The encoder, untrained. text (N,dt): T^0; graph (N,N): C_hat."""
    ccm = CorrelationModule(text, graph, hidden=512, out=width)
    head = KnowledgeHead(
        ccm, region_indices(), region_width=region_width(segmentation), width=width, specialized=specialized()
    )
    return FaceEncoder(
        SegmentationEncoder(len(MASK_CLASSES), width=segmentation), RegionPool(MASK_CLASSES, REGIONS), head
    )


def build_adapter(*, text_width: int = 256, segmentation: int = 96, states: int, width: int) -> Adapter:
    """The adapter into an LLM of the given width, untrained."""
    return Adapter(
        region_width=region_width(segmentation), text_width=text_width, regions=len(REGIONS), states=states, width=width
    )
