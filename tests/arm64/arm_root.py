"""A folder with Debian for 64-bit Arm in which programs run by emulation (qemu-user). x86-64, Linux, root."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Its Python is 3.11, its glibc 2.36.
SUITE, PYTHON = "bookworm", "3.11"
GLIBC_MINOR = 36
PACKAGES = ("python3", "libgomp1", "libstdc++6")
#: Program -> Debian's package.
TOOLS = {
    "qemu-aarch64-static": "qemu-user-static",
    "debootstrap": "debootstrap",
    "aarch64-linux-gnu-g++": "crossbuild-essential-arm64",
    "unshare": "util-linux",
    "dpkg": "dpkg",
}
#: Armv8.2 with dotprod and fp16, as the Orin's Cortex-A78AE, which qemu does not have.
CPU = "neoverse-n1"
#: What an Orin says: under qemu programs read the host's file, and ONNX Runtime believes it.
CORE = """processor\t: {number}
model name\t: ARMv8 Processor rev 1 (v8l)
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
#: How Debian's package registers itself where systemd runs.
HANDLER = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
#: Mounts are made in a namespace of their own: nothing stays. The checkout is read-only, /tmp is memory.
MOUNTS = """
mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount --bind "$CPUINFO" "$ROOT/proc/cpuinfo"
mount --bind "$CHECKOUT" "$ROOT/src"
mount -o remount,bind,ro "$ROOT/src"
mount --bind "$SHARED" "$ROOT/out"
mount -t tmpfs tmpfs "$ROOT/tmp"
cd "$ROOT"
exec chroot "$ROOT" /usr/bin/env -i QEMU_CPU="$QEMU_CPU" HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 /bin/sh -c 'cd /tmp && exec "$@"' sh "$@"
"""


class SetupError(Exception):
    """What was found, what was expected, what to do."""


def check_host() -> None:
    """Raises SetupError where this machine cannot emulate Arm."""
    if platform.machine() == "aarch64":
        raise SetupError("this machine is 64-bit Arm itself: run `make test`")
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(f"this is {platform.system()} {platform.machine()}: expected Linux on x86_64")
    if os.geteuid() != 0:
        raise SetupError("mounting and chroot need root: run it as root, in a container or virtual machine of its own")
    if missing := {package for tool, package in TOOLS.items() if shutil.which(tool) is None}:
        packages = " ".join(sorted(missing))
        raise SetupError(f"tools are missing: apt-get install -y --no-install-recommends {packages}")


def register(binfmt: Path = BINFMT, handler: Path = HANDLER) -> None:
    """Tell the kernel to hand Arm programs to qemu, until the next boot. Raises SetupError."""
    if not (binfmt / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(binfmt)], check=False, capture_output=True)
    if not (binfmt / "register").exists():
        raise SetupError("the kernel has no binfmt_misc here (a container without --privileged?): it is needed")
    entry = binfmt / "qemu-aarch64"
    if not entry.exists():
        try:
            (binfmt / "register").write_text(handler.read_text())
        except OSError as e:
            raise SetupError(f"{handler} cannot be registered ({e}): expected that of Debian's qemu-user-static") from e
        return
    if "flags: " not in (text := entry.read_text()) or "F" not in text.partition("flags: ")[2].splitlines()[0]:
        raise SetupError(f"{entry} lacks the flag F, so a chroot has no qemu: echo -1 > {entry}, and run this again")


@dataclass(frozen=True, slots=True)
class ArmRoot:
    """folder: where it is, and what is beside it. checkout: seen as /src in it, read-only."""

    folder: Path
    checkout: Path

    @property
    def root(self) -> Path:
        """Seen as / in it."""
        return self.folder / "root"

    @property
    def shared(self) -> Path:
        """Seen as /out in it: what is written there stays."""
        return self.folder / "out"

    @property
    def site(self) -> Path:
        """Where its Python finds packages that Debian did not bring."""
        return self.root / f"usr/local/lib/python{PYTHON}/dist-packages"

    def unpack(self, mirror: str | None) -> bool:
        """Debian's packages, unpacked and never configured: no second stage, so nothing is emulated.

        Returns: whether there was anything to do.
        """
        done = self.root / ".unpacked"
        if done.exists():
            return False
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        called([*command, SUITE, str(self.root), *([mirror] if mirror else [])])
        for package in sorted((self.root / "var/cache/apt/archives").glob("*.deb")):
            called(["dpkg", "-x", str(package), str(self.root)])
        done.touch()
        return True

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a program in it and show what it prints. Returns its exit code and its standard output."""
        for folder in ("src", "out", "proc", "sys", "dev", "tmp"):
            (self.root / folder).mkdir(exist_ok=True)
        self.shared.mkdir(exist_ok=True)
        cores = self.folder / "cpuinfo"
        cores.write_text("".join(CORE.format(number=n) for n in range(os.cpu_count() or 1)))
        names = {"ROOT": self.root, "CPUINFO": cores, "CHECKOUT": self.checkout, "SHARED": self.shared}
        environment = {k: str(v) for k, v in names.items()} | {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "QEMU_CPU": cpu(),
        }
        namespace = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", MOUNTS, "bash", *command]
        lines = []
        with subprocess.Popen(namespace, env=environment, text=True, stdout=subprocess.PIPE) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
        return process.returncode, "".join(lines)


def cpu() -> str:
    """qemu's name of the CPU that is emulated: QEMU_CPU, or the nearest to the Orin's."""
    return os.environ.get("QEMU_CPU") or CPU


def called(command: Sequence[str]) -> None:
    """Run it. Raises SetupError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
