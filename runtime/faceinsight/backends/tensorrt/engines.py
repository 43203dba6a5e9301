"""TensorRT plans on this device: found, checked, built where they are missing. Not run on hardware yet.

A plan is native code that fits one TensorRT version, GPU and platform: it is built where it runs, is never part of a
bundle, and lies in a folder that only its owner can write. $FACEINSIGHT_ENGINES names another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ...bundle.bundle import sha256_of
from ...errors import DeviceError
from ...host.child import run_probe
from ...host.machine import cache_folder
from ..placement import require_gpu_operators
from .build import build
from .rewrite import REWRITE
from .shapes import Profile, profile_of, shapes_to_compare
from .target import EngineTarget

#: What a plan computes in. Networks are strongly typed: "fp32" is what the graph states, with TensorRT's default TF32;
#: "fp16" is half precision where it is safe (see half).
PRECISIONS = ("fp32", "fp16")
#: How far a plan may be from ONNX Runtime on the CPU (plan_check.deviation). TF32, as emulated on the CPU, is 0.001
#: away, in label maps and in 8 bits 0.02 (benchmarks/speed/plans.py), and fp16 is no farther. A graph that lacks a
#: layer is 0.27 or more.
TOLERANCE = 0.1
#: Seconds for that comparison: a large encoder on a board's CPU.
CHECK_TIMEOUT = 900

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything a plan depends on.

    `precision`: of PRECISIONS. `profile`: name and (min, opt, max) shape of each input. `rewrite`: version of what is
    changed in the graph for TensorRT.
    """

    onnx_sha256: str
    target: EngineTarget
    precision: str
    profile: Profile
    rewrite: int = REWRITE

    @property
    def digest(self) -> str:
        """Its name in the folder."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def text(self) -> str:
        """As JSON, the same for the same key."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialized engine, and how far it is from ONNX Runtime on the CPU (None: nobody has compared it)."""

    data: bytes
    deviation: float | None


class WrongPlanError(DeviceError):
    """A plan computes something else than its model does."""


def key_of(model: Path, where: EngineTarget, *, precision: str | None = None) -> EngineKey:
    """The key of an ONNX model's plan on a device. precision: of PRECISIONS; by default what the device computes in.

    Raises:
        BundleError: it is no ONNX model.
        DeviceError: an unknown dynamic axis, or precision.
    """
    default = "fp16" if where.integrated else "fp32"
    return EngineKey(sha256_of(model), where, chosen_precision(precision, default=default), profile_of(model))


def chosen_precision(chosen: str | None = None, *, default: str) -> str:
    """What is chosen here or by $FACEINSIGHT_ENGINE_PRECISION, else the default. Raises DeviceError for a name that is
    none."""
    named = chosen or os.environ.get("FACEINSIGHT_ENGINE_PRECISION") or default
    if named not in PRECISIONS:
        raise DeviceError(f"precision {named!r} of TensorRT plans; expected one of {', '.join(PRECISIONS)}")
    return named


def compare(model: Path, plan: Path, key: EngineKey) -> float:
    """How far a plan is from ONNX Runtime on the CPU, in a child process: it may crash, and both need memory.

    Raises:
        DeviceError: the plan does not run.
    """
    tried = run_probe("plan", str(model), str(plan), json.dumps(shapes_to_compare(key.profile)), timeout=CHECK_TIMEOUT)
    if tried.found is None:
        raise DeviceError(f"{model.name}: its new TensorRT plan does not run: {tried.error}")
    return float(tried.found["deviation"])


class EngineCache:
    """A folder of plans, each with a JSON file that records its key, sha256 and deviation."""

    #: One build at a time in this process: a build takes most of a small device's memory.
    _building = threading.Lock()

    def __init__(
        self,
        folder: Path | None = None,
        *,
        compare: Callable[[Path, Path, EngineKey], float | None] = compare,
    ) -> None:
        """Make the folder, or check that it is ours alone.

        Args:
            folder: of the plans; by default the user's.
            compare: what gives a new plan's deviation. A machine that builds and has no GPU cannot.

        Raises:
            DeviceError: others could write into the folder.
        """
        self.folder = folder or _default_folder()
        self._compare = compare
        _secure(self.folder)

    def load(self, key: EngineKey) -> Plan | None:
        """The plan; None where there is none, or where it is not what was recorded: then it is built again.

        Raises:
            WrongPlanError: it was found to compute something else, or in fp16 that it cannot be built.
        """
        try:
            record = json.loads(_read(self._path(key, "json")))
            if not isinstance(record, dict) or record.get("key") != json.loads(key.text):
                return None
            if "failed" in record:
                raise WrongPlanError(f"there is no plan in {key.precision}: {record['failed']}")
            data = _read(self._path(key, "plan"))
        except (OSError, ValueError):
            return None
        if record.get("sha256") != hashlib.sha256(data).hexdigest():
            return None
        found = record.get("deviation")
        if found is not None and not found <= TOLERANCE:
            raise WrongPlanError(
                f"this plan is not used: its outputs in {key.precision} are {found:.2g} from ONNX Runtime's on the "
                f"CPU, at most {TOLERANCE} is accepted. {_advice(key)}"
            )
        return Plan(data, found)

    def discard(self, key: EngineKey) -> None:
        """Forget a plan, so that it is built again."""
        for kind in ("json", "plan"):
            self._path(key, kind).unlink(missing_ok=True)

    def build(self, key: EngineKey, model: Path, progress: Progress) -> Plan:
        """Build the plan in a child process, unless another one has meanwhile, and compare it with ONNX Runtime.

        Raises:
            WrongPlanError: it computes something else, or in fp16 it cannot be built or run; that is recorded.
            DeviceError: it cannot be built, or does not run.
        """
        require_gpu_operators(model)
        with self._building, self._locked(key, progress):
            if plan := self.load(key):
                return plan
            try:
                found = self._make(key, model, progress)
            except DeviceError as e:
                if key.precision != "fp16":
                    raise
                # There is fp32 instead: not to be tried at every start.
                found = {"failed": str(e)}
            record = {"key": json.loads(key.text)} | found
            self._write(self._path(key, "json"), json.dumps(record, indent=1).encode())
            built = self.load(key)
            if built is None:
                raise DeviceError(f"{self._path(key, 'plan')} was changed while it was written: build it again")
            return built

    def _make(self, key: EngineKey, model: Path, progress: Progress) -> dict[str, str | int | float | None]:
        """Build the plan into the folder; what is recorded of it."""
        for left in self.folder.glob(f".{key.digest}-*"):
            left.unlink()
        # Timings of kernels are shared by all models of one TensorRT on one GPU.
        name = hashlib.sha256(json.dumps(asdict(key.target)).encode()).hexdigest()[:32]
        timing_cache = self.folder / f"timing-{name}.cache"
        out, timings = (self.folder / f".{key.digest}-{part}" for part in ("plan", "timing"))
        half, profile = key.precision == "fp16", dict(key.profile)
        try:
            build(model, key.onnx_sha256, profile, timing_cache, out, timings, progress, half=half)
            progress("comparing it with ONNX Runtime on the CPU")
            deviation = self._compare(model, out, key)
            data = _read(out)
            out.replace(self._path(key, "plan"))
            if timings.exists():
                timings.replace(timing_cache)
        finally:
            out.unlink(missing_ok=True)
            timings.unlink(missing_ok=True)
        return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "deviation": deviation}

    def _path(self, key: EngineKey, kind: str) -> Path:
        return self.folder / f"{key.digest}.{kind}"

    def _write(self, path: Path, data: bytes) -> None:
        part = path.with_name(f".{path.name}-{os.getpid()}")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(data)
        part.replace(path)

    @contextlib.contextmanager
    def _locked(self, key: EngineKey, progress: Progress) -> Iterator[None]:
        """Two processes do not build the same plan: the second waits for the first."""
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(self._path(key, "lock"), flags, 0o600), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("another process is building it: waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _advice(key: EngineKey) -> str:
    if key.precision == "fp16":
        return "Half precision is too coarse for this model, or TensorRT computes it wrong"
    return (
        f"TensorRT {key.target.version} computes this model wrong: after an update of it the plan is built anew; until "
        "then choose device='cuda' or 'cpu'"
    )


def _default_folder() -> Path:
    if chosen := os.environ.get("FACEINSIGHT_ENGINES"):
        return Path(chosen)
    try:
        return cache_folder() / "engines"
    except OSError as e:
        raise DeviceError(f"no folder for TensorRT plans: {e}, or FACEINSIGHT_ENGINES") from e


def _secure(folder: Path) -> None:
    """Refuse a folder into which others could put native code."""
    if os.name != "posix":
        raise DeviceError("TensorRT plans are kept on Linux only; choose device='cuda'")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as e:
        raise DeviceError(f"the folder for TensorRT plans cannot be made: {e}; set FACEINSIGHT_ENGINES") from e
    if not stat.S_ISDIR(found.st_mode):
        raise DeviceError(f"{folder} is a link or a file; TensorRT plans need a plain folder: set FACEINSIGHT_ENGINES")
    if found.st_uid != os.geteuid():
        raise DeviceError(f"{folder} belongs to user {found.st_uid}, you are {os.geteuid()}: set FACEINSIGHT_ENGINES")
    if found.st_mode & 0o022:
        raise DeviceError(f"{folder} can be written by others (mode {found.st_mode & 0o777:o}): chmod 700 {folder}")
    for parent in folder.absolute().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise DeviceError(f"{parent}, above {folder}, can be written by anyone: set FACEINSIGHT_ENGINES")


def _read(path: Path) -> bytes:
    """A plain file of our own that no one else can write. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as f:
        found = os.fstat(f.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} is not a file that only you can write")
        return f.read()
