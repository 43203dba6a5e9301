"""What a wheel with GPU code says of itself: its metadata, the libraries it is linked against, the GPUs it knows."""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

#: A fat binary begins so, in the order of its bytes: 0xBA55ED50 (NVIDIA's fatbinary.h).
FATBIN = struct.pack("<I", 0xBA55ED50)
#: Kinds of its entries: code to be compiled when it is loaded, and machine code of one compute capability.
PTX, CUBIN = 1, 2


def metadata(wheel: Path) -> Message:
    """Name, Requires-Python, Provides-Extra, Requires-Dist ..."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return Parser().parsestr(archive.read(name).decode())


def extract(wheel: Path, name: str, folder: Path) -> Path | None:
    """A file of the wheel, by the end of its path, in `folder`; None if the wheel has none."""
    with zipfile.ZipFile(wheel) as archive:
        members = [n for n in archive.namelist() if n.endswith(name)]
        return Path(archive.extract(members[0], folder)) if members else None


def needed(library: Path) -> set[str]:
    """Names of the shared libraries that it is linked against (ELF's NEEDED), by readelf."""
    text = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\)\s+Shared library: \[(.+?)\]", text))


def architectures(library: Path) -> dict[str, set[int]]:
    """Compute capabilities in its fat binaries: "cubin" runs on that GPU, "ptx" is compiled for newer ones."""
    found: dict[str, set[int]] = {"cubin": set(), "ptx": set()}
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(FATBIN)
        while at >= 0:
            _, _, header, size = struct.unpack_from("<IHHQ", data, at)
            entry, end = at + header, at + header + size
            while entry + 32 <= min(end, len(data)):
                kind, _, before, length = struct.unpack_from("<HHIQ", data, entry)
                if kind not in (PTX, CUBIN) or before < 32:
                    break  # the four bytes were no header
                (capability,) = struct.unpack_from("<I", data, entry + 28)
                found["ptx" if kind == PTX else "cubin"].add(capability)
                entry += before + length
            at = data.find(FATBIN, at + len(FATBIN))
    return found
