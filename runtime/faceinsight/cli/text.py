"""Reports and faces in words, for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from ..bundle.manifest import Manifest
from ..bundle.specs import CharacteristicSpec
from ..types import Face, Label, Report

WIDTH, INDENT = 100, 15
#: Faces that a list names; a crowd has hundreds.
LISTED = 12


def listed(faces: Sequence[Face], width: int) -> str:
    """A line for each face of a photo so many pixels wide, the largest first."""
    lines = [f"  face {n}  {_box(f.box)}, {place(f.box, width)}" for n, f in enumerate(faces[:LISTED], 1)]
    if len(faces) > LISTED:
        lines.append(f"  and {len(faces) - LISTED} more")
    return "\n".join(lines)


def place(box: Sequence[float], width: int) -> str:
    """Where in a photo so many pixels wide a box lies, as one sees it."""
    third = int(min(max((box[0] + box[2] / 2) / width, 0.0), 0.999) * 3)
    return ("on the left", "in the middle", "on the right")[third]


def _box(box: Sequence[float]) -> str:
    x, y, w, h = box
    return f"{w:.0f}x{h:.0f} px at {x:.0f},{y:.0f}"


def report_text(number: int, report: Report, manifest: Manifest, *, width: int) -> str:
    """What is so, with its probability; what is unsure, absent and hidden. width: of the photo.

    The words are the bundle's, so a "no" that says something of its own ("is a woman") is among what is so, and "has no
    beard" is not: under "no" stands what is absent, "beard". Of characteristics of which exactly one holds, what it is
    not goes without saying.
    """
    specs = {c.name: c for c in manifest.characteristics}
    chosen_from = {name for rule in manifest.rules if rule.kind == "exactly_one" for name in rule.of}
    lines = _head(number, report, width)
    yes: list[tuple[float, str]] = []
    rest: dict[str, list[str]] = {"unsure": [], "no": [], "not visible": []}
    for label in report.labels:
        spec = specs[label.name]
        words = spec.absent if label.state == "no" else spec.phrase
        why = f" ({reason(label, report, manifest)})" if label.rule else ""
        likely = label.probability or 0.0
        if label.state not in ("yes", "no"):
            rest[label.state].append(words + why)
        elif not _denies(words):
            yes.append((likely if label.state == "yes" else 1 - likely, words + why))
        elif label.state == "yes":
            rest["no"].append(_denied(words) + why)
        elif label.name not in chosen_from:
            rest["no"].append(label.name.replace("_", " ").lower() + why)
    ordered = sorted(yes, key=lambda x: -x[0])
    lines += [f"  {'yes' if i == 0 else '':<13}{p:>4.0%}  {words}" for i, (p, words) in enumerate(ordered)]
    for state, found in rest.items():
        if found:
            lines.append(_wrapped(state, "; ".join(found)))
    return "\n".join(lines)


def report_table(number: int, report: Report, *, width: int) -> str:
    """Every label with its state, probability, name and rule, a line each."""
    lines = _head(number, report, width)
    order = ("yes", "unsure", "no", "not visible")
    for label in sorted(report.labels, key=lambda x: (order.index(x.state), -(x.probability or 0))):
        chance = "-" if label.probability is None else f"{label.probability:.2f}"
        rule = f"   (rule: {label.rule})" if label.rule else ""
        lines.append(f"  {label.state:<13}{chance:>4}  {label.name}: {label.phrase}{rule}")
    return "\n".join(lines)


def _head(number: int, report: Report, width: int) -> list[str]:
    lines = [f"face {number}: {_box(report.box)}, {place(report.box, width)}, detector {report.score:.2f}"]
    if report.quality:
        faults = [x for x in (report.quality.reason, *report.quality.covered) if x]
        lines.append(f"  {'quality':<13}{report.quality.value:>4.0%}  {', '.join(faults) or 'can be read'}")
    if report.age:
        low, high = report.age.low, report.age.high
        lines.append(f"  {'age':<13}{report.age.years:>4.0f}  years; {low} to {high} in four cases of five")
    return lines


def _wrapped(state: str, text: str) -> str:
    head = f"  {state:<13}"
    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * INDENT, break_long_words=False)


def _denies(words: str) -> bool:
    """Do the words say that something is not there?"""
    return not {"no", "not"}.isdisjoint(words.split())


def _denied(words: str) -> str:
    """What words of an absence deny: "has no beard" -> "beard"."""
    return re.split(r"\b(?:no|not)\b", words, maxsplit=1)[1].strip()


def reason(label: Label, report: Report, manifest: Manifest) -> str:
    """In words, the rule that turned a label round."""
    specs: Mapping[str, CharacteristicSpec] = {c.name: c for c in manifest.characteristics}
    rule = next((r for r in manifest.rules if str(r) == label.rule), None)
    if rule is None:
        return "what was found does not go together otherwise"
    others = [name for name in rule.of if name != label.name and report.label(name)]
    phrases = [specs[name].phrase for name in others]
    if rule.kind == "exactly_one":
        return f"of {len(rule.of)} that exclude each other, one is so"
    if rule.kind == "at_most_one":
        return f"only one is so: this, or {', or '.join(phrases)}"
    if rule.kind == "at_least_one":
        return f"one is so: this, or {', or '.join(phrases)}"
    if label.name != rule.of[0]:
        phrase = specs[label.name].phrase if rule.kind == "implies" else specs[label.name].absent
        return f"who {specs[rule.of[0]].phrase} {phrase}"
    claimed = [n for n in others if (x := report.label(n)) and x.state == "yes"]
    cause = specs[(claimed or others)[0]]
    return f"who {cause.absent if rule.kind == 'implies' else cause.phrase} {specs[label.name].absent}"
