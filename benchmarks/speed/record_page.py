"""The pictures of the page in README and docs, made of the page itself: a visit as an animation, and single screens.

    python benchmarks/speed/record_page.py          (a minute; writes docs/images/kiosk*.webp)

The portrait in front of the camera is in the public domain. Needs Chromium, playwright and Pillow.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

from PIL import Image

from kiosk import FLAGS, ROOT, camera, program
from serve import serving

#: Size of the page, and of the pictures; quality of WebP.
PAGE, PICTURE, QUALITY = (1280, 720), (960, 540), 60
#: Seconds between two pictures of the animation, at least, and on each of its screens.
PERIOD = 0.2
OPERATOR = "City museum"


class Recorder:
    """Pictures of a page, each with how long it was there."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self.pictures: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            picture = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
            self.pictures.append(picture.resize(PICTURE, Image.Resampling.LANCZOS))
            self._page.wait_for_timeout(max(1, (PERIOD - (time.monotonic() - began)) * 1e3))
            self.milliseconds.append(round((time.monotonic() - began) * 1e3))

    def touch(self, selector: str, seconds: float) -> None:
        """A touch, and what follows; the pointer rests on what is touched a moment before."""
        self._page.hover(selector)
        self.watch(0.5)
        self._page.click(selector)
        self.watch(seconds)

    def save(self, path: Path) -> None:
        first, *others = self.pictures
        animation: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0}
        first.save(path, quality=QUALITY, method=4, duration=self.milliseconds, **animation)


def visit(page: Any, folder: Path) -> None:
    """From the first touch to the farewell."""
    recorder = Recorder(page)
    recorder.watch(1.2)
    recorder.touch("#begin", 2.0)
    still(page, folder / "kiosk-notice.webp")
    recorder.touch("#agree", 0)
    page.wait_for_selector("#labels span", state="attached")
    recorder.watch(2.0)
    recorder.touch("#chips button:nth-child(2)", 2.2)
    recorder.touch("#chips button:nth-child(3)", 2.2)
    still(page, folder / "kiosk-answer.webp")
    page.fill("#question", "Is she wearing glasses or a hat?")
    recorder.watch(0.6)
    page.press("#question", "Enter")
    recorder.watch(2.0)
    recorder.touch("#languages button:nth-child(2)", 0.6)
    recorder.touch("#chips button:last-child", 2.4)
    recorder.touch("#forget", 2.0)
    recorder.save(folder / "kiosk.webp")


def still(page: Any, path: Path) -> None:
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=75, method=6)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    options = ("--kiosk", "--operator", OPERATOR, "--camera", camera(1))
    with serving("nano", *options) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": PAGE[0], "height": PAGE[1]}, locale="en-US")
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector('body[data-state="attract"]')
        visit(page, args.out)
        phone = browser.new_page(viewport={"width": 412, "height": 800}, locale="en-US")
        phone.goto(f"http://127.0.0.1:{server.port}/demo")
        phone.set_input_files("#file", ROOT / "tests" / "data" / "astronaut.png")
        phone.wait_for_selector("#labels span", state="attached")
        phone.click("#chips button:nth-child(1)")
        phone.wait_for_timeout(1500)
        still(phone, args.out / "kiosk-phone.webp")
        browser.close()


if __name__ == "__main__":
    main()
