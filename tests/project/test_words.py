"""Names are the field's: what an LLM engineer would look for, not a dialect of our own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

FILES = sorted(p for folder in ("runtime", "export", "models") for p in (ROOT / folder).rglob("*.py"))
#: Word -> what the field says.
DIALECT = {
    "whom": "faces",
    "told": "findings, encoded",
    "seen": "encoded, features, detections",
    "spoken": "text",
    "judge": "label, read",
    "own": "what it is of",
    "wide": "parser_crops, width",
    "small": "encoder_crops",
    "kept": "cache, prefix_cache",
    "look": "encode, detect",
    "objection": "constraint",
    "taken_back": "backtracks",
    "opening": "system_prefix",
    "joined": "pack",
    "branch": "decode_parallel",
    "trim": "truncate",
    "changed": "set_params",
    "quiet": "silence_log",
    "relevance": "question_encoder",
    "both_ways": "with_horizontal_flip",
    "finish": "finish_reason",
    "piece": "chunk",
    "usual": "opt",
}
#: Where a word has its plain meaning.
PLAIN = {
    ("question_encoder.py", "relevance"),  # an output of its graph, by name
    ("threads.py", "usual"),
    ("forks.py", "changed"),
    ("labeler.py", "changed"),
    ("atomic.py", "finish"),
    ("writer.py", "finish"),
    ("loop.py", "finish"),
    ("tokenizer.py", "piece"),  # SentencePiece's
    ("question.py", "relevance"),  # an output of its graph, by name
    ("encoder.py", "own"),  # a module's attribute: the weights are stored under its name
    ("pipeline.py", "own"),
}


def names(path: Path) -> Iterator[str]:
    """Every name that a file gives: of functions, classes, arguments, variables and attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_are_the_fields(path: Path):
    found = {n for n in names(path) if n.strip("_").lower() in DIALECT} - {w for f, w in PLAIN if f == path.name}
    assert not {n: DIALECT[n.strip("_").lower()] for n in found if (path.name, n.strip("_")) not in PLAIN}
