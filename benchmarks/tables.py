"""Every generated table of README and docs, made of the JSON files in benchmarks/results. render.py writes them.

A table is a function from the results to Markdown, entered in TABLES under the name that its markers have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import accuracy_table
import engine_tables
import index
import parity_table
import power_table
import published
import scenes_table
import serve_tables
import tuning_tables
import versions
from tuning_tables import Table

Figures = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NANO = ROOT / "models" / "faceinsight_models" / "bundles" / "nano"
#: The folder whose files the docs show.
SHOWN = RESULTS / "xeon-2026-11"
#: The same for the server.
SERVED = RESULTS / "epyc-2026-11"


class Results:
    """The JSON files of one folder, read when they are first needed."""

    def __init__(self, folder: Path = SHOWN) -> None:
        self.folder = folder
        self._files: dict[str, Figures] = {}

    def __getitem__(self, name: str) -> Figures:
        """The content of NAME.json. Raises FileNotFoundError."""
        if name not in self._files:
            self._files[name] = json.loads((self.folder / f"{name}.json").read_text())
        return self._files[name]

    @cached_property
    def latency(self) -> dict[str, float]:
        """Step of `faceinsight bench` -> its median in milliseconds."""
        return {step["name"]: step["ms"]["p50"] for step in self["latency-nano"]["steps"]}

    def peer_ratio(self, peers: str, arm: str, step: str) -> float:
        """How many times as long as ours (or as large) a peer's step is."""
        return float(self[peers]["arms"]["ratios"][arm][step])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("|  |", "| |")


def spread(value: Mapping[str, float], digits: int) -> str:
    """Mean and standard deviation over seeds."""
    return f"{value['mean']:.{digits}f} ± {value['std']:.{digits}f}"


def ms(value: float) -> str:
    """Milliseconds as README writes them."""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


# ---------------------------------------------------------------- README and model card


def summary(results: Results) -> str:
    """README's five rows."""
    accuracy, latency = results["accuracy-nano"], results.latency
    sets, strangers = accuracy["sets"], accuracy["strangers"]
    attributes, closed = sets["celeba"]["attributes"], accuracy["closed questions"]
    wrong = accuracy["descriptions against labels"]
    counts = [strangers[what] for what in ("glasses", "smile", "gender")]
    right = " / ".join(f"{of['right']} of {of['n']}" for of in counts)
    fairface = sets["fairface"]
    choices = [fairface["attributes"]["mean accuracy"], fairface["age"]["accuracy"], fairface["race"]["accuracy"]]
    peak = results["latency-nano"]["memory"]["fresh_peak_mb"]
    rows = [
        (
            "CelebA-HQ, attributes: mean accuracy / AUC",
            f"{attributes['mean accuracy']:.3f} / {attributes['mean AUC']:.3f}",
        ),
        (
            "FairFace: gender / age (9 bins) / race (7 words); off by default",
            " / ".join(f"{x:.3f}" for x in choices),
        ),
        (f"{strangers['faces']} faces on strangers' photos: glasses / smile / gender right", right),
        (
            f"{closed['questions']} yes/no questions: the LLM agrees with the labels' classifier; "
            f"{wrong['descriptions']} descriptions: with a wrong claim",
            f"{closed['agreement with the head']:.3f}; {wrong['with a wrong claim']}",
        ),
        (
            "two Xeon cores: photo to report / answer about a known face / process start to first answer; bundle; "
            "peak memory",
            f"{ms(latency['photo file to full report'])} / {ms(latency['whole answer, known face'])} / "
            f"{ms(latency['process start to first answer'])}; {accuracy['bundle MB']:.0f} MB; {peak:.0f} MB",
        ),
    ]  # fmt: skip
    return markdown(("`nano` on a CPU", "measured"), rows)


def answer_accuracy(results: Results) -> str:
    """Whether answers are right about the labels, and whether the LLM loses anything against the classifier."""
    closed = results["accuracy-nano"]["closed questions"]
    right = closed["accuracy against labels (where the head says yes or no)"]
    rows = [
        ("the classifier's own yes or no", f"{right['head']:.3f}"),
        ("the LLM's answer", f"{right['LLM']:.3f}"),
        ("the LLM's words before they are checked", format(right["LLM's own words"], ".3f")),
        ("difference between classifier and answer, in points", f"{100 * (right['head'] - right['LLM']):.1f}"),
    ]  # fmt: skip
    head = f"{closed['questions']} questions, right against the labels where the classifier decides"
    return markdown((head, ""), rows)


def _accuracy(make: Callable[[dict[str, Figures]], str]) -> Callable[[Results], str]:
    return lambda results: make({"nano": results["accuracy-nano"]})


# ---------------------------------------------------------------- comparison, ablations


def comparison(results: Results) -> str:
    """`nano` beside published figures."""
    sets = results["accuracy-nano"]["sets"]
    fairface = sets["fairface"]
    nano = {
        "celeba": f"{sets['celeba']['attributes']['mean accuracy']:.3f}",
        "fairface": f"{fairface['attributes']['mean accuracy']:.3f} / {fairface['age']['accuracy']:.3f} / "
        f"{fairface['race']['accuracy']:.3f}",
        "ferplus": f"{sets['ferplus']['expression']['accuracy']:.3f}",
        "celebamask": f"{results['accuracy-nano']['parsing (CelebAMask-HQ)']['mean F1, 18 foreground classes']:.3f}",
    }
    rows = []
    for task in published.TASKS:
        rows.append((task.what, "**nano**", task.nano_size, f"**{nano[task.key]}**", task.nano_data))
        rows += [("", peer.model, peer.size, peer.figure, peer.data) for peer in task.peers]
    return markdown(("task", "model", "size, where stated", "figure", "data and caveat"), rows)


def training_free(results: Results) -> str:
    """The training-free bundle beside the fine-tuned one."""
    both = results["accuracy-training-free"], results["accuracy-nano"]

    def row(what: str, *values: Callable[[Figures], float]) -> tuple[str, ...]:
        return (what, *(" / ".join(f"{value(r):.3f}" for value in values) for r in both))

    def auc(name: str) -> Callable[[Figures], float]:
        return lambda r: float(r["sets"]["celeba"]["attributes"]["per characteristic"][name]["AUC"])

    rows = [
        row(
            "CelebA-HQ, attributes: mean accuracy / AUC",
            lambda r: r["sets"]["celeba"]["attributes"]["mean accuracy"],
            lambda r: r["sets"]["celeba"]["attributes"]["mean AUC"],
        ),
        row(
            "AUC of what a region shows: hat / glasses / bald / mouth open",
            *map(auc, ("Wearing_Hat", "Eyeglasses", "Bald", "Mouth_Slightly_Open")),
        ),
        row(
            "FairFace: gender / age / race",
            lambda r: r["sets"]["fairface"]["attributes"]["mean accuracy"],
            lambda r: r["sets"]["fairface"]["age"]["accuracy"],
            lambda r: r["sets"]["fairface"]["race"]["accuracy"],
        ),
        row(
            "yes/no questions: the LLM agrees with the classifier",
            lambda r: r["closed questions"]["agreement with the head"],
        ),
    ]
    return markdown(("", "training-free", "fine-tuned"), rows)


ABLATION = {
    "attributes, accuracy": ("attributes, accuracy", 3),
    "attributes, AUC": ("AUC", 4),
    "age, accuracy": ("age", 3),
    "race, accuracy": ("race", 3),
    "expression, accuracy": ("expression", 3),
    "hard rules broken by raw outputs, per 100 faces": ("rules broken, per 100 faces", 0),
    "claims that labels contradict": ("claims contradicted", 4),
}
SHORT = ("attributes, accuracy", "attributes, AUC", "claims that labels contradict")


def ablation(name: str, columns: Sequence[str] = tuple(ABLATION)) -> Callable[[Results], str]:
    """Mean and spread of each arm."""

    def make(results: Results) -> str:
        arms = results[name]["arms"]
        rows = [(arm, *(spread(figures[c], ABLATION[c][1]) for c in columns)) for arm, figures in arms.items()]
        return markdown(("", *(ABLATION[c][0] for c in columns)), rows)

    return make


def hidden_regions(results: Results) -> str:
    """What labels alone know of a hidden mouth, or hidden eyes."""
    hidden = results["hidden-regions"]["hidden"]
    ways = ("co-occurrence graph", "regression on all other labels")
    rows = [(what, *(f"{labels['mean'][way]:.3f}" for way in ways)) for what, labels in hidden.items()]
    return markdown(("mean AUC of what is hidden", *ways), rows)


# ---------------------------------------------------------------- speed


def latency(results: Results) -> str:
    """What `faceinsight bench` measured, less its title."""
    from faceinsight.bench.result import Result
    from faceinsight.bench.text import markdown as bench_markdown

    return bench_markdown(Result.read(results.folder / "latency-nano.json")).partition("\n")[2].strip()


def peers(result: Figures) -> str:
    """Medians of every arm, and how many times the first arm's they are."""
    ratios = result["arms"]["ratios"]
    arms = {name: steps for name, steps in result["arms"].items() if name != "ratios"}
    rows = []
    for step in next(iter(arms.values())):
        cells = []
        for name, steps in arms.items():
            value, ratio = steps.get(step), ratios.get(name, {}).get(step)
            text = "-" if not value else f"{value['p50']:.0f}" if "MB" in step else f"{value['p50']:.3g} s"
            cells.append(f"{text} ({ratio:.3g}x)" if value and ratio else text)
        rows.append((step, *cells))
    return markdown(("", *arms), rows)


def targets(results: Results) -> str:
    """What was set out for the LLaVA, and what was reached."""

    def reached(step: str, *arms: tuple[str, float], less: bool = False) -> str:
        out = []
        for arm, target in arms:
            value = results.peer_ratio("peers-llava", arm, step)
            value = 1 / value if less else value
            held = value <= target if less else value >= target
            out.append(f"**{value:.2f}**" if held else f"{value:.2f}")
        return " / ".join(out)

    handler, best = "chat handler, defaults", "chat handler, best"
    floats, half, stock = "transformers, best", "transformers, bfloat16", "transformers, defaults"
    again, new = "again: first token", "new: first token"
    quarter = "ours, a quarter of the tokens"
    rows = [
        ("second question: chat handler, defaults / best", "25", reached(again, (handler, 25), (best, 25))),
        ("second question: llama-server", "1.5", reached(again, ("llama-server", 1.5))),
        (
            "second question: transformers, defaults / best / bfloat16", "15",
            reached(again, (stock, 15), (floats, 15), (half, 15)),
        ),
        (
            "report of 8: chat handler, best / llama-server", "6 / 1.3",
            reached("report of 8", (best, 6), ("llama-server", 1.3)),
        ),
        (
            "new face: chat handler, best / transformers, best / bfloat16", "1.4 / 1.2 / 1.2",
            reached(new, (best, 1.4), (floats, 1.2), (half, 1.2)),
        ),
        (
            "new face with 144 tokens: chat handler, best", "4",
            f"**{results.peer_ratio('peers-llava', best, new) / results.peer_ratio('peers-llava', quarter, new):.2f}**",
        ),
        (
            "our peak memory over that of: chat handler, defaults / transformers, defaults", "at most 0.6 / 0.4",
            reached("peak RSS MB", (handler, 0.6), (stock, 0.4), less=True),
        ),
    ]  # fmt: skip
    return markdown(("times as fast as", "target", "measured (bold: reached)"), rows)


def versions_tried(results: Results) -> str:
    """Which versions of Python and libraries were run."""
    return versions.tables(Results(SERVED)["versions"])


def licences(_: Results) -> str:
    """Terms of each part of `nano`, as its manifest has them."""
    entries = json.loads((NANO / "manifest.json").read_text())["licences"]
    rows = [
        (
            f"`nano/{e['component']}`",
            f"**{e['licence']}**" if "only" in e["licence"] else e["licence"],
            e["source"],
            e["note"],
        )
        for e in entries
    ]
    return markdown(("component", "licence", "source", "trained on"), rows)


def _shown(name: str, make: Callable[[Figures], Table]) -> Callable[[Results], str]:
    """A table of one file."""
    return lambda results: markdown(*make(results[name]))


def _served(name: str, make: Callable[[Figures], Table]) -> Callable[[Results], str]:
    """The same of the machine on which the server was measured."""
    return lambda _: markdown(*make(Results(SERVED)[name]))


def _later(name: str, make: Callable[[Figures], str]) -> Callable[[Results], str]:
    """The same; until it has been measured, how to do so."""
    path = SERVED / f"{name}.json"
    command = index.MEASUREMENTS[f"{SERVED.name}/{name}"].command

    def table(_: Results) -> str:
        if path.is_file():
            return make(json.loads(path.read_text()))
        return f"Not measured yet: `python benchmarks/{command}`."

    return table


#: Marker -> its table.
TABLES: dict[str, Callable[[Results], str]] = {
    "summary": summary,
    "accuracy": _accuracy(accuracy_table.table),
    "fairness": _accuracy(accuracy_table.fairness),
    "answers": _accuracy(accuracy_table.spoken),
    "answer-accuracy": answer_accuracy,
    "comparison": comparison,
    "training-free": training_free,
    "ablation": ablation("ablation-nano"),
    "ablation-ccm": ablation("ablation-ccm", SHORT),
    "ablation-ccm-300": ablation("ablation-ccm-300", SHORT),
    "ablation-missing": ablation("ablation-missing", SHORT),
    "hidden-regions": hidden_regions,
    "latency": latency,
    "peers-llava": lambda results: peers(results["peers-llava"]),
    "peers-nano": lambda results: peers(results["peers-nano"]),
    "targets": targets,
    "busy": _shown("busy", tuning_tables.busy),
    "busy-1b": _later("busy-1b", lambda result: markdown(*tuning_tables.busy(result))),
    "cpu-engines": _later("cpu-engines", engine_tables.engines),
    "settings-llm": _shown("settings-nano", tuning_tables.settings_llm),
    "settings-parser": _shown("settings-nano", tuning_tables.settings_parser),
    "settings-faces": _shown("settings-nano", tuning_tables.settings_faces),
    "roofline-graphs": _shown("roofline-nano", tuning_tables.roofline_graphs),
    "roofline-nano": _shown("roofline-nano", tuning_tables.roofline_llm),
    "roofline-llava": _shown("roofline-llava", tuning_tables.roofline_llm),
    "vision-latency": _shown("vision", tuning_tables.vision_latency),
    "vision-export": _shown("vision", tuning_tables.vision_export),
    "convert": _shown("convert-7b", tuning_tables.convert),
    "soak": _shown("soak-nano", tuning_tables.soak),
    "versions": versions_tried,
    "arm64-parity": _served("arm64-parity", parity_table.table),
    "scenes": _served("scenes", scenes_table.kinds),
    "scenes-cost": _served("scenes", scenes_table.cost),
    "plans": _served("plans", tuning_tables.plans),
    "power": lambda _: power_table.markdown(RESULTS),
    "serve-cost": _served("serve-nano", serve_tables.cost),
    "serve-overload": _served("serve-nano", serve_tables.overload),
    "serve-endurance": _served("serve-endurance", serve_tables.endurance),
    "live": _served("live-nano", serve_tables.live),
    "against-photos": _served("live-nano", serve_tables.against_photos),
    "kiosk": _served("kiosk", serve_tables.kiosk),
    "kiosk-night": _served("kiosk-night", serve_tables.night),
    "audience": _served("audience", serve_tables.audience),
    "audience-sets": _served("audience", serve_tables.audience_sets),
    "broker": _served("broker", serve_tables.broker),
    "llama-server": _served("llama-server", serve_tables.llama_server),
    "better-there": lambda _: serve_tables.better_there(Results(SERVED)["llama-server"]),
    "licences": licences,
}
