"""The command kiosk: the files of a kiosk, what they do, and that nothing of the machine is lost."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra server")
from faceinsight.cli.main import main
from faceinsight.host.browser_kiosk import BROWSERS, Page, places, script
from faceinsight.host.browser_policy import policy

CAMERA = "v4l2:/dev/v4l/by-id/usb-camera-video-index0"
CHROMIUM = shutil.which("chromium")
POLICY = "etc/chromium/policies/managed/faceinsight.json"
SERVICE = "etc/systemd/system/faceinsight.service"
PAGE_SERVICE = "etc/systemd/system/faceinsight-page.service"
DESKTOP = "etc/xdg/autostart/faceinsight-page.desktop"
SCRIPT = "usr/local/bin/faceinsight-page"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with Debian's Chromium."""
    program = tmp_path / "root" / "usr" / "bin" / "chromium"
    program.parent.mkdir(parents=True)
    program.touch()
    return tmp_path / "root"


@pytest.fixture
def kiosk(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command below that root: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["kiosk", *words, "--root", str(root)])
        return code, *capsys.readouterr()

    return run


def done(out: str) -> Counter[str]:
    """How many files were written, replaced and so on."""
    return Counter(x.split()[0] for x in out.splitlines() if re.match(r"[a-z]+ +/", x))


def present(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} - {"usr/bin/chromium"}


def test_files_are_printed_and_nothing_is_written(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    code, out, err = kiosk("install", "--camera", CAMERA, "--port", "9000")
    assert code == 0
    # An installation in a home folder is warned of; it may be the one that is tested.
    assert not [line for line in err.splitlines() if "out of the service's sight" not in line]
    assert [x[4:].split(",")[0] for x in out.splitlines() if x.startswith("### /")] == [
        f"/{x}" for x in (SERVICE, POLICY, SCRIPT, DESKTOP)
    ]
    (start,) = (x for x in out.splitlines() if x.startswith("ExecStart="))
    assert all(x in f"{start} " for x in (f" --camera {CAMERA} ", " --port 9000 ", " --kiosk "))
    assert "systemctl enable --now faceinsight" in out
    assert present(root) == set()


def test_files_are_written_once_and_the_first_ones_are_saved(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    assert done(kiosk("install", "--camera", CAMERA, "--apply")[1]) == {"written": 4}
    assert present(root) == {SERVICE, POLICY, SCRIPT, DESKTOP}
    assert os.access(root / SCRIPT, os.X_OK)
    assert (root / POLICY).stat().st_mode & 0o777 == 0o644
    assert done(kiosk("install", "--camera", CAMERA, "--apply")[1]) == {"unchanged": 4}
    assert present(root) == {SERVICE, POLICY, SCRIPT, DESKTOP}

    (root / POLICY).write_text('{"VideoCaptureAllowed": true}')
    (root / SERVICE).write_text("[Service]\n")
    out = kiosk("install", "--camera", CAMERA, "--apply")[1]
    assert done(out) == {"replaced": 2, "unchanged": 2}
    # Whatever lies in `managed` is in force.
    saved = {"etc/chromium/policies/faceinsight.json.orig", f"{SERVICE}.orig"}
    assert present(root) == {SERVICE, POLICY, SCRIPT, DESKTOP, *saved}
    assert f"first one is {root / 'etc/chromium/policies/faceinsight.json.orig'}" in out

    kiosk("install", "--camera", CAMERA, "--port", "9000", "--apply")
    assert (root / f"{SERVICE}.orig").read_text() == "[Service]\n"
    assert "localhost:9000" in (root / POLICY).read_text()


def test_another_session_takes_the_first_ones_files_away(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    kiosk("install", "--camera", CAMERA, "--apply", "--browser", "google-chrome")
    assert "etc/opt/chrome/policies/managed/faceinsight.json" in present(root)
    out = kiosk("install", "--camera", CAMERA, "--apply", "--session", "cage")[1]
    assert present(root) == {SERVICE, POLICY, SCRIPT, PAGE_SERVICE, f"{SCRIPT}.orig"}
    assert done(out) == {"removed": 2, "unchanged": 1, "replaced": 1, "written": 2}
    assert "systemctl enable --now faceinsight-page" in out


def test_exactly_these_files_are_removed(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    other = root / "etc/systemd/system/other.service"
    kiosk("install", "--camera", CAMERA, "--apply")
    other.touch()
    out = kiosk("remove")[1]
    assert f"rm {root / SCRIPT}\n" in out
    assert len(present(root)) == 5
    assert done(kiosk("remove", "--apply")[1]) == {"removed": 4}
    assert present(root) == {other.relative_to(root).as_posix()}
    assert done(kiosk("remove", "--apply")[1]) == {}


def test_a_write_that_fails_leaves_the_old_file(
    kiosk: Callable[..., tuple[int, str, str]], root: Path, monkeypatch: pytest.MonkeyPatch
):
    kiosk("install", "--camera", CAMERA, "--apply")
    before = {p: (root / p).read_bytes() for p in present(root)}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = kiosk("install", "--camera", CAMERA, "--port", "9000", "--apply")
    assert (code, "No space left" in err) == (1, True)
    assert {p: (root / p).read_bytes() for p in present(root)} == before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--port", "0"), "port: expected the one that the browser opens, found 0"),
        ((), "kiosk: expected a camera too (--camera SOURCE), found none"),
        (("--camera", CAMERA, "--root", "/no/such"), "no browser found (/usr/bin/chromium"),
        (("--camera", CAMERA, "--root", "/no/such", "--browser", "chromium", "--apply"), "--root /no/such: expected"),
    ],
)
def test_what_cannot_be_a_kiosk_is_refused(words: tuple[str, ...], what: str, root: Path, capsys):
    camera = () if not words or "--camera" in words else ("--camera", CAMERA)
    assert main(["kiosk", "install", "--root", str(root), *camera, *words]) == 1
    assert what in capsys.readouterr().err


def test_a_server_that_wants_a_token_is_refused(kiosk: Callable[..., tuple[int, str, str]], tmp_path: Path):
    """Nobody is there to type it."""
    config = tmp_path / "faceinsight.toml"
    config.write_text(f'camera = "{CAMERA}"\nport = 9000\n')
    assert "http://localhost:9000" in kiosk("install", "--config", str(config))[1]
    config.write_text(f'camera = "{CAMERA}"\ntoken_file = "/etc/token"\n')
    code, _, err = kiosk("install", "--config", str(config))
    assert (code, "token_file: the browser opens http://localhost:PORT without a token" in err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [("--user", "root"), ("--user", "a;b"), ("--language", "de; rm"), ("--language", "german"), ("--session", "x")],
)
def test_what_would_end_in_a_script_is_checked(words: tuple[str, ...], root: Path):
    with pytest.raises(SystemExit) as ended:
        main(["kiosk", "install", "--camera", CAMERA, "--root", str(root), *words])
    assert ended.value.code == 2


def test_writing_below_the_root_needs_rights(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["kiosk", "install", "--camera", CAMERA, "--browser", "chromium", "--apply"]) == 1
    assert "expected root, found user 1000: use sudo" in capsys.readouterr().err
    assert main(["kiosk", "remove", "--apply"]) == 1


def test_a_number_that_may_change_is_warned_of(kiosk: Callable[..., tuple[int, str, str]]):
    assert "may be another camera after a restart" in kiosk("install", "--camera", "v4l2:0")[2]


def test_the_browser_is_the_installed_one(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    (root / "usr/bin/chromium").unlink()
    (root / "snap/bin").mkdir(parents=True)
    # The target of a snap's link is not there in an image.
    (root / "snap/bin/chromium").symlink_to("/usr/bin/no-such-snap")
    out = kiosk("install", "--camera", CAMERA)[1]
    assert "### /etc/chromium-browser/policies/managed/faceinsight.json" in out
    assert 'profile="${XDG_RUNTIME_DIR:?}/snap.chromium/faceinsight-page"' in out


def test_the_policy_is_for_one_origin_alone():
    found = policy("http://localhost:9000")
    assert found["VideoCaptureAllowed"] is False
    assert found["AudioCaptureAllowed"] is False
    assert found["URLBlocklist"] == ["*"]
    assert found["URLAllowlist"] == found["VideoCaptureAllowedUrls"] == ["http://localhost:9000"]
    assert {p.as_posix() for p in places()} >= {(b.policies / "faceinsight.json").as_posix() for b in BROWSERS.values()}


# What systemd, the desktop and the shell make of them


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(kiosk: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path):
    kiosk("install", "--camera", CAMERA, "--session", "cage", "--apply")
    text = (root / PAGE_SERVICE).read_text()
    assert re.search(r"^After=faceinsight.service ", text, re.MULTILINE)
    # Programs that this machine lacks are stood in for.
    (root / PAGE_SERVICE).write_text(text.replace("/usr/bin/cage", shutil.which("true")))
    verified = subprocess.run(
        ["systemd-analyze", "verify", root / SERVICE, root / PAGE_SERVICE], capture_output=True, text=True, check=False
    )
    assert [x for x in verified.stderr.splitlines() if "faceinsight" in x] == []
    (root / PAGE_SERVICE).write_text(text.replace("PAMName=", "PamName="))
    verified = subprocess.run(
        ["systemd-analyze", "verify", root / PAGE_SERVICE], capture_output=True, text=True, check=False
    )
    assert "PamName" in verified.stderr


@pytest.mark.skipif(not shutil.which("desktop-file-validate"), reason="desktop-file-validate is not installed")
def test_the_desktop_takes_its_file(kiosk: Callable[..., tuple[int, str, str]], root: Path):
    kiosk("install", "--camera", CAMERA, "--apply")
    found = subprocess.run(["desktop-file-validate", root / DESKTOP], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


class Session:
    """The script with stand-ins: a server that is ready when asked the third time, a browser that notes its words."""

    def __init__(self, folder: Path, *, session: str, user: str | None = None) -> None:
        self.runtime, self.asked, self.shown = folder / "run", folder / "asked", folder / "shown"
        programs = folder / "bin"
        programs.mkdir()
        profile = self.runtime / "faceinsight-page"
        self.profile = profile
        profile.mkdir(parents=True)
        (profile / "old").touch()
        self._program(programs / "systemctl", f'echo "$@" >> {self.asked}; [ $(wc -l < {self.asked}) -ge 3 ]')
        self._program(programs / "gsettings", "exit 1")
        note = f'echo "$XDG_CONFIG_HOME $TMPDIR $(ls {profile} | wc -l) $@" >> {self.shown}; exit 1'
        self._program(programs / "browser", note)
        page = Page(
            origin="http://localhost:9000",
            user=user or getpass.getuser(),
            browser="chromium",
            session=session,
            language="de",
        )
        self._program(folder / "page", script(page).replace("/usr/bin/chromium", "browser").replace("sleep", ": sleep"))
        environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(self.runtime)}
        self.process = subprocess.Popen([folder / "page"], env=environ)

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.shown.read_text().splitlines() if self.shown.exists() else []


def test_the_page_is_shown_once_the_server_is_ready(tmp_path: Path):
    session = Session(tmp_path, session="cage")
    assert session.process.wait(10) == 1
    (call,) = session.calls()
    assert session.asked.read_text().splitlines() == ["is-active --quiet faceinsight.service"] * 3
    # What a browser before it wrote is gone.
    assert call.startswith(f"{session.profile} {session.profile} 0 --user-data-dir={session.profile} --kiosk ")
    assert call.endswith(" --accept-lang=de --ozone-platform=wayland http://localhost:9000")


def test_a_browser_that_ends_is_started_again_until_the_session_ends(tmp_path: Path):
    session = Session(tmp_path, session="autostart")
    deadline = time.monotonic() + 10
    while len(session.calls()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    while session.process.poll() is None and time.monotonic() < deadline:
        shutil.rmtree(session.runtime, ignore_errors=True)
    assert session.process.wait(1) == 0
    assert len(session.calls()) >= 3
    assert all(x.endswith(" --accept-lang=de http://localhost:9000") for x in session.calls())


def test_the_desktops_of_other_users_are_theirs(tmp_path: Path):
    session = Session(tmp_path, session="autostart", user="somebody-else")
    assert session.process.wait(10) == 0
    assert session.calls() == []


# What Chromium makes of them


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_switches_and_policies_are_chromiums():
    """Names that its program does not have are names that it does not know."""
    known = Path("/usr/lib/chromium/chromium")
    if not known.exists():
        pytest.skip("not Debian's build")
    program = known.read_bytes()
    page = Page(origin="http://localhost:9000", user="kiosk", browser="chromium", session="cage", language="de")
    switches = set(re.findall(r"--([a-z-]+)", script(page))) - {"quiet"}
    assert len(switches) > 10
    names = {*switches, *policy("http://localhost:9000")}
    assert {x for x in names if b"\0%b\0" % x.encode() not in program} == set()
    assert b"\0disable-session-crashed-bubble\0" not in program


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM or os.geteuid() != 0, reason="needs chromium and root")
@pytest.mark.parametrize("allowed", [True, False])
def test_chromium_grants_the_camera_to_the_page_alone(tmp_path: Path, allowed: bool):
    """In a mount namespace: other browsers of this machine keep their policies."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    answers: dict[str, str] = {}
    text = """<script type=module>
        const ask = x => navigator.mediaDevices.getUserMedia(x).then(() => "granted", e => e.name);
        const answers = { video: await ask({ video: true }), audio: await ask({ audio: true }) };
        await fetch("/", { method: "POST", body: JSON.stringify(answers) });
    </script>"""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            answers.update(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    page = f"http://localhost:{server.server_port}"
    found = policy(page if allowed else "http://localhost:1") | ({} if allowed else {"URLAllowlist": [page]})
    managed = tmp_path / "etc" / "policies" / "managed"
    managed.mkdir(parents=True)
    (managed / "faceinsight.json").write_text(json.dumps(found))
    shell = 'mount --bind "$1" "$2" && shift 2 && exec timeout 30 "$@"'
    chromium = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"]
    command = ["unshare", "-m", "sh", "-c", shell, "sh", tmp_path / "etc", "/etc/chromium", *chromium]
    process = subprocess.Popen([*command, f"--user-data-dir={tmp_path / 'profile'}", page], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not answers and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if process.poll() is None:
        process.terminate()
    elif not answers and process.returncode == 1:
        pytest.skip("no mount namespace")
    process.wait(10)
    server.shutdown()
    assert answers == {"video": "granted" if allowed else "NotAllowedError", "audio": "NotAllowedError"}
