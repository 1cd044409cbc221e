"""The page of an ablation: self-contained, true to the table, and sortable in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import show, wider_than_window
from tests.pages import body_rows

from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation, ablation
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.truth import GroundTruth
from nearfar.report.ablation_page import heat_maps, write_ablation_page

NUMBER = re.compile(r"<text[^>]*>(\d+\.\d)</text>")


MACHINES_OF_2026 = ("AutoTrash", "BandSealer", "CoffeeGrinder", "HomeCamera", "Polisher", "ScrewFeeder", "ToyPet")


def scored(seed: int, machines: Sequence[str] = ("fan", "pump")) -> list[MachineScores]:
    random = np.random.default_rng(seed)
    names = [
        f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav"
        for domain in ("source", "target")
        for label in ("normal", "anomaly")
        for index in range(6)
    ]
    shift = np.array(["anomaly" in name for name in names])
    return [MachineScores(m, "00", tuple(names), shift + random.standard_normal(24)) for m in machines]


POINTS = [
    ({"scoring.neighbours": k, "view": view}, scored(10 * number + int(k)))
    for number, view in enumerate(("near", "<b>far</b>", "W1"))
    for k in ("1", "4")
][:-1]


TRUTH = GroundTruth.from_names(scored(99))


@pytest.fixture(scope="module")
def table() -> Ablation:
    return ablation(POINTS, "the reference", scored(99), TRUTH, resamples=50)


@pytest.fixture(scope="module")
def page(table: Ablation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "ablation.html"
    skipped = (Skipped({"scoring.neighbours": "4", "view": "W1"}, "no <such> thing"),)
    return write_ablation_page(table, file, title="grid on data", skipped=skipped, notes=["Made-up scores."])


def test_nothing_comes_from_elsewhere_and_texts_are_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,", "#content"]
    assert "<b>" not in text
    assert "&lt;b&gt;far&lt;/b&gt;" in text
    assert "1: no &lt;such&gt; thing" in text
    assert "Made-up scores." in text


def test_only_the_pages_own_script_may_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_cell_of_the_heat_map_is_the_best_of_its_combinations(table: Ablation) -> None:
    (heat,) = heat_maps(table)
    assert heat.heading == "neighbours and view"
    numbers = sorted(map(float, NUMBER.findall(heat.svg)))
    assert numbers == sorted(round(100 * row.results.official_score, 1) for row in table.rows)
    three = [({**values, "seed": str(seed)}, scored(seed)) for values, _ in POINTS[:4] for seed in (5, 6)]
    rows = ablation(three, "r", scored(99), TRUTH, resamples=5)
    first = heat_maps(rows)[0]
    best = max(rows.rows, key=lambda row: row.results.official_score)
    numbers = list(map(float, NUMBER.findall(first.svg)))
    assert numbers == [round(100 * best.results.official_score, 1)] * 4


def test_every_row_is_there_in_order(table: Ablation, page: Path) -> None:
    rows = body_rows(page.read_text(encoding="utf-8").split('id="combinations"')[1])
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row[3]) for row in rows] == [round(100 * row.results.official_score, 2) for row in table.rows]


def test_a_heading_sorts_in_a_browser(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, page.as_uri(), 1200)

    def column(number: int) -> list[str]:
        cells = browser.find_elements(By.CSS_SELECTOR, f"#combinations tbody td:nth-child({number})")
        return [cell.text for cell in cells]

    buttons = browser.find_elements(By.CSS_SELECTOR, "#combinations th button")
    scores = sorted(map(float, column(6)))
    buttons[5].send_keys(Keys.ENTER)
    assert list(map(float, column(6))) == scores[::-1]
    buttons[5].send_keys(Keys.ENTER)
    assert list(map(float, column(6))) == scores
    buttons[2].send_keys(Keys.ENTER)
    assert column(3) == sorted(column(3), key=str.casefold)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1400, 1176, 1000, 768, 390])
def test_nothing_is_cut(browser: Any, page: Path, width: int) -> None:
    show(browser, page.as_uri(), width)
    assert wider_than_window(browser) == []


def test_headings_are_repeated_on_every_sheet_of_paper(browser: Any, page: Path) -> None:
    """Chromium repeats no heading that holds a button's box."""
    show(browser, page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    styles = "const of = s => getComputedStyle(document.querySelector('#combinations ' + s));"
    shown = browser.execute_script(f"{styles} return [of('thead').display, of('button').display]")
    assert shown == ["table-header-group", "contents"]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_seven_machines_and_five_axes_fit(browser: Any, tmp_path: Path) -> None:
    axes = {"view": "W1 8192", "features.keep_bands": "false", "scorer": "domain-wise standardised"}
    points = [
        ({**axes, "statistics": lags, "training.epochs": str(seed)}, scored(seed, MACHINES_OF_2026))
        for seed, lags in enumerate(("deviation", "lags 1 4 16"))
    ]
    reference = scored(99, MACHINES_OF_2026)
    table = ablation(points, "nearfar-best", reference, GroundTruth.from_names(reference), resamples=5)
    page = write_ablation_page(table, tmp_path / "page.html", title="views")
    for width in (1176, 390):
        show(browser, page.as_uri(), width)
        assert wider_than_window(browser) == []
