"""A page in a real browser, of a width and in light or dark."""

from __future__ import annotations

import shutil
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def start_browser() -> Any:
    """Chromium without a window, which asks nothing of a network and keeps its console's messages.

    Whoever starts it calls its ``quit``; ``BROWSER`` and ``DRIVER`` must not be None.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "autoplay-policy=no-user-gesture-required"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def show(browser: Any, address: str, width: int = 1400, *, dark: bool = False) -> None:
    """Open a page in a window of a width in CSS pixels, below 500 as on a phone."""
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
