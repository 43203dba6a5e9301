"""Chromium for tests, as a kiosk runs it; without one they are skipped."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

#: Nothing of the browser's own may use the network.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@cache
def playwright() -> Any:
    """The one that a process may have."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    started = api.sync_playwright().start()
    atexit.register(started.stop)
    return started


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A browser of Playwright's."""
    if PROGRAM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = playwright().chromium.launch(executable_path=PROGRAM, args=[*FLAGS, *flags])
    try:
        yield browser
    finally:
        browser.close()


class Visit:
    """A page, and what it asked for and complained of."""

    def __init__(self, browser: Any, url: str, *, width: int = 1920, height: int = 1080, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(url)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "http://localhost:", "blob:", "data:")):
            self.elsewhere.append(request.url)

    @property
    def state(self) -> str:
        return str(self.page.evaluate("() => document.body.dataset.state"))

    def wait_state(self, state: str, seconds: float = 15) -> None:
        self.page.wait_for_selector(f'body[data-state="{state}"]', timeout=seconds * 1e3)

    def wait_labels(self) -> None:
        self.page.wait_for_selector("#labels span", state="attached", timeout=20_000)

    def agree(self) -> None:
        self.wait_state("attract")
        self.page.click("#begin")
        self.page.click("#agree")
        self.wait_labels()

    def ask(self, text: str) -> str:
        """What the page answers to a typed question."""
        before = self.page.locator("#talk .answer").count()
        self.page.fill("#question", text)
        self.page.press("#question", "Enter")
        return self.answer(before)

    def answer(self, before: int = 0) -> str:
        self.page.locator("#talk .answer:not(:empty)").nth(before).wait_for(timeout=15_000)
        self.page.wait_for_selector("#talk:not([aria-busy=true])", timeout=15_000)
        return str(self.page.locator("#talk .answer").last.inner_text())

    @property
    def text(self) -> str:
        return str(self.page.inner_text("body"))

    def close(self) -> None:
        self.context.close()
