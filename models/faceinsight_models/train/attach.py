"""Trains an adapter for a frozen LLaVA: region and knowledge tokens that its LLM understands.

The LLaVA is frozen, and so is the face bundle whose encoder makes the region features; only the adapter between them
learns. Its tokens are first initialized close to the LLM's word embeddings (`align`), then trained through the frozen
LLM on the same conversations as nano's LLM, with the LLaVA's image tokens before the region tokens, as in use.
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
from ..llava.adapter_record import AdapterRecord
from ..llava.frozen import FrozenLlava, fingerprint
from ..llava.region_features import FEATURES, RegionFeatureEncoder
from ..nets.encoder import IMAGE_CHANNELS, Adapter, Features
from ..recipe import LlavaRecipe
from ..taxonomy import NAMES, REGIONS
from .align import align
from .conversation import Conversation, Dialogues, PromptTokens, StateLabeler
from .encoded import EncodedFaces
from .llm import answer_loss, face_tokens, forward_answers, knowledge_tokens
from .loop import device, train

#: Conversations, the LLaVA's pixels (F,3,S,S), region features (F,R,D) and areas (F,R) of all their faces.
Batch = tuple[list[Conversation], Tensor, Tensor, Tensor]


def attach(checkpoint: Path, *, face: str, data: Path, out: Path, recipe: LlavaRecipe) -> Adapter:
    """Train an adapter for the LLaVA in folder `checkpoint`; it resumes where an earlier call was stopped.

    Args:
        checkpoint: folder of the LLaVA; it is only read.
        face: name or folder of the bundle whose encoder makes the region features.
        data: folder of labelled faces.
        out: the run folder.
        recipe: the prompt that the LLaVA was trained with, and the sizes of this training.

    Returns:
        The trained adapter.

    Raises:
        FileNotFoundError: data or checkpoint are missing.
        ValueError: what is given does not fit together.
    """
    bundle, sizes = Bundle.open(face), recipe.attach
    require_same_taxonomy(bundle)
    encoder = RegionFeatureEncoder.open(bundle.file(bundle.manifest.encoder.file))
    faces = load_pictures(data)
    llava = FrozenLlava.open(checkpoint, margin=recipe.margin, device=device())
    record = adapter_record(bundle, encoder, llava, checkpoint, faces)
    record.begin(out)
    rows = np.sort(np.random.default_rng(7).permutation(faces.rows("train"))[: sizes.faces])
    encoded = extract_features(bundle, encoder, faces, rows, out)
    torch.manual_seed(sizes.align.seed)
    adapter = align(
        record.adapter(),
        encoded,
        faces.labels[encoded.rows],
        table=llava.table,
        encode=lambda text: llava.tokens(text, False),
        views={"region": encoder.view},
        text=encoder.text,
        out=out,
        schedule=sizes.align,
    )
    _train_through_llava(adapter, llava, bundle, encoder, faces, encoded, recipe, out)
    return adapter


def adapter_record(
    bundle: Bundle, encoder: RegionFeatureEncoder, llava: FrozenLlava, checkpoint: Path, faces: Faces
) -> AdapterRecord:
    """What the adapter is trained for."""
    return AdapterRecord(
        checkpoint=fingerprint(checkpoint),
        encoder=bundle.manifest.files[bundle.manifest.encoder.file].sha256,
        face=bundle.manifest.name,
        region_width=encoder.width,
        text_width=encoder.text.shape[1],
        width=llava.spec.width,
        sets=faces.counts(),
    )


def _train_through_llava(
    adapter: Adapter,
    llava: FrozenLlava,
    bundle: Bundle,
    encoder: RegionFeatureEncoder,
    faces: Faces,
    encoded: EncodedFaces,
    recipe: LlavaRecipe,
    out: Path,
) -> None:
    """Train the adapter in place, on conversations that the frozen LLM answers."""
    sizes, boxes = recipe.attach, encoded.boxes
    if boxes is None:
        raise ValueError("the encoded faces have no boxes: the LLaVA cannot be shown their surroundings")
    dialogues = Dialogues(
        encoded,
        faces.labels,
        state_labeler_of(bundle),
        PromptTokens.of(recipe, llava.tokens),
        images=llava.spec.image_tokens,
        turns=sizes.turns,
    )
    text = encoder.text.to(device())

    def load(indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        batch = [dialogues.draw(int(i), rng) for i in indices]
        rows = [r for c in batch for r in c.rows]
        pixels = np.stack([llava.pixels(faces.picture(encoded.rows[r]), boxes[r].tolist()) for r in rows])
        return batch, torch.from_numpy(pixels), encoded.regions[rows].float(), encoded.area[rows]

    def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        conversations, pixels, regions, area = batch
        image = llava.image_tokens(pixels)
        region = adapter.region_tokens(Features(image, regions, area)).to(image.dtype)
        face = face_tokens(image, region, conversations)
        findings = knowledge_tokens(adapter, text, conversations)
        return answer_loss(forward_answers(llava.body, llava.head, conversations, face, findings), conversations)

    train(
        adapter,
        name="attach",
        out=out,
        schedule=sizes.train,
        count=len(encoded.rows),
        load=load,
        loss=loss,
        accumulation_steps=sizes.accumulation_steps,
    )


def require_same_taxonomy(bundle: Bundle) -> None:
    """Refuse a bundle with other characteristics or regions: conversations about it could not be generated.

    Raises:
        ValueError: its characteristics or regions are not those of this package.
    """
    m = bundle.manifest
    for what, found, expected in (
        ("characteristics", tuple(c.name for c in m.characteristics), NAMES),
        ("regions", tuple(m.regions), tuple(REGIONS)),
    ):
        if found != expected:
            raise ValueError(f"{bundle.path}: its {what} are not those of this package: {', '.join(found)[:200]}")


def state_labeler_of(bundle: Bundle) -> StateLabeler:
    """A labeler with the bundle's calibration: states as its reports have them."""
    m = bundle.manifest
    rows = [[*c.calibration, *c.unsure, *(c.poor or (0, 1))] for c in m.characteristics]
    return StateLabeler(np.array(rows, np.float64), m.soft_weight)


def extract_features(
    bundle: Bundle, encoder: RegionFeatureEncoder, faces: Faces, rows: NDArray[np.int64], out: Path
) -> EncodedFaces:
    """Region features and logits of the largest face of each picture, by the bundle's own encoder; cached in `out`.

    Pictures in which no face is found are left out.

    Raises:
        ValueError: no face was found in any picture.
    """
    m = bundle.manifest
    selection = hashlib.sha256(f"{faces.counts()} {rows.tolist()}".encode()).hexdigest()
    graphs = [m.files[part.file].sha256 for part in (m.encoder, m.closeup) if part]
    path, key = out / "seen.pt", f"{' '.join(graphs)} {selection}"
    cached = EncodedFaces.load(path, key)
    if cached is not None:
        return cached
    cpu = Device("cpu", False, torch.get_num_threads())
    # Conversations are about what may be switched on, too.
    switched_off = [group for group, on in m.switches.items() if not on]
    perception, graph = Perception.load(bundle, cpu, allow=switched_off), out / "features.onnx"
    encoder.save(graph, [FEATURES])
    session, ids = cpu.session(graph), np.arange(len(NAMES))
    parts: list[tuple[Any, ...]] = []
    for row in tqdm(rows, desc="encoding", unit="face", mininterval=5):
        picture = faces.picture(row)
        detections = perception.detector.detect(picture)[:1]
        if not detections:
            continue
        _, parser_crops, encoder_crops = perception.crops(picture, detections)
        result = perception.encoders.encode(parser_crops, encoder_crops, ids)
        pixels = normalize(encoder_crops, m.encoder.mean, m.encoder.std)
        (features,) = session.run([FEATURES], {"pixels": pixels, "label_map": np.asarray(result.label_map)})
        parts.append((row, features, result.area, result.logits, detections[0].box))
    if not parts:
        raise ValueError(f"no face was found in any of the {len(rows)} pictures")
    found_rows, regions, area, logits, boxes = (np.array(x) for x in zip(*parts, strict=True))
    encoded = EncodedFaces(
        rows=found_rows,
        image=torch.zeros(len(found_rows), 0, IMAGE_CHANNELS),
        regions=torch.from_numpy(regions[:, 0]).half(),
        area=torch.from_numpy(area[:, 0]),
        logits=logits[:, 0],
        boxes=torch.from_numpy(boxes.astype(np.float32)),
    )
    encoded.save(path, key)
    return encoded
