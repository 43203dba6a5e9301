"""The list of all measured results: benchmarks/results/README.md, written by render.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One JSON file.

    Attributes:
        holds: what was measured.
        command: what made it; a script of benchmarks without `python benchmarks/`.
        commit: that recorded it; "" while the file need not be there yet.
    """

    holds: str
    command: str
    commit: str


#: Folder/file, without its suffix -> how it was made. A file that is not listed here is an error.
MEASUREMENTS = {
    f"xeon-2026-11/{name}": measurement
    for name, measurement in {
        "accuracy-nano": Measurement(
            "what `nano` says against labels: every set, strangers' photos, degraded views, questions, answers; on the "
            "machine of epyc-2026-11, no times",
            "quality/accuracy.py --data DIR --out OUT --surrounded 1000 --views 300 --questions 600",
            "6a1e802",
        ),
        "accuracy-training-free": Measurement(
            "the same of a training-free bundle",
            "quality/accuracy.py --data DIR --bundle work/training-free --out OUT --images 500 --questions 60",
            "1200e8a",
        ),
        "ablation-nano": Measurement(
            "the encoder with and without CCM, LCM, segmentation",
            "quality/ablation.py --data DIR --assets work/assets --run work/run --steps 300 --faces 5000 --seeds 2 "
            "--out OUT",
            "003164e",
        ),
        "ablation-ccm": Measurement(
            "other ways to use the co-occurrence graph",
            "quality/ablation.py --arms ARM ... --seeds 2 --out OUT",
            "9c515f7",
        ),
        "ablation-ccm-300": Measurement(
            "the same with 300 faces", "quality/ablation.py --arms ARM ... --seeds 1 --out OUT", "9c515f7"
        ),
        "ablation-missing": Measurement(
            "CCM with missing and wrong labels",
            "quality/ablation.py --arms ARM ... --faces 4000 --seeds 2 --out OUT",
            "eb1f3bf",
        ),
        "hidden-regions": Measurement(
            "what labels alone know of a hidden mouth or hidden eyes",
            "quality/hidden_regions.py --data DIR --out OUT",
            "1925398",
        ),
        "latency-nano": Measurement(
            "each step of `nano`; the same command makes the table and the chart of this name",
            "faceinsight bench tests/data/astronaut.png --device cpu --out OUT",
            "1f38e19",
        ),
        "busy": Measurement(
            "answers beside processes that keep cores busy", "speed/busy.py --rounds 15 --out OUT", "87c40f0"
        ),
        "peers-llava": Measurement(
            "a LLaVA of 1.1 B in each runtime; peers/weights.py FOLDER first",
            "peers/run.py FOLDER --out OUT --llama-server PATH",
            "9db3171",
        ),
        "peers-nano": Measurement("`nano` beside itself on transformers", "peers/run.py --nano --out OUT", "9db3171"),
        "roofline-llava": Measurement(
            "how near to the machine's limit that LLaVA runs",
            "speed/roofline.py --bundle FOLDER/ours --out OUT",
            "9db3171",
        ),
        "roofline-nano": Measurement("the same of `nano`", "speed/roofline.py --out OUT", "9db3171"),
        "settings-nano": Measurement("LLM and graphs under other settings", "speed/settings.py --out OUT", "26ff210"),
        "soak-nano": Measurement("20,000 questions in one process", "speed/soak.py --out OUT", "26ff210"),
        "vision": Measurement(
            "exporting and running a CLIP ViT-L/14-336",
            "speed/vision.py --peers FOLDER --out OUT --rounds 7",
            "5858cc0",
        ),
        "convert-7b": Measurement(
            "converting a 7B LLM of random weights", "speed/convert.py FOLDER --out OUT", "1e8f0e8"
        ),
    }.items()
} | {
    "epyc-2026-11/serve-nano": Measurement(
        "what the server adds to the library, an overload, killed workers",
        "speed/serve.py --repeats 100 --clients 32 --seconds 30 --kills 3 --out OUT",
        "e3f8bcd",
    ),
    "epyc-2026-11/serve-endurance": Measurement(
        "killed workers, ended servers, clients that leave, malformed requests, soaks; the second with --requests 8000",
        "speed/endurance.py --out OUT",
        "d23fc5d",
    ),
    "epyc-2026-11/llama-server": Measurement(
        "the server beside llama.cpp's; encoders of random weights",
        "peers/llama_server.py --llama-server PATH --out OUT",
        "d23fc5d",
    ),
    "epyc-2026-11/live-nano": Measurement(
        "a camera that is watched", "speed/live.py --seconds 60 --out OUT", "01105e9"
    ),
    "epyc-2026-11/kiosk-night": Measurement(
        "visits to the kiosk's page, one after another", "speed/kiosk.py --visits 120 --out OUT", "01105e9"
    ),
    "epyc-2026-11/kiosk": Measurement(
        "the kiosk's page in a browser beside its server", "speed/kiosk.py --out OUT", "f4453c5"
    ),
    "epyc-2026-11/audience": Measurement(
        "audience figures: do the intervals of drawn crowds hold the truth?",
        "quality/audience.py --data DIR --out OUT",
        "6a1e802",
    ),
    "epyc-2026-11/broker": Measurement(
        "an MQTT broker that dies in front of the server, and none at all",
        "speed/broker.py --out OUT",
        "b97670f",
    ),
    "epyc-2026-11/arm64-parity": Measurement(
        "the same pictures and questions here and on emulated 64-bit Arm (`work/arm64/out/parity-both.json`)",
        "make test-arm64",
        "f63c295",
    ),
    "epyc-2026-11/scenes": Measurement(
        "composed scenes: which faces the detector finds, and how much the network has to do for them",
        "quality/scenes.py --data DIR --scenes 20 --textures 2 --before OTHER --out OUT",
        "34c897d",
    ),
    "epyc-2026-11/plans": Measurement(
        "TensorRT plans built without a GPU, and TF32 and fp16 emulated on the CPU; with work/nvidia/bin/python of "
        "`make test-nvidia`",
        "speed/plans.py --out OUT",
        "a4b22e1",
    ),
    "epyc-2026-11/versions": Measurement(
        "the wheel with the oldest and newest versions of its libraries",
        "make test-versions",
        "acb36ba",
    ),
    "epyc-2026-11/cpu-engines": Measurement(
        "graphs in ONNX Runtime, OpenCV and OpenVINO on a CPU without AMX",
        "speed/cpu_engines.py --openvino FOLDER --ort-openvino FOLDER --clip --out OUT",
        "6a1e802",
    ),
    "epyc-2026-11/busy-1b": Measurement(
        "an LLM of 1.1 B beside busy processes, on a CPU without AMX; peers/weights.py FOLDER --llm first",
        "speed/busy.py --llm FOLDER/llm.gguf --out OUT",
        "0c6badd",
    ),
    "epyc-2026-11/latency-nano": Measurement(
        "every step on a CPU without AMX",
        "faceinsight bench tests/data/astronaut.png --device cpu --out OUT",
        "6a1e802",
    ),
}
TEXT = """# Results

What was measured, as JSON: a folder is a device and a month. Every table in README and docs is generated from these
files by `python benchmarks/render.py`, which also writes this page; `--check` fails where a page is stale.

- Seconds and milliseconds are wall-clock times, MB are 10^6 bytes. Resident memory in `peers-*`, `settings-nano` and
  `soak-nano` was recorded in units of 1,048,576 bytes and converted afterwards.
- "bundle" begins the sha256 of the manifest that was measured. Files of one folder may be of different bundles: `nano`
  was trained further between them.
- "commit" recorded the file; OUT is the file itself, ARM the arms in it. Options that are not stated have their
  defaults.
- To add a device: a new folder, an entry in `benchmarks/index.py`, `python benchmarks/render.py`.
"""


def page(folder: Path) -> str:
    """The whole page.

    Raises:
        ValueError: a file is not in MEASUREMENTS, or the other way round.
    """
    found = {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.json"))}
    recorded = {name for name, made in MEASUREMENTS.items() if made.commit}
    if odd := (found.keys() - MEASUREMENTS.keys()) | (recorded - found.keys()):
        raise ValueError(f"{folder} and MEASUREMENTS differ in {', '.join(sorted(odd))}")
    lines = [TEXT]
    for device in sorted({name.partition("/")[0] for name in found}):
        rows = {name: json.loads(path.read_text()) for name, path in found.items() if name.startswith(f"{device}/")}
        machine = next((m for row in rows.values() if (m := _machine(row))), "not recorded")
        heads = "| file | holds | command | commit | bundle |"
        lines += [f"## {device}", "", f"{machine}.", "", heads, "| --- " * 5 + "|"]
        for name, row in rows.items():
            made = MEASUREMENTS[name]
            file = f"[{found[name].name}]({name}.json)"
            script = ".py" in made.command
            command = f"`{'python benchmarks/' if script else ''}{made.command}`"
            lines.append(f"| {file} | {made.holds} | {command} | {made.commit} |{_bundle(row)} |")
        lines.append("")
    return "\n".join(lines)


def _machine(result: dict[str, Any]) -> str | None:
    conditions = result.get("conditions", result)
    cores = conditions.get("cores", conditions.get("threads"))
    machine = conditions.get("machine")
    return f"{machine}, {cores} cores" if machine and cores else None


def _bundle(result: dict[str, Any]) -> str:
    sha = result.get("bundle sha256") or result.get("conditions", {}).get("bundle_sha256")
    return f" `{sha[:8]}`" if sha else ""
