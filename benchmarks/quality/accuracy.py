"""How right is a bundle? Figures through the runtime, into one JSON and a table.

    python benchmarks/quality/accuracy.py --data DIR --out accuracy.json
    python benchmarks/quality/accuracy.py --data DIR --out accuracy.json --only strangers flicker

Every figure is measured on the bundle (ONNX and GGUF), through the runtime's own detector and alignment; a face that is
not found counts as wrong. `--data` is a folder in one of the layouts of benchmarks/quality/datasets.py. The JSON is
written after each figure; a run with the same bundle and options goes on where the last one stopped (`--fresh`: begins
anew). `python benchmarks/accuracy_table.py accuracy.json` shows it as a table.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

import answers
import claims
import contradictions
import crossset
import datasets
import degraded
import described
import figures
import flicker
import groups
import masks
import scope
import strangers
import views
from datasets import Sample
from faceinsight import Face, FaceInsight, __version__
from faceinsight.backends.device import Device
from faceinsight.bundle.bundle import Bundle
from faceinsight.bundle.specs import NEVER
from faceinsight.live.watch import Watcher
from faceinsight.perception.detector import Detection
from faceinsight.perception.encoders import Encoded
from faceinsight.perception.image import load_image
from faceinsight.perception.pipeline import Perception
from faceinsight.types import STATES
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS, NAMES
from ledger import Ledger
from readings import Picture, Reading, SetReadings, Tables, read_set, table

Figures = dict[str, Any]

PHOTO = Path(__file__).parents[2] / "tests" / "data" / "astronaut.png"
#: Pictures per set where no limit is asked for.
ALL = 10**9
#: Faces of CelebA-HQ beside that photo, for the flicker.
CLIPS = 3


class Recording(Perception):
    """Remembers what each face was read from."""

    sources: list[tuple[Encoded, int]]

    def face(self, photo: Picture, d: Detection, encoded: Encoded, i: int, matrix: NDArray[np.float32]) -> Face:
        self.sources.append((encoded, i))
        return super().face(photo, d, encoded, i, matrix)


class Harness:
    """The one place where a face is read: a bundle's perception with every characteristic on, for raw figures; policy
    is not what is measured here."""

    def __init__(self, bundle: Bundle, device: Device) -> None:
        m = bundle.manifest
        # What is never answered is measured all the same.
        every = tuple(dataclasses.replace(c, group="" if c.group == NEVER else c.group) for c in m.characteristics)
        self.bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(m, characteristics=every))
        off = [g for g, on in m.switches.items() if not on]
        #: A Recording.
        self.perception: Any = Recording.load(self.bundle, device, allow=off)
        self.names = [c.name for c in m.characteristics]
        self.regions = list(m.regions)
        if tuple(self.names) != NAMES:
            raise SystemExit(f"{bundle.path}: its characteristics are not those of this version; export it again")

    def photo(self, image: Picture) -> Reading | None:
        """The largest face of a whole photo, detector and alignment included."""
        found = self._read(image, self.perception.detector.detect(image)[:1])
        return found[0] if found else None

    def photos(self, image: Picture) -> list[Reading]:
        """All faces of a photo, the largest first."""
        return self._read(image, self.perception.detector.detect(image))

    def cropped(self, image: Picture) -> Reading:
        """The picture taken as the canonical crop itself."""
        sizes = self.bundle.manifest.parser.size, self.bundle.manifest.encoder.size
        parser_crop, encoder_crop = (cv2.resize(image, (s, s), interpolation=cv2.INTER_AREA)[None] for s in sizes)
        h, w = image.shape[:2]
        face = Detection((0.0, 0.0, float(w), float(h)), np.zeros((5, 2), np.float32), 1.0)
        self.perception.sources = []
        encoded = self.perception.encoders.encode(parser_crop, encoder_crop, self.perception.characteristic_ids)
        read = self.perception.face(image, face, encoded, 0, np.eye(2, 3, dtype=np.float32))
        return self._reading(read, encoded, 0)

    def _read(self, image: Picture, found: Sequence[Detection]) -> list[Reading]:
        readings, n = [], self.perception.batch
        for start in range(0, len(found), n):
            self.perception.sources = []
            faces = self.perception.read(image, found[start : start + n])
            readings += [self._reading(f, *x) for f, x in zip(faces, self.perception.sources, strict=True)]
        return readings

    def _reading(self, face: Face, encoded: Encoded, i: int) -> Reading:
        z, p = self.perception.encoders.calibrated(encoded.logits[i])
        states = np.array([STATES.index(x.state) for x in face.labels])
        quality = face.quality.value if face.quality else None
        years = face.age.years if face.age else None
        return Reading(face.box, face.landmarks, p, states, z > 0, face.areas, encoded.label_map[i], quality, years)


class Run:
    """One bundle on one folder: every section writes its figures into the ledger."""

    def __init__(self, harness: Harness, sets: dict[str, list[Sample]], ledger: Ledger, args: argparse.Namespace):
        self.harness, self.sets, self.ledger, self.args = harness, sets, ledger, args
        self.tables = Tables(harness, sets)
        self.strangers: SetReadings | None = None

    def labelled(self) -> None:
        """What each set labels."""
        for name in self.sets:
            self.ledger.figure(partial(self._labelled, name), "sets", name)

    def _labelled(self, name: str) -> Figures:
        readings = self.tables[name]
        set_figures: Figures = {"images": len(readings.found), "no face found": int((~readings.found).sum())}
        if not np.isnan(readings.label("Male")).all():
            set_figures["attributes"] = figures.attributes(readings)
        set_figures |= {task: found for task in EXCLUSIVE_GROUPS if (found := figures.choice(readings, task))}
        rules = figures.consistency(readings, self.harness.bundle.manifest.rules)
        return set_figures | {"rules": rules, "fairness": figures.fairness(readings)}

    def cross(self) -> None:
        self.ledger.figure(lambda: crossset.cross_set(self.tables) if self.sets else None, "cross-set")

    def strange(self) -> None:
        self.ledger.figure(lambda: self._strangers()[0], "strangers")

    def _strangers(self) -> tuple[Figures | None, SetReadings | None]:
        if (found := strangers.strangers(self.harness, self.args.data)) is None:
            return None, None
        self.strangers = table(self.harness, found[1])
        return found[0], self.strangers

    def contradict(self) -> None:
        """The sets, and all faces of the strangers' photos."""
        self.ledger.figure(self._contradictions, "contradictions")

    def _contradictions(self) -> Figures:
        more = self.strangers or self._strangers()[1]
        return contradictions.contradictions(dict(self.tables) | ({"strangers": more} if more else {}))

    def surround(self) -> None:
        """Every set inside larger photos: in some of them the face fills the frame, which tells the set."""
        for name in self.sets:
            self.ledger.figure(partial(self._surrounded, name), "surroundings", name)

    def _surrounded(self, name: str) -> Figures:
        samples = self.sets[name]
        some = datasets.spread(samples, self.args.surrounded)
        plain = self.tables[name] if len(some) == len(samples) else read_set(self.harness, some, f"{name}: plain")
        return degraded.surroundings(self.harness, some, plain, name)

    def degrade(self) -> None:
        """Attributes of CelebA-HQ, gender of FairFace."""
        for name in ("celeba", "fairface"):
            if some := datasets.spread(self.sets.get(name, []), self.args.views):
                self.ledger.figure(partial(degraded.degraded, self.harness, some, name), "degraded views", name)

    def people(self) -> None:
        self.ledger.figure(lambda: groups.age_groups(self.tables) or None, "children and older people")

    def ages(self) -> None:
        self.ledger.figure(lambda: groups.years(self.tables) if self.sets else None, "age in years")

    def flickering(self) -> None:
        clips = {PHOTO.stem: load_image(PHOTO)}
        for k, sample in enumerate(self.sets.get("celeba", [])[:CLIPS]):
            image = sample.read()
            clips[f"celeba {k}"] = views.reflected(image, image)

        def alone() -> flicker.Read:
            return lambda image: None if (face := self.harness.photo(image)) is None else face.states

        def watched() -> flicker.Read:
            self.harness.perception.sources = []
            return flicker.watched(Watcher(cast(FaceInsight, self.harness)))

        for name, start in (("flicker", alone), ("flicker, watched", watched)):
            self.ledger.figure(partial(flicker.flicker, clips, start, self.harness.names), name)

    def claimed(self) -> None:
        for name in self.sets:
            self.ledger.figure(partial(self._claims, name), "claims", name)

    def _claims(self, name: str) -> Figures:
        return claims.claims(self.tables[name])

    def parsed(self) -> None:
        def make() -> Figures | None:
            found = masks.pairs(self.args.data, self.args.split)[: self.args.images]
            classes = self.harness.bundle.manifest.parser.classes
            return masks.parsing(lambda p: self.harness.cropped(p).label_map, classes, found) if found else None

        self.ledger.figure(make, "parsing (CelebAMask-HQ)")

    def crops(self) -> None:
        """The same pictures through detector and alignment, and taken as crops."""
        if "celeba" in self.sets:
            make = partial(figures.whole_photo, self.harness, self.sets["celeba"][:300])
            self.ledger.figure(make, "whole photo against crop (CelebA-HQ)")

    def spoken(self) -> None:
        """Questions and descriptions: needs CelebA's labels and the LLM."""
        count, samples = self.args.questions, self.sets.get("celeba")
        asked: dict[str, Callable[[FaceInsight], Figures]] = {
            "plain questions": answers.plain,
            "questions understood": lambda i: answers.understood(i, 3 * count),
            "questions declined": lambda i: scope.declined(i, max(1000, count)),
            "closed questions": lambda i: answers.closed_questions(i, samples or [], count),
            "compound questions": lambda i: answers.compound_questions(i, samples or [], count // 2),
            "what the LLM sees": lambda i: answers.ablation(i, samples or [], min(600, count)),
            "free descriptions": lambda i: answers.descriptions(i, (samples or [])[: min(300, count)]),
            "descriptions against labels": lambda i: described.against_labels(i, (samples or [])[: min(300, count)]),
        }
        if self.args.no_llm or not samples or all(map(self.ledger.has, asked)):
            return
        with FaceInsight.load(self.args.bundle, device="cpu") as insight:
            for what, make in asked.items():
                self.ledger.figure(partial(make, insight), what)


#: Section -> what makes it, in the order in which they are measured.
SECTIONS: dict[str, Callable[[Run], None]] = {
    "sets": Run.labelled,
    "cross": Run.cross,
    "claims": Run.claimed,
    "groups": Run.people,
    "age": Run.ages,
    "strangers": Run.strange,
    "contradictions": Run.contradict,
    "parsing": Run.parsed,
    "crop": Run.crops,
    "flicker": Run.flickering,
    "degraded": Run.degrade,
    "surroundings": Run.surround,
    "answers": Run.spoken,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=ALL, help="at most this many pictures per set (default: all)")
    parser.add_argument("--views", type=int, default=300, help="at most this many pictures per set in degraded views")
    parser.add_argument("--surrounded", type=int, default=2000, help="at most this many per set in surroundings")
    parser.add_argument("--questions", type=int, default=1000, help="at most this many of each kind for the LLM")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(SECTIONS),
        metavar="NAME",
        default=list(SECTIONS),
        help=f"these sections alone: {', '.join(SECTIONS)}",
    )
    parser.add_argument("--fresh", action="store_true", help="measure anew what the JSON holds already")
    parser.add_argument("--no-llm", action="store_true", help="leave the questions out")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    harness = Harness(bundle, Device.resolve("cpu"))
    sets: dict[str, list[Sample]] = {}
    damaged: Figures = {}
    for name, samples in datasets.find(args.data, args.split).items():
        sets[name], bad = datasets.sound(datasets.spread(samples, args.images), name)
        damaged |= {name: {"n": len(bad), "first": bad[:5]}} if bad else {}
    head: Figures = {
        "bundle": bundle.manifest.name,
        "bundle sha256": bundle.sha256,
        "bundle MB": bundle.bytes / 1e6,
        "runtime": __version__,
        "split": args.split,
        "options": {
            "at most": args.images if args.images < ALL else None,
            "images": {name: len(samples) for name, samples in sets.items()},
            "views": args.views,
            "surrounded": args.surrounded,
            "questions": args.questions,
        },
        "damaged": damaged,
        "notes": datasets.notes(args.data, args.split),
    }
    ledger = Ledger(args.out, head, fresh=args.fresh)
    if ledger.kept:
        print(f"{args.out} holds {ledger.kept} figures of this bundle and these options: they are kept")
    run = Run(harness, {n: s for n, s in sets.items() if s}, ledger, args)
    for name in SECTIONS:
        if name in args.only:
            SECTIONS[name](run)
    ledger.write()
    print(figures.summary(ledger.result))


if __name__ == "__main__":
    main()
