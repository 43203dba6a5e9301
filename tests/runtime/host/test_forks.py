"""Forks after use (gunicorn --preload, multiprocessing): a child works or is told so at once, and it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from paths import PHOTO

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

#: What is done in children of one process that has used an instance with two threads; each prints what came of it.
CASES = """
import gc, json, multiprocessing, os, signal, sys, threading, time
from faceinsight import FaceInsight, FaceInsightError

photo, Q = sys.argv[1], "Is she smiling?"
fi = FaceInsight.load("nano", device="cpu", threads=2)
face = fi.perceive(photo)[0]
text = fi.ask(face, Q).text
stream = fi.stream(face, Q)
next(stream)

def own():
    with FaceInsight.load("nano", device="cpu", threads=2) as other:
        return other.ask(other.perceive(photo)[0], Q).text == text

def own_stays_open():
    globals()["another"] = FaceInsight.load("nano", device="cpu", threads=2)
    return another.ask(face, Q).text == text

def forget_all():
    global fi, stream
    fi = stream = None
    return gc.collect() >= 0

def grandchild():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if own() else 1)
    return os.waitpid(pid, 0)[1] == 0

CASES = {
    "asks": lambda: fi.ask(face, Q),
    "perceives": lambda: fi.perceive(photo),
    "streams": lambda: list(fi.stream(face, Q)),
    "goes on streaming": lambda: list(stream),
    "prepares": lambda: fi.prepare(face),
    "chooses": lambda: fi.choose(face, [Q]),
    "forgets": lambda: fi.forget(),
    "unchecked": lambda: list(fi.unchecked(face, Q)),
    "closes": lambda: fi.close(),
    "only exits": lambda: None,
    "lets go of it": forget_all,
    "loads its own": own,
    "leaves its own open": own_stays_open,
    "forks again": grandchild,
}

def outcome(case):
    began = time.monotonic()
    try:
        out = CASES[case]()
        said = out if isinstance(out, bool) else "done" if out is None else "went through"
    except FaceInsightError as e:
        said = "refused" if "spawn" in str(e) and time.monotonic() - began < 1 else str(e)
    except BaseException as e:
        said = repr(e)
    return said

def forked(case):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(outcome(case)).encode())
        sys.exit(0)  # as a process ends by itself: with all its destructors
    os.close(write)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return os.read(read, 1000).decode()
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return os.read(read, 1000).decode() + " and hangs"

found = {case: forked(case) for case in CASES}
busy = threading.Thread(target=lambda: [fi.ask(face, "Describe this face.") for _ in range(60)])
busy.start()
time.sleep(0.05)
for case in ("asks", "perceives", "closes", "only exits", "loads its own"):
    found[f"{case}, the parent is busy"] = forked(case)
busy.join()
context = multiprocessing.get_context("fork")
queue = context.Queue()
for case in ("asks", "loads its own", "only exits"):
    child = context.Process(target=lambda: queue.put(str(outcome(case))))
    child.start()
    found[f"multiprocessing {case}"] = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
found["parent"] = str(fi.ask(face, Q).text == text and len(fi.perceive(photo)) == 1)
print(json.dumps(found))
"""

REFUSED = ("asks", "perceives", "streams", "goes on streaming", "prepares", "chooses", "forgets", "unchecked")
BUSY = ", the parent is busy"


def run(code: str, *arguments: object) -> str:
    # Python 3.12 warns of any fork beside threads.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_what_a_child_does_works_or_is_refused_and_it_ends():
    found = json.loads(run(CASES, PHOTO))
    wanted = dict.fromkeys([*REFUSED, "asks" + BUSY, "perceives" + BUSY, "multiprocessing asks"], "refused")
    wanted |= dict.fromkeys(["closes", "only exits", "closes" + BUSY, "only exits" + BUSY], "done")
    wanted["multiprocessing only exits"] = "done"
    own = [
        "loads its own",
        "leaves its own open",
        "forks again",
        "loads its own" + BUSY,
        "multiprocessing loads its own",
    ]
    assert found == wanted | dict.fromkeys([*own, "lets go of it", "parent"], "True")


#: Workers that load after the fork, of a master that only imported, as gunicorn's do in post_fork.
WORKERS = """
import os, sys
from faceinsight import FaceInsight
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        fi = FaceInsight.load("nano", device="cpu", threads=2)
        ok = fi.ask(fi.perceive(sys.argv[1])[0], "Is she smiling?").text.startswith("Yes")
        sys.exit(0 if ok else 1)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
"""


def test_workers_that_load_after_the_fork_work():
    assert run(WORKERS, PHOTO).strip() == "[0, 0]"


def test_where_threads_cannot_be_ended_a_child_is_told_so(monkeypatch):
    """An OpenMP older than 5.0, or a GPU: then a bundle loaded before the fork rules out another behind it."""
    from faceinsight import RequestError
    from faceinsight.host import forks

    class Old:
        omp_get_max_threads = None

    class Without:
        pass

    monkeypatch.setattr(forks, "_process", os.getpid())
    for library, gpu, ended in ((Old, False, False), (Without, False, True), (Without, True, False)):
        monkeypatch.setattr(forks, "_library", library)
        monkeypatch.setattr(forks, "_on_gpu", gpu)
        forks._before_fork()
        assert forks._ended is ended
    monkeypatch.setattr(forks, "_process", os.getpid() + 1)
    forks._in_child()
    with pytest.raises(RequestError, match="which had loaded a bundle: load it after the fork"):
        forks.starts_threads(Old, gpu=False)
