"""A page in a real browser, of a width and in light or dark, and what is wrong with how it is laid out."""

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


WIDER = """
const most = document.documentElement.clientWidth + 1;
return [...document.querySelectorAll('body *')].filter(e => !e.closest('.skip, svg') || e.matches('svg'))
  .filter(e => e.checkVisibility()).map(e => [e, e.getBoundingClientRect()])
  .filter(([_, box]) => box.right > most || box.left < -1)
  .map(([e, box]) => [e.tagName, e.className, Math.round(box.right), e.textContent.trim().slice(0, 40)]);
"""


def wider_than_window(browser: Any) -> list[list[Any]]:
    """The elements of the page that reach out of the window: tag, class, right edge and text."""
    found: list[list[Any]] = browser.execute_script(WIDER)
    return found


COVERED = """
const found = [], filled = ['path', 'rect'].map(tag => `svg.chart:not(:has(image)) ${tag}`).join(', ');
for (const shape of document.querySelectorAll(filled)) {
  const style = getComputedStyle(shape);
  if (style.fill === 'none' || shape.closest('defs')) continue;
  const inverse = shape.getScreenCTM().inverse(), svg = shape.closest('svg');
  for (const text of svg.querySelectorAll('text')) {
    if (text.textContent.trim().match(/^[\\d.]+$/) && svg.closest('.maps')) continue;
    const box = text.getBoundingClientRect();
    for (const x of [0.1, 0.5, 0.9]) for (const y of [0.25, 0.5, 0.75]) {
      const at = new DOMPoint(box.x + x * box.width, box.y + y * box.height).matrixTransform(inverse);
      if (shape.isPointInFill(at)) { found.push(text.textContent); } } } }
return [...new Set(found)];
"""


def labels_on_shapes(browser: Any) -> list[str]:
    """The texts of charts that lie on a bar or another filled shape; the numbers in cells of heat maps may."""
    found: list[str] = browser.execute_script(COVERED)
    return found
