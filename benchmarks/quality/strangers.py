"""Photos of strangers, labelled by hand: is a report right about somebody whose like no set has?

`strangers.csv`: file, x, y (the face's middle), glasses, hat, smile, bald (0/1), beard (y/n, m: mustache alone), hair
(k black, n brown, b blond, g gray), expression (H N S, X sad, A D), gender, age_from, age_to; "-" is not clear.
`strangers.zip` holds the photos. Figures only: no face is named.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import datasets
from contradictions import COLORS
from faceinsight.types import NO, YES
from faceinsight_models.data.files import read_image, read_rows
from faceinsight_models.data.labels import AGE_YEARS
from faceinsight_models.taxonomy import EXCLUSIVE_GROUPS
from figures import Figures
from readings import Reader, Reading

HAIR = dict(zip("kbng", COLORS, strict=True))
EXPRESSIONS = {
    "H": "Happiness", "N": "Neutral", "S": "Surprise", "X": "Sadness", "A": "Anger", "D": "Disgust",
}  # fmt: skip
STRONG = "SXAD"
#: Column -> characteristic, of what is there (1) or not (0).
PLAIN = {"glasses": "Eyeglasses", "smile": "Smiling", "bald": "Bald"}

Row = dict[str, str]


class Reads:
    """Readings with their names: what is likeliest, what is claimed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._at = {n: k for k, n in enumerate(names)}

    def state(self, face: Reading, name: str) -> int:
        return int(face.states[self._at[name]])

    def likely(self, face: Reading, name: str) -> bool:
        return bool(face.p[self._at[name]] > 0.5)

    def likeliest(self, face: Reading, members: Sequence[str]) -> str:
        return max(members, key=lambda n: face.p[self._at[n]])


def strangers(reader: Reader, folder: Path) -> tuple[Figures, list[Reading]] | None:
    """Figures, and every face that was found in the photos; None without the set."""
    if not (folder / "strangers.csv").is_file():
        return None
    rows = read_rows(folder / "strangers.csv")
    files = list(dict.fromkeys(r["file"] for r in rows))
    pairs: list[tuple[Row, Reading]] = []
    faces: list[Reading] = []
    damaged: list[str] = []
    missed = 0
    with zipfile.ZipFile(folder / "strangers.zip") as archive:
        for file in tqdm(files, desc="strangers", mininterval=5):
            try:
                found = reader.photos(read_image(archive, file))
            except datasets.UNREADABLE:
                damaged.append(file)
                continue
            picture_rows = [r for r in rows if r["file"] == file]
            met = match([(float(r["x"]), float(r["y"])) for r in picture_rows], found)
            pairs += [(r, found[k]) for r, k in zip(picture_rows, met, strict=True) if k is not None]
            missed += met.count(None)
            faces += found
    out: Figures = {"photos": len(files) - len(damaged), "faces": len(pairs) + missed, "missed": missed}
    if damaged:
        out["damaged"] = {"n": len(damaged), "first": damaged[:5]}
    return out | judged(pairs, Reads(reader.names)), faces


def match(middles: Sequence[tuple[float, float]], faces: Sequence[Reading]) -> list[int | None]:
    """Number of the face whose box holds each point, the nearest center first; a face is taken once."""
    near = []
    for i, (x, y) in enumerate(middles):
        for k, face in enumerate(faces):
            left, top, width, height = face.box
            if left <= x <= left + width and top <= y <= top + height:
                near.append((np.hypot(left + width / 2 - x, top + height / 2 - y), i, k))
    out: list[int | None] = [None] * len(middles)
    for _, i, k in sorted(near):
        if out[i] is None and k not in out:
            out[i] = k
    return out


def judged(pairs: Sequence[tuple[Row, Reading]], reads: Reads) -> Figures:
    """Counts with their n: likeliest for what is right, states for what is claimed."""
    out: Figures = {
        "age": _age(pairs, reads),
        "expression": _expression(pairs, reads),
        "hair colour": _hair(pairs, reads),
    }
    for column, name in PLAIN.items():
        known = [(r[column] == "1", f) for r, f in pairs if r[column] in ("0", "1")]
        out[column] = _binary(known, reads, name)
    bearded = [(r["beard"] == "n", f) for r, f in pairs if r["beard"] in ("y", "n")]
    out["beard"] = _binary(bearded, reads, "No_Beard")
    out["mustache alone"] = _binary([(True, f) for r, f in pairs if r["beard"] == "m"], reads, "Mustache")
    out["gender"] = _binary([(r["gender"] == "M", f) for r, f in pairs if r["gender"] in ("M", "F")], reads, "Male")
    hats = [(r["hat"] == "1", f) for r, f in pairs if r["hat"] in ("0", "1")]
    out["hat"] = _binary(hats, reads, "Wearing_Hat") | {
        "worn": sum(worn for worn, _ in hats),
        "missed": sum(worn and not reads.likely(f, "Wearing_Hat") for worn, f in hats),
        "worn, not claimed": sum(worn and reads.state(f, "Wearing_Hat") != YES for worn, f in hats),
        "false": sum(not worn and reads.likely(f, "Wearing_Hat") for worn, f in hats),
        "false, claimed": sum(not worn and reads.state(f, "Wearing_Hat") == YES for worn, f in hats),
    }
    return out


def _binary(known: Sequence[tuple[bool, Reading]], reads: Reads, name: str) -> Figures:
    claimed = [(truth, reads.state(f, name)) for truth, f in known if reads.state(f, name) in (YES, NO)]
    return {
        "n": len(known),
        "right": sum(reads.likely(f, name) == truth for truth, f in known),
        "claimed": len(claimed),
        "claimed and wrong": sum((state == YES) != truth for truth, state in claimed),
    }


def plausible(first: float, last: float) -> set[str]:
    """Age bins that overlap a range, and one more on each side."""
    inside = [k for k, (low, high) in enumerate(AGE_YEARS) if low <= last and high >= first]
    return set(EXCLUSIVE_GROUPS["age"][max(0, min(inside) - 1) : max(inside) + 2])


def _age(pairs: Sequence[tuple[Row, Reading]], reads: Reads) -> Figures:
    known = [(plausible(float(r["age_from"]), float(r["age_to"])), f) for r, f in pairs if r["age_from"].isdigit()]
    off = [f for bins, f in known if reads.likeliest(f, EXCLUSIVE_GROUPS["age"]) not in bins]
    claimed = [f for f in off if reads.state(f, reads.likeliest(f, EXCLUSIVE_GROUPS["age"])) == YES]
    years = [
        max(float(r["age_from"]) - f.years, f.years - float(r["age_to"]), 0.0)
        for r, f in pairs
        if r["age_from"].isdigit() and f.years is not None
    ]
    return {
        "n": len(known),
        "more than one bin off": len(off),
        "more than one bin off, claimed": len(claimed),
        "claimed": sum(any(reads.state(f, n) == YES for n in EXCLUSIVE_GROUPS["age"]) for _, f in known),
        "years outside the plausible range, mean": float(np.mean(years)) if years else None,
    }


def _expression(pairs: Sequence[tuple[Row, Reading]], reads: Reads) -> Figures:
    members = EXCLUSIVE_GROUPS["expression"]
    known = [(EXPRESSIONS[r["expression"]], r, f) for r, f in pairs if r["expression"] in EXPRESSIONS]
    wrong = [(r, f) for truth, r, f in known if reads.likeliest(f, members) != truth]
    claimed = [(r, f) for r, f in wrong if reads.state(f, reads.likeliest(f, members)) == YES]
    strong = sum(r["expression"] in STRONG for _, r, _ in known)
    return {
        "n": len(known),
        "wrong": len(wrong),
        "wrong, claimed": len(claimed),
        "strong": strong,
        "strong, right": strong - sum(r["expression"] in STRONG for r, _ in wrong),
        "strong, claimed and wrong": sum(r["expression"] in STRONG for r, _ in claimed),
    }


def _hair(pairs: Sequence[tuple[Row, Reading]], reads: Reads) -> Figures:
    known = [(HAIR[r["hair"]], f) for r, f in pairs if r["hair"] in HAIR]
    others = [[n for n in COLORS if n != truth] for truth, _ in known]
    return {
        "n": len(known),
        "right": sum(reads.likeliest(f, COLORS) == truth for truth, f in known),
        "true colour claimed": sum(reads.state(f, truth) == YES for truth, f in known),
        'true colour said "no"': sum(reads.state(f, truth) == NO for truth, f in known),
        "another colour claimed": sum(
            any(reads.state(f, n) == YES for n in names) for names, (_, f) in zip(others, known, strict=True)
        ),
    }
