"""The process around an instance: no Python to start, no home, no memory, no console, no reader; and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import PHOTO

from faceinsight import MemoryShortError, RequestError
from faceinsight.diagnostics.doctor import finding
from faceinsight.diagnostics.fit import FLOOR, measure_floor
from faceinsight.host import child, machine, memory
from faceinsight.host.child import Probe, interpreter, probe

pytestmark = pytest.mark.slow

QUESTION = "Is she smiling?"
#: What a command may print beside its answer where llama.cpp was compiled for AMX and no child can try it.
ASK = """
import sys
from faceinsight import FaceInsight
with FaceInsight.load("nano", device="cpu", threads=1) as fi:
    print(fi.ask(fi.perceive(sys.argv[1])[0], "Is she smiling?").text)
"""


def run(*command: object, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **changes)


def ask(*arguments: object, **changes: object) -> subprocess.CompletedProcess[str]:
    return run("-m", "faceinsight", "ask", PHOTO, QUESTION, *arguments, **changes)


@pytest.mark.parametrize(
    ("name", "python"),
    [
        ("/usr/bin/python3.12", True),
        ("/venv/bin/python", True),
        ("C:/venv/Scripts/python.exe", True),
        ("/opt/pypy3", True),
        ("/usr/bin/python3-dbg", True),
        ("/opt/kiosk/kiosk", False),
        ("/usr/bin/uwsgi", False),
        ("/bin/false", False),
        ("python-kiosk", False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_python_interpreter_is_started_for_a_child(monkeypatch, name, python):
    monkeypatch.setattr(sys, "executable", name)
    assert interpreter() == (name if python else None)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert interpreter() is None


def test_an_app_is_not_started_again(monkeypatch, tmp_path: Path):
    app, started = tmp_path / "kiosk", tmp_path / "started"
    app.write_text(f"#!/bin/sh\necho again >> {started}\n")
    app.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(app))
    found = probe.__wrapped__("llama")
    assert found.found is None
    assert "no Python interpreter" in str(found.error)
    probe.cache_clear()
    assert measure_floor() == FLOOR
    probe.cache_clear()
    assert "another Python" in finding("cuda")
    assert not started.exists()


@pytest.mark.parametrize("executable", ["''", "None", "'/bin/false'", repr(str(PHOTO))])
def test_without_a_python_to_start_everything_else_works(tmp_path: Path, executable: str):
    done = run(
        "-c",
        f"import sys\nsys.executable = {executable}\n{ASK}",
        PHOTO,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Yes")
    assert not list(tmp_path.iterdir())


def test_a_child_that_cannot_start_is_a_finding(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "no child process can be started" in str(probe.__wrapped__("llama").error)
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    assert probe.__wrapped__("llama") == Probe(error="exit code 1")


def test_a_child_says_how_far_it_came_before_it_crashed(monkeypatch, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh\necho '{child.MARK}{{"without": "AMX"}}'\nkill -$SIGNAL $$\n""")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    memory = " (out of memory? close other programs, or add swap)"
    for name, crashed, more in (("SEGV", True, ""), ("KILL", False, memory)):
        monkeypatch.setenv("SIGNAL", name)
        assert probe.__wrapped__("amx") == Probe({"without": "AMX"}, f"crashed with SIG{name}{more}", crashed)


def test_a_user_without_a_home_goes_without_a_record(monkeypatch, tmp_path: Path):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    for relative in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        with pytest.raises(OSError, match="set HOME"):
            machine.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_folder() == tmp_path / "faceinsight"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become an unknown user")
def test_an_unknown_user_without_home(tmp_path: Path):
    become = "import os\nos.environ.pop('HOME', None)\nos.setgid(12345)\nos.setuid(12345)\n"
    readable = Path(sys.executable).resolve()
    if not all(p.stat().st_mode & 0o001 for p in (readable, *readable.parents, *PHOTO.resolve().parents)):
        pytest.skip("this checkout, or its Python, cannot be read by others")
    done = run("-c", become + ASK, PHOTO, env={k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Yes")


def test_a_failed_assertion_ends_the_process():
    """llama.cpp would fork for a backtrace first and may wait for that child for ever."""
    code = "from faceinsight.backends.llama_cpp.bindings import import_llama\n"
    code += "import_llama()._lib.ggml_abort(b'here', 1, b'planted')"
    done = run("-c", code, timeout=60, env={k: v for k, v in os.environ.items() if k != "GGML_NO_BACKTRACE"})
    assert done.returncode == -signal.SIGABRT
    assert "planted" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8:strict"])
def test_a_console_that_cannot_show_a_character_gets_its_code(encoding: str):
    asked = "Is she smiling? 漢 \udcff".encode("utf-8", "surrogateescape")
    command = [sys.executable, "-m", "faceinsight", "ask", str(PHOTO), asked, "Is she?"]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"> Is she smiling? " in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, check=True, env=env)
    assert json.loads(done.stdout)[0]["question"].startswith("Is she smiling? 漢")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", [["ask", str(PHOTO), QUESTION], ["report", str(PHOTO), "--json"], ["info"]])
def test_a_full_disk_is_one_line(command: list[str]):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "faceinsight", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "faceinsight: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("after", [0.2, 0.5, 1.0])
def test_ctrl_c_ends_without_a_traceback(after: float):
    # A shell starts what it puts into the background with Ctrl-C ignored.
    code = (
        "import signal\nfrom faceinsight.cli import entry\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    code += "print('ready', flush=True)\nraise SystemExit(entry.main())"
    questions = ["Describe this face."] * 400
    command = [sys.executable, "-c", code, "ask", str(PHOTO), *questions]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        time.sleep(after)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (130, "")


def test_a_library_that_is_interrupted_or_missing_is_no_traceback(tmp_path: Path):
    for raised, code, line in (
        ("KeyboardInterrupt", 130, ""),
        (
            "ImportError('libopenblas.so.0: cannot open shared object file', name='numpy')",
            1,
            "libopenblas.so.0: cannot open",
        ),
        ("ImportError('libm.so: failed to map segment from shared object')", 1, "failed to map segment"),
    ):
        (tmp_path / "numpy.py").write_text(f"raise {raised}\n")
        done = run(
            "-m",
            "faceinsight",
            "info",
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        )
        assert done.returncode == code
        assert line in done.stderr
        assert done.stderr.count("\n") == int(bool(line))


resource = pytest.importorskip("resource")


@pytest.mark.parametrize("megabytes", [300, 500, 700])
def test_little_memory_is_named(megabytes: int):
    limit = megabytes * 10**6
    done = ask("--threads", 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 1
    assert done.stderr.startswith("faceinsight: memory is short: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (ValueError("[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc"), True),
        (ImportError("libcudnn.so.9: cannot open shared object file"), False),
        (ValueError("the file is damaged"), False),
    ],
)
def test_what_libraries_say_where_memory_is_short(error: Exception, short: bool):
    wrapped = RequestError("it does not load")
    wrapped.__cause__ = error

    @memory.shortage_named()
    def load():
        raise wrapped

    with pytest.raises(MemoryShortError if short else RequestError, match="it does not load"):
        load()


def test_llama_cpp_imported_afterwards_writes_nothing():
    code = """
import sys
from faceinsight import FaceInsight
with FaceInsight.load("nano", device="cpu", threads=1) as fi:
    faces = fi.perceive(sys.argv[1])
    import llama_cpp
    for question in ("Is she smiling?", "Who?"):
        fi.ask(faces[0], question)
    fi.prepare((faces[0], faces[0]))
    fi.ask(faces[0], "Is she smiling?")
"""
    done = run("-c", code, PHOTO)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("call", ['fi.ask(face, "Describe this face.")', "fi.perceive(sys.argv[1])"])
def test_exit_with_everything_open_neither_hangs_nor_aborts(call: str):
    """Python ends a daemon thread that is inside of ONNX Runtime by an exception that its C++ does not let through."""
    code = f"""
import sys, threading, time
from faceinsight import FaceInsight
fi = FaceInsight.load("nano", device="cpu", threads=2)
face = fi.perceive(sys.argv[1])[0]
stream = fi.stream(face, "Describe this face.")
next(stream)
for _ in range(3):
    threading.Thread(target=lambda: [{call} for _ in range(1000)], daemon=True).start()
time.sleep(0.1)
print("leaving")
sys.exit(3)
"""
    done = run("-c", code, PHOTO, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "leaving\n", "")
