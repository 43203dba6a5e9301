"""Swap on a board whose GPU shares the CPU's memory: zram takes from it, and without any a build may be killed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from faceinsight.diagnostics import facts
from faceinsight.diagnostics.doctor import diagnose
from faceinsight.diagnostics.facts import Facts
from faceinsight.host.child import Probe
from faceinsight.host.swap import Swap, read_swaps

ZRAM = Swap("/dev/zram0", 650_000_000, zram=True)
FILE = Swap("/swap", 16_000_000_000, zram=False)
CUDA = {"name": "Orin", "sm": 87, "integrated": True, "driver": 12060, "runtime": 12060, "free": 5e9, "total": 8e9}
NOTHING = Probe(error="not tried")
BOARD = Facts("aarch64", {}, NOTHING, NOTHING, Probe(CUDA), NOTHING, NOTHING, memory=6_000_000_000)


def swap(swaps: tuple[Swap, ...] | None, **changes: object) -> list[tuple[str, str, str]]:
    checks = diagnose(dataclasses.replace(BOARD, swaps=swaps, **changes))
    return [(c.status, c.found, c.do) for c in checks if c.name == "swap"]


def test_swaps_are_read(tmp_path: Path):
    assert read_swaps(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/swaps").write_text(
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/zram0                              partition\t635008\t\t0\t\t5\n"
        "/swap                                   file\t\t16777212\t0\t\t-2\n"
    )
    assert read_swaps(tmp_path) == (
        Swap("/dev/zram0", 635008 * 1024, zram=True),
        Swap("/swap", 16777212 * 1024, zram=False),
    )
    (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    assert read_swaps(tmp_path) == ()


def test_zram_is_named_where_memory_is_shared():
    ((status, found, do),) = swap((ZRAM, FILE))
    assert status == "warn"
    assert "/dev/zram0 0.7 GB" in found
    assert "nvzramconfig" in do
    assert swap((ZRAM,), machine="x86_64") == [], "a desktop's GPU has memory of its own"


def test_no_swap_is_named_where_a_build_may_not_fit():
    ((status, found, do),) = swap(())
    assert (status, "builder takes about 2.7 GB, 6.0 GB are available" in found) == ("warn", True)
    assert "docs/devices/jetson.md" in do
    assert swap((), memory=50_000_000_000)[0][0] == "ok"
    assert swap((FILE,))[0][:2] == ("ok", "/swap 16.0 GB")
    assert swap(None) == []


@pytest.mark.parametrize("integrated", [False, True])
def test_what_a_bundle_needs_counts_the_gpu_where_memory_is_shared(monkeypatch, integrated: bool):
    found = {"cuda": Probe(CUDA | {"integrated": integrated})}
    monkeypatch.setattr(facts, "probe", lambda name: found.get(name, NOTHING))
    need = facts.gather("nano").need
    assert need > 1e9 if integrated else need < 0.4e9
