"""TOML files: recipes, and the words of questions beside the modules that use them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TableError = tomllib.TOMLDecodeError


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        TableError: it is no TOML file.
    """
    return tomllib.loads(path.read_text(encoding="utf-8"))
