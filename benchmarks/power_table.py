"""Speed and energy of a board by its power mode, of what `faceinsight bench` recorded there."""

from __future__ import annotations

from pathlib import Path

from faceinsight.bench.result import Result
from faceinsight.bench.steps import WHOLE_NEW
from faceinsight.bench.text import number

Row = tuple[str, ...]
HEAD = (
    "board",
    "power mode",
    "device",
    "GPU MHz",
    "whole answer, p50",
    "W",
    "W at rest",
    "J per answer",
    "held back by",
)
#: Which files are shown, in benchmarks/results.
FILES = "jetson-*/power-*.json"
NOTHING_YET = """\
No board was measured yet. On the board, for each mode that `sudo nvpmodel -p --verbose` lists, for ten minutes or more,
so that heat counts:

```sh
sudo nvpmodel -m N && sudo jetson_clocks
faceinsight bench photo.jpg --device tensorrt --minutes 10 --out power-N.json
```

`bench` records the mode, the GPU's clock, the board's own power sensors (INA3221, INA238) and what held clocks back.
In the repository, power-N.json in a folder jetson-BOARD-MONTH of `benchmarks/results`, with a line in
`benchmarks/index.py`, becomes a row of a table here (`python benchmarks/render.py`)."""


def markdown(folder: Path) -> str:
    """The table of the files in a folder of results, or how to fill it while there are none."""
    rows = [_row(Result.read(path)) for path in sorted(folder.glob(FILES))]
    if not rows:
        return NOTHING_YET
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(result: Result) -> Row:
    """Of a run of some minutes its energy, which heat is part of; else of the rounds'."""
    c, step = result.conditions, result.step(WHOLE_NEW)
    lasting = result.sustained
    energy = (lasting.energy if lasting else None) or next((e for e in result.energy if e.work == WHOLE_NEW), None)
    idle = next((e.idle_watts for e in result.energy if e.idle_watts is not None), None)
    ms = lasting.ms if lasting else step.ms if step else None
    held = result.throttled
    return (
        c.machine,
        c.power_mode or "-",
        c.device,
        number(result.after.gpu_mhz),
        f"{number(ms.p50)} ms" if ms else "-",
        number(energy.watts if energy else None),
        number(idle),
        number(energy.joules_per_answer if energy else None),
        "not readable" if held is None else ", ".join(held) or "nothing",
    )
