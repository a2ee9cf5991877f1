"""A real browser: Debian's Chromium, driven by playwright, with WebGL computed by the CPU."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
)
WAIT_MS = 300_000
"""Far more than it takes: a machine may be busy, and all of WebGL is computed."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser; without one these tests are skipped, but not in CI."""
    missing = None
    if not CHROMIUM.exists():
        missing = f"expected {CHROMIUM} (apt-get install chromium), found none"
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing = "expected playwright (pip install playwright), found none"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Open an address in a tab; all tabs of a test share their cookies. An error on a page fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 640})
    context.set_default_timeout(WAIT_MS)
    errors: list[str] = []

    def open_tab(url: str) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("body[data-ready=true][data-final=true]")
        return page

    yield open_tab
    context.close()
    assert errors == []
