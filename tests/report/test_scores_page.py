"""The page about new recordings: what ``nearfar score`` says of each, in a browser as well."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.browser import labels_on_shapes, show, wider_than_window
from tests.command import Nearfar
from tests.pages import table_rows
from tests.report.test_examples import long_recording

import nearfar
from nearfar.charts import Chart
from nearfar.report.scores_page import report_scores, short_name

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def detector(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detector") / "both"
    nearfar.Detector.fit(small_factory).save(out)
    return out


@pytest.fixture(scope="module")
def recordings(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two normal recordings and two faults of either machine; one has a silent far channel, one is no sound."""
    folder = tmp_path_factory.mktemp("new") / "monday <1>"
    for machine in ("hummer", "whiner"):
        (folder / machine).mkdir(parents=True)
        for clip in sorted((small_factory / machine / "test").glob("*_source_*")):
            shutil.copy(clip, folder / machine)
    first = min((folder / "whiner").iterdir())
    samples, rate = soundfile.read(first)
    soundfile.write(first, samples * np.array([1.0, 0.001]), rate, subtype="PCM_16")
    (folder / "hummer" / "broken.wav").write_bytes(b"no sound")
    return folder


def test_the_page_says_what_scores_say(
    detector: Path, recordings: Path, tmp_path: Path, nearfar_command: Nearfar, drawn: list[Chart]
) -> None:
    done = nearfar_command("report", detector, "--score", recordings, "--out", tmp_path / "page.html")
    assert done.code == 2, "a recording could not be scored"
    assert "1 of 9 recordings could not be scored" in done.err
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    printed = nearfar_command("score", detector, recordings, "--json")
    entries = [entry for entry in json.loads(printed.out) if entry["status"] != "error"]
    assert len(entries) == 8
    rows = table_rows(text, "Recordings")
    assert len(rows) == 8
    assert [float(row[3].replace("\N{MINUS SIGN}", "-")) for row in rows] == pytest.approx(
        sorted((entry["margin"] for entry in entries), reverse=True), rel=5e-3
    )
    by_name = {short_name(entry["file"], recordings): entry for entry in entries}
    for name, machine, score, _, _, status, *_ in rows:
        entry = by_name[name]
        assert (machine, status) == (entry["machine"], entry["status"])
        assert float(score) == pytest.approx(entry["score"], rel=1e-3)
    anomalous = sum(entry["status"] == "anomalous" for entry in entries)
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', text)
    assert said.startswith(f"{anomalous} of 9 recordings are anomalous (")
    assert "1 could not be scored; the thresholds promise about " in said
    assert "from 20 independent groups" in said
    assert "whiner: the far channel is " in said
    assert "broken.wav" in table_rows(text, "Not scored")[0][0]
    # Frames and sentences are those of the scores.
    worst = sorted(entries, key=lambda entry: -entry["margin"])
    shown = [entry for name in ("hummer", "whiner") for entry in worst if entry["machine"] == name]
    assert len(drawn) == len(shown) == 8
    for chart, entry in zip(drawn, shown, strict=True):
        found = entry["departure"]
        begin, _, end, _ = chart.figure.axes[0].patches[0].get_bbox().extents
        assert (begin, end) == pytest.approx((found["begin_s"], found["end_s"]))
        assert chart.figure.axes[0].get_title(loc="left").startswith(f"view {found['view']}")
        assert found["sentence"][1:] in text


def test_a_long_recording_shows_the_window_that_its_score_is_of(tmp_path: Path, drawn: list[Chart]) -> None:
    folder, new = tmp_path / "pump", tmp_path / "new"
    for place in (folder, new):
        place.mkdir()
    for seed in range(6):
        soundfile.write(folder / f"{seed}.wav", long_recording(seed, 12), RATE_HZ, subtype="FLOAT")
    soundfile.write(new / "long.wav", long_recording(9, 100, 81.0), RATE_HZ, subtype="FLOAT")
    fitted = nearfar.Detector.fit(folder, nearfar.load_recipe("auto").with_changes(**{"audio.clip_seconds": 4.0}))
    fitted.save(tmp_path / "detector")
    done = report_scores(tmp_path / "detector", new, tmp_path / "page.html")
    assert (done.recordings, done.failed) == (1, 0)
    (chart,) = drawn
    begin, _, end, _ = chart.figure.axes[0].patches[0].get_bbox().extents
    assert 80.9 <= begin < end <= 82.2, "where the tone is"
    left, right, *_ = chart.figure.axes[0].images[0].get_extent()
    assert left < 81.5 < right
    assert right - left < 4.1
    text = done.out.read_text(encoding="utf-8")
    assert re.search(r"\(Shown: the most anomalous window, \d+ to \d+ s of 100 s\.\)", text)
    assert "1 of 1 recording is anomalous" in text
    assert "<h3>Scores in order</h3>" not in text, "of one there is no order"


@pytest.mark.parametrize("width", [1400, 1000, 768, 390])
def test_nothing_is_cut(browser: Any, detector: Path, recordings: Path, tmp_path: Path, width: int) -> None:
    page = report_scores(detector, recordings, tmp_path / "page.html").out
    browser.get_log("browser")
    show(browser, page.as_uri(), width)
    assert browser.get_log("browser") == []
    assert wider_than_window(browser) == []
    assert labels_on_shapes(browser) == []


def test_a_dead_microphone_is_a_problem_although_nothing_was_scored(
    detector: Path, recordings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hummer"
    folder.mkdir()
    for clip in sorted((recordings / "hummer").glob("section*")):
        samples, rate = soundfile.read(clip)
        soundfile.write(folder / clip.name, samples * [1, 0], rate, subtype="PCM_16")
    page = report_scores(detector, folder, tmp_path / "page.html")
    assert (page.recordings, page.failed) == (4, 4)
    text = page.out.read_text(encoding="utf-8")
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', text)
    assert said.startswith(
        "None of 4 recordings is anomalous, 4 could not be scored; the thresholds promise about "
    )
    assert (
        "the microphones have a problem, section_00_source_test_anomaly_0000_noAttribute.wav: a silent far" in said
    )
    assert said.endswith(", in 4 of 4 recordings.")
    (row,) = table_rows(text, "Microphones and recorder")
    assert row[:3] == ["not scored", "dead", "4 of 4 recordings"]


def test_options_that_belong_to_other_pages_are_refused(
    detector: Path, recordings: Path, tmp_path: Path, nearfar_command: Nearfar
) -> None:
    out = tmp_path / "page.html"
    done = nearfar_command("report", detector, "--score", recordings, "--data", recordings, "--out", out)
    assert (done.code, "--score and --data" in done.err) == (2, True)
    done = nearfar_command("report", detector, "--machine", "hummer", "--out", out)
    assert (done.code, "--score FOLDER" in done.err) == (2, True)
    done = nearfar_command("report", recordings, "--score", recordings, "--out", out)
    assert done.code == 2
    done = nearfar_command("report", detector, "--score", tmp_path / "gone", "--out", out)
    assert (done.code, "no such file or folder" in done.err) == (2, True)
    assert not out.exists()


def test_names_are_paths_inside_the_folder() -> None:
    assert short_name("new/pump 7/a.wav", Path("new")) == "pump\N{NO-BREAK SPACE}7/a.wav"
    assert short_name("new/a.wav", Path("new/a.wav")) == "a.wav"
