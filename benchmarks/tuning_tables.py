"""Tables of what the engines do with the hardware: settings, limits, vision encoders, conversion, a long run, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
#: Head and rows.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def busy(result: Figures) -> Table:
    """A whole answer beside other work."""
    rows = result["whole answer"]
    arms = list(next(iter(rows.values())))
    lines = [
        (load, *(f"{cell['p50 ms']:.0f} / {cell['p90 ms']:.0f} ms" for cell in row.values()))
        for load, row in rows.items()
    ]
    # Earlier results do not say.
    amx = f", {'with' if result['AMX'] else 'without'} AMX" if "AMX" in result else ""
    return (f"median / p90{amx}", *arms), lines


def settings_llm(result: Figures) -> Table:
    """The LLM, each setting against the shipped one."""
    rows = result["llm"]
    heads = list(next(iter(rows.values())))
    return ("", *heads), [(name, *(f"{row[h]:g}" for h in heads)) for name, row in rows.items()]


def settings_parser(result: Figures) -> Table:
    """The parser under other session options."""
    rows = result["parser"]
    lines = [(name, f"{row['ms']:.2f}", f"{row['pixels with another label']:.4f}") for name, row in rows.items()]
    return ("", "ms", "pixels with another label"), lines


def settings_faces(result: Figures) -> Table:
    """Parser and encoder on several faces at a time."""
    rows = result["faces at a time"]
    lines = [(count, f"{row['ms a face']:.2f}", f"{row['MB']:.1f}") for count, row in rows.items()]
    return ("faces", "ms per face", "MB to run"), lines


def roofline_graphs(result: Figures) -> Table:
    """Parser and encoder against a float32 matrix product."""
    rows = [
        (
            name, f"{graph['ms']:.2f}", ", ".join(f"{op} {n:.3f}" for op, n in graph["GFLOP"].items()),
            f"{graph['share of the roof']:.2f}",
        )
        for name, graph in result["graphs"].items()
    ]  # fmt: skip
    together = result["together"]
    rows.append(("together", f"{together['ms']:.2f}", "", f"{together['share of the roof']:.2f}"))
    return ("", "ms", "GFLOP", f"share of {result['roof GFLOP/s']:.0f} GFLOP/s"), rows


def roofline_llm(result: Figures) -> Table:
    """The LLM against float32 matrix products, and against reading memory."""
    rows = [
        (
            what, f"{row['rows']}", f"{row['ms']:,.2f}", f"{row['GFLOP']:,.2f}", f"{row['share of the roof']:.2f}",
            format(row["share of the memory's speed"], ".2f"),
        )
        for what, row in result["language"].items()
    ]  # fmt: skip
    heads = (f"share of {result['roof GFLOP/s']:.0f} GFLOP/s", f"share of {result['memory GB/s']:.0f} GB/s")
    return ("the LLM", "tokens", "ms", "GFLOP", *heads), rows


def vision_latency(result: Figures) -> Table:
    """A CLIP vision tower in several runtimes."""
    cosines = result["cosine to torch float32"]
    rows = [
        (arm, f"{row['p50 ms']:,.0f} ms", f"{cosines[arm]['mean']:.5f}" if arm in cosines else "")
        for arm, row in result["latency"].items()
    ]
    return ("", "median", "cosine to torch float32"), rows


def vision_export(result: Figures) -> Table:
    """What exporting it takes."""
    rows = [
        (name, f"{row['seconds']:.0f}", f"{row['file MB']:,.0f}", f"{row['peak RSS MB']:,.0f}")
        for name, row in result["export"].items()
    ]
    return ("export", "seconds", "file MB", "peak RSS MB"), rows


def convert(result: Figures) -> Table:
    """A 7B LLM to GGUF."""
    rows = [
        (
            name, f"{result['parameters'] / 1e9:.2f} B", f"{result['checkpoint MB']:,}", f"{row['file MB']:,.0f}",
            f"{row['peak RSS MB']:,.0f}", f"{row['seconds']:.0f}",
        )
        for name, row in result["conversions"].items()
    ]  # fmt: skip
    return ("to", "parameters", "checkpoint MB", "file MB", "peak RSS MB", "seconds"), rows


def soak(result: Figures) -> Table:
    """Thousands of questions in one process."""
    warm, end, answer = result["after warm-up"], result["at the end"], result["answer ms"]
    rows = [
        ("questions / faces", f"{result['questions']:,} / {result['faces']:,}"),
        (
            "resident memory after warm-up / at the end",
            f"{warm['RSS MB']:.0f} MB / {end['RSS MB']:.0f} MB ({result['RSS growth']:+.2%})",
        ),
        (
            "threads, open files after warm-up / at the end",
            f"{warm['threads']}, {warm['open files']} / {end['threads']}, {end['open files']}",
        ),
        ("an answer: p50 / p90 / p99", f"{answer['p50']:.0f} / {answer['p90']:.0f} / {answer['p99']:.0f} ms"),
        ("p99 of the last tenth over the first", f"{result['p99 of the last tenth / the first']:.2f}"),
    ]  # fmt: skip
    return ("", ""), rows


def plans(result: Figures) -> Table:
    """TensorRT plans that were built without a GPU, and what TF32 or fp16 would change in these graphs."""
    never = "yes" if result["executed on a GPU"] else "never"
    rows = []
    for row in result["graphs"]:
        far = row["emulated on the CPU"]
        graph = row["graph"] if row["precision"] == "fp32" else f"{row['graph']}, in {row['precision']}"
        built = f"{row['plan MB']:.1f} MB in {row['seconds']:.1f} s"
        rows.append((graph, f"{row['ONNX MB']:.2f} MB", built, "-" if far is None else f"{far:.4f}", never))
    head = ("graph", "ONNX", f"plan, by {result['builder']}", "TF32 or fp16 against float32, emulated", "executed")
    return head, rows
