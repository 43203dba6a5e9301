"""The wheel recipe and the emulation for 64-bit Arm, as far as they run without emulating anything."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import arm_root
import emulate
import llama_wheel
import pytest
import selection
from llama_wheel import WheelError
from paths import ROOT
from stubs import library, needs_cc

ARM, X86 = "aarch64", "x86_64"


def program(folder: Path, name: str, script: str) -> str:
    """A program that stands in for another."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def readelf(folder: Path, *symbols: str, machine: str = "AArch64") -> str:
    """A readelf that reports these versions of symbols for whatever it is asked about."""
    lines = "\n".join(f"  0x0010:   Name: {s}  Flags: none  Version: 2" for s in symbols)
    return program(folder, "readelf", f"cat <<'END'\n  Machine:   {machine}\n{lines}\nEND")


def wheel(folder: Path, *names: str, tag: str = "py3-none-linux_aarch64") -> Path:
    path = folder / f"llama_cpp_python-0.3.36-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names or ("llama_cpp/lib/libllama.so",):
            archive.writestr(name, b"")
    return path


# The wheel of llama-cpp-python


def test_the_wheel_is_of_the_versions_that_the_package_asks_for():
    assert llama_wheel.requirement() in (ROOT / "pyproject.toml").read_text()
    assert llama_wheel.requirement().startswith("llama-cpp-python>=")


def test_a_missing_compiler_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_wheel.shutil, "which", lambda name: name if name.endswith("gcc") else None)
    with pytest.raises(WheelError, match=r"g\+\+, aarch64-linux-gnu-readelf not found: apt-get install g\+\+-aarch64"):
        llama_wheel.tools(X86)
    with pytest.raises(WheelError, match=r"g\+\+, readelf not found: apt-get install g\+\+$"):
        llama_wheel.tools(ARM)
    with pytest.raises(WheelError, match="this machine is riscv64: expected x86_64"):
        llama_wheel.tools("riscv64")


def test_a_compiler_that_does_not_know_the_cpu_is_given_its_instructions(tmp_path: Path):
    knows = program(tmp_path, "new-gcc", "exit 0")
    older = program(tmp_path, "old-gcc", "echo 'unknown value for -mcpu' >&2; exit 1")
    assert llama_wheel.cpu_flag(knows, "cortex-a78ae") == "-mcpu=cortex-a78ae"
    assert llama_wheel.cpu_flag(older, "cortex-a78ae") == "-march=armv8.2-a+dotprod+fp16"
    with pytest.raises(WheelError, match=r"refuses --cpu a-typo \(unknown value for -mcpu\)"):
        llama_wheel.cpu_flag(older, "a-typo")


def test_what_the_build_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CMAKE_ARGS", "-DCMAKE_CXX_FLAGS=-march=native")
    monkeypatch.setenv("CXXFLAGS", "-march=native")
    cross = llama_wheel.environment("c", "c++", "-mcpu=cortex-a78ae", machine=X86, jobs=3)
    arguments = cross["CMAKE_ARGS"].split()
    assert {"-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_COMPILER=c++", "-DGGML_NATIVE=OFF"} <= set(arguments)
    assert "-DCMAKE_CXX_FLAGS=-mcpu=cortex-a78ae" in arguments
    assert cross["_PYTHON_HOST_PLATFORM"] == "linux-aarch64"
    assert cross["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert "native" not in cross["CMAKE_ARGS"]
    assert "CXXFLAGS" not in cross
    native = llama_wheel.environment("gcc", "g++", "-mcpu=cortex-a78ae", machine=ARM, jobs=3)
    assert "CMAKE_SYSTEM_NAME" not in native["CMAKE_ARGS"]
    assert "_PYTHON_HOST_PLATFORM" not in native


def test_a_wheel_that_loads_on_the_device_is_taken(tmp_path: Path):
    tool = readelf(tmp_path, "GLIBC_2.17", "GLIBC_2.34", "GLIBCXX_3.4.30", "GOMP_4.0")
    needs = llama_wheel.check(wheel(tmp_path), tool)
    assert needs == {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 30), "GOMP": (4, 0)}


@pytest.mark.parametrize(
    ("symbols", "what"),
    [
        (("GLIBC_2.36",), r"GLIBC 2\.36 \(expected at most 2\.35\)"),
        (("GLIBC_2.4", "GLIBCXX_3.4.31"), r"GLIBCXX 3\.4\.31 \(expected at most 3\.4\.30\)"),
    ],
)
def test_a_wheel_for_a_newer_system_is_refused(tmp_path: Path, symbols: tuple[str, ...], what: str):
    with pytest.raises(WheelError, match=what):
        llama_wheel.check(wheel(tmp_path), readelf(tmp_path, *symbols))


def test_a_wheel_of_another_kind_is_refused(tmp_path: Path):
    tool = readelf(tmp_path, "GLIBC_2.17")
    with pytest.raises(WheelError, match="expected a wheel for py3-none-linux_aarch64"):
        llama_wheel.check(wheel(tmp_path, tag="py3-none-linux_x86_64"), tool)
    with pytest.raises(WheelError, match=r"has no libllama\.so"):
        llama_wheel.check(wheel(tmp_path, "llama_cpp/__init__.py"), tool)


@needs_cc
@pytest.mark.skipif(
    platform.machine() != X86 or not shutil.which("readelf"), reason="needs a library that is not Arm's"
)
def test_a_library_of_this_machine_is_not_taken_for_one_of_arm(tmp_path: Path):
    path = wheel(tmp_path, "llama_cpp/__init__.py")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(library(tmp_path / "libllama.so", "int answer(void) { return 42; }"), "llama_cpp/lib/libllama.so")
    with pytest.raises(WheelError, match="is not for AArch64"):
        llama_wheel.check(path, "readelf")


@pytest.fixture
def compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"):
        program(folder, name, "exit 0")
    shutil.move(readelf(tmp_path, "GLIBC_2.34"), folder / "aarch64-linux-gnu-readelf")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, compilers: None):
    out = tmp_path / "out"
    with pytest.raises(WheelError, match="pip wheel"):
        llama_wheel.build(out, cpu="cortex-a78ae", asked=str(tmp_path / "no-sources"), jobs=1, machine=X86)
    assert list(out.iterdir()) == []


def test_a_wheel_that_is_there_is_left_as_it_is(tmp_path: Path, compilers: None):
    there = wheel(tmp_path)
    arguments = {"cpu": "cortex-a78ae", "asked": str(tmp_path / "no-sources"), "jobs": 1, "machine": X86}
    assert llama_wheel.build(tmp_path, **arguments) == there


# The emulation


def test_what_runs_on_arm_exists():
    assert selection.faults(ROOT) == []


@pytest.mark.parametrize(
    ("tests", "left_out", "fault"),
    [
        (("tests/gone",), {}, "tests/gone does not exist"),
        (("tests/project",), {"tests/project/test_arm64.py::test_gone": "why"}, "test_gone does not exist"),
        (("tests/project",), {"tests/project/test_arm64.py::test_what_runs_on_arm_exists": ""}, "without a reason"),
        (("tests/models",), {"tests/project/test_arm64.py::test_what_runs_on_arm_exists": "x"}, "does not run anyway"),
    ],
)
def test_a_selection_that_is_out_of_date_is_found(tests: tuple[str, ...], left_out: dict[str, str], fault: str):
    (found,) = selection.faults(ROOT, tests, left_out)
    assert fault in found


def test_what_is_left_out_is_told_to_pytest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "LEFT_OUT", {"tests/a.py::test_b": "why"})
    assert selection.arguments()[-2:] == ["--deselect", "tests/a.py::test_b"]


@pytest.mark.parametrize(
    ("machine", "root", "tools", "words"),
    [
        (ARM, True, True, "run `make test`"),
        ("ppc64le", True, True, "expected Linux on x86_64"),
        (X86, False, True, "need root"),
        (X86, True, False, "apt-get install -y --no-install-recommends crossbuild-essential-arm64 debootstrap"),
    ],
)
def test_a_machine_that_cannot_emulate_is_told_why(
    monkeypatch: pytest.MonkeyPatch, machine: str, root: bool, tools: bool, words: str
):
    monkeypatch.setattr(arm_root.platform, "system", lambda: "Linux")
    monkeypatch.setattr(arm_root.platform, "machine", lambda: machine)
    monkeypatch.setattr(arm_root.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(arm_root.shutil, "which", lambda name: name if tools else None)
    with pytest.raises(arm_root.SetupError, match=re.escape(words)):
        arm_root.check_host()


def test_the_kernel_is_told_once(tmp_path: Path):
    handler, register = tmp_path / "qemu.conf", tmp_path / "register"
    handler.write_text(":qemu-aarch64:M::magic:mask:/usr/bin/qemu:OPF\n")
    register.touch()
    arm_root.register(tmp_path, handler)
    assert register.read_text() == handler.read_text()
    (tmp_path / "qemu-aarch64").write_text("enabled\ninterpreter /usr/bin/qemu\nflags: POF\n")
    register.write_text("")
    arm_root.register(tmp_path, handler)
    assert register.read_text() == ""
    (tmp_path / "qemu-aarch64").write_text("enabled\ninterpreter /usr/bin/qemu\nflags: OC\n")
    with pytest.raises(arm_root.SetupError, match="lacks the flag F"):
        arm_root.register(tmp_path, handler)


class Arm:
    """Stands in for the Arm root: what each program prints, and how it ends."""

    def __init__(self, printed: str, code: int = 0) -> None:
        self.printed, self.code, self.commands = printed, code, []

    def run(self, command: list[str]) -> tuple[int, str]:
        self.commands.append(command)
        return self.code, self.printed


def shown() -> str:
    return "\n".join(block for page in emulate.PAGES for block in emulate.blocks((ROOT / page).read_text()))


def test_answers_are_held_against_those_of_the_docs(monkeypatch: pytest.MonkeyPatch):
    arm = Arm(shown())
    assert emulate.demo(arm) == []
    (command,) = arm.commands
    makefile = (ROOT / "Makefile").read_text()
    asked = re.findall(r'"([^"]+)"', makefile.partition("\ndemo:")[2].partition("faceinsight report")[0])
    assert asked
    assert set(asked) <= set(command)
    (wrong,) = emulate.demo(Arm(shown().replace("Yes, the person is smiling.", "No, the person is not smiling.")))
    assert (
        wrong
        == "Is she smiling?: the docs say 'Yes, the person is smiling.', Arm says 'No, the person is not smiling.'"
    )
    monkeypatch.setattr(emulate, "PAGES", ("CONTRIBUTING.md",))
    assert emulate.demo(arm) == ["CONTRIBUTING.md shows no questions and answers"]


def test_what_fails_on_arm_is_said():
    assert emulate.doctor(Arm("")) == []
    assert emulate.doctor(Arm("", 1)) == ["the doctor ended with 1"]
    assert emulate.tests(Arm("", 4)) == ["pytest ended with 4"]


def test_the_workflow_brings_the_tools():
    text = (ROOT / ".github/workflows/arm64-emulated.yml").read_text()
    words = set(re.findall(r"[\w-]+", text.partition("apt-get install")[2].partition("- uses")[0]))
    assert set(arm_root.TOOLS.values()) - words == {"util-linux", "dpkg"}  # Debian always has these
    assert f"debian:{arm_root.SUITE}" in text
    assert "make test-arm64" in text


def test_the_scripts_say_what_they_do():
    for script in ("deploy/arm64/llama_wheel.py", "tests/arm64/emulate.py"):
        done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
        assert f"python {script}" in done.stdout
