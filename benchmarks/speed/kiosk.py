"""The page for the public in a real browser: how old a frame is when its boxes and its labels are on the screen, what
server and browser cost together, and whether the browser's memory grows.

    python benchmarks/speed/kiosk.py --out kiosk.json                       (14 minutes)
    python benchmarks/speed/kiosk.py --out kiosk.json --seconds 20 --minutes 0
    python benchmarks/speed/kiosk.py --out night.json --visits 200          (a night: so many visits, one after another)

A portrait that sways (examples/swaying_portrait.py), once and four times, is the camera of `faceinsight serve
--kiosk`; headless Chromium shows the page at 1920x1080. The memory is measured beside that of a page that keeps every
frame, which must be caught. Needs Chromium and playwright. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from faceinsight import __version__
from faceinsight.bench.state import machine
from faceinsight.bundle.bundle import Bundle
from serve import PHOTO, Server, percentiles, serving

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "swaying_portrait.py"
VISITOR = Path(__file__).parent / "visitor"
FPS = 15
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
#: Growth of the browser's memory, in percent of it, that is none; and when it is first measured, in minutes.
STEADY, FIRST = 10.0, 2.0
#: Notes each frame that is drawn: when, its own time, and who has new labels in it.
NOTE = """() => {
  window.drawn = [];
  document.addEventListener("drawn", ({ detail }) => {
    const { people, time } = detail;
    window.drawn.push([performance.timeOrigin + performance.now(), time, people.length, people.some((p) => p.parsing)]);
  });
}"""
#: A fault to be caught: every picture is kept.
LEAK = """() => {
  window.kept = [];
  const view = document.getElementById("view");
  document.addEventListener("drawn", () => { window.kept.push(view.toDataURL("image/png")); });
}"""


def camera(people: int) -> str:
    command = (sys.executable, str(SOURCE), str(PHOTO), "--people", str(people), "--fps", str(FPS))
    return f"cmd:{shlex.join(command)}"


def program() -> str | None:
    """The browser; None: Playwright's."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def page(url: str) -> Iterator[Any]:
    """The page of a kiosk after somebody has agreed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        shown = browser.new_page(viewport={"width": 1920, "height": 1080})
        shown.goto(url)
        shown.click("#begin")
        shown.click("#agree")
        shown.wait_for_selector("#labels span", state="attached")
        yield shown
        browser.close()


def family(pid: int) -> set[int]:
    """A process and all that it and they started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, new = {pid}, [pid]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found.update(new)
    return found


def browser_pids() -> set[int]:
    """All processes of the browser that this one started."""
    return {pid for pid in family(os.getpid()) if "chrom" in command(pid).partition(" ")[0]}


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def cpu(pids: set[int]) -> float:
    """Seconds of these processes."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pids: set[int]) -> float:
    """Megabytes of these processes, shared pages divided among those that share them (PSS)."""
    kilobytes = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        kilobytes += int(text.partition("Pss:")[2].split()[0])
    return kilobytes / 1e3


def ages(shown: Any) -> tuple[list[float], list[float]]:
    """Seconds from a frame's coming to its boxes, and to labels that were read in it, on the screen."""
    offset = time.time() - time.monotonic()
    before = time.time()
    browser = shown.evaluate("() => performance.timeOrigin + performance.now()") / 1e3
    # The browser's clock may differ from the system's.
    differs = browser - (before + time.time()) / 2
    boxes: list[float] = []
    labels: list[float] = []
    for drawn, taken, people, new in shown.evaluate("() => window.drawn"):
        if people:
            (labels if new else boxes).append(drawn / 1e3 - differs - offset - taken)
    return boxes, labels


def live(bundle: str, people: int, seconds: float) -> dict[str, Any]:
    """One camera, one page."""
    with serving(bundle, "--kiosk", "--camera", camera(people)) as server:
        server.wait_ready()
        with page(f"http://127.0.0.1:{server.port}/") as shown:
            shown.wait_for_timeout(5000)
            parts = {"server": family(server.process.pid), "browser": browser_pids()}
            source = {pid for pid in parts["server"] if SOURCE.name in command(pid)}
            parts["server"] -= source
            spent = {part: cpu(pids) for part, pids in parts.items()}
            frames, dropped = (server.metric(f"camera_frames{x}_total") for x in ("", "_dropped"))
            shown.evaluate(NOTE)
            began = time.monotonic()
            shown.wait_for_timeout(seconds * 1e3)
            taken = time.monotonic() - began
            boxes, labels = ages(shown)
            cores = {part: round((cpu(pids) - spent[part]) / taken, 2) for part, pids in parts.items()}
            frames = server.metric("camera_frames_total") - frames
            dropped = server.metric("camera_frames_dropped_total") - dropped
    return {
        "people": people,
        "seconds": round(taken, 1),
        "frames a second that came": round(frames / taken, 1),
        "frames a second that were searched": round((frames - dropped) / taken, 1),
        "frames a second on the page": round((len(boxes) + len(labels)) / taken, 1),
        "frame to boxes on the page": percentiles(boxes),
        "frame to labels on the page": percentiles(labels),
        "cores": cores | {"together": round(sum(cores.values()), 2)},
    }


def growth(bundle: str, minutes: float, *, leak: bool) -> dict[str, Any]:
    """The browser's memory over time. leak: with a fault that must be caught."""
    found: list[tuple[float, float]] = []
    with serving(bundle, "--kiosk", "--camera", camera(1)) as server:
        server.wait_ready()
        with page(f"http://127.0.0.1:{server.port}/") as shown:
            if leak:
                shown.evaluate(LEAK)
            began = time.monotonic()
            while (now := (time.monotonic() - began) / 60) < minutes:
                shown.wait_for_timeout(15_000)
                # Somebody who stays asks now and then.
                shown.click("#chips button:first-child")
                found.append((round(now + 0.25, 2), round(memory(browser_pids()), 1)))
    early = float(np.median([mb for minute, mb in found if FIRST - 0.6 < minute < FIRST + 0.6]))
    late = float(np.median([mb for minute, mb in found if minute > minutes - 1.2]))
    percent = round(100 * (late / early - 1), 1)
    return {"minutes": minutes, "MB": found, "growth in percent": percent, "holds": percent < STEADY}


@contextmanager
def visitor(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A browser in which somebody visits the page again and again; nothing else looks into it."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program() or "chromium",
            *FLAGS,
            "--headless=new",
            "--window-size=1920,1080",
            f"--user-data-dir={profile}",
            f"--load-extension={VISITOR}",
            "--disable-features=DisableLoadExtensionCommandLineSwitch",
            url,
        ]
        browser = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield browser
        finally:
            browser.kill()
            browser.wait()


def night(bundle: str, visits: int) -> dict[str, Any]:
    """One visit after another, each from the first touch to the farewell with three questions: what stays behind."""
    found: list[dict[str, float]] = []
    with serving(bundle, "--kiosk", "--audience", "--camera", camera(2)) as server:
        server.wait_ready()
        worker, began = server.worker, time.monotonic()
        with visitor(f"http://127.0.0.1:{server.port}/") as browser:
            while (done := answered(server)) < 3 * visits:
                while answered(server) == done:
                    time.sleep(1)
                found.append({"browser": round(memory(family(browser.pid)), 1), **server.resident()})
            taken = time.monotonic() - began
        lines = server.get("/metrics")[1].splitlines()
        same = server.worker == worker
    restarts = sum(value(x) for x in lines if x.startswith("faceinsight_worker_restarts_total"))
    refused = {
        x.rpartition(" ")[0].partition("{")[2].rstrip("}"): int(value(x))
        for x in lines
        if x.startswith("faceinsight_requests_total")
        and not any(part in x for part in ('code="2', 'code="304', "readyz"))
    }
    tenth = max(1, len(found) // 10)
    second, last = found[tenth : 2 * tenth], found[-tenth:]
    return {
        "visits": visits,
        "seconds": round(taken, 1),
        "questions answered": done,
        "requests that were refused or failed": refused,
        "worker restarts": restarts,
        "the same worker": same,
        "MB of the second tenth and the last": {
            part: [round(float(np.median([row[part] for row in rows])), 1) for rows in (second, last)]
            for part in found[0]
        },
        "MB of the browser": [row["browser"] for row in found[:: max(1, len(found) // 30)]],
    }


def answered(server: Server) -> int:
    """Questions so far."""
    lines = server.get("/metrics")[1].splitlines()
    return int(sum(value(x) for x in lines if x.startswith("faceinsight_answers_total")))


def value(line: str) -> float:
    return float(line.rpartition(" ")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--seconds", type=float, default=60, help="of each run with a camera (60)")
    parser.add_argument("--minutes", type=float, default=10, help="of the memory's; 0: leave it out (10)")
    parser.add_argument("--visits", type=int, default=0, help="only so many visits, one after another")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "faceinsight": __version__,
        "machine": machine(),
        "bundle": args.bundle,
        "bundle_sha256": Bundle.open(args.bundle).sha256,
        "fps": FPS,
    }
    if args.visits:
        result |= night(args.bundle, args.visits)
    else:
        result["runs"] = [live(args.bundle, people, args.seconds) for people in (1, 4)]
    if args.minutes and not args.visits:
        result["memory"] = growth(args.bundle, args.minutes, leak=False)
        result["planted leak"] = growth(args.bundle, min(args.minutes, 5), leak=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
