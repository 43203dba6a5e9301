"""Writes every generated table of README and docs from the JSON files in benchmarks/results, or checks them.

    python benchmarks/render.py             writes what changed
    python benchmarks/render.py --check     changes nothing; exit code 1 where a page differs from the figures

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; NAME is one of tables.TABLES. A marker without a table, or
a table without a page, is an error. `make lint` runs the check.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import index
import tables
from tables import RESULTS, ROOT, TABLES, Results

OPEN = re.compile(r"^<!-- ([a-z0-9-]+) -->$", re.MULTILINE)
#: Where the list of the results' files stands.
INDEX = RESULTS / "README.md"


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Every Markdown file that may hold a generated table."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def render(text: str, results: Results) -> str:
    """The text with all its tables made anew.

    Raises:
        ValueError: a marker is unknown, not closed, or there twice.
    """
    names = OPEN.findall(text)
    for name in names:
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if name not in TABLES:
            raise ValueError(f"{start.strip()} is no table: expected one of {', '.join(TABLES)}")
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ValueError(f"expected {start.strip()} and {end} once, in this order")
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        text = f"{before}{start}{TABLES[name](results)}\n{end}{after}"
    return text


def stale(paths: Iterable[Path], results: Results) -> dict[Path, str]:
    """Pages that are not what the results give -> what they should be.

    Raises:
        ValueError: a page has a faulty marker.
    """
    changed = {}
    for path in paths:
        text = path.read_text()
        try:
            new = render(text, results)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from e
        if new != text:
            changed[path] = new
    return changed


def unused(paths: Iterable[Path]) -> set[str]:
    """Tables that no page shows."""
    return set(TABLES) - {name for path in paths for name in OPEN.findall(path.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where a page is stale")
    args = parser.parse_args()
    everything = list(pages())
    try:
        changed = stale(everything, Results(tables.SHOWN))
    except ValueError as e:
        sys.exit(str(e))
    if lost := unused(everything):
        sys.exit(f"no page shows: {', '.join(sorted(lost))}")
    listing = index.page(RESULTS)
    if not INDEX.is_file() or INDEX.read_text() != listing:
        changed[INDEX] = listing
    what = "its figures are not those of benchmarks/results" if args.check else "written"
    for path, text in changed.items():
        print(f"{path.relative_to(ROOT)}: {what}")
        if not args.check:
            path.write_text(text)
    sys.exit(1 if args.check and changed else 0)


if __name__ == "__main__":
    main()
