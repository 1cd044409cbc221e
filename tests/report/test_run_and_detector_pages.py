"""Pages about runs and detectors: self-contained, consistent with the folder, and working in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tests.browser import labels_on_shapes, show, wider_than_window
from tests.pages import table_rows
from typer.testing import CliRunner

from nearfar.challenge.run import run_system
from nearfar.charts import PALETTE
from nearfar.cli import app
from nearfar.config import load_recipe
from nearfar.detector.detector import Detector
from nearfar.errors import InputError
from nearfar.report.detector_page import report_detector
from nearfar.report.page import read_resource
from nearfar.report.run_page import report_run


@pytest.fixture(scope="module")
def run(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    recipe = load_recipe("nearfar-best").with_changes(
        **{"name": "<b>best</b>", "scoring.channels": ["near", "far"], "decision.quantile": 0.5}
    )
    assert run_system(recipe, small_factory, out, note="Made-up tones & noise.") is not None
    return out


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command, to a folder that it makes."""
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


class Outline(HTMLParser):
    """Headings, addresses, and tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.labels: list[dict[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.addresses += [str(found[key]) for key in ("src", "href") if found.get(key)]
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag in ("audio", "svg"):
            self.labels.append(found)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    outline = Outline()
    outline.feed(page.read_text(encoding="utf-8"))
    return outline


def test_the_page_is_self_contained_and_well_formed(outline: Outline) -> None:
    assert outline.open == []
    assert outline.addresses
    assert all(address.startswith(("data:", "#")) for address in outline.addresses)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {a[1:] for a in outline.addresses if a.startswith("#")} <= set(outline.ids)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert all(label.get("aria-label") or label.get("aria-labelledby") for label in outline.labels)


def test_the_page_says_what_the_run_says(page: Path, run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;best&lt;/b&gt;" in text
    assert "<b>best" not in text
    assert "Made-up tones &amp; noise." in text
    results = json.loads((run / "results.json").read_text())["systems"][0]
    assert f"{100 * results['all']['score']['mean']:.1f}" in text
    for machine in ("hummer", "whiner"):
        assert f">{machine}</h2>" in text
    for heading in (
        "ROC",
        "Scores by domain and label",
        "Threshold and false alarms",
        "Near against far",
        "Map of recordings",
    ):
        assert text.count(f"<h3>{heading}</h3>") == 2
    assert "density_neighbours" in text, "the recipe"
    assert "processor" in text, "the environment"
    for machine in results["machines"].values():
        assert f"source normals, all anomalies: AUC {100 * machine['auc_source']['mean']:.1f}" in text


def test_worst_mistakes_have_spectrograms_and_audio(page: Path, run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    thresholds = {row["machine"]: row["value"] for row in json.loads((run / "thresholds.json").read_text())}
    alarms = 0
    for machine in json.loads((run / "view_scores.json").read_text())["machines"]:
        name = f"anomaly_score_{machine['machine']}_section_00_test.csv"
        for line in (run / "scores" / name).read_text().splitlines():
            file, score = line.split(",")
            alarms += "_normal_" in file and float(score) > thresholds[machine["machine"]]
    assert alarms
    assert text.count('class="badge false"') == min(alarms, 4)
    assert text.count("<audio") == 2 * text.count('class="badge ')
    assert text.count('href="data:image/png') == text.count('class="badge ')


def test_without_recordings_the_page_says_what_is_missing(run: Path, tmp_path: Path, small_factory: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    tree = json.loads((moved / "view_scores.json").read_text())
    tree["data"] = str(tmp_path / "gone")
    (moved / "view_scores.json").write_text(json.dumps(tree))
    text = report_run(moved, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "The recordings are no longer in" in text
    assert "<audio" not in text
    assert "Map of recordings" not in text
    assert "ROC" in text
    assert "<audio" in report_run(moved, tmp_path / "b.html", data=small_factory).read_text(encoding="utf-8")


@pytest.mark.slow
def test_domains_with_thresholds_of_their_own_are_shown_by_the_runs_decisions(
    small_factory: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("nearfar-best").with_changes(
        **{"threshold.domains": "separate", "threshold.rule": "empirical", "threshold.false_alarm_rate": 0.5}
    )
    run_system(recipe, small_factory, tmp_path / "run")
    text = report_run(tmp_path / "run", tmp_path / "report.html").read_text(encoding="utf-8")
    thresholds = json.loads((tmp_path / "run" / "thresholds.json").read_text())
    assert [row["domain"] for row in thresholds] == ["source", "target"] * 2
    for row in thresholds:
        assert f">threshold, {row['domain']} {row['value']:.3g}</text>" in text
    decisions = dict(
        line.split(",")
        for line in (tmp_path / "run/scores/decision_result_hummer_section_00_test.csv").read_text().splitlines()
    )
    flagged = [int(decision) for name, decision in decisions.items() if "_anomaly_" in name]
    assert f"{100 * sum(flagged) / len(flagged):.0f}\u00a0% of anomalies." in text


def test_a_run_with_hidden_labels_has_scores_but_no_verdicts(small_factory: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_factory / "hummer", data / "hummer")
    for number, clip in enumerate(sorted((data / "hummer" / "test").iterdir())):
        clip.rename(clip.with_name(f"section_00_{number:04d}.wav"))
    run_system(load_recipe("nearfar-best"), data, tmp_path / "run")
    text = report_run(tmp_path / "run", tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="summary"' not in text
    assert "ROC" not in text
    assert "Threshold and false alarms" in text


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "damaged")
    (tmp_path / "damaged" / "view_scores.json").write_text("[]")
    with pytest.raises(InputError, match=r"view_scores\.json.*folder of the recordings"):
        report_run(tmp_path / "damaged", tmp_path / "x.html")
    with pytest.raises(InputError, match=r"no recipe\.toml.*finished run"):
        report_run(tmp_path, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_detector_has_a_page_of_its_own(small_factory: Path, tmp_path: Path) -> None:
    odd = tmp_path / "data"
    shutil.copytree(small_factory / "hummer" / "train", odd / "hummer" / "train")
    for clip in (odd / "hummer" / "train").iterdir():
        samples, rate = soundfile.read(clip)
        soundfile.write(clip, samples[:, [0, 0]], rate, subtype="PCM_16")
    near = load_recipe("nearfar-best").with_changes(**{"scoring.channels": ["near"]})
    detector = Detector.fit(odd, near)
    assert [warning.kind for warning in detector.channel_warnings] == ["identical"]
    detector.save(tmp_path / "detector")
    assert Detector.load(tmp_path / "detector").channel_warnings == detector.channel_warnings
    done = CliRunner().invoke(app, ["report", str(tmp_path / "detector"), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert html.escape(detector.channel_warnings[0].message, quote=False)[:40] in text
    for heading in (
        "Scores of normal recordings",
        "Threshold and false alarms",
        "Map of recordings",
        "Thresholds",
    ):
        assert f"<h3>{heading}</h3>" in text
    assert f"{detector.thresholds[0].value:.4g}" in text


@pytest.fixture(scope="module")
def detector(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detectors") / "both"
    recipe = load_recipe("nearfar-best").with_changes(
        **{
            "scoring.channels": ["near", "far"],
            "detection.domains": "separate",
            "detection.false_alarm_rate": 0.34,
        }
    )
    Detector.fit(small_factory, recipe).save(out)
    return out


def test_a_detectors_page_lists_changes_groups_and_what_thresholds_promise(
    detector: Path, small_factory: Path, tmp_path: Path
) -> None:
    text = report_detector(detector, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "It was not changed since it was fitted." in text
    assert "10 independent groups, by single recordings" in text
    assert "by which rates hold" in text
    files = sorted((small_factory / "hummer" / "test").glob("*normal*"))[:2]
    first = Detector.load(detector).with_normals(files[:1], "hummer", note="after <the> repair")
    changed = first.with_fault("broken tooth", files[1:], "hummer").undone()
    changed.save(tmp_path / "changed")
    text = report_detector(tmp_path / "changed", tmp_path / "b.html").read_text(encoding="utf-8")
    table = text.split("<h3>Changes</h3>")[1].split("</table>")[0]
    assert "1 normal" in table
    assert "after &lt;the&gt; repair" in table
    assert "1 known fault broken tooth" in table
    assert len(table_rows(text, "Changes")) == 2
    undone = changed.history[1].undone
    assert undone is not None
    assert undone.removesuffix("+00:00").replace("T", " ") in table


def test_a_detectors_page_says_what_its_folder_says(detector: Path, small_factory: Path, tmp_path: Path) -> None:
    text = report_detector(detector, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "A detector holds no audio" in text
    assert "<audio" not in text
    assert text.count("<h3>Near against far</h3>") == 2
    thresholds = json.loads((detector / "thresholds.json").read_text())
    assert [row["domain"] for row in thresholds] == ["source", "target"] * 2
    for row in thresholds:
        cells = [row["domain"], f"{row['value']:.4g}", "about 34\u00a0%"]
        assert cells in [entry[1:4] for entry in table_rows(text, "Thresholds")]
    first = json.loads((detector / "calibration.json").read_text())[0]
    scores = [entry["score"] for entry in first["recordings"] if entry["domain"] == "source"]
    above = sum(score > thresholds[0]["value"] for score in scores) / len(scores)
    assert f"Above the threshold: {100 * above:.0f}\u00a0% of normal recordings, source, " in text
    assert f"{100 * above:.0f}\u00a0%" in [row[-1] for row in table_rows(text, "Scores in numbers")]

    data = tmp_path / "data"
    shutil.copytree(small_factory, data)
    (data / "SIMULATED.md").touch()
    text = report_detector(detector, tmp_path / "b.html", data=data).read_text(encoding="utf-8")
    assert '<p class="note">Simulated data' in text
    highest = max(first["recordings"], key=lambda entry: entry["score"])["file"]
    assert text.split('<span class="name">')[1].startswith(highest)
    assert text.count('class="badge highest"') == 2 * 4
    assert text.count("<audio") == 2 * text.count('class="badge ')
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_recordings_of_another_detector_are_refused(detector: Path, small_factory: Path, tmp_path: Path) -> None:
    shutil.copytree(small_factory, tmp_path / "data")
    for clip in (tmp_path / "data").glob("*/train/*"):
        clip.rename(clip.with_name(clip.name.replace("spd", "load")))
    with pytest.raises(InputError, match="none of the detector's recordings"):
        report_detector(detector, tmp_path / "page.html", data=tmp_path / "data")


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(theme: int) -> None:
    style = read_resource("style.css")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]))
    for behind in ("paper", "card", "shade"):
        for text in ("ink", "soft", "blue", "vermilion", "green", "purple"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)


def test_charts_are_drawn_in_the_colours_of_the_style_sheet() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", read_resource("style.css"), re.DOTALL)[:2]
    for name, colour in PALETTE.items():
        assert f"--{name}: {colour};" in light
        assert f"--{name}: #" in dark


def _contrast(first: str, second: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(params=["run", "detector"])
def shown(request: pytest.FixtureRequest, page: Path, detector: Path, small_factory: Path, tmp_path: Path) -> Path:
    return page if request.param == "run" else report_detector(detector, tmp_path / "d.html", data=small_factory)


def test_in_a_browser_everything_is_drawn_and_can_be_played(browser: Any, shown: Path) -> None:
    browser.get_log("browser")
    show(browser, shown.as_uri(), 390)
    assert browser.get_log("browser") == [], "no console messages, which a blocked request would be as well"
    requested = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in requested if not name.startswith("data:")] == []
    decode = """const done = arguments[0]; const all = [...document.querySelectorAll('svg image')];
        Promise.all(all.map(i => { const image = new Image(); image.src = i.href.baseVal;
        return image.decode().then(() => image.naturalWidth, () => 0); })).then(done)"""
    widths = browser.execute_async_script(decode)
    assert widths
    assert all(widths)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('svg.chart')].map(s => s.getBoundingClientRect().height)"
    )
    assert boxes
    assert min(boxes) > 50
    load = """const done = arguments[0]; const all = [...document.querySelectorAll('audio')];
        Promise.all(all.map(a => new Promise(r => { a.oncanplaythrough = () => r(a.duration);
        a.onerror = () => r(0); a.preload = 'auto'; a.load(); }))).then(done)"""
    lengths = browser.execute_async_script(load)
    assert lengths
    assert all(0.9 < length < 1.3 for length in lengths)
    wide = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0, "a phone must not scroll sideways"


@pytest.mark.parametrize("width", [1400, 1000, 768, 390])
def test_nothing_is_cut_and_cards_of_a_row_are_equally_high(browser: Any, shown: Path, width: int) -> None:
    show(browser, shown.as_uri(), width)
    assert wider_than_window(browser) == []
    assert labels_on_shapes(browser) == []
    heights = """const rows = {}, cards = '.charts > .card, .examples > .card';
        for (const e of document.querySelectorAll(cards)) {
        const box = e.getBoundingClientRect(), key = Math.round(box.top + scrollY);
        (rows[key] = rows[key] || []).push(Math.round(box.height)); } return Object.values(rows)"""
    rows = browser.execute_script(heights)
    assert [row for row in rows if len(set(row)) > 1] == []
    assert (max(map(len, rows)) > 1) == (width > 500)


def test_on_a_phone_tables_are_cards_with_the_names_of_their_columns(browser: Any, shown: Path) -> None:
    show(browser, shown.as_uri(), 390)
    shown_headings = "return [...document.querySelectorAll('thead')].filter(e => e.checkVisibility()).length"
    assert browser.execute_script(shown_headings) == 0
    labels = browser.execute_script(
        "return [...document.querySelectorAll('td')].map(e => getComputedStyle(e, '::before').content)"
    )
    assert labels
    assert {'""', "none", "normal"}.isdisjoint(labels)
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in nodes if "role" in node]
    assert {"table", "row", "rowheader", "cell"} <= set(roles), "they stay tables for screen readers"
    show(browser, shown.as_uri(), 1000)
    assert browser.execute_script(shown_headings) > 0


def test_a_detectors_page_begins_with_a_verdict(detector: Path, page: Path, tmp_path: Path) -> None:
    text = report_detector(detector, tmp_path / "a.html").read_text(encoding="utf-8")
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', text)
    assert said == (
        "Fitted on 20 normal recordings of 2 machines; the thresholds promise about 34\u00a0% false alarms, from "
        "20 independent groups; no problem of the microphones was found."
    )
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', page.read_text(encoding="utf-8"))
    assert re.fullmatch(
        r"Official score \d+\.\d\u00a0% \(95\u00a0% interval [\d.]+ to [\d.]+\) on 16 test recordings of "
        r"2 machines; the thresholds promise about .*\u00a0% false alarms, from 20 independent groups; "
        r".*microphones.*\.",
        said,
    )


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, page.as_uri(), 390)
    reached = []
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        script = f"const e = document.activeElement; return [e.tagName, e.className, {outline}]"
        reached.append(browser.execute_script(script))
    assert reached[0][:2] == ["A", "skip"]
    assert ["DIV", "scroll summary"] in [entry[:2] for entry in reached], (
        "what scrolls can be scrolled without a mouse"
    )
    assert all(style != "none" for tag, _, style in reached if tag != "AUDIO"), "players draw their own"
    hidden = (
        "return [...document.querySelectorAll('audio, summary, pre, .scroll')].filter(e => e.tabIndex < 0).length"
    )
    assert browser.execute_script(hidden) == 0


def test_a_printed_page_holds_the_recipe(browser: Any, page: Path) -> None:
    show(browser, page.as_uri(), 390)
    visible = "return getComputedStyle(document.querySelector('details'), '::details-content').contentVisibility"
    assert browser.execute_script(visible) == "hidden"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(visible) == "visible"
        sounds = "return getComputedStyle(document.querySelector('.sounds')).display"
        assert browser.execute_script(sounds) == "none"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_one_microphone_is_not_called_without_problems(small_factory: Path, tmp_path: Path) -> None:
    data = tmp_path / "mono"
    for clip in (small_factory / "hummer").glob("*/*.wav"):
        samples, rate = soundfile.read(clip)
        (data / "hummer" / clip.parent.name).mkdir(parents=True, exist_ok=True)
        soundfile.write(data / "hummer" / clip.parent.name / clip.name, samples[:, 0], rate, subtype="PCM_16")
    Detector.fit(data).save(tmp_path / "detector")
    text = report_detector(tmp_path / "detector", tmp_path / "a.html").read_text(encoding="utf-8")
    assert "; only the near microphone is used.</p>" in text
    run_system(load_recipe("auto"), data, tmp_path / "run")
    text = report_run(tmp_path / "run", tmp_path / "b.html").read_text(encoding="utf-8")
    assert "; only the near microphone is used.</p>" in text
    shutil.rmtree(data)
    text = report_run(tmp_path / "run", tmp_path / "c.html").read_text(encoding="utf-8")
    assert "; the microphones could not be checked.</p>" in text


def test_a_label_on_a_bar_and_a_wide_element_are_found(browser: Any, page: Path) -> None:
    """The two checks above can fail."""
    show(browser, page.as_uri())
    browser.execute_script(
        """const svg = document.querySelector('svg.chart'), bar = [...svg.querySelectorAll('path')]
          .find(p => getComputedStyle(p).fillOpacity < 1 && p.getBBox().height > 20), box = bar.getBBox();
        let at = null; for (let x = 1; x < box.width && !at; x++) for (let y = 1; y < box.height; y++) {
          const point = new DOMPoint(box.x + x, box.y + y); if (bar.isPointInFill(point)) { at = point; break; } }
        const text = document.createElementNS('http://www.w3.org/2000/svg', 'text');
        text.textContent = 'I'; text.setAttribute('x', at.x); text.setAttribute('y', at.y + 3);
        text.setAttribute('style', 'font-size: 6px'); bar.parentNode.append(text);
        document.querySelector('h2').style.width = '2000px';"""
    )
    assert labels_on_shapes(browser) == ["I"]
    assert [entry[0] for entry in wider_than_window(browser)] == ["H2"]
