"""The docs: every table is that of the recorded figures, every link leads somewhere, every command exists."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import sys
from pathlib import Path

import index
import memory
import pytest
import render
import tables
from paths import ROOT

from faceinsight.bundle.bundle import Bundle
from faceinsight.cli import main as command_line
from faceinsight_export.cli import main as export_main
from faceinsight_models.cli import main as train_main

#: The commands, each with its own parser.
MAINS = {"faceinsight": command_line.main, "faceinsight-export": export_main, "faceinsight-train": train_main}
FOLDERS = ("docs", "deploy", "benchmarks/results", "examples", ".github")
PAGES = sorted([*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(language: str, *, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Page and text of every block of code in this language."""
    return [(named(p), m[3]) for p in pages for m in CODE.finditer(p.read_text()) if m[2] == language]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).strip().replace(" ", "-") for h in heads}


def test_tables_are_those_of_the_figures():
    pages = list(render.pages())
    assert [named(p) for p in render.stale(pages, tables.Results())] == []
    assert render.unused(pages) == set()
    assert render.INDEX.read_text() == index.page(tables.RESULTS)


def test_a_stale_figure_is_found_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    text = (ROOT / "README.md").read_text()
    page.write_text(text.replace("| 0.910 / 0.932 |", "| 0.990 / 0.932 |"))
    assert page.read_text() != text
    assert render.stale([page], tables.Results()) == {page: text}
    monkeypatch.setattr(render, "pages", lambda: [*(ROOT / "docs").rglob("*.md"), page])
    monkeypatch.setattr(render, "ROOT", tmp_path.parent)
    monkeypatch.setattr(sys, "argv", ["render.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        render.main()
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<!-- nothing -->\n<!-- /nothing -->\n", "is no table"),
        ("<!-- soak -->\nold\n", "once, in this order"),
        ("<!-- /soak -->\n<!-- soak -->\n", "once, in this order"),
        ("<!-- soak -->\n<!-- /soak -->\n<!-- soak -->\n<!-- /soak -->\n", "once, in this order"),
    ],
)
def test_a_faulty_marker_is_named(tmp_path: Path, text: str, what: str):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=what):
        render.stale([page], tables.Results())


def test_every_result_is_in_the_index(tmp_path: Path):
    (tmp_path / "xeon-2026-11").mkdir()
    (tmp_path / "xeon-2026-11" / "unknown.json").write_text("{}")
    with pytest.raises(ValueError, match=r"xeon-2026-11/unknown"):
        index.page(tmp_path)


def test_a_result_without_a_commit_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "MEASUREMENTS", {"a-2026-11/later": index.Measurement("x", "speed/x.py", "")})
    assert "later" not in index.page(tmp_path)
    monkeypatch.setattr(index, "MEASUREMENTS", {"a-2026-11/lost": index.Measurement("x", "speed/x.py", "123abc")})
    with pytest.raises(ValueError, match=r"a-2026-11/lost"):
        index.page(tmp_path)


def test_figures_are_of_the_shipped_bundle():
    result = json.loads((tables.SHOWN / "accuracy-nano.json").read_text())
    assert result["bundle sha256"] == Bundle.open("nano").sha256


def test_a_megabyte_is_a_million_bytes(tmp_path: Path):
    status = tmp_path / "proc" / "7" / "status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tx\nVmHWM:\t  250000 kB\nVmRSS:\t  125000 kB\n")
    assert memory.memory_mb(memory.PEAK, 7, tmp_path) == 256.0
    assert memory.memory_mb(memory.RESIDENT, 7, tmp_path) == 128.0
    with pytest.raises(ValueError, match="VmSwap"):
        memory.memory_mb("VmSwap", 7, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path):
    lost = []
    for link in LINK.findall(CODE.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    assert lost == []


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command of ours in the docs' blocks of shell."""
    found = []
    for page, text in code("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                # `sudo /opt/faceinsight/bin/faceinsight` is the command too.
                words = words[words[0] == "sudo" :]
                words[0] = words[0].rpartition("/")[2]
                end = next((i for i, word in enumerate(words) if word in ("&&", "|", ">")), len(words))
                if words[0] in MAINS:
                    found.append((page, words[:end]))
                words = words[end + 1 :]
    return found


def test_commands_are_as_they_are_documented(monkeypatch: pytest.MonkeyPatch):
    """Each is parsed by the command's own parser, and not run."""
    assert len(commands()) > 40
    assert not is_wrong(["faceinsight", "ask", "photo.jpg", "Is she smiling?"], monkeypatch)
    assert is_wrong(["faceinsight", "ask", "photo.jpg", "Is she smiling?", "--fast"], monkeypatch)
    assert is_wrong(["faceinsight", "watch"], monkeypatch)
    assert [(page, " ".join(words)) for page, words in commands() if is_wrong(words, monkeypatch)] == []


def is_wrong(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *arguments: object) -> None:
        parse(self, *arguments)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        try:
            MAINS[words[0]](words[1:])
        except Parsed:
            return False
        except SystemExit:
            return True
    return True


def test_scripts_and_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lost = []
    for page in PAGES:
        text = page.read_text()
        for script in re.findall(r"python ((?:benchmarks|examples)/[\w/]+\.py)", text):
            if not (ROOT / script).is_file():
                lost.append((named(page), script))
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, re.MULTILINE):
            if target not in targets:
                lost.append((named(page), f"make {target}"))
        for path in re.findall(r"`((?:runtime|models|export|benchmarks|docs|tests|examples)/[\w./-]+)`", text):
            if page.name != "CHANGELOG.md" and not (ROOT / path).exists():
                lost.append((named(page), path))
    assert lost == []


def test_every_option_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    source = "".join(p.read_text() for p in (ROOT / "runtime" / "faceinsight" / "cli").glob("*.py"))
    options = set(re.findall(r'"(--[a-z-]+)"', source)) - {"--help"}
    assert {o for o in options if not re.search(rf"(?:^|[` ]){o}[ `]", page)} == set()


@pytest.mark.parametrize(("page", "text"), code("python"), ids=lambda x: x if x.endswith(".md") else "")
def test_python_in_the_docs_compiles(page: str, text: str):
    indent = re.match(r" *", text)[0]
    compile(re.sub(rf"^{indent}", "", text, flags=re.MULTILINE), page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
