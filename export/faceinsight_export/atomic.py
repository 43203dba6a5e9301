"""A long export in steps: each finished one is kept, so that an interrupted export goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

STATE = "steps.json"


class Steps:
    """The unfinished output beside the place where the finished one will stand."""

    def __init__(self, out: Path, settings: dict[str, str], *, progress: Callable[[str], None]) -> None:
        """settings: what the output depends on; what was made with other settings is made again.

        Raises FileExistsError where `out` stands already.
        """
        if out.exists():
            raise FileExistsError(f"{out} exists already: choose another place, or remove it first")
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
    """Raises OSError where the disk that holds `folder` has less than `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {free / 1e9:.1f} GB free on this disk, the export needs {needed / 1e9:.1f} GB")
