#!/usr/bin/env python3
"""Makes a wheel of llama-cpp-python with CUDA for a Jetson, in NVIDIA's container, so that no board compiles it.

    python deploy/jetson/cuda_wheel.py orin --out DIR             JetPack 6.2: CUDA 12.6, sm_87
    python deploy/jetson/cuda_wheel.py orin-jetpack7 --out DIR    JetPack 7.2: CUDA 13, sm_87
    python deploy/jetson/cuda_wheel.py thor --out DIR             JetPack 7: CUDA 13, sm_110

It needs docker or podman, and an aarch64 machine: another Jetson, an Arm server, or an x86-64 machine that emulates
one, where it takes hours. No GPU and no driver. The wheel runs on every Python 3, on that JetPack only: it links CUDA's
libraries of this major version. A folder for each: wheels of all boards have one and the same name.

not run on hardware
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The kernel's list of emulated machines.
EMULATED = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")


@dataclass(frozen=True, slots=True)
class Board:
    """sm: compute capability of its GPU. cuda: major version. image: has nvcc of that CUDA. cpu: for GCC's -march."""

    sm: int
    cuda: int
    image: str
    cpu: str


#: NVIDIA's L4T images end with r36.4; from JetPack 7 on its images for Arm servers are a Jetson's too. nvcc 13.0 has
#: both GPUs (nvcc --list-gpu-arch), and what it makes runs with the CUDA 13 of every JetPack 7. Before CUDA 13 Thor was
#: sm_101.
BOARDS = {
    "orin": Board(87, 12, "nvcr.io/nvidia/l4t-jetpack:r36.4.0", "armv8.2-a+dotprod+fp16"),
    "orin-jetpack7": Board(87, 13, "nvcr.io/nvidia/cuda:13.0.0-devel-ubuntu24.04", "armv8.2-a+dotprod+fp16"),
    "thor": Board(110, 13, "nvcr.io/nvidia/cuda:13.0.0-devel-ubuntu24.04", "armv8.2-a+dotprod+fp16"),
}
#: Run in the container, with REQUIREMENT, SM and OWNER set. The GPU code is looked at before anything is given out.
SCRIPT = """\
apt-get update -qq
apt-get install -y -qq --no-install-recommends build-essential python3-dev python3-venv
python3 -m venv /venv
/venv/bin/python -m pip install --quiet --upgrade pip
/venv/bin/python -m pip wheel --no-cache-dir --no-deps --no-binary llama-cpp-python --wheel-dir /made "$REQUIREMENT"
python3 -m zipfile -e /made/llama_cpp_python-*.whl /unpacked
library=$(find /unpacked -name 'libggml-cuda.so*' | head -1)
test -n "$library" || { echo "the wheel has no libggml-cuda.so: it was built for the CPU"; exit 1; }
/usr/local/cuda/bin/cuobjdump --list-elf "$library" | grep -q "sm_$SM" || { echo "no code for sm_$SM in it"; exit 1; }
cp /made/llama_cpp_python-*.whl /out/
chown "$OWNER" /out/llama_cpp_python-*.whl
"""


class WheelError(Exception):
    """What was found, what was expected, what to do."""


def requirement() -> str:
    """llama-cpp-python with the versions that pyproject.toml asks for."""
    found = re.search(r'"(llama-cpp-python[^"]*)"', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise WheelError(f"{ROOT / 'pyproject.toml'} names no llama-cpp-python: give --requirement")
    return found[1]


def cmake_args(board: Board) -> str:
    """For a GPU and a CPU that are not here. NO_VMM: ggml would reserve 32 GB of addresses, which fails on boards with
    8 GB; LLAVA_BUILD: llama.cpp's own vision is not used."""
    options = {
        "GGML_CUDA": "on",
        "GGML_CUDA_NO_VMM": "on",
        "CMAKE_CUDA_ARCHITECTURES": str(board.sm),
        "GGML_NATIVE": "off",
        "GGML_CPU_ARM_ARCH": board.cpu,
        "LLAVA_BUILD": "off",
    }
    return " ".join(f"-D{name}={value}" for name, value in options.items())


def command(engine: str, board: Board, out: Path, *, asked: str, jobs: int) -> list[str]:
    """What is run: one container, which is gone afterwards."""
    environment = {
        "CMAKE_ARGS": cmake_args(board),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        "CUDACXX": "/usr/local/cuda/bin/nvcc",
        "DEBIAN_FRONTEND": "noninteractive",
        "OWNER": f"{os.getuid()}:{os.getgid()}",
        "REQUIREMENT": asked,
        "SM": str(board.sm),
    }
    words = [engine, "run", "--rm", "--platform", "linux/arm64", "--volume", f"{out}:/out"]
    words += [w for name, value in environment.items() for w in ("--env", f"{name}={value}")]
    return [*words, "--entrypoint", "/bin/bash", board.image, "-euc", SCRIPT]


def engine(chosen: str | None) -> str:
    """Docker or podman. Raises WheelError where there is none."""
    names = [chosen] if chosen else ["docker", "podman"]
    if found := next((name for name in names if shutil.which(name)), None):
        return found
    raise WheelError(f"{' and '.join(names)} not found: install Docker (docs.docker.com/engine) or podman")


def require_arm(machine: str, emulated: Path = EMULATED) -> None:
    """Raises WheelError where a container for Arm cannot run."""
    if machine in ("aarch64", "arm64") or emulated.exists():
        return
    raise WheelError(
        f"this machine is {machine}: expected aarch64, or one that emulates it (apt-get install qemu-user-static "
        "binfmt-support; the build takes hours then)"
    )


def empty_folder(path: Path) -> Path:
    """The folder, made. Raises WheelError where it is none, or holds a wheel already."""
    if path.exists() and not path.is_dir():
        raise WheelError(f"--out {path} is a file: expected a folder")
    if there := sorted(path.glob("llama_cpp_python-*.whl")):
        raise WheelError(f"{there[0]} is there already, and its name does not say for which board: use an empty folder")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def check(wheel: Path) -> None:
    """Raises WheelError for a wheel that is not for Arm, or has no CUDA in it."""
    if not wheel.name.endswith("-py3-none-linux_aarch64.whl"):
        raise WheelError(f"{wheel.name}: expected a wheel for py3-none-linux_aarch64")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if not any(Path(name).name.startswith("libggml-cuda.so") for name in names):
        raise WheelError(f"{wheel.name} has no libggml-cuda.so: it was built for the CPU")


def build(out: Path, program: str, board: Board, *, asked: str, jobs: int) -> Path:
    """The wheel in `out`. It comes there whole and checked, or not at all. Raises WheelError."""
    with tempfile.TemporaryDirectory(dir=out) as made:
        done = subprocess.run(command(program, board, Path(made), asked=asked, jobs=jobs), check=False)
        if done.returncode:
            raise WheelError(f"{program} ended with exit code {done.returncode}; its messages are above")
        wheels = list(Path(made).glob("*.whl"))
        if len(wheels) != 1:
            raise WheelError(f"expected one wheel, found {[w.name for w in wheels]}")
        check(wheels[0])
        return wheels[0].rename(out / wheels[0].name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", choices=BOARDS, help="and its JetPack")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the wheel is put")
    parser.add_argument("--requirement", help="of llama-cpp-python (what pyproject.toml asks for)")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time (2): one takes 2 GB and more")
    parser.add_argument("--engine", help="docker or podman (the first that is installed)")
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    args = parser.parse_args()
    board = BOARDS[args.board]
    try:
        asked = args.requirement or requirement()
        if args.jobs < 1:
            raise WheelError(f"--jobs {args.jobs}: expected at least 1")
        if args.dry_run:
            words = command(args.engine or "docker", board, args.out.absolute(), asked=asked, jobs=args.jobs)
            print(shlex.join(words))
            return
        require_arm(platform.machine())
        program, out = engine(args.engine), empty_folder(args.out)
        print(build(out, program, board, asked=asked, jobs=args.jobs))
    except WheelError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
