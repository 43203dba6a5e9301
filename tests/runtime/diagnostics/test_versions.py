"""The versions that pyproject.toml asks for, those that the doctor knows and those that were run are the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from paths import ROOT

from faceinsight.bundle.bundle import Bundle
from faceinsight.diagnostics.versions import EXPORT, RUNTIME, numbers

versions = pytest.importorskip("versions")
RESULT = json.loads((ROOT / "benchmarks" / "results" / "epyc-2026-11" / "versions.json").read_text())
ROWS = {row["name"]: row for row in RESULT["rows"]}


def asked(*pages: Path) -> dict[str, set[str]]:
    """Of each package, the versions that these files ask for at least."""
    found: dict[str, set[str]] = {}
    for page in pages:
        for name, version in re.findall(r"([\w-]+)>=([\d.]+)", page.read_text()):
            found.setdefault(name.replace("onnxruntime-gpu", "onnxruntime"), set()).add(version)
    return found


def test_pip_is_asked_for_the_oldest_versions():
    wanted = asked(ROOT / "pyproject.toml")
    packages = RUNTIME | EXPORT
    assert f'requires-python = ">={packages.pop("python").oldest}"' in (ROOT / "pyproject.toml").read_text()
    # Training asks for more than exporting.
    oldest = {name: min(wanted[name], key=numbers) for name in packages}
    assert oldest == {name: package.oldest for name, package in packages.items()}
    said = asked(ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "runtime").rglob("*.py"))
    for name in packages.keys() & said.keys():
        assert said[name] == {packages[name].oldest}, name


EVERY_ROW_RAN = pytest.mark.skipif(
    {row.name for row in versions.ROWS} != ROWS.keys(), reason="not every row of make test-versions has been run"
)


@EVERY_ROW_RAN
@pytest.mark.parametrize(("packages", "export"), [(RUNTIME, False), (EXPORT, True)])
def test_oldest_and_newest_are_what_was_run(packages: dict, export: bool):
    rows = [row for row in ROWS.values() if row["export"] == export]
    for name, package in packages.items():
        ran = [numbers(row["versions"][name]) for row in rows]
        oldest, newest = numbers(package.oldest), numbers(package.newest)
        assert min(ran)[: len(oldest)] == oldest, name
        assert max(ran)[: len(newest)] == newest, name


def test_every_row_is_as_expected():
    assert {row.name for row in versions.ROWS if not row.export} <= ROWS.keys()
    assert {name: row["wrong"] for name, row in ROWS.items() if not row["ok"]} == {}


@EVERY_ROW_RAN
def test_rows_that_export_ran_all_of_its_tests():
    for row in versions.ROWS:
        if row.export:
            tests = ROWS[row.name]["tests"]
            assert tests["passed"] > 250, row.name
            assert tests.get("skipped", 0) == 0, row.name


def test_the_page_has_every_row():
    text = versions.tables(RESULT)
    titles = [line.split(":")[0][2:] for line in text.splitlines() if line.endswith("| ok |")]
    assert titles == [row.name for row in versions.ROWS if row.name in ROWS]


def test_tests_that_are_not_there_are_said_before_anything_is_installed():
    versions.require_tests(versions.ROWS)
    lost = versions.Row("x", "3.13", "", tests=("export", "export/gone.py"))
    with pytest.raises(SystemExit, match=r"tests/export/gone\.py of the rows in versions\.py: not there"):
        versions.require_tests([lost])


def test_what_pytest_prints_is_read():
    assert versions.outcome("...\n3 passed, 2 skipped in 1s", "", 0, export=False) == {
        "passed": 3, "skipped": 2, "which": [],
    }  # fmt: skip
    skipped = "SKIPPED [1] a.py:3: could not import 'x'\n3 passed, 1 skipped in 1s"
    assert versions.outcome(skipped, "", 0, export=True)["which"] == ["SKIPPED [1] a.py:3: could not import 'x'"]
    failed = "FAILED ../../work/tests/export/test_x.py::test_y - E\n1 failed, 2 passed in 1s"
    assert versions.outcome(failed, "", 1, export=True)["which"] == ["export/test_x.py::test_y"]
    assert versions.outcome("no tests ran in 1s", "", 5, export=True)["which"] == ["no tests ran in 1s"]
    assert versions.outcome("2 skipped in 1s", "", 0, export=False)["which"] == ["2 skipped in 1s"]


def test_what_differs_is_counted():
    labels = {"Smiling": ["yes", 0.9], "Bald": ["no", 0.1]}
    one = {"a": [{"labels": labels, "answers": ["Yes.", "No."]}], "b": []}
    other = {
        "a": [{"labels": {"Smiling": ["unsure", 0.85], "Bald": ["no", 0.1]}, "answers": ["Yes.", "I am not sure."]}],
        "b": [{"labels": labels, "answers": ["Yes.", "No."]}],
    }
    assert versions.differences(one, one) == {
        "faces": 0, "labels": 2, "states": 0, "doubts": 0, "answers": 0, "probability": 0,
    }  # fmt: skip
    assert versions.differences(one, other) == {
        "faces": 1, "labels": 2, "states": 1, "doubts": 0, "answers": 1, "probability": 0.05,
    }  # fmt: skip
    row = {
        "faces": other, "doctor": {"OpenCV": "ok", "versions": "fail"}, "fit": {"estimate": 120, "peak": 100},
        "tests": {"which": ["test_x.py::test_y"]},
    }  # fmt: skip
    assert versions.judged(row, one)["wrong"] == [
        "doctor: versions", "1 faces differ", "1 states differ", "1 answers differ", "probabilities differ by 0.05",
        "fit is off by +20%", "test_x.py::test_y",
    ]  # fmt: skip
    assert versions.judged({"name": "x", "error": "no Python 3.10 here"}, one)["ok"] is False


def test_a_doubt_is_none_only_where_a_bound_lies_between():
    """OpenCV 4 and 5 resize otherwise: blond hair at 0.05 and at 0.0544, with a bound at 0.0533."""
    low, _ = next(c.unsure for c in Bundle.open("nano").manifest.characteristics if c.name == "Blond_Hair")

    def counts(state: str, p: float, other: str, q: float) -> tuple[int, int]:
        one, two = ({"a": [{"labels": {"Blond_Hair": [s, x]}, "answers": []}]} for s, x in ((state, p), (other, q)))
        found = versions.differences(one, two)
        return found["states"], found["doubts"]

    assert counts("no", low - 0.002, "unsure", low + 0.002) == (0, 1)
    assert counts("unsure", low + 0.002, "no", low - 0.002) == (0, 1)
    assert counts("no", low + 0.1, "unsure", low + 0.11) == (1, 0)
    assert counts("no", low - 0.002, "yes", low + 0.002) == (1, 0)
    assert counts("no", low - 0.002, "not visible", low + 0.002) == (1, 0)
