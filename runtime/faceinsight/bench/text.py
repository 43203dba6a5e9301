"""A result in tables: as markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .compare import SAME, Comparison
from .result import ANSWER, STAGE, START, Conditions, Energy, Result, Sustained
from .state import MachineState
from .stats import Summary

Row = Sequence[str]
TITLES = {START: "starting", STAGE: "stage", ANSWER: "what a user waits for"}
_NONE = "-"


def markdown(result: Result) -> str:
    """Everything of a result, for people."""
    c = result.conditions
    parts = [f"# FaceInsight {c.versions.get('faceinsight', '')} on {c.machine}", _table(("", ""), _conditions(c))]
    parts += [_table((title, *_COLUMNS), rows) for title, rows in step_tables(result)]
    parts.append(_table(("tokens per second", "tokens", "median", "95 %"), rate_rows(result)))
    parts.append(_table(("machine", "before", "after"), state_rows(result.before, result.after)))
    parts.append(_table(("memory and energy", ""), [*memory_rows(result), *energy_rows(result.energy)]))
    if result.sustained:
        parts += [_sustained_line(result.sustained), _table(_WINDOW, window_rows(result.sustained))]
    parts.append("\n".join(f"- {note}" for note in notes(result)))
    return "\n\n".join(parts) + "\n"


def plain(result: Result) -> str:
    """The figures of a result, in columns."""
    c = result.conditions
    lines = [f"{c.machine}, device {c.device}, {c.threads} threads, bundle {c.bundle}"]
    for title, rows in step_tables(result):
        lines += ["", *_columns([(title, *_COLUMNS), *rows])]
    lines += ["", *_columns([("tokens per second", "tokens", "median", "95 %"), *rate_rows(result)])]
    lines += ["", *_columns([*memory_rows(result), *energy_rows(result.energy)])]
    if result.sustained:
        lines += ["", _sustained_line(result.sustained), *_columns([_WINDOW, *window_rows(result.sustained)])]
    return "\n".join([*lines, "", *(f"note: {n}" for n in notes(result))])


def changes(comparison: Comparison) -> str:
    """A comparison in columns; the worst first."""
    ordered = sorted(comparison.changes, key=lambda c: -c.change)
    rows = [
        (
            c.name,
            f"{number(c.a)} {c.unit}",
            f"{number(c.b)} {c.unit}",
            f"{c.change:+.1%}",
            "" if c.verdict == SAME else c.verdict,
        )
        for c in ordered
    ]
    lines = [f"warning: {w}" for w in comparison.warnings]
    lines += _columns([("", "A", "B", "change", ""), *rows])
    lines += [f"note: {text}" for text in comparison.only]
    beyond = f"by more than {comparison.threshold:.0%}"
    lines += [f"unclear: {c.name} {c.change:+.1%}, {c.why}" for c in comparison.unclear]
    if worse := [f"{c.name} {c.change:+.1%}" for c in comparison.regressions]:
        return "\n".join([*lines, f"worse {beyond}: {', '.join(worse)}"])
    if comparison.unclear:
        noise = f"nothing is shown to be worse {beyond}, but what is unclear may be: noise hides it"
        return "\n".join([*lines, f"{noise}; measure more rounds on an idle machine"])
    return "\n".join([*lines, f"nothing is worse {beyond}"])


_COLUMNS = ("N", "p50 ms", "95 %", "p90", "p95", "p99", "mean")


def step_tables(result: Result) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows, group by group."""
    for group, title in TITLES.items():
        yield title, [(s.name, *_summary(s.ms)) for s in result.steps if s.group == group]


def _summary(ms: Summary) -> Row:
    interval = _NONE if ms.low is None or ms.high is None else f"{number(ms.low)}-{number(ms.high)}"
    return (str(ms.n), number(ms.p50), interval, number(ms.p90), number(ms.p95), number(ms.p99), number(ms.mean))


def rate_rows(result: Result) -> list[Row]:
    """Prefill and decode."""
    return [
        (r.name, str(r.tokens), number(r.per_second), f"{number(r.low)}-{number(r.high)}" if r.low else _NONE)
        for r in result.rates
    ]


def memory_rows(result: Result) -> list[Row]:
    """Peaks, and what MemAvailable lost."""
    m = result.memory
    drop = m.available_drop_mb
    if drop is not None and drop < 0:
        lost = f"none: it rose by {number(-drop)} MB, which others gave back meanwhile"
    else:
        lost = _with(drop, "MB")
    return [
        ("peak memory of a process that answers once", _with(m.fresh_peak_mb, "MB")),
        ("peak memory of this process, all rounds", _with(m.peak_mb, "MB")),
        ("MemAvailable, drop while loaded", lost),
        *([("the GPU's memory, rise while loaded", _with(m.gpu_rise_mb, "MB"))] if m.gpu_rise_mb is not None else []),
    ]


def energy_rows(energy: Sequence[Energy]) -> list[Row]:
    """Power and J per answer, with what each sensor saw."""
    rows: list[Row] = []
    for e in energy:
        idle = f", idle {number(e.idle_watts)} W" if e.idle_watts is not None else ""
        rows.append((f"energy: {e.work}", f"{number(e.joules_per_answer)} J, {number(e.watts)} W{idle}"))
        rows += [(f"  {name}", f"{number(j / e.answers)} J per answer") for name, j in e.joules.items()]
    return rows or [("energy", _NONE)]


_WINDOW = ("from s", "answers per minute", "N", "p50 ms", "p99 ms", "hottest C", "CPU MHz", "GPU MHz", "held back by")


def window_rows(sustained: Sustained) -> list[Row]:
    """Part by part."""
    return [
        (
            number(w.begins_s),
            number(w.per_minute),
            str(w.ms.n) if w.ms else "0",
            number(w.ms.p50 if w.ms else None),
            number(w.ms.p99 if w.ms else None),
            number(max(w.state.celsius.values(), default=None)),
            number(w.state.cpu_mhz),
            number(w.state.gpu_mhz),
            ", ".join(w.state.throttled or ()) or _NONE,
        )
        for w in sustained.windows
    ]


def _sustained_line(s: Sustained) -> str:
    drift = "not known" if s.drift is None else f"{s.drift:+.1%}"
    held = "not readable here" if s.throttled is None else ", ".join(s.throttled) or "none"
    joules = f" {number(s.energy.joules_per_answer)} J per answer, {number(s.energy.watts)} W." if s.energy else ""
    p99 = "" if s.ms.p99 is None else f", p99 {number(s.ms.p99)} ms"
    return (
        f"Sustained for {s.minutes:g} minutes: {s.ms.n} answers, p50 {number(s.ms.p50)} ms{p99}. "
        f"Last tenth against the first: {drift}. Throttling: {held}.{joules}"
    )


def state_rows(before: MachineState, after: MachineState) -> list[Row]:
    """Heat, clocks, throttling and memory."""
    rows: list[Row] = [
        (f"{zone}, C", number(before.celsius.get(zone)), number(after.celsius.get(zone)))
        for zone in {**before.celsius, **after.celsius}
    ]
    rows.append(("CPU MHz (of at most)", *(f"{number(s.cpu_mhz)} ({number(s.cpu_max_mhz)})" for s in (before, after))))
    rows.append(("GPU MHz", number(before.gpu_mhz), number(after.gpu_mhz)))
    held = ("not readable" if s.throttled is None else ", ".join(s.throttled) or "none" for s in (before, after))
    rows.append(("held back by", *held))
    rows.append(("MemAvailable", _with(before.available_mb, "MB"), _with(after.available_mb, "MB")))
    return rows


def notes(result: Result) -> list[str]:
    """What a reader must know."""
    out = [*result.notes, *filter(None, [result.disturbed])]
    if held := result.throttled:
        out.append(f"clocks were held back during the run: {', '.join(held)}")
    out += [
        "95 %: interval of the median, from N = 6; p90, p95, p99 are given from N = 10, 20, 100",
        "the detector runs on the CPU; decoding and all pre- and post-processing are included",
    ]
    return out


def _conditions(c: Conditions) -> list[Row]:
    providers = sorted({p[0] for p in c.providers.values()})
    llm = f"GPU ({c.gpu_layers} layers at most)" if c.llm_on_gpu else "CPU"
    width, height = c.photo_size
    return [
        ("when", c.when),
        ("device", f"{c.device} (asked for: {c.asked})" + (f", {c.gpu}" if c.gpu else "")),
        ("active provider of the graphs", ", ".join(providers)),
        ("LLM on", llm),
        ("threads / cores", f"{c.threads} / {c.cores}"),
        ("llama.cpp compiled for", c.llama_build),
        ("power mode / governor", f"{c.power_mode or _NONE} / {c.governor or _NONE}"),
        ("bundle", f"{c.bundle}, sha256 {c.bundle_sha256}"),
        ("weights", ", ".join(f"{name} {kind}" for name, kind in c.quantisation.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in c.versions.items())),
        ("photo", f"{c.photo}, {width}x{height}, faces: {c.faces}, sha256 {c.photo_sha256}"),
        ("question", c.question),
    ]


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return _NONE
    # Bounds are those of rounding: 9.996 is 10.0.
    for least, digits in ((99.95, 0), (9.995, 1), (0.0995, 2)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.4f}" if value else "0"


def _with(value: float | None, unit: str) -> str:
    return _NONE if value is None else f"{number(value)} {unit}"


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _columns(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
