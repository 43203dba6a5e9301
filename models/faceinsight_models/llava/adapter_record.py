"""The adapter that was trained for a LLaVA, and the record of the LLM and encoder that it belongs to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from faceinsight.types import STATES

from ..nets.encoder import Adapter
from ..taxonomy import REGIONS

RECORD, WEIGHTS = "attached.json", "attach.pt"


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter was trained for.

    Attributes:
        checkpoint: fingerprint of the LLaVA.
        encoder: sha256 of the face bundle's encoder.
        face: name of the face bundle.
        region_width: of the region features.
        text_width: of the text features.
        width: of the LLM.
        sets: training faces of each set.
    """

    checkpoint: str
    encoder: str
    face: str
    region_width: int
    text_width: int
    width: int
    sets: dict[str, int]

    @classmethod
    def load(cls, run: Path) -> AdapterRecord:
        """Read the record of a run folder.

        Raises:
            FileNotFoundError: it is no such folder.
        """
        path = run / RECORD
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: expected a folder made by faceinsight-train attach")
        return cls(**json.loads(path.read_text()))

    def begin(self, run: Path) -> None:
        """Write it into a run folder.

        Raises:
            ValueError: the folder belongs to another LLaVA or encoder.
        """
        if (run / RECORD).is_file() and (found := AdapterRecord.load(run)) != self:
            names = [f.name for f in dataclasses.fields(self) if getattr(found, f.name) != getattr(self, f.name)]
            raise ValueError(f"{run} was begun with another {' and '.join(names)}: choose another --out, or remove it")
        run.mkdir(parents=True, exist_ok=True)
        (run / RECORD).write_text(json.dumps(dataclasses.asdict(self), indent=1))

    def adapter(self) -> Adapter:
        """Untrained. It makes no image tokens: those are the LLaVA's own."""
        return Adapter(
            region_width=self.region_width,
            text_width=self.text_width,
            regions=len(REGIONS),
            states=len(STATES),
            width=self.width,
            image=False,
        )


def load_adapter(run: Path) -> Adapter:
    """The trained adapter of a run.

    Raises:
        FileNotFoundError: the training has not finished.
    """
    adapter, path = AdapterRecord.load(run).adapter(), run / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the training has not finished; the same command goes on with it")
    adapter.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return adapter.eval()
