"""Outputs that appear when they are whole: a file, a folder, and a long export in steps that resumes.

All of them refuse an output that exists already.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STATE = "steps.json"


def require_absent(path: Path) -> None:
    """Refuse an output that exists already.

    Raises:
        FileExistsError: it does.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already: choose another place, or remove it first")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which gets its name when the context is left; on an error it is removed.

    Raises:
        FileExistsError: `path` exists already.
    """
    require_absent(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which gets its name when the context is left; on an error it is removed.

    Raises:
        FileExistsError: `path` exists already.
    """
    require_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Steps:
    """A folder that is written in steps: each finished one is kept, so an interrupted export resumes there.

    Attributes:
        folder: the unfinished output, beside the place where the finished one will stand.
    """

    def __init__(self, out: Path, settings: dict[str, str], *, progress: Callable[[str], None]) -> None:
        """Open the unfinished output, or begin a new one.

        Args:
            out: the finished output's folder.
            settings: what the output depends on; what was made with other settings is made again.
            progress: called with the name of each step.

        Raises:
            FileExistsError: `out` exists already.
        """
        require_absent(out)
        self._out, self._progress = out, progress
        self.folder = out.parent / f".{out.name}.part"
        state = self.folder / STATE
        saved = json.loads(state.read_text()) if state.is_file() else {}
        self._done: list[str] = saved.get("done", []) if saved.get("settings") == settings else []
        self._settings = settings
        if not self._done:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, make: Callable[[], object], files: Sequence[str]) -> None:
        """Make `files` in the folder, unless an earlier run did."""
        if name in self._done and all((self.folder / f).is_file() for f in files):
            self._progress(f"{name}: finished earlier")
            return
        for file in files:
            (self.folder / file).unlink(missing_ok=True)
        self._progress(name)
        make()
        self._done = [*(n for n in self._done if n != name), name]
        temporary = self.folder / f"{STATE}.tmp"
        temporary.write_text(json.dumps({"settings": self._settings, "done": self._done}))
        temporary.replace(self.folder / STATE)

    def finish(self) -> None:
        """Give the output its name."""
        (self.folder / STATE).unlink()
        self.folder.chmod(0o755)
        self.folder.rename(self._out)


def require_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too small.

    Raises:
        OSError: the disk that holds `folder` has less than `needed` bytes free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {free / 1e9:.1f} GB free on this disk, the export needs {needed / 1e9:.1f} GB")
