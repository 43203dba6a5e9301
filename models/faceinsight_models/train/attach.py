"""FaceInsight's parts for a LLaVA that stays as it is: region and knowledge tokens that its LLM understands.

The LLaVA is frozen, so is the face bundle whose encoder sees the regions; between them an adapter learns. It is first
brought near to words of the LLM's own embedding table (`align`), then trained through the frozen LLM on the same
conversations as our own LLM, with the LLaVA's image tokens before the region tokens, as in use.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight.perception.alignment import normalize
from faceinsight.perception.pipeline import Perception

from ..data.faces import Faces, load_pictures
from ..llava.adapter_record import Record
from ..llava.frozen import FrozenLlava, fingerprint
from ..llava.region_features import FEATURES, TappedEncoder
from ..nets.encoder import IMAGE_CHANNELS, Adapter, Features
from ..recipe import LlavaRecipe
from ..taxonomy import NAMES, REGIONS
from .align import align
from .conversation import Conversation, Dialogues, Judge, Words
from .encoded import Seen
from .llm import answer_loss, read_out, shown, told
from .loop import device, train

Batch = tuple[list[Conversation], Tensor, Tensor]


def attach(checkpoint: Path, *, face: str, data: Path, out: Path, recipe: LlavaRecipe) -> Adapter:
    """Train an adapter for the LLaVA in folder `checkpoint`; it resumes where an earlier call was stopped.

    face: name or folder of the bundle that lends the encoder; data: labelled faces; out: the run folder.
    Raises ValueError or FileNotFoundError for what does not fit together.
    """
    bundle, sizes = Bundle.open(face), recipe.attach
    require_ours(bundle)
    encoder = bundle.manifest.encoder.file
    tapped = TappedEncoder.open(bundle.file(encoder))
    faces = load_pictures(data)
    llava = FrozenLlava.open(checkpoint, margin=recipe.margin, device=device())
    record = Record(
        fingerprint(checkpoint), bundle.manifest.files[encoder].sha256, bundle.manifest.name, tapped.width,
        tapped.text.shape[1], llava.spec.width, faces.counts(),
    )  # fmt: skip
    record.begin(out)
    rows = np.sort(np.random.default_rng(7).permutation(faces.rows("train"))[: sizes.faces])
    seen = look(bundle, tapped, faces, rows, out)
    torch.manual_seed(sizes.align.seed)
    adapter = align(
        record.adapter(), seen, faces.labels[seen.rows], table=llava.table, encode=lambda t: llava.tokens(t, False),
        views={"region": tapped.view}, text=tapped.text, out=out, schedule=sizes.align,
    )  # fmt: skip
    words = Words.of(recipe, llava.tokens)
    dialogues = Dialogues(
        seen, faces.labels, judge_of(bundle), words, images=llava.spec.image_tokens, turns=sizes.turns
    )
    text = tapped.text.to(device())

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        batch = [dialogues.draw(int(i), rng) for i in indices]
        about = [r for c in batch for r in c.rows]
        pixels = np.stack([llava.pixels(faces.picture(seen.rows[r]), seen.boxes[r].tolist()) for r in about])
        return batch, torch.from_numpy(pixels), seen.regions[about].float()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        conversations, pixels, regions = batch
        image = llava.image_tokens(pixels)
        region = adapter.region_tokens(Features(image, regions, regions)).to(image.dtype)
        looks = shown(image, region, conversations)
        output = read_out(llava.body, llava.head, conversations, looks, told(adapter, text, conversations))
        return answer_loss(output, conversations)

    train(
        adapter, name="attach", out=out, schedule=sizes.train, count=len(seen.rows), load=load, loss=loss,
        passes=sizes.passes,
    )  # fmt: skip
    return adapter


def require_ours(bundle: Bundle) -> None:
    """Raises ValueError for a bundle of another vocabulary: conversations could not be made about it."""
    m = bundle.manifest
    for what, found, expected in (
        ("characteristics", tuple(c.name for c in m.characteristics), NAMES),
        ("regions", tuple(m.regions), tuple(REGIONS)),
    ):
        if found != expected:
            raise ValueError(f"{bundle.path}: its {what} are not those of this package: {', '.join(found)[:200]}")


def judge_of(bundle: Bundle) -> Judge:
    """States as the bundle's reports have them."""
    m = bundle.manifest
    rows = [[*c.calibration, *c.unsure, *(c.poor or (0, 1))] for c in m.characteristics]
    return Judge(np.array(rows, np.float64), m.soft_weight)


def look(bundle: Bundle, tapped: TappedEncoder, faces: Faces, rows: NDArray[np.int64], out: Path) -> Seen:
    """What the bundle's encoder sees of the largest face of each picture; kept in `out`. Pictures in which no face is
    found are left out."""
    m = bundle.manifest
    asked = hashlib.sha256(f"{faces.counts()} {rows.tolist()}".encode()).hexdigest()
    graphs = [m.files[part.file].sha256 for part in (m.encoder, m.closeup) if part]
    path, key = out / "seen.pt", f"{' '.join(graphs)} {asked}"
    kept = Seen.load(path, key)
    if kept is not None:
        return kept
    cpu = Device("cpu", False, torch.get_num_threads())
    # Conversations are about what may be switched on, too.
    every = [group for group, on in m.switches.items() if not on]
    perception, graph = Perception.load(bundle, cpu, allow=every), out / "features.onnx"
    tapped.save(graph, [FEATURES])
    session, numbers = cpu.session(graph), np.arange(len(NAMES))
    parts: list[tuple[Any, ...]] = []
    for row in tqdm(rows, desc="looking", unit="face", mininterval=5):
        picture = faces.picture(row)
        found = perception.detector.detect(picture)[:1]
        if not found:
            continue
        _, wide, small = perception.crops(picture, found)
        judged = perception.encoders.encode(wide, small, numbers)
        feeds = {"pixels": normalize(small, m.encoder.mean, m.encoder.std), "label_map": judged.label_map}
        (features,) = session.run([FEATURES], feeds)
        parts.append((row, features, judged.area, judged.logits, found[0].box))
    if not parts:
        raise ValueError(f"no face was found in any of the {len(rows)} pictures")
    chosen, regions, area, logits, boxes = (np.array(x) for x in zip(*parts, strict=True))
    none = torch.zeros(len(chosen), 0, IMAGE_CHANNELS)
    seen = Seen(
        chosen, none, torch.from_numpy(regions[:, 0]).half(), torch.from_numpy(area[:, 0]), logits[:, 0],
        torch.from_numpy(boxes.astype(np.float32)),
    )  # fmt: skip
    seen.save(path, key)
    return seen
