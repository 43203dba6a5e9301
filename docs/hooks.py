"""Links from docs to files of the repository that are no pages: results are copied into the site, others become text.

So that the same link works in a checkout and in the site. A link to a file that does not exist is a warning, which
`--strict` makes an error.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.repository")
ROOT = Path(__file__).resolve().parent.parent
#: Folders whose JSON files and pictures are part of the site, at the same path.
COPIED = "benchmarks/results"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the results to the site."""
    for path in sorted((ROOT / COPIED).rglob("*")):
        if path.suffix in (".json", ".png"):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/."""
    folder = PurePosixPath("docs") / PurePosixPath(page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        picture, text, target, _ = match.groups()
        path = normpath(f"{folder}/{target}")
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
        if files.get_file_from_path(path):
            return f"{picture}[{text}]({relpath(path, PurePosixPath(page.file.src_uri).parent)})"
        return text

    return _LINK.sub(replace, markdown)
