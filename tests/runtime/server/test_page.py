"""The pages in a real browser: what a passer-by meets, and what they never see."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest

pytest.importorskip("starlette", reason="the extra server")
from browser import Visit, chromium
from paths import PHOTO, ROOT
from serving import Serving

from faceinsight.server.api import page
from faceinsight.server.page import words

pytestmark = pytest.mark.slow
CAMERA = ROOT / "examples" / "swaying_portrait.py"
#: What nobody in front of a kiosk should read.
INTERNALS = re.compile(
    r"error|exception|traceback|undefined|null|NaN|\[object|/v1/|127\.0|localhost|worker|\bjson\b|status \d", re.I
)


def camera(people: int = 1, *, marker: Path | None = None, frames: int | None = None) -> str:
    """A source; marker: a file that exists once it was started, and says how often."""
    more = ("--frames", str(frames)) if frames else ()
    command = shlex.join([sys.executable, str(CAMERA), str(PHOTO), "--people", str(people), "--fps", "10", *more])
    if marker:
        command = shlex.join(["sh", "-c", f"echo x >> {shlex.quote(str(marker))}; exec {command}"])
    return f"cmd:{command}"


def children(pid: int) -> list[int]:
    """Processes that any thread of it started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream") as browser:
        yield browser


@pytest.fixture(scope="module")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With the shipped bundle, and two people in front of it."""
    folder = tmp_path_factory.mktemp("kiosk")
    with Serving(folder, "nano", "--kiosk", "--operator", "Museum", "--camera", camera(2)) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def visit(browser: Any, kiosk: Serving) -> Iterator[Visit]:
    visit = Visit(browser, kiosk.url, locale="en-US")
    yield visit
    visit.close()
    httpx.delete(f"{kiosk.url}/v1/consent")
    assert not visit.errors
    assert not visit.elsewhere


def test_a_visit_from_the_first_touch_to_the_farewell(visit: Visit, kiosk: Serving):
    visit.wait_state("attract")
    assert kiosk.get("/v1/camera").json()["state"] == "waiting_for_consent"
    visit.page.click("#begin")
    notice = visit.page.inner_text("#notice")
    assert "artificial intelligence" in notice
    assert "Operator: Museum" in notice
    assert "facial expression" not in notice
    visit.page.click("#agree")
    visit.wait_labels()
    assert visit.state == "live"
    visit.page.click("#chips button:nth-child(2)")
    assert "smiling" in visit.answer()
    # Its evidence is marked: the mouth in one face, nothing else there.
    assert visit.page.evaluate("() => [...document.querySelectorAll('#talk p')].length") == 2
    assert "glasses" in visit.ask("Are both wearing glasses?")
    assert re.search("each|both|neither", visit.ask("Who of them is smiling?"), re.I)
    assert "smiling" in visit.ask("Is the person on the left smiling?")
    visit.page.click("#forget")
    visit.wait_state("thanks")
    assert "forgotten" in visit.text
    visit.wait_state("attract")
    status = kiosk.get("/v1/camera").json()
    assert (status["state"], status["consent"]) == ("waiting_for_consent", "closed")
    assert visit.page.inner_text("#talk") == ""
    assert visit.page.evaluate("() => document.getElementById('view').width") == 1


def test_a_kiosk_says_what_it_may_be_used_for_and_what_it_does(kiosk: Serving):
    assert re.search("licence of .*parser.onnx.*: non-commercial research only", kiosk.log)
    privacy = kiosk.get("/v1/privacy").json()
    assert privacy["switches"]["expression"] is False
    assert not {"Happiness", "Male", "Young"} & set(privacy["computed"])
    assert "Smiling" in privacy["computed"]
    assert set(privacy["notices"]) == {"en", "de", "es", "fr"}
    assert privacy["notice"].startswith("This screen uses artificial intelligence")
    assert privacy["held"]["frame"].startswith("none before somebody agreed")


def test_expression_is_on_where_it_is_allowed(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--kiosk", "--allow", "expression", "--camera", camera()) as server:
        server.wait_ready()
        privacy = server.get("/v1/privacy").json()
        assert privacy["switches"]["expression"] is True
        assert "facial expression" in privacy["notice"]


def test_no_frame_is_read_before_somebody_agrees_and_none_after(browser: Any, tiny_bundle: Path, tmp_path: Path):
    marker = tmp_path / "started"
    with Serving(tmp_path, tiny_bundle, "--kiosk", "--camera", camera(marker=marker)) as server:
        server.wait_ready()
        visit = Visit(browser, server.url)
        visit.wait_state("attract")
        visit.page.click("#begin")
        assert server.post("/v1/camera", json={"enabled": True}).json()["state"] == "waiting_for_consent"
        refused = server.post("/v1/camera/ask", json={"question": "Is there a hat?"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "consent_required")
        assert refused.headers["x-should-retry"] == "false"
        time.sleep(1)
        assert not marker.exists()
        visit.page.click("#refuse")
        visit.wait_state("attract")
        assert not marker.exists()
        visit.page.click("#begin")
        visit.page.click("#agree")
        visit.wait_labels()
        assert marker.read_text().split() == ["x"]
        visit.page.click("#forget")
        visit.wait_state("attract")
        assert children(server.pid) == [server.worker]
        frames = server.metric("camera_frames_total")
        assert frames > 5
        time.sleep(1)
        assert server.metric("camera_frames_total") == frames
        assert marker.read_text().split() == ["x"]
        visit.close()


def test_a_consent_that_nobody_renews_ends(tiny_bundle: Path, tmp_path: Path):
    with Serving(tmp_path, tiny_bundle, "--kiosk", "--consent-seconds", "5", "--camera", camera()) as server:
        server.wait_ready()
        given = server.post("/v1/consent").json()
        assert (given["consent"], given["seconds"]) == ("open", 5)
        assert 4 < given["left_s"] <= 5
        server.wait(lambda: server.get("/v1/camera").json()["state"] == "up", 10)
        server.post("/v1/consent")
        began = time.monotonic()
        server.wait(lambda: server.get("/v1/camera").json()["consent"] == "closed", 10)
        assert 4 < time.monotonic() - began < 7
        assert server.get("/v1/camera").json()["state"] == "waiting_for_consent"
        # Forgetting needs no worker.
        server.post("/v1/consent")
        server.wait(lambda: server.get("/v1/camera").json()["state"] == "up", 10)
        os.kill(server.worker, signal.SIGKILL)
        gone = httpx.delete(f"{server.url}/v1/consent", timeout=30)
        assert (gone.status_code, gone.json()["consent"]) == (200, "closed")
        server.wait_ready()
        server.post("/v1/camera", json={"enabled": False})
        assert server.post("/v1/consent").json()["error"]["code"] == "camera_not_ready"


def test_a_visitor_who_walks_away_is_forgotten(browser: Any, tiny_bundle: Path, tmp_path: Path):
    """Twenty frames of somebody, then a camera that goes on with an empty room."""
    source = tmp_path / "leaving.py"
    source.write_text(
        f"import sys; sys.argv = ['x', {str(PHOTO)!r}, '--fps', '10', '--frames', '30']\n"
        f"sys.path.insert(0, {str(CAMERA.parent)!r})\n"
        "import numpy as np, time, swaying_portrait as s\n"
        "s.main()\n"
        "rng = np.random.default_rng(0)\n"
        "while True:\n"
        "    sys.stdout.buffer.write(b'FRAME\\n' + rng.integers(80, 100, 1280 * 720 * 3 // 2, np.uint8).tobytes())\n"
        "    sys.stdout.buffer.flush(); time.sleep(0.1)\n"
    )
    command = f"cmd:{shlex.join([sys.executable, str(source)])}"
    with Serving(tmp_path, tiny_bundle, "--kiosk", "--consent-seconds", "8", "--camera", command) as server:
        server.wait_ready()
        visit = Visit(browser, server.url)
        visit.agree()
        visit.page.wait_for_selector("#hint:not(:empty)", timeout=15_000)
        assert visit.page.inner_text("#hint") == "Please come in front of the camera."
        visit.wait_state("attract", 15)
        assert server.get("/v1/consent").json()["consent"] == "closed"
        visit.close()


def test_whatever_fails_the_page_rests_and_goes_on(browser: Any, tmp_path: Path, tiny_bundle: Path):
    options = ("--kiosk", "--camera", camera(), "--no-consent")
    server = Serving(tmp_path, tiny_bundle, *options)
    try:
        server.wait_ready()
        visit = Visit(browser, server.url)
        visit.wait_state("live")
        visit.wait_labels()
        os.kill(server.worker, signal.SIGSTOP)
        visit.wait_state("pause", 15)
        assert not INTERNALS.search(visit.text), visit.text
        visit.wait_state("live", 15)
        server.post("/v1/camera", json={"enabled": False})
        visit.wait_state("pause", 10)
        assert "break" in visit.text
        server.post("/v1/camera", json={"enabled": True})
        visit.wait_state("live", 15)
        port = server.port
        server.stop()
        visit.wait_state("pause", 10)
        assert not INTERNALS.search(visit.text), visit.text
        server = Serving(tmp_path, tiny_bundle, *options, "--port", str(port))
        server.wait_ready()
        visit.wait_state("live", 10)
        visit.wait_labels()
        assert not visit.errors
        visit.close()
    finally:
        server.stop()


def test_a_camera_that_is_lost_and_comes_back(browser: Any, tiny_bundle: Path, tmp_path: Path):
    plugged = tmp_path / "plugged"
    plugged.touch()
    source = camera().removeprefix("cmd:")
    command = shlex.join(["sh", "-c", f"test -e {shlex.quote(str(plugged))} && exec {source}"])
    with Serving(tmp_path, tiny_bundle, "--kiosk", "--camera", f"cmd:{command}") as server:
        server.wait_ready()
        visit = Visit(browser, server.url)
        visit.agree()
        plugged.unlink()
        lost = [pid for pid in children(server.pid) if pid != server.worker]
        os.kill(lost[0], signal.SIGKILL)
        visit.wait_state("pause", 10)
        assert not INTERNALS.search(visit.text), visit.text
        plugged.touch()
        visit.wait_state("live", 10)
        visit.wait_labels()
        # It is the same visit: nobody has to agree again.
        assert server.get("/v1/consent").json()["consent"] == "open"
        assert not visit.errors
        visit.close()


def test_every_state_is_accessible(browser: Any, kiosk: Serving):
    """axe: nothing serious, in a wide and in a high window, and on a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python").Axe()

    def check(visit: Visit) -> None:
        found = [v for v in axe.run(visit.page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not found, (visit.state, [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found])

    for width, height in ((1920, 1080), (1080, 1920), (412, 915)):
        visit = Visit(browser, kiosk.url, width=width, height=height, reduced_motion="reduce")
        visit.wait_state("attract")
        check(visit)
        visit.page.click("#begin")
        check(visit)
        visit.page.click("#agree")
        visit.wait_labels()
        visit.ask("Is the person smiling?")
        visit.page.click("#keys")
        check(visit)
        visit.page.click("#forget")
        visit.wait_state("thanks")
        check(visit)
        visit.wait_state("attract")
        visit.page.goto(kiosk.url + "/demo")
        visit.wait_state("live")
        check(visit)
        visit.close()


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (1280, 800), (412, 915)])
def test_everything_is_on_the_screen(browser: Any, kiosk: Serving, width: int, height: int):
    visit = Visit(browser, kiosk.url, width=width, height=height)
    visit.agree()
    sizes = "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert visit.page.evaluate(sizes)[0] <= width
    if width > 600:
        assert visit.page.evaluate(sizes)[1] <= height
        for name in ("#view", "#chips", "#question", "#forget", "#languages"):
            box = visit.page.locator(name).bounding_box()
            assert box["x"] >= 0, name
            assert box["y"] >= 0, name
            assert box["x"] + box["width"] <= width, name
            assert box["y"] + box["height"] <= height, name
        assert visit.page.locator("#view").bounding_box()["height"] > height / 4
    for button in visit.page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 36, button.inner_text()
    visit.page.click("#forget")
    visit.wait_state("attract")
    visit.close()


def test_languages(browser: Any, kiosk: Serving):
    visit = Visit(browser, kiosk.url, locale="de-AT")
    visit.wait_state("attract")
    assert "Zum Beginnen berühren" in visit.text
    visit.page.click("text=Français")
    assert "Touchez pour commencer" in visit.text
    assert visit.page.get_attribute("html", "lang") == "fr"
    visit.page.click("#begin")
    assert "intelligence artificielle" in visit.text
    visit.page.click("#agree")
    visit.wait_labels()
    visit.page.click("#chips button:first-child")
    assert visit.answer()
    found = visit.page.locator("#talk .found").last.inner_text()
    assert "lunettes: non" in found
    assert visit.page.locator("#talk .answer").last.get_attribute("lang") == "en"
    visit.page.click("#forget")
    visit.wait_state("attract")
    visit.close()


def test_keyboard_on_the_screen_and_speech(browser: Any, kiosk: Serving):
    visit = Visit(browser, kiosk.url)
    visit.agree()
    assert visit.page.locator("#speak").is_hidden()
    visit.page.click("#keys")
    for key in "hi":
        visit.page.click(f"#keyboard >> text='{key}'")
    visit.page.click("#keyboard .wide:last-child")
    assert visit.page.input_value("#question") == "h"
    visit.page.click("#forget")
    visit.wait_state("attract")
    # A browser that recognises speech on this machine.
    visit.page.add_init_script(
        "window.SpeechRecognition = class { static available = async (o) => o.processLocally ? 'available' : 'no';"
        "start() { this.onresult({results: [[{transcript: 'Is the person smiling?'}]]}); this.onend(); } };"
    )
    visit.page.reload()
    visit.agree()
    visit.page.click("#speak")
    assert "smiling" in visit.answer()
    visit.page.click("#forget")
    visit.wait_state("attract")
    visit.close()


def test_the_demo_answers_about_a_photo_and_about_the_browsers_camera(kiosk: Serving, tmp_path: Path):
    face = tmp_path / "face.mjpeg"
    picture = cv2.imread(str(PHOTO))
    face.write_bytes(b"".join(cv2.imencode(".jpg", picture, [1, 90 + i % 2])[1].tobytes() for i in range(10)))
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with chromium(*flags, f"--use-file-for-fake-video-capture={face}") as browser:
        visit = Visit(browser, kiosk.url + "/demo", locale="en-US")
        visit.wait_state("live")
        (tmp_path / "no.png").write_text("this is no picture")
        visit.page.set_input_files("#file", tmp_path / "no.png")
        visit.page.wait_for_selector("#hint:not(:empty)")
        assert "no picture that can be read" in visit.page.inner_text("#hint")
        wall = tmp_path / "wall.png"
        cv2.imwrite(str(wall), picture[420:, 400:])
        visit.page.set_input_files("#file", wall)
        visit.page.wait_for_selector("text=No face was found in the picture.")
        assert "in front of the camera" in visit.ask("Is the person smiling?")
        visit.page.set_input_files("#file", PHOTO)
        visit.wait_labels()
        assert "smiling" in visit.ask("Is the person smiling?")
        assert visit.page.inner_text("#hint") == ""
        visit.page.click("#camera")
        visit.page.wait_for_selector("text=Stop the camera")
        visit.wait_labels()
        assert "glasses" in visit.ask("Is the person wearing glasses?")
        visit.page.click("#forget")
        visit.page.wait_for_selector("#empty:visible")
        assert kiosk.get("/v1/privacy").json()["counters"]["faces_held"] == 0
        assert not visit.errors
        assert not visit.elsewhere
        visit.close()


def test_beyond_this_machine_the_page_asks_for_the_token(browser: Any, tiny_bundle: Path, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    token.chmod(0o600)
    options = ("--token-file", str(token), "--camera", camera(), "--no-consent")
    with Serving(tmp_path, tiny_bundle, *options) as server:
        server.wait(lambda: server.get("/readyz").status_code == 200)
        assert server.get("/v1/page").status_code == 401
        assert server.get("/v1/camera/events", headers={"cookie": "faceinsight=wrong"}).status_code == 401
        visit = Visit(browser, server.url)
        visit.wait_state("login")
        visit.page.fill("#code", "wrong")
        visit.page.press("#code", "Enter")
        visit.page.wait_for_selector("#login-wrong:not(:empty)")
        visit.page.fill("#code", "correct-horse-battery")
        visit.page.press("#code", "Enter")
        visit.wait_labels()
        cookie = visit.context.cookies()[0]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert "correct" not in cookie["value"]
        visit.close()


def test_size_and_headers(kiosk: Serving):
    said = kiosk.get("/v1/page")
    names = ("kiosk.html", "kiosk.js", "face.js", "page.css", "icon.svg")
    assert len(said.content) + sum(len(page.FILES[name][0]) for name in names) < 60_000
    assert sum(len(data) for data, _, _ in page.FILES.values()) < 60_000
    for path in ("/", "/demo", "/static/face.js"):
        answer = kiosk.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert kiosk.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert kiosk.get("/static/../page.py").status_code == 404
    assert kiosk.get("/static/missing.js").status_code == 404
    assert "http://" not in json.dumps(said.json())
    for name, (data, _, _) in page.FILES.items():
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", data), name


def test_the_words_are_complete_and_the_notice_says_what_is_on():
    languages = words.load()
    assert list(languages) == ["en", "de", "es", "fr"]
    some = [
        {"name": "Eyeglasses", "group": "", "region": "glasses"},
        {"name": "Male", "group": "gender", "region": "face"},
    ]
    for code, text in languages.items():
        asked = words.notice(text, words.Facts(some, asks=True, seconds=60, counted=(5, 15), sent=True, operator="X"))
        free = words.notice(text, words.Facts(some[:1], asks=False, seconds=60))
        assert not any("{" in sentence for sentence in (*asked, *free)), code
        assert text["groups"]["gender"] in " ".join(asked)
        assert text["groups"]["gender"] not in " ".join(free)
        assert text["notice"]["camera_on"] in free
        assert text["notice"]["camera_off"] in asked
        assert len(asked) > len(free)
        shown = words.page(text, words.Facts(some, asks=True, seconds=60))
        assert set(shown["labels"]) == {"Eyeglasses", "Male"}
        assert len(shown["questions"]) == 2


def test_a_further_language_is_checked(tmp_path: Path):
    from faceinsight import RequestError

    english = json.loads((words.FOLDER / "en.json").read_text())
    path = tmp_path / "pt.json"
    path.write_text(json.dumps(english | {"name": "Português"}))
    assert list(words.load([str(path)])) == ["en", "de", "es", "fr", "pt"]
    for broken, expected in (
        ({"page": {**english["page"], "begin": 3}}, "page.begin"),
        ({"notice": {**english["notice"], "expires": "no field"}}, "notice.expires"),
        ({"questions": [{"shown": "x"}]}, "questions"),
        ({"labels": []}, "labels"),
    ):
        path.write_text(json.dumps(english | broken))
        with pytest.raises(RequestError, match=expected):
            words.load([str(path)])
    path.write_text("{")
    with pytest.raises(RequestError, match=r"pt\.json"):
        words.load([str(path)])
    with pytest.raises(RequestError, match="named by its language"):
        words.load([str(tmp_path / "Portuguese.txt")])
