"""TensorRT plans on this device: found, checked, built where they are missing. Not run on hardware yet.

A plan is native code that fits one TensorRT version, GPU and platform: it is built where it runs, is never part of a
bundle, and lies in a folder that only its owner can write. $FACEINSIGHT_ENGINES names another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...bundle.onnx_header import OnnxHeader, Value
from ...errors import DeviceError
from ...host.child import probe
from ...host.machine import cache_folder
from ..session import Session
from .build import Shape, build
from .rewrite import REWRITE
from .session import TensorRtSession

log = logging.getLogger(__name__)

#: What TensorRT 10.3 (JetPack 6) to 11 have in common is what is used here.
OLDEST = (10, 3)
#: Dynamic axes by the name the exporter gives them (min, opt, max): faces, characteristics, tokens.
AXES = {"batch": (1, 1, 8), "count": (1, 64, 256), "length": (1, 16, 512)}
#: Networks are strongly typed: they compute in the types the graph states, float32 with TensorRT's default TF32.
PRECISION = f"strongly typed, tf32, rewrite {REWRITE}"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """What a plan is built for."""

    tensorrt: str
    sm: int
    device: str


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything a plan depends on. `profile`: name and (min, opt, max) shape of each input."""

    onnx_sha256: str
    target: EngineTarget
    precision: str
    profile: tuple[tuple[str, tuple[Shape, Shape, Shape]], ...]

    @property
    def digest(self) -> str:
        """Its name in the folder."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def text(self) -> str:
        """As JSON, the same for the same key."""
        return json.dumps(asdict(self), sort_keys=True)


def target() -> EngineTarget:
    """TensorRT and GPU of this device, looked at in a child process. Raises DeviceError."""
    tried = probe("tensorrt")
    if tried.found is None:
        raise DeviceError(f"TensorRT cannot be used: {tried.error}")
    version = tried.found["version"]
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST:
        raise DeviceError(f"TensorRT {version} is too old; expected {'.'.join(map(str, OLDEST))} or newer")
    return EngineTarget(version, tried.found["sm"], tried.found["device"])


def key_of(model: Path, where: EngineTarget) -> EngineKey:
    """The key of an ONNX model's plan on a device. Raises BundleError, DeviceError for an unknown dynamic axis."""
    profile = tuple((v.name, _shapes(v)) for v in OnnxHeader.read(model).inputs)
    return EngineKey(hashlib.sha256(model.read_bytes()).hexdigest(), where, PRECISION, profile)


def _shapes(value: Value) -> tuple[Shape, Shape, Shape]:
    unknown = [d for d in value.shape if isinstance(d, str) and d not in AXES]
    if unknown:
        raise DeviceError(f"input {value.name!r} has a dynamic axis {unknown[0]!r}; expected one of {', '.join(AXES)}")
    low, opt, high = (tuple(d if isinstance(d, int) else AXES[d][i] for d in value.shape) for i in range(3))
    return low, opt, high


class EngineCache:
    """A folder of plans, each with a JSON file that records its key and sha256."""

    #: One build at a time in this process: a build takes most of a small device's memory.
    _building = threading.Lock()

    def __init__(self, folder: Path | None = None) -> None:
        """Make the folder, or check that it is ours alone. Raises DeviceError."""
        self.folder = folder or _default_folder()
        _secure(self.folder)

    def load(self, key: EngineKey) -> bytes | None:
        """The plan; None where there is none, or where it is not what was recorded: then it is built again."""
        try:
            record = json.loads(_read(self._path(key, "json")))
            plan = _read(self._path(key, "plan"))
        except (OSError, ValueError):
            return None
        same = isinstance(record, dict) and record.get("key") == json.loads(key.text)
        return plan if same and record.get("sha256") == hashlib.sha256(plan).hexdigest() else None

    def build(self, key: EngineKey, model: Path, progress: Progress) -> bytes:
        """Build the plan in a child process, unless another one has meanwhile. Raises DeviceError."""
        with self._building, self._locked(key, progress):
            if plan := self.load(key):
                return plan
            for left in self.folder.glob(f".{key.digest}-*"):
                left.unlink()
            # Timings of kernels are shared by all models of one TensorRT on one GPU.
            name = hashlib.sha256(json.dumps(asdict(key.target)).encode()).hexdigest()[:32]
            timing_cache = self.folder / f"timing-{name}.cache"
            out, timings = (self.folder / f".{key.digest}-{part}" for part in ("plan", "timing"))
            try:
                build(model, key.onnx_sha256, dict(key.profile), timing_cache, out, timings, progress)
                plan = _read(out)
                out.replace(self._path(key, "plan"))
                if timings.exists():
                    timings.replace(timing_cache)
            finally:
                out.unlink(missing_ok=True)
                timings.unlink(missing_ok=True)
            record = {"key": json.loads(key.text), "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
            self._write(self._path(key, "json"), json.dumps(record, indent=1).encode())
            return plan

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


def open_session(model: Path, where: EngineTarget, fallback: Session | None) -> Session:
    """A session on the model's plan.

    Where there is no plan yet: on the fallback while one is built in the background from the first run on; without a
    fallback, the plan is built now. Raises DeviceError.
    """
    cache, key = EngineCache(), key_of(model, where)
    if plan := cache.load(key):
        return TensorRtSession(plan, name=model.name)

    def make() -> bytes:
        return cache.build(key, model, lambda line: log.info("%s: %s", model.name, line))

    if fallback is not None:
        return LazyEngineSession(model.name, fallback, make)
    log.warning("%s: building its TensorRT plan; this takes minutes, once on this device", model.name)
    return TensorRtSession(make(), name=model.name)


class LazyEngineSession:
    """Runs on a fallback, builds in the background from the first run on, and goes over to the plan when it is there.

    If the build fails, the reason is logged and the fallback stays, which is a GPU's too.
    """

    def __init__(
        self,
        name: str,
        fallback: Session,
        make: Callable[[], bytes],
        *,
        open_engine: Callable[[bytes], Session] | None = None,
    ) -> None:
        """make: builds the plan. open_engine: makes a session of it."""
        self._name, self._session, self._make = name, fallback, make
        self._open = open_engine or (lambda plan: TensorRtSession(plan, name=name))
        self._thread: threading.Thread | None = None
        self._plan: bytes | None = None

    def get_inputs(self) -> Sequence[Any]:
        """As the active session's."""
        return self._session.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        """As the active session's."""
        return self._session.get_outputs()

    def get_providers(self) -> list[str]:
        """What is active now."""
        return self._session.get_providers()

    def run(self, names: Sequence[str] | None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by name, from whichever is ready."""
        if self._thread is None:
            log.warning("%s: no TensorRT plan yet: building one, running on %s", self._name, self.get_providers()[0])
            self._thread = threading.Thread(target=self._build, name=f"build {self._name}", daemon=True)
            self._thread.start()
        if self._plan is not None:
            self._switch_to_engine(self._plan)
        return self._session.run(names, feeds)

    def wait(self) -> None:
        """Until a build that has begun is done, or has failed."""
        if self._thread is not None:
            self._thread.join()

    def _build(self) -> None:
        try:
            self._plan = self._make()
        except (DeviceError, OSError) as e:
            log.error("%s: stays on %s: %s", self._name, self.get_providers()[0], e)

    def _switch_to_engine(self, plan: bytes) -> None:
        self._plan = None
        try:
            self._session = self._open(plan)
            log.info("%s: runs on %s now", self._name, self.get_providers()[0])
        except DeviceError as e:
            log.error("%s: stays on %s: %s", self._name, self.get_providers()[0], e)


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
