"""FaceInsight on emulated 64-bit Arm: `make test-arm64`.

    python tests/arm64/emulate.py                        everything: 25 minutes on two idle cores, 6 of them once
    python tests/arm64/emulate.py --only doctor demo     some checks
    python tests/arm64/emulate.py -- faceinsight info    a command in it

From a bare Debian on x86-64, as root: an Arm root of Debian's packages, llama-cpp-python cross-compiled
(deploy/arm64/llama_wheel.py), the product's wheel and its dependencies installed by this machine's pip; then, emulated,
the doctor, the questions of README and docs/start.md, the tests of selection.py, and the comparison of
benchmarks/quality/platform_parity.py with this machine. The root and llama.cpp's wheel stay in --work (0.7 GB) and are
used again. Emulation says nothing of speed, of CUDA, or of races that only Arm's memory model shows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import selection
from arm_root import GLIBC_MINOR, PYTHON, SUITE, ArmRoot, SetupError, called, check_host, cpu, register

ROOT = Path(__file__).resolve().parents[2]
PARITY = "benchmarks/quality/platform_parity.py"
#: Pages with answers to questions about the photo.
PAGES = ("README.md", "docs/start.md")
PHOTO = "tests/data/astronaut.png"
#: The same versions as here, so that only the machine differs.
SAME = ("numpy", "opencv-python-headless", "onnxruntime", "llama-cpp-python")
#: What the tests need beside pytest.
TEST_PACKAGES = ("pytest>=8", "onnx>=1.19", "gguf>=0.18", "pillow>=9")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print what is done, and how long it took."""
    began = time.monotonic()
    print(f"== {name} ...", flush=True)
    yield
    print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)


def prepare(arm: ArmRoot, mirror: str | None) -> None:
    """Everything up to the first emulated program. Raises SetupError."""
    check_host()
    if wrong := selection.faults(ROOT):
        raise SetupError("tests/arm64/selection.py is wrong: " + "; ".join(wrong))
    with step("register qemu"):
        register()
    with step("Arm root"):
        print("unpacked" if arm.unpack(mirror or apt_mirror()) else "is there already")
    with step("llama-cpp-python for Arm"):
        subprocess.run([sys.executable, str(ROOT / "deploy/arm64/llama_wheel.py"), "--out", str(llama(arm)),
                        "--requirement", f"llama-cpp-python=={importlib.metadata.version('llama-cpp-python')}"],
                       check=True)  # fmt: skip
    with step("install"):
        install(arm)


def apt_mirror() -> str | None:
    """Where this machine's apt gets that Debian from; None: debootstrap knows one."""
    if shutil.which("apt-get") is None:
        return None
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return found[0] if found else None


def llama(arm: ArmRoot) -> Path:
    """The folder of llama-cpp-python's wheel: one for each version."""
    return arm.folder / "llama" / importlib.metadata.version("llama-cpp-python")


def install(arm: ArmRoot) -> None:
    """The dependencies if they changed, and the product's wheel as it is now. Raises SetupError."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in SAME]
    done = arm.root / ".installed"
    if not done.exists() or done.read_text() != "\n".join([*pins, *TEST_PACKAGES]):
        done.unlink(missing_ok=True)
        shutil.rmtree(arm.site, ignore_errors=True)
        platforms = [
            "linux_aarch64",
            *(f"manylinux_2_{n}_aarch64" for n in range(17, GLIBC_MINOR + 1)),
            "manylinux2014_aarch64",
        ]
        options = ["--no-compile", "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
        options += [word for name in platforms for word in ("--platform", name)]
        # No cache: pip would offer the Arm wheel to this machine.
        options += ["--no-cache-dir", "--target", str(arm.site), "--find-links", str(llama(arm))]
        called([*pip, "install", *options, *pins, *TEST_PACKAGES])
        done.write_text("\n".join([*pins, *TEST_PACKAGES]))
    wheels = arm.folder / "product"
    shutil.rmtree(wheels, ignore_errors=True)
    called([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)])
    (wheel,) = wheels.glob("faceinsight-*.whl")
    for old in arm.site.glob("faceinsight*"):
        shutil.rmtree(old)
    called([*pip, "install", "--no-compile", "--no-deps", "--upgrade", "--target", str(arm.site), str(wheel)])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheels / "unpacked")
    program = arm.root / "usr/local/bin/faceinsight"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/usr/bin/python3\nimport sys\nfrom faceinsight.cli.entry import main\nsys.exit(main())\n")
    program.chmod(0o755)


def blocks(page: str) -> list[str]:
    """What a page shows as printed by a program."""
    return re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def answers(text: str) -> dict[str, str]:
    """Question -> answer, of lines like "> Is she smiling?" with the answer under each."""
    return {q.strip(): a.strip() for q, a in re.findall(r"^> (.+\?|.+\.)\n(.+)$", text, re.MULTILINE)}


def doctor(arm: ArmRoot) -> list[str]:
    """It must find nothing that fails."""
    code, _ = arm.run(["faceinsight", "doctor"])
    return [f"the doctor ended with {code}"] if code else []


def demo(arm: ArmRoot) -> list[str]:
    """Every answer that the pages show must be the one that is given here."""
    expected: dict[str, str] = {}
    for page in PAGES:
        shown = answers("\n".join(blocks((ROOT / page).read_text())))
        if not shown:
            return [f"{page} shows no questions and answers"]
        expected |= shown
    found = answers(arm.run(["faceinsight", "ask", f"/src/{PHOTO}", *expected])[1])
    return [f"{q}: the docs say {a!r}, Arm says {found.get(q)!r}" for q, a in expected.items() if found.get(q) != a]


def tests(arm: ArmRoot) -> list[str]:
    """Those of selection.py, on the installed wheel."""
    for test, reason in selection.LEFT_OUT.items():
        print(f"left out: {test}: {reason}")
    command = [
        "python3",
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "-rfEs",
        "--durations=10",
        *selection.arguments(),
    ]
    code, _ = arm.run(["sh", "-c", f"cd /src && {shlex.join(command)}"])
    return [f"pytest ended with {code}"] if code else []


def parity(arm: ArmRoot) -> list[str]:
    """The same pictures here and there, with one and the same wheel."""
    here, there, both = (arm.shared / f"parity-{name}.json" for name in ("x86_64", "aarch64", "both"))
    unpacked = os.environ | {"PYTHONPATH": str(arm.folder / "product" / "unpacked")}

    def run_here(*arguments: str) -> int:
        return subprocess.run([sys.executable, str(ROOT / PARITY), *arguments], env=unpacked, check=False).returncode

    if run_here("record", "--out", str(here)):
        return ["this machine could not answer"]
    version = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"version ([\d.]+)", version)
    note = f"emulated: qemu {number[1] if number else 'of unknown version'}, {cpu()}"
    code, _ = arm.run(["python3", f"/src/{PARITY}", "record", "--note", note, "--out", f"/out/{there.name}"])
    if code:
        return ["Arm could not answer"]
    differ = run_here("compare", str(here), str(there), "--out", str(both))
    print(f"in {both}")
    return ["the machines differ, see above"] if differ else []


CHECKS: dict[str, Callable[[ArmRoot], list[str]]] = {"doctor": doctor, "demo": demo, "tests": tests, "parity": parity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "arm64", help="kept between runs (work/arm64)")
    parser.add_argument("--mirror", help="Debian's archive (by default what this machine's apt uses)")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="some of the checks")
    parser.add_argument("command", nargs="*", help="run this in the Arm root instead; the checkout is /src")
    args = parser.parse_args()
    arm = ArmRoot(args.work.resolve(), ROOT)
    wrong: list[str] = []
    try:
        prepare(arm, args.mirror)
        if args.command:
            sys.exit(arm.run(args.command)[0])
        for name in args.only:
            with step(name):
                found = CHECKS[name](arm)
            print(f"{name}: {'failed' if found else 'passed'}", flush=True)
            wrong += [f"{name}: {line}" for line in found]
    except SetupError as e:
        sys.exit(str(e))
    except subprocess.CalledProcessError as e:
        sys.exit(f"{shlex.join(map(str, e.cmd))} failed, see above")
    if wrong:
        sys.exit("\n".join(["not as expected on Arm:", *wrong]))
    print("all as expected on emulated Arm")


if __name__ == "__main__":
    main()
