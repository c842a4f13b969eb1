"""A headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

QUIET = (
    "--headless",
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

Open = Callable[..., Chrome]


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    """The one browser of all tests."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser is not None and driver is not None, "tests/conftest.py skips the tests that need them"
    options = ChromeOptions()
    options.binary_location = browser
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = Chrome(options=options, service=ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def opened(chrome: Chrome) -> Iterator[Open]:
    """``opened(path, width=1200, scheme="light")``: the page in the browser; afterwards its console must be empty."""

    def open_page(path: Path, *, width: int = 1200, scheme: str = "light") -> Chrome:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chrome.get(path.as_uri())
        return chrome

    chrome.get_log("browser")  # type: ignore[no-untyped-call]
    yield open_page
    assert chrome.get_log("browser") == []  # type: ignore[no-untyped-call]
