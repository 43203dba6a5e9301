"""The figures of benchmarks/quality/accuracy.py against what is asked of them, worst first, as a Markdown table.

    python benchmarks/accuracy_table.py accuracy.json
    python benchmarks/accuracy_table.py before.json after.json

The tables in the docs are written by benchmarks/render.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
#: A number, or hits of n; None: not measured.
Measured = float | tuple[int, int] | None


def at(result: Any, *keys: str) -> Any:
    """What lies under these keys; None where one is missing."""
    for key in keys:
        if not isinstance(result, dict) or key not in result:
            return None
        result = result[key]
    return result


def under(*keys: str) -> Callable[[Figures], Measured]:
    return lambda result: at(result, *keys)


def hits(section: Sequence[str], what: str, of: str) -> Callable[[Figures], Measured]:
    """A count and its n."""

    def get(result: Figures) -> Measured:
        counted, n = at(result, *section, what), at(result, *section, of)
        return (counted, n) if counted is not None and n else None

    return get


def worst(section: str, *keys: str) -> Callable[[Figures], Measured]:
    """The highest of a section's rows (of sets, or kinds of view)."""

    def get(result: Figures) -> Measured:
        values = [at(row, *keys) for row in (at(result, *section.split("/")) or {}).values()]
        return max((v for v in values if v is not None), default=None)

    return get


def smiling(name: str) -> Callable[[Figures], Measured]:
    """Share of smiling faces reported neutral: labelled ones, claimed ones where the set does not say."""

    def get(result: Figures) -> Measured:
        rows = at(result, "cross-set", "agreement with labels that bear on it", name) or {}
        return next((r["share"] for what, r in rows.items() if what.endswith("Neutral likeliest")), None)

    return get


def promise(section: str, kind: str, *keys: str) -> Callable[[Figures], Measured]:
    """Characteristics that keep the promised risk, of all sets together."""

    def get(result: Figures) -> Measured:
        rows = [at(row, *keys, "promised risk kept", f"{kind}-claims") for row in (at(result, section) or {}).values()]
        judged = sum(r["characteristics"] for r in rows if r)
        return (sum(r["kept"] for r in rows if r), judged) if judged else None

    return get


@dataclass(frozen=True)
class Value:
    """One figure: where it is, the floor below which nothing ships, the target, how a number is written."""

    get: Callable[[Figures], Measured]
    floor: float
    target: float
    form: str = ".3f"

    def score(self, result: Figures) -> float | None:
        """0 at the target, 1 at the floor, more below it, whichever way is better."""
        measured = self.get(result)
        if measured is None:
            return None
        number = measured[0] / measured[1] if isinstance(measured, tuple) else measured
        if self.floor == self.target:
            return 1 + abs(number - self.target) if number != self.target else 0.0
        return (number - self.target) / (self.floor - self.target)

    def text(self, result: Figures) -> str:
        measured = self.get(result)
        if measured is None:
            return "-"
        return f"{measured[0]} of {measured[1]}" if isinstance(measured, tuple) else format(measured, self.form)


@dataclass(frozen=True)
class Row:
    """One line: what it says, and its figures."""

    what: str
    values: tuple[Value, ...]

    def score(self, result: Figures) -> float | None:
        """That of its worst figure; None where nothing is measured."""
        return max((s for v in self.values if (s := v.score(result)) is not None), default=None)

    def text(self, result: Figures) -> str:
        return " / ".join(v.text(result) for v in self.values)

    def bound(self, name: str) -> str:
        return " / ".join(format(getattr(v, name), "g") for v in self.values)


STRANGERS, CHILDREN = ("strangers",), "children and older people"
MASK = "parsing (CelebAMask-HQ)"
LOST, CLAIMS = "surroundings/fairface", ("claims", "celeba", "yes-claims")
#: What is asked: floor and target of every figure.
ROWS = (
    Row("strangers: age more than one bin off / and claimed", (
        Value(hits((*STRANGERS, "age"), "more than one bin off", "n"), 0.15, 0.08),
        Value(hits((*STRANGERS, "age"), "more than one bin off, claimed", "n"), 0.05, 0.02),
    )),
    Row("strangers: expression wrong / strong emotions right", (
        Value(hits((*STRANGERS, "expression"), "wrong", "n"), 0.10, 0.05),
        Value(hits((*STRANGERS, "expression"), "strong, right", "strong"), 0.5, 0.75),
    )),
    Row('strangers: true hair color said "no" / worn hats missed / gender right', (
        Value(hits((*STRANGERS, "hair colour"), 'true colour said "no"', "n"), 0.08, 0.03),
        Value(hits((*STRANGERS, "hat"), "missed", "worn"), 0.1, 0.0),
        Value(hits((*STRANGERS, "gender"), "right", "n"), 0.98, 0.99),
    )),
    Row("share above 0.95, widest gap between sets that label it and others: age / race / expression", tuple(
        Value(under("cross-set", task, "widest gap to the labelled sets"), 0.1, 0.0)
        for task in ("age", "race", "expression")
    )),
    Row("share above 0.95, widest gap for the same mix of answers: age / race / expression", tuple(
        Value(under("cross-set", task, "widest gap, same mix of answers"), 0.1, 0.0)
        for task in ("age", "race", "expression")
    )),
    Row("contradictions inside a report, all sets", (
        Value(under("contradictions", "total", "contradictions"), 0, 0, ".0f"),
    )),
    Row("FairFace: gender / age, 9 bins / race, 7", (
        Value(under("sets", "fairface", "attributes", "mean accuracy"), 0.92, 0.94),
        Value(under("sets", "fairface", "age", "accuracy"), 0.54, 0.57),
        Value(under("sets", "fairface", "race", "accuracy"), 0.67, 0.70),
    )),
    Row("UTKFace: age error in years / of 60 and over / under 10 / gender", (
        Value(under("age in years", "utkface", "all", "mean absolute error"), 5.8, 5.0, ".1f"),
        Value(under("age in years", "utkface", "60 and over", "mean absolute error"), 8, 6.5, ".1f"),
        Value(under("age in years", "utkface", "under 10", "mean absolute error"), 3, 2, ".1f"),
        Value(under("sets", "utkface", "attributes", "mean accuracy"), 0.93, 0.95),
    )),
    Row("CelebA-HQ, attributes: mean accuracy / AUC", (
        Value(under("sets", "celeba", "attributes", "mean accuracy"), 0.911, 0.917),
        Value(under("sets", "celeba", "attributes", "mean AUC"), 0.935, 0.945),
    )),
    Row("FER+: expression accuracy / macro F1", (
        Value(under("sets", "ferplus", "expression", "accuracy"), 0.845, 0.855),
        Value(under("sets", "ferplus", "expression", "macro F1"), 0.62, 0.68),
    )),
    Row("parsing, mean F1: 18 classes / 10 frequent ones / necklace", (
        Value(under(MASK, "mean F1, 18 foreground classes"), 0.80, 0.82),
        Value(under(MASK, "mean F1, 10 frequent classes"), 0.88, 0.90),
        Value(under(MASK, "F1", "neck_l"), 0.25, 0.35),
    )),
    Row("FairFace inside larger photos, lost against plain (worst surroundings): gender / age / race", tuple(
        Value(worst(LOST, "lost against plain", task), 0.02, 0.01) for task in ("gender", "age", "race")
    )),
    Row("smiling faces reported neutral: FairFace / UTKFace / CelebA-HQ", tuple(
        Value(smiling(name), 0.05, 0.02) for name in ("fairface", "utkface", "celeba")
    )),
    Row("CelebA-HQ, yes-claims wrong: mean / worst characteristic", (
        Value(under(*CLAIMS, "mean"), 0.08, 0.06),
        Value(under(*CLAIMS, "worst"), 0.15, 0.10),
    )),
    Row("descriptions with a wrong claim", (
        Value(hits(("descriptions against labels",), "with a wrong claim", "descriptions"), 0.20, 0.12),
    )),
    Row("gender at 0-9, claimed and wrong: FairFace / UTKFace", tuple(
        Value(under(CHILDREN, name, "0-9", "gender claimed and wrong"), 0.10, 0.05) for name in ("fairface", "utkface")
    )),
    Row("children of 0-9, claimed (worst set): lipstick / earrings / bald", tuple(
        Value(worst(CHILDREN, "0-9", "claimed", what), 0.05, 0.02) for what in ("lipstick", "earrings", "bald")
    )),
    Row("characteristics that keep the promised risk: yes-claims / no-claims", tuple(
        Value(promise("claims", kind), 0.9, 1.0) for kind in ("yes", "no")
    )),
    Row("characteristics that keep the promised risk on degraded views: yes-claims / no-claims", tuple(
        Value(promise("degraded views", kind, "all views"), 0.9, 1.0) for kind in ("yes", "no")
    )),
    Row('surgical mask: what it hides is "not visible"', (
        Value(under("degraded views", "celeba", "views", "surgical mask", "what is hidden", "not visible"), 0.9, 0.98),
    )),
    Row("flicker at 10 fps, changes of the worst label per minute: single frames / a camera, watched", tuple(
        Value(under(name, "any state", "worst label, per minute"), 10, 3, ".0f")
        for name in ("flicker", "flicker, watched")
    )),
    Row("bundle, MB", (Value(under("bundle MB"), 45, 40, ".1f"),)),
)  # fmt: skip


def held(score: float | None) -> str:
    """Does a row hold?"""
    if score is None:
        return "not measured"
    return "target" if score <= 0 else "floor" if score <= 1 else "no"


def table(results: dict[str, Figures], rows: Sequence[Row] = ROWS) -> str:
    """A column per result, in their order; rows by the last one, the worst first, those not measured at the end."""
    *_, last = results.values()
    heads = list(results) if len(results) > 1 else ["measured"]
    lines = [f"| | {' | '.join(heads)} | floor | target | holds |", "| --- |" + " --- |" * (len(heads) + 3)]
    scored = [(row, row.score(last)) for row in rows]
    for row, score in sorted(scored, key=lambda pair: (pair[1] is None, -(pair[1] or 0))):
        cells = [row.what, *(row.text(r) for r in results.values()), row.bound("floor"), row.bound("target")]
        lines.append(f"| {' | '.join(cells)} | {held(score)} |")
    images = at(last, "options", "images") or {name: own.get("images") for name, own in at(last, "sets").items()}
    counts = ", ".join(f"{name} {n:,}" for name, n in images.items())
    about = f"Split `{last['split']}`, bundle `{last['bundle']}` {last['bundle sha256'][:8]}; pictures: {counts}."
    return "\n".join([*lines, "", about])


def fairness(results: dict[str, Figures]) -> str:
    """FairFace by the labels of those pictured, of the last result: accuracy with its 95 % interval."""
    *_, last = results.values()
    tasks = at(last, "sets", "fairface", "fairness") or {}
    lines = [f"| | people | {' | '.join(tasks)} |", "| --- | --- |" + " --- |" * len(tasks)]
    groups: dict[str, int] = {}
    for task in tasks.values():
        groups |= {group: row["people"] for group, row in task["groups"].items()}
    for group, people in groups.items():
        rows = [at(task, "groups", group) for task in tasks.values()]
        cells = [f"{r['accuracy']:.3f} ({r['interval'][0]:.2f} to {r['interval'][1]:.2f})" if r else "-" for r in rows]
        lines.append(f"| {group} | {people} | {' | '.join(cells)} |")
    gaps = [f"{task['widest gap']:.3f}" for task in tasks.values()]
    return "\n".join([*lines, f"| widest gap | | {' | '.join(gaps)} |"])


def share_read(plain: Figures) -> float:
    """Share of plain questions that are not misread."""
    return 1.0 - float(plain["misread"]) / float(plain["questions"])


def spoken(results: dict[str, Figures]) -> str:
    """What the LLM makes of it, of the last result."""
    *_, last = results.values()
    closed, whole = at(last, "closed questions") or {}, at(last, "compound questions") or {}
    sees, free = at(last, "what the LLM sees") or {}, at(last, "free descriptions") or {}
    refused = at(last, "questions declined") or {}
    exact = "answers that speak of all that is certain, and of nothing else"
    plain = at(last, "plain questions") or {}
    rows: dict[str, float | None] = {
        f"{plain.get('questions', 0)} plain questions: read as what they ask": share_read(plain) if plain else None,
        f"{closed.get('questions', 0):,} yes/no questions in unseen wordings: agreement with the head": at(
            closed, "agreement with the head"
        ),
        f"questions about two or three things: {exact}": at(whole, exact),
        f"{free.get('descriptions', 0)} free descriptions: the LLM's own words exactly what the findings support": at(
            free, "own words exactly as the findings support"
        ),
        "free descriptions: claims that the labels contradict": at(free, "claims that the labels contradict"),
    }
    for what, reads in (
        ("answerable and declined", "that a report answers: declined"),
        ("not answerable and answered", "that no report answers: answered"),
    ):
        rows[f"{refused.get('questions', 0):,} questions in unseen wordings, {reads}"] = at(refused, what)
    for arm, value in sees.items():
        if isinstance(value, float):
            rows[f"yes/no questions right against the labels, given: {arm}"] = value
    lines = [f"| {what} | {value:.3f} |" for what, value in rows.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+")
    args = parser.parse_args()
    results = {path.stem: json.loads(path.read_text()) for path in args.json}
    if len(results) < len(args.json):
        parser.error("the files' names are the columns' heads: they must differ")
    print(table(results))


if __name__ == "__main__":
    main()
