"""Does the built wheel run with the versions that it asks for?

    python benchmarks/versions.py --out benchmarks/results/epyc-2026-11/versions.json
    python benchmarks/versions.py --out work/versions.json --only oldest newest

Each row is a virtual environment of its own in --work, removed afterwards: pip installs the wheel with a row's
versions, versions_check.py answers about photos and is compared with the first row, and the tests run that need no
more than the row has: of rows that export, all of tests/export. The second form runs some rows only (put into --out
beside what is there). `python benchmarks/render.py` makes docs/reference/versions.md. It needs a package index and
Python 3.10 to 3.13 (on the PATH, or of pyenv); what is missing is said. Per row about 0.5 GB and one to three minutes
on two cores; rows with PyTorch 1.5 GB and six minutes, and 7 GB where the index has PyTorch with CUDA only.
llama-cpp-python is compiled once, for 4 to 9 minutes, if pip has no wheel of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work" / "versions"
TESTS = ROOT / "tests"
CHECK = Path(__file__).with_name("versions_check.py")
#: Largest difference of a probability from the first row's. OpenCV 4 and 5 round differently when they warp and resize:
#: up to 0.021; of ONNX Runtime and numpy it was below 0.0001.
TOLERANCE = 0.03
#: Two states that a bound between them explains.
CLAIM_AND_DOUBT = ({"yes", "unsure"}, {"no", "unsure"})
#: fit's estimate against the peak that was measured, as in tests/runtime/diagnostics/test_fit.py.
ESTIMATE = 0.15
RUNTIME_TESTS = (
    "runtime/perception",
    "runtime/bundle",
    "runtime/diagnostics/test_doctor.py",
    "runtime/host/test_child.py",
)
EXPORT_TESTS = ("export",)
LLAMA = "llama-cpp-python==0.3.36"


@dataclass(frozen=True, slots=True)
class Row:
    """pins: requirements beside the wheel's own; oldest: pins what pyproject.toml asks for at least, too.

    tests: paths below tests; of a row that exports, the slow ones are run too, and none may be skipped.
    """

    name: str
    python: str
    why: str
    pins: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    export: bool = False
    oldest: bool = False


def _beside(opencv: str, onnxruntime: str, numpy: str) -> tuple[str, ...]:
    return f"opencv-python-headless=={opencv}.*", f"onnxruntime=={onnxruntime}.*", f"numpy=={numpy}.*"


ROWS = (
    Row("newest", "3.13", "what pip chooses", tests=RUNTIME_TESTS),
    Row("oldest", "3.10", "everything at its minimum", tests=RUNTIME_TESTS, oldest=True),
    Row("JetPack 6.2", "3.10", "what pip chooses there"),
    Row("JetPack 7.2", "3.12", "what pip chooses there"),
    Row("OpenCV 4.8", "3.11", "the oldest one, beside the newest ONNX Runtime", _beside("4.8.0", "1.32", "1.26")),
    Row("OpenCV 4.10", "3.12", "the first one for numpy 2", _beside("4.10", "1.20", "2.0")),
    Row("OpenCV 4.12", "3.11", "one in between", _beside("4.12", "1.22", "2.2")),
    Row("OpenCV 4.13", "3.12", "the last one before 5", _beside("4.13", "1.24", "2.3")),
    Row("ONNX Runtime 1.18", "3.12", "the oldest one on the newest Python it has", _beside("4.11", "1.18", "1.26")),
    Row("ONNX Runtime 1.19", "3.12", "the first one for numpy 2, beside OpenCV 5", _beside("5.0", "1.19", "2.0")),
    Row(
        "export, oldest",
        "3.10",
        "all at its minimum, JetPack 6.2's Python",
        ("numpy==1.26.*",),
        EXPORT_TESTS,
        True,
        True,
    ),
    Row("export, transformers 4", "3.11", "the last of 4", ("transformers==4.*",), EXPORT_TESTS, True),
    Row("export, newest", "3.11", "what pip chooses", (), EXPORT_TESTS, True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    parser.add_argument("--work", type=Path, default=WORK, help="where the environments are made")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    args = parser.parse_args()
    require_tests(ROWS)
    result = run(args.only, args.out, args.work.resolve(), keep=args.keep)
    if any(not row["ok"] for row in result["rows"]):
        sys.exit("not every row is as expected")


def require_tests(rows: Sequence[Row]) -> None:
    """Before anything is installed.

    Raises:
        SystemExit: a row names tests that are not there.
    """
    if missing := sorted({name for row in rows for name in row.tests if not (TESTS / name).exists()}):
        sys.exit(f"tests/{', tests/'.join(missing)} of the rows in {Path(__file__).name}: not there; correct the paths")


def run(only: list[str], out: Path, work: Path, *, keep: bool) -> dict[str, Any]:
    """Run rows and put them into the file, after each one."""
    from faceinsight import __version__
    from faceinsight.bench.state import machine
    from faceinsight.bundle.bundle import Bundle

    work.mkdir(parents=True, exist_ok=True)
    wheels = work / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    pip(work, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT), LLAMA)
    (wheel,) = wheels.glob("faceinsight-*.whl")
    done = {row["name"]: row for row in json.loads(out.read_text())["rows"]} if out.is_file() else {}
    result: dict[str, Any] = {}
    for row in ROWS:
        # The first row's answers are what the others are held against.
        if row.name not in only and (row is not ROWS[0] or row.name in done):
            continue
        print(f"{row.name} ...", flush=True)
        found = measured(row, wheel, work, keep=keep)
        reference = found.get("faces", {}) if row is ROWS[0] else done[ROWS[0].name].get("faces", {})
        done[row.name] = judged(found, reference)
        if row is not ROWS[0]:
            done[row.name].pop("faces", None)
        result = {
            "faceinsight": __version__,
            "bundle sha256": Bundle.open("nano").sha256,
            "machine": machine(Path("/")),
            "tolerance": TOLERANCE,
            "rows": [done[r.name] for r in ROWS if r.name in done],
        }
        out.write_text(json.dumps(result, indent=1) + "\n")
        print("  " + ("ok" if done[row.name]["ok"] else "; ".join(done[row.name]["wrong"])), flush=True)
    return result


def measured(row: Row, wheel: Path, work: Path, *, keep: bool) -> dict[str, Any]:
    """Install, check, test."""
    base = {"name": row.name, "why": row.why, "python": row.python, "export": row.export}
    interpreter = find_python(row.python)
    if interpreter is None:
        return base | {"error": f"no Python {row.python} here"}
    folder = work / re.sub(r"\W+", "-", row.name)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        call(work, interpreter, "-m", "venv", "--without-pip", str(folder))
        python = str(folder / "bin" / "python")
        pins = [*row.pins, *(oldest(export=row.export) if row.oldest else ())]
        extras = "cpu,export" if row.export else "cpu"
        options = ["--only-binary", ":all:", "--find-links", str(wheel.parent)]
        pip(work, "--python", python, "install", "--no-compile", *options, f"{wheel}[{extras}]", "pytest", *pins)
        installed = time.monotonic() - began
        megabytes = sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        # -I: neither the user's PYTHONPATH nor this folder is looked at.
        check: dict[str, Any] = json.loads(call(work, python, "-I", str(CHECK)).splitlines()[-1])
        tests = tested(python, row, work)
    except subprocess.CalledProcessError as e:
        return base | {"error": f"{(e.stderr or e.stdout or '').strip()[-2000:]}"}
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = {"install": round(installed), "all": round(time.monotonic() - began)}
    return base | {"megabytes": round(megabytes), "seconds": seconds, "tests": tests} | check


def oldest(*, export: bool) -> list[str]:
    """The minimums as pins. To pip, 4.8 of OpenCV is 4.8.0.74 and what follows it."""
    from faceinsight.diagnostics.versions import EXPORT, RUNTIME

    pins = {
        name: f"=={package.oldest}" for name, package in (EXPORT if export else RUNTIME).items() if name != "python"
    }
    return [f"{name}{pin}{'.0.*' if name.startswith('opencv') else ''}" for name, pin in pins.items()]


def find_python(version: str) -> str | None:
    """On the PATH, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python")) if pyenv.is_dir() else []
    return str(found[-1]) if found else shutil.which(f"python{version}")


def pip(work: Path, *arguments: str) -> None:
    """This Python's pip, whatever Python it is told to install for."""
    call(work, sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def call(work: Path, *command: str) -> str:
    """Raises CalledProcessError with what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=work, env=environment | {"PYTHONUTF8": "1"}
    ).stdout


def tested(python: str, row: Row, work: Path) -> dict[str, Any]:
    """Run the row's tests; counts, and the names of those that fail, or are skipped where none may be."""
    if not row.tests:
        return {"which": []}
    files = [str(TESTS / name) for name in row.tests]
    marks = "not gpu and not data" if row.export else "not slow and not gpu and not data"
    options = ["-m", marks, "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-rfEs"]
    command = [python, "-I", "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options, *files]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment, check=False)
    return outcome(done.stdout, done.stderr, done.returncode, export=row.export)


def outcome(printed: str, errors: str, code: int, *, export: bool) -> dict[str, Any]:
    """What pytest's last lines say."""
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", printed[-300:])}
    which = re.findall(r"^(?:FAILED|ERROR) \S*?tests/(\S+)", printed, re.MULTILINE)
    if export:
        which += re.findall(r"^SKIPPED .*", printed, re.MULTILINE)
    if not which and (code or not counts.get("passed")):
        which = [(printed + errors).strip()[-1000:]]
    return counts | {"which": which}


def judged(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The row with what differs from these answers, and what is wrong."""
    if "faces" not in row:
        return row | {"ok": False, "wrong": [row["error"]]}
    differ = differences(reference, row["faces"])
    fit = row["fit"]["estimate"] / row["fit"]["peak"] - 1
    wrong = [f"doctor: {name}" for name, status in row["doctor"].items() if status == "fail"]
    wrong += [f"{differ[what]} {what} differ" for what in ("faces", "states", "answers") if differ[what]]
    wrong += [f"probabilities differ by {differ['probability']}"] if differ["probability"] > TOLERANCE else []
    wrong += [f"fit is off by {fit:+.0%}"] if abs(fit) > ESTIMATE else []
    wrong += row["tests"]["which"]
    return row | {"differ": differ, "ok": not wrong, "wrong": wrong}


def differences(reference: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Counts of what is not the same, and the largest difference of a probability. Where a bound of claims lies between
    two probabilities one is a claim and one a doubt: these are counted apart."""
    count = {"faces": 0, "labels": 0, "states": 0, "doubts": 0, "answers": 0}
    probability = 0.0
    for name, faces in reference.items():
        count["faces"] += abs(len(faces) - len(found[name]))
        for a, b in zip(faces, found[name], strict=False):
            count["answers"] += sum(x != y for x, y in zip(a["answers"], b["answers"], strict=True))
            for label, (state, p) in a["labels"].items():
                count["labels"] += 1
                other, q = b["labels"][label]
                if other != state:
                    at_a_bound = {state, other} in CLAIM_AND_DOUBT and any(
                        min(p, q) <= bound <= max(p, q) for bound in bounds()[label]
                    )
                    count["doubts" if at_a_bound else "states"] += 1
                probability = max(probability, abs(q - p))
    return count | {"probability": round(probability, 4)}


@cache
def bounds() -> dict[str, tuple[float, ...]]:
    """Of each characteristic, the probabilities between which nothing is claimed, of good and of poor pictures."""
    from faceinsight.bundle.bundle import Bundle

    return {c.name: (*c.unsure, *(c.poor or ())) for c in Bundle.open("nano").manifest.characteristics}


def tables(result: dict[str, Any]) -> str:
    """The figures as Markdown, for docs/reference/versions.md."""
    found = {row["name"]: row for row in result["rows"]}
    rows: list[dict[str, Any]] = [found[row.name] for row in ROWS if row.name in found]
    lines: list[str] = []
    for export in (False, True):
        if all(row["export"] != export for row in rows):
            continue
        names = ["python", "numpy", "opencv-python-headless", "onnxruntime"]
        names = ["python", "torch", "transformers", "onnx", "onnxscript", "tokenizers"] if export else names
        heads = [*names, "p differs by", "states, answers that differ", "at a bound", "fit against peak"]
        heads += ["tests", "MB", ""]
        lines += [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        lines += [line(row, names) for row in rows if row["export"] == export]
        lines.append("")
    if missing := [row.name for row in ROWS if row.name not in found]:
        lines += [f"Not run yet: {'; '.join(missing)}.", ""]
    if wrong := [f"- {row['name']}: {reason.splitlines()[-1]}" for row in rows for reason in row["wrong"]]:
        lines += ["What is not as expected:", "", *wrong, ""]
    seconds = sum(row["seconds"]["all"] for row in rows if "seconds" in row)
    about = f"{result['machine']}. FaceInsight {result['faceinsight']}; a probability may differ by {TOLERANCE}."
    return "\n".join([*lines, f"{about} All rows took {seconds / 60:.0f} minutes."])


def line(row: dict[str, Any], names: list[str]) -> str:
    title = f"{row['name']}: {row['why']}"
    if "differ" not in row:
        return f"| {title} | {row['python']} | " + " | " * (len(names) + 4) + "| not run |"
    differ, tests = row["differ"], row["tests"]
    fit = row["fit"]["estimate"] / row["fit"]["peak"] - 1
    cells = [row["versions"].get(name, "") for name in names]
    cells += [f"{differ['probability']:.4f}", f"{differ['states']} of {differ['labels']}, {differ['answers']}"]
    cells += [str(differ["doubts"])]
    ran = sum(tests.get(kind, 0) for kind in ("passed", "failed", "error"))
    cells += [f"{fit:+.0%}", f"{tests.get('passed', 0)} of {ran}" if ran else ""]
    cells += [str(row["megabytes"]), "ok" if row["ok"] else "no"]
    return f"| {title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
