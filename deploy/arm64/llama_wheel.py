#!/usr/bin/env python3
"""Makes a wheel of llama-cpp-python for 64-bit Arm, so that nothing is compiled on the device. For the CPU.

    python deploy/arm64/llama_wheel.py --out DIR                     for the Jetson Orin's cores, Cortex-A78AE
    python deploy/arm64/llama_wheel.py --out DIR --cpu cortex-a76    for others: GCC's name of them

On x86-64 it cross-compiles, for 4 to 10 minutes on two cores; on Arm it compiles natively. It needs the compiler and
readelf (on Debian and Ubuntu: `apt-get install gcc-aarch64-linux-gnu g++-aarch64-linux-gnu`, on Arm `build-essential`),
and pip with a package index, or the sources in --requirement. The wheel runs on every Python 3, on this CPU and newer
ones of its kind, with glibc 2.35 or newer (JetPack 6.2, Ubuntu 22.04), and needs libgomp1. A wheel that would not load
there is refused. One that is in DIR already is left as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPU = "cortex-a78ae"
#: What a compiler that does not know the CPU is given: its instructions, without the order of its pipelines.
ARCHITECTURE = "armv8.2-a+dotprod+fp16"
#: The oldest systems that it must load on have these: JetPack 6.2, which is Ubuntu 22.04.
NEWEST = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GOMP": (5, 0)}
#: What llama.cpp is built without: the flags of the machine that compiles, and programs that nobody calls.
OFF = ("GGML_NATIVE", "LLAVA_BUILD")
PREFIX = "aarch64-linux-gnu-"


class WheelError(Exception):
    """What was found, what was expected, what to do."""


def requirement() -> str:
    """llama-cpp-python with the versions that pyproject.toml asks for."""
    found = re.search(r'"(llama-cpp-python[^"]*)"', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise WheelError(f"{ROOT / 'pyproject.toml'} names no llama-cpp-python: give --requirement")
    return found[1]


def tools(machine: str) -> tuple[str, str, str]:
    """Names of the C and C++ compilers and of readelf, for this machine. Raises WheelError."""
    if machine not in ("aarch64", "x86_64"):
        raise WheelError(f"this machine is {machine}: expected x86_64, or aarch64 itself")
    prefix = "" if machine == "aarch64" else PREFIX
    names = tuple(prefix + name for name in ("gcc", "g++", "readelf"))
    if missing := [name for name in names if shutil.which(name) is None]:
        packages = f"g++{'' if machine == 'aarch64' else '-aarch64-linux-gnu'}"
        raise WheelError(f"{', '.join(missing)} not found: apt-get install {packages}")
    return names[0], names[1], names[2]


def cpu_flag(compiler: str, cpu: str) -> str:
    """How the compiler is told the CPU: by its name, or, if it does not know it, by the instructions it has.

    Raises:
        WheelError: another CPU than the Orin's, and the compiler does not know it.
    """
    known = subprocess.run(
        [compiler, f"-mcpu={cpu}", "-x", "c", "-E", os.devnull], capture_output=True, text=True, check=False
    )
    if known.returncode == 0:
        return f"-mcpu={cpu}"
    if cpu != CPU:
        said = known.stderr.strip().splitlines() or ["without a word"]
        raise WheelError(f"{compiler} refuses --cpu {cpu} ({said[0]}): expected one that it knows, such as {CPU}")
    return f"-march={ARCHITECTURE}"


def environment(cc: str, cxx: str, flag: str, *, machine: str, jobs: int) -> dict[str, str]:
    """What pip and CMake read."""
    options = {"CMAKE_C_FLAGS": flag, "CMAKE_CXX_FLAGS": flag, **dict.fromkeys(OFF, "OFF")}
    said = {"CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)}
    if machine != "aarch64":
        options |= {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64"}
        options |= {"CMAKE_C_COMPILER": cc, "CMAKE_CXX_COMPILER": cxx}
        # pip does not cross-compile: scikit-build-core writes this name into the wheel's tag.
        said["_PYTHON_HOST_PLATFORM"] = "linux-aarch64"
    said["CMAKE_ARGS"] = " ".join(f"-D{name}={shlex.quote(value)}" for name, value in options.items())
    return {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "CXXFLAGS", "LDFLAGS")} | said


def check(wheel: Path, readelf: str) -> dict[str, tuple[int, ...]]:
    """The newest symbol versions that its libraries ask for. Raises WheelError where it would not load there."""
    if not wheel.name.endswith("-py3-none-linux_aarch64.whl"):
        raise WheelError(f"{wheel.name}: expected a wheel for py3-none-linux_aarch64; is scikit-build-core older?")
    newest: dict[str, tuple[int, ...]] = {}
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        libraries = [n for n in archive.namelist() if ".so" in Path(n).name]
        if not any(Path(n).name.startswith("libllama.so") for n in libraries):
            raise WheelError(f"{wheel.name} has no libllama.so: expected llama.cpp's libraries, found {libraries}")
        for name in libraries:
            said = _readelf(readelf, Path(archive.extract(name, folder)))
            if "AArch64" not in said:
                raise WheelError(f"{name} in {wheel.name} is not for AArch64: was it built by the cross compiler?")
            for what, version in re.findall(r"Name: (GLIBCXX|GLIBC|CXXABI|GOMP)_([\d.]+)", said):
                newest[what] = max(newest.get(what, ()), tuple(map(int, version.split("."))))
    if late := {what: v for what, v in newest.items() if v > NEWEST[what]}:
        text = ", ".join(f"{what} {_dotted(v)} (expected at most {_dotted(NEWEST[what])})" for what, v in late.items())
        raise WheelError(f"{wheel.name} asks for {text}: build it on Debian 12, Ubuntu 22.04, or the device")
    return newest


def _readelf(readelf: str, library: Path) -> str:
    command = [readelf, "--wide", "--file-header", "--version-info", str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"}).stdout


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def build(out: Path, *, cpu: str, asked: str, jobs: int, machine: str) -> Path:
    """The wheel in `out`, made or found. Raises WheelError."""
    cc, cxx, readelf = tools(machine)
    flag = cpu_flag(cc, cpu)
    out.mkdir(parents=True, exist_ok=True)
    if there := sorted(out.glob("llama_cpp_python-*.whl")):
        print(f"{there[-1]} is there already")
        check(there[-1], readelf)
        return there[-1]
    print(f"{asked} with {cc} {flag}, {jobs} jobs", flush=True)
    # A wheel appears in `out` when it is whole and checked. Without a cache: pip would keep it as one for this machine.
    with tempfile.TemporaryDirectory(dir=out) as made:
        command = [sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", made]
        command += ["--no-binary", "llama-cpp-python", asked]
        done = subprocess.run(
            command,
            env=environment(cc, cxx, flag, machine=machine, jobs=jobs),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise WheelError(f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        (wheel,) = Path(made).glob("*.whl")
        needs = check(wheel, readelf)
        print("needs " + ", ".join(f"{what} {_dotted(v)}" for what, v in sorted(needs.items())))
        return wheel.rename(out / wheel.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the wheel is put")
    parser.add_argument("--cpu", default=CPU, help=f"GCC's name of the CPU ({CPU})")
    parser.add_argument("--requirement", help="of llama-cpp-python, or its sources (what pyproject.toml asks for)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time (one per core)")
    args = parser.parse_args()
    try:
        asked = args.requirement or requirement()
        print(build(args.out, cpu=args.cpu, asked=asked, jobs=args.jobs, machine=platform.machine()))
    except WheelError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
