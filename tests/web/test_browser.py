"""Pages in a real browser: drawn, played, on a phone, by keyboard, with readable texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.browser import show

from nearfar.watch.alarm import Status
from nearfar.web.server import Server
from nearfar.web.site import Site

PATHS = ("", "machines/pump%207", "alarms?which=all", "alarms/2", "nothing")


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    server = Server(site)
    yield server.address
    server.close()


@pytest.mark.parametrize("path", PATHS)
def test_pages_load_all_they_name_from_this_server(browser: Any, address: str, path: str) -> None:
    browser.get_log("browser")
    show(browser, address + path)
    messages = [entry for entry in browser.get_log("browser") if "404" not in entry["message"]]
    assert messages == [], "no console messages, which a blocked request would be as well"
    requested = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert sorted(name.removeprefix(address) for name in requested) == ["assets/page.js", "assets/style.css"]


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
@pytest.mark.parametrize("path", PATHS)
def test_no_page_scrolls_sideways(browser: Any, address: str, path: str, width: int) -> None:
    show(browser, address + path, width)
    excess = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(excess) <= 0


@pytest.mark.parametrize("path", PATHS)
def test_what_is_touched_on_a_phone_is_large_enough(browser: Any, address: str, path: str) -> None:
    """24 CSS pixels, WCAG 2.2 target size; links within sentences are exempt."""
    show(browser, address + path, 390)
    small = browser.execute_script(
        "return [...document.querySelectorAll('button, summary, select, input, textarea, nav a')]"
        ".filter(e => e.checkVisibility() && e.type !== 'hidden' && e.type !== 'checkbox')"
        ".map(e => [e.textContent.trim() || e.name, e.getBoundingClientRect().height]).filter(e => e[1] < 24)"
    )
    assert small == []


CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const luminance = c => { const [r, g, b] = c.map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
  if (c[3] === 255) return c; if (c[3] !== 0) throw new Error('half transparent: ' + e.className); }
  return rgba('white'); };
const found = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const hidden = !element.checkVisibility() || element.closest('svg.chart, .skip, title');
  if (!own || hidden) continue;
  const style = getComputedStyle(element), svg = element.closest('svg');
  const a = luminance(rgba(svg ? style.fill : style.color)), b = luminance(behind(svg || element));
  found.push([element.tagName + '.' + element.className + ': ' + element.textContent.trim().slice(0, 30),
    (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]); }
for (const element of document.querySelectorAll('::placeholder, input[placeholder]')) {
  const a = luminance(rgba(getComputedStyle(element, '::placeholder').color)), b = luminance(behind(element));
  found.push(['placeholder', (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]); }
return found;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_texts_have_the_contrast_of_wcag_aa(browser: Any, address: str, path: str, dark: bool) -> None:
    show(browser, address + path, dark=dark)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 5
    assert [entry for entry in found if entry[1] < 4.5] == []


def test_controls_have_names_and_fields_have_labels(browser: Any, address: str) -> None:
    for path in PATHS:
        show(browser, address + path)
        nameless = browser.execute_script(
            "return [...document.querySelectorAll('a, button, audio, summary, [role=img]')]"
            ".filter(e => !e.closest('[aria-hidden]') && !(e.ariaLabel || e.getAttribute('aria-label')"
            " || e.getAttribute('aria-labelledby') || e.textContent.trim())).map(e => e.outerHTML)"
        )
        assert nameless == [], path
        unlabelled = browser.execute_script(
            "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
            ".filter(e => !e.labels.length).map(e => e.outerHTML)"
        )
        assert unlabelled == [], path


def test_the_sound_of_an_alarm_can_be_played(browser: Any, address: str) -> None:
    show(browser, f"{address}alarms/2")
    load = """const done = arguments[0]; const all = [...document.querySelectorAll('audio')];
        Promise.all(all.map(a => new Promise(r => { a.oncanplaythrough = () => r(a.duration);
        a.onerror = () => r(0); a.preload = 'auto'; a.load(); }))).then(done)"""
    lengths = browser.execute_async_script(load)
    assert len(lengths) == 6
    assert [round(length, 1) for length in lengths] == [10.0, 10.0, 2.0, 2.0, 2.0, 2.0]
    images = "return [...document.querySelectorAll('svg.chart image')].length"
    assert browser.execute_script(images) == 3


def focused(browser: Any) -> tuple[str, str]:
    """Text and outline of the element that has the focus of the keyboard."""
    script = (
        "const e = document.activeElement;"
        "return [(e.labels && e.labels[0] || e).textContent.trim(), getComputedStyle(e).outlineStyle]"
    )
    text, outline = browser.execute_script(script)
    return text, outline


def test_an_alarm_is_dealt_with_by_keyboard_alone(browser: Any, address: str, site: Site) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, f"{address}alarms/2")
    reached = []
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        text, outline = focused(browser)
        assert outline != "none", text
        reached.append(text)
        if text == "Acknowledge":
            break
    assert reached[0] == "Skip to the content"
    assert reached[-1] == "Acknowledge"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda b: "done=acknowledge" in b.current_url)
    assert "The alarm is acknowledged." in browser.page_source
    assert site.memory.alarm(2).status is Status.ACKNOWLEDGED


def test_shelving_and_a_note_by_mouse(browser: Any, address: str, site: Site) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    show(browser, f"{address}alarms/2", 390)
    browser.find_element(By.XPATH, "//summary[contains(., 'Shelve')]").click()
    form = browser.find_element(By.CSS_SELECTOR, "form[action='/act/shelve']")
    Select(form.find_element(By.NAME, "hours")).select_by_value("4")
    form.find_element(By.NAME, "comment").send_keys("WO 4711")
    form.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 10).until(lambda b: "done=shelve" in b.current_url)
    state = site.memory.machine("pump 7").state
    assert (state.status, state.shelved_left_s) == (Status.SHELVED, 4 * 3600)
    note = browser.find_element(By.CSS_SELECTOR, "form[action='/note']")
    note.find_element(By.NAME, "text").send_keys("belt ordered")
    note.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 10).until(lambda b: "done=note" in b.current_url)
    assert [entry.text for entry in site.memory.notes()] == ["belt ordered"]


def test_a_page_shows_what_is_new_without_reloading(browser: Any, address: str, site: Site) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    from nearfar.watch.alarm import Acknowledge, AlarmRule

    show(browser, address)
    assert "alarm acknowledged" not in browser.page_source
    site.memory.act("pump 7", Acknowledge(), AlarmRule(), by="ada", time_s=site.clock())
    browser.execute_script("refresh()")
    WebDriverWait(browser, 10).until(lambda b: "alarm acknowledged" in b.page_source)
