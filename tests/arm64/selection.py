"""Which tests run on emulated Arm, and which of those are left out, each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

#: What touches native libraries, files of the system or child processes. The rest is plain Python, needs PyTorch, or a
#: browser and sockets for many minutes; `make test` runs it all on a real machine.
TESTS = (
    "tests/runtime/perception",
    "tests/runtime/bundle",
    "tests/runtime/diagnostics",
    "tests/runtime/host/test_child.py",
    "tests/runtime/host/test_machine.py",
    "tests/runtime/backends/test_device.py",
    "tests/runtime/backends/test_threads.py",
    "tests/runtime/cli/test_cli.py",
    "tests/runtime/language/test_prefix.py",
    "tests/runtime/test_insight.py",
)
#: By pytest's marker: what each needs is not there.
MARKERS = "not gpu and not data and not nvidia"
MEMORY = "resident memory counts qemu and the code that it translates, too"
#: Test -> why it cannot pass here.
LEFT_OUT: Mapping[str, str] = {
    "tests/runtime/perception/test_resample.py::test_equals_transformers": "transformers and PyTorch are not installed",
    "tests/runtime/perception/test_image.py::test_a_lack_of_memory_is_not_the_pictures_fault": (
        "qemu does not limit a program's addresses (RLIMIT_AS)"
    ),
    "tests/runtime/diagnostics/test_fit.py::test_estimate_is_within_15_percent_on_nano": MEMORY,
    "tests/runtime/diagnostics/test_fit.py::test_estimate_is_within_15_percent_on_a_larger_llm": MEMORY,
    "tests/runtime/diagnostics/test_fit.py::test_loading_a_graph_takes_what_is_said": MEMORY,
}


def faults(root: Path, tests: tuple[str, ...] = TESTS, left_out: Mapping[str, str] = LEFT_OUT) -> list[str]:
    """Paths and tests that do not exist, and left-out tests without a reason or outside of what runs."""
    wrong = [f"{path} does not exist" for path in tests if not (root / path).exists()]
    for test, reason in left_out.items():
        path, _, name = test.partition("::")
        if not reason:
            wrong.append(f"{test} is left out without a reason")
        if not any(path == chosen or path.startswith(f"{chosen}/") for chosen in tests):
            wrong.append(f"{test} is left out of what does not run anyway")
        if name.partition("[")[0] not in _functions(root / path):
            wrong.append(f"{test} does not exist")
    return wrong


def _functions(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def arguments() -> list[str]:
    """Of pytest."""
    return ["-m", MARKERS, *TESTS, *(word for test in LEFT_OUT for word in ("--deselect", test))]
