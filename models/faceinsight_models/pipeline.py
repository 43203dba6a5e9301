"""The training steps of a recipe in order, each resumable, all in one run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceinsight.backends.device import Device
from faceinsight.host.machine import cores
from faceinsight.perception.detector import FaceDetector
from faceinsight.types import STATES

from . import assets
from .data.faces import Faces, Masks, Mixture, load_faces, load_masks
from .nets.closeup import CloseupNet
from .nets.encoder import Adapter, FaceEncoder
from .nets.graphs import write_detector
from .nets.llm import BpeVocabulary, load_gguf, prune, text_features
from .nets.parser import FaceParser
from .nets.question import QuestionNet
from .parts import (
    DETECTOR,
    FACERES,
    LLM,
    TRUNK,
    load_backbone,
    load_calibration,
    load_closeup,
    load_encoder,
    load_parser,
    load_question,
    state_dict,
)
from .recipe import Recipe
from .specs import DETECTOR_SPEC
from .taxonomy import CHARACTERISTICS, MASK_CLASSES, NAMES
from .train.align import align
from .train.backbone import BackboneClassifier, train_backbone
from .train.build import build_adapter
from .train.calibration import fit_calibration
from .train.closeup import characteristic_logits, merge_logits, train_closeup
from .train.conversation import StateLabeler
from .train.encoded import EncodedFaces, encode_faces
from .train.encoder import PORTRAITS, specialize, train_base, train_shared
from .train.hats import Hats
from .train.label_maps import fingerprint, label_maps
from .train.llm import FaceLlm, train_llm
from .train.parser import train_parser, train_teacher
from .train.question import train_question
from .train.readings import GraphReader, calibration_readings
from .train.views import Views

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

log = logging.getLogger(__name__)


class Pipeline:
    """The training steps of a recipe. `run` holds caches, checkpoints, logs and finished weights."""

    def __init__(self, recipe: Recipe, *, data: Path, run: Path, asset_folder: Path) -> None:
        self.recipe, self.data, self.run = recipe, data, run
        self.assets = assets.check(recipe, asset_folder)
        run.mkdir(parents=True, exist_ok=True)

    @cached_property
    def detector(self) -> FaceDetector:
        """The runtime's detector, with the settings that the manifest will have."""
        path = self.run / "cache" / DETECTOR_SPEC.file
        path.parent.mkdir(exist_ok=True)
        write_detector(self.assets[DETECTOR], path)
        return FaceDetector(DETECTOR_SPEC, Device("cpu", False, cores()).session(path))

    @cached_property
    def faces(self) -> Faces:
        """All sets of the data folder, with landmarks."""
        faces = load_faces(self.data, self.run / "cache", self.detector, self.recipe.crop.points())
        # What the weights in this folder were trained on, for the bundle's licence ledger.
        (self.run / "sets.json").write_text(json.dumps(faces.counts()))
        return faces

    @cached_property
    def masks(self) -> Masks:
        """CelebAMask-HQ's pairs, aligned."""
        crop = self.recipe.crop
        return load_masks(self.data, self.run / "cache", self.detector, crop.points(), crop.parser)

    def trunk(self) -> BackboneClassifier:
        """Step 1: the image encoder, with a plain classifier on it."""
        if (self.run / "trunk.pt").exists():
            return load_backbone(self.run)
        schedule = self.recipe.train["trunk"]
        return train_backbone(
            self.faces,
            sampling_weights=self.recipe.sampling_weights,
            imagenet=self.assets[TRUNK],
            out=self.run,
            size=self.recipe.crop.encoder,
            schedule=schedule,
        )

    def parser(self) -> FaceParser:
        """Step 2: the parser, from the trunk, in two rounds."""
        if (self.run / "parser.pt").exists():
            return load_parser(self.run)
        size, schedules = self.recipe.crop.parser, self.recipe.train
        start = FaceParser.on(self.trunk().trunk, len(MASK_CLASSES))
        teacher = train_teacher(self.masks, start, out=self.run, size=size, schedule=schedules["teacher"])
        return train_parser(
            teacher,
            self.masks,
            self.faces,
            out=self.run,
            size=size,
            schedule=schedules["parser"],
            unlabelled=self.recipe.crop.unlabelled,
        )

    def maps(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Label maps by the parser, of these rows at least."""
        return label_maps(self.parser(), self.faces, self.run, self.recipe.crop.parser, rows)

    def drawn(self, sampling_weights: Mapping[str, float]) -> NDArray[np.int64]:
        """The training faces of the sets that have a share."""
        return np.concatenate(Mixture(self.faces, sampling_weights).rows)

    def text(self) -> Tensor:
        """T^0, from the uncut LLM; cached for these phrases."""
        path, phrases = self.run / "text.pt", [c.phrase for c in CHARACTERISTICS]
        saved = torch.load(path, weights_only=True) if path.exists() else {}
        if saved.get("phrases") != phrases:
            source = self.assets[LLM]
            features = text_features(load_gguf(source), BpeVocabulary.from_gguf(source).tokenizer(), phrases)
            saved = {"phrases": phrases, "features": features}
            torch.save(saved, path)
        return saved["features"]

    def base(self) -> FaceEncoder:
        """Step 3, first round: encoder with CCM and LCM."""
        if (self.run / "base.pt").exists():
            model = load_encoder(self.run, self.recipe, "base.pt")
            # Of a finished model the last round is learned anew.
            model.own = model.head.own = None
            return model
        return train_base(
            self.faces,
            self.maps(self.drawn(self.recipe.sampling_weights)),
            sampling_weights=self.recipe.sampling_weights,
            classifier=self.trunk(),
            text=self.text(),
            out=self.run,
            size=self.recipe.crop.encoder,
            schedule=self.recipe.train["base"],
        )

    def encoder(self) -> FaceEncoder:
        """Step 3: all rounds."""
        crop, schedules = self.recipe.crop, self.recipe.train
        if (self.run / "encoder.pt").exists():
            return load_encoder(self.run, self.recipe)
        model = train_shared(
            self.base(),
            self.faces,
            self.maps(self.drawn(self.recipe.sampling_weights)),
            sampling_weights=self.recipe.sampling_weights,
            out=self.run,
            size=crop.encoder,
            schedule=schedules["shared"],
        )
        if PORTRAITS in self.faces.counts():
            maps = self.maps(self.drawn({PORTRAITS: 1.0}))
            hats, schedule = Hats.of(self.masks), schedules["encoder"]
            specialize(model, self.faces, maps, hats, out=self.run, size=crop.encoder, schedule=schedule)
        else:
            torch.save(model.state_dict(), self.run / "encoder.pt")
        return model

    @cached_property
    def views(self) -> Views:
        """Training views for the close-up."""
        crop, faces = self.recipe.crop, self.faces
        return Views.of(faces, self.recipe.closeup.template(crop), self.recipe.closeup.size)

    def closeup(self) -> CloseupNet:
        """Step 4: age, gender, race, expression and quality, from the close-up."""
        if (self.run / "closeup.pt").exists():
            return load_closeup(self.run)
        return train_closeup(
            self.faces,
            self.views,
            sampling_weights=self.recipe.closeup.sampling_weights,
            faceres=self.assets[FACERES].parent,
            out=self.run,
            schedules=self.recipe.train,
        )

    def calibration(self) -> NDArray[np.float64]:
        """Step 5: what logits are worth, and when nothing is claimed; (N,6), see `specs.characteristic_specs`."""
        if (self.run / "calibration.json").exists():
            return load_calibration(self.run)
        reader = GraphReader(self.recipe, self.parser(), self.encoder(), self.closeup(), self.run / "cache" / "graphs")
        good, poor = calibration_readings(reader, self.faces, self.faces.rows("calibration"))
        table = fit_calibration(good, poor, self.faces.labels, self.recipe.judgement)
        rows = table.round(5).tolist()
        (self.run / "calibration.json").write_text(json.dumps(dict(zip(NAMES, rows, strict=True))))
        return table

    def vocabulary(self) -> BpeVocabulary:
        """The cut tokenizer."""
        path = self.run / "vocabulary.json"
        if not path.exists():
            BpeVocabulary.from_gguf(self.assets[LLM]).prune(self.recipe.llm.vocabulary).save(path)
        return BpeVocabulary.load(path)

    def initial_llm(self) -> LlamaForCausalLM:
        """The cut LLM, not yet trained; in an unpacked run, as it was trained."""
        settings = self.recipe.llm
        model = prune(load_gguf(self.assets[LLM]), layers=settings.layers, vocabulary=settings.vocabulary)
        if (self.run / "small.pt").exists():
            model.load_state_dict(state_dict(self.run / "small.pt"))
        model.config.save_pretrained(self.run / "llm_config")
        return model

    def refined(self) -> Tensor:
        """T^L, the CCM's output."""
        with torch.no_grad():
            return self.encoder().eval().head.ccm()

    def question(self) -> QuestionNet:
        """Step 6: which characteristics a question asks about."""
        if (self.run / "question.pt").exists():
            return load_question(self.run)
        table = self.initial_llm().model.embed_tokens.weight.detach()
        tokenizer, schedule = self.vocabulary().tokenizer(), self.recipe.train["question"]
        return train_question(table, self.refined(), tokenizer, out=self.run, schedule=schedule)

    @cached_property
    def encoded(self) -> EncodedFaces:
        """What the encoder sees of the faces that the dialogues are about; cached for this encoder and these faces."""
        path, encoder, closeup = self.run / "seen.pt", self.encoder(), self.closeup()
        who = f"{fingerprint(encoder)} {fingerprint(closeup)}"
        rows = np.sort(np.random.default_rng(7).permutation(self.faces.rows("train"))[: self.recipe.llm.faces])
        encoded = EncodedFaces.load(path, who, rows)
        if encoded is None:
            encoded = encode_faces(encoder, self.faces, self.maps(rows), rows, self.recipe.crop.encoder)
            # What the close-up tells it tells here too.
            for start in range(0, len(rows), 64):
                images = np.stack([self.views.clean(r) for r in rows[start : start + 64]])
                merge_logits(encoded.logits[start : start + 64], characteristic_logits(closeup, images))
            encoded.save(path, who)
        return encoded

    def align(self) -> Adapter:
        """Step 7: face tokens near words."""
        llm, sizes = self.initial_llm(), self.recipe.encoder
        adapter = build_adapter(
            text_width=sizes.text_width,
            segmentation=sizes.segmentation_width,
            states=len(STATES),
            width=llm.config.hidden_size,
        )
        if (self.run / "align.pt").exists():
            adapter.load_state_dict(state_dict(self.run / "align.pt"))
            return adapter
        view, tokenizer = self.encoder().head.view, self.vocabulary().tokenizer()
        return align(
            adapter,
            self.encoded,
            self.faces.labels[self.encoded.rows],
            table=llm.model.embed_tokens.weight.detach(),
            encode=lambda text: tokenizer.encode(text).ids,
            views={name: getattr(view, name).state_dict() for name in ("image", "region")},
            text=self.refined(),
            out=self.run,
            schedule=self.recipe.train["align"],
        )

    def llm(self) -> FaceLlm:
        """Step 8: LLM and adapter."""
        labeler = StateLabeler(self.calibration(), self.recipe.judgement.soft_weight)
        return train_llm(
            self.encoded,
            self.faces,
            labeler,
            llm=self.initial_llm(),
            adapter=self.align(),
            text=self.refined(),
            tokenizer=self.vocabulary().tokenizer(),
            out=self.run,
            schedule=self.recipe.train["llm"],
            turns=self.recipe.llm.turns,
            quantization=self.recipe.llm.quantization,
        )
