"""What was found on this machine: the facts that `doctor` judges, gathered without judging.

Native libraries are looked at in child processes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.bundle import Bundle
from ..errors import FaceInsightError
from ..host.child import Probe, probe
from ..host.dependencies import installed
from ..host.jetson import CHIPS, Jetson, read_jetson
from ..host.machine import available_memory
from ..host.offline import telemetry_off
from ..host.swap import Swap, read_swaps
from .fit import estimate
from .gpu_fit import GpuMemory
from .versions import ONNXRUNTIMES, found_versions

NOT_TRIED = Probe()


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on a machine.

    Attributes:
        machine: the CPU's architecture, as platform.machine names it.
        distributions: the ONNX Runtimes that pip installed, and their versions.
        onnxruntime: what a child process found out about ONNX Runtime; likewise llama, cuda, tensorrt, opencv.
        amx: whether llama.cpp's AMX kernels work, where it was compiled for them.
        driver: NVIDIA's kernel driver, as it names itself.
        memory: bytes available.
        jetson: the board, if it is one.
        bundle: the bundle's name and folder.
        bundle_error: why it did not open.
        need: bytes that the bundle takes: on the GPU too, where it shares the CPU's memory.
        telemetry_off: ONNX Runtime was told to send nothing.
        versions: by the names in versions.py.
        swaps: swap space in use; None where it cannot be read.
    """

    machine: str
    distributions: dict[str, str]
    onnxruntime: Probe
    llama: Probe
    cuda: Probe
    tensorrt: Probe
    opencv: Probe
    amx: Probe = NOT_TRIED
    driver: str | None = None
    memory: int | None = None
    jetson: Jetson | None = None
    bundle: str = ""
    bundle_error: str = ""
    need: int | None = None
    telemetry_off: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    swaps: tuple[Swap, ...] | None = None

    @property
    def gpu(self) -> bool:
        """Is there a sign of an NVIDIA GPU?"""
        return self.jetson is not None or self.cuda.found is not None or self.driver is not None

    @property
    def on_jetson(self) -> bool:
        """A Jetson: by its files, or, in a container, which has none of them, by a GPU that shares the CPU's memory."""
        cuda = self.cuda.found or {}
        shared = self.machine == "aarch64" and bool(cuda.get("integrated")) and cuda.get("sm") in CHIPS.values()
        return self.jetson is not None or shared

    @property
    def sm(self) -> int | None:
        """Compute capability, if it is known."""
        return (self.cuda.found or {}).get("sm") or (self.jetson.sm if self.jetson else None)


def gather(bundle: str | None = "nano", *, root: Path = Path("/")) -> Facts:
    """Look at this machine. `root`: where its /etc, /proc and /sys are."""
    names = {n: v for n in ONNXRUNTIMES if (v := installed(n)) is not None}
    probes = {n: probe(n) for n in ("onnxruntime", "llama", "cuda", "tensorrt", "opencv")}
    title, error, need, model = bundle or "", "", None, ""
    if bundle is not None:
        try:
            opened = Bundle.open(bundle)
            title = f"{opened.manifest.name} ({opened.path})"
            shared = bool((probes["cuda"].found or {}).get("integrated"))
            device = "tensorrt" if shared else "cpu"
            need = estimate(opened, memory=0, device=device, gpu=GpuMemory(shared)).total
            model = str(opened.file(opened.manifest.llm.file))
        except FaceInsightError as e:
            error = str(e)
    if model and (probes["llama"].found or {}).get("amx"):
        probes["amx"] = probe("amx", model)
    try:
        memory = available_memory(root)
    except FaceInsightError:
        memory = None
    return Facts(
        platform.machine(),
        names,
        **probes,
        driver=_driver(root),
        memory=memory,
        jetson=read_jetson(root),
        bundle=title,
        bundle_error=error,
        need=need,
        telemetry_off=telemetry_off(),
        versions=found_versions(probes),
        swaps=read_swaps(root),
    )


def _driver(root: Path) -> str | None:
    try:
        line = (root / "proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return line.removeprefix("NVRM version:").strip()
