"""A headless browser for tests that click: skipped, with the reason, where there is none, and failed where CI is set."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Opened:
    """A page, with what it complained of and what it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


# Of a module, not of the session: while playwright runs, no other event loop can run in this thread.
@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs a browser on the PATH: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(chromium):
    """Function from an HTML file to an `Opened` page; more keywords as in playwright's ``new_page``."""
    opened = []

    def open_page(path: Path, functions: dict | None = None, **options) -> Opened:
        found = Opened(chromium.new_page(**{"viewport": {"width": 1150, "height": 900}, **options}))
        opened.append(found.page)
        found.page.set_default_timeout(90_000)
        found.page.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else None)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        for name, function in (functions or {}).items():
            found.page.expose_function(name, function)
        found.page.goto(path.resolve().as_uri())
        return found

    yield open_page
    for page in opened:
        page.close()


def wait_until(page, expression: str, seconds: float = 30) -> None:
    """Wait for an expression to hold. Asked from here: what playwright leaves to the page is an eval, which its policy forbids."""
    for _ in range(int(seconds * 20)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} did not come true within {seconds} s")
