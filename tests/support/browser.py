# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for tests of pages: what a person would see, press and wait for.

    with browser.opened(path, width=390, height=844, dark=True) as page: ...

`page` is Selenium's driver. Tests that use it are skipped where there is no Chromium, unless T1JAX_BROWSER=1 asks for
one, as .ci/run does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FOUND = bool(BINARY and DRIVER)

needs_browser = pytest.mark.skipif(
    not FOUND and os.environ.get("T1JAX_BROWSER") != "1",
    reason="no Chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@contextmanager
def opened(path: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """The page at `path`, a file or an address, in a window of `width` x `height` CSS pixels.

    Whatever the page asks of a network is recorded: see `requests_of`.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert FOUND, "T1JAX_BROWSER=1 asks for Chromium and chromedriver, and they are not on PATH"
    options = webdriver.ChromeOptions()
    options.binary_location = str(BINARY)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
        try:
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            driver.get(path.absolute().as_uri() if isinstance(path, Path) else path)
            yield driver
        finally:
            driver.quit()


def overflow(page: Any) -> int:
    """CSS pixels by which the page is wider than its window: 0 is right."""
    return page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


def requests_of(page: Any) -> list[str]:
    """Addresses that the page asked for since it was opened, other than files and data of its own."""
    import json

    found = []
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [url for url in found if not url.startswith(("file:", "data:", "about:", "chrome"))]


def complaints(page: Any) -> list[str]:
    """What the page's script and style complained of."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
