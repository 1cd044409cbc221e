"""Examples of pages: frame, sentence and numbers are of one region; long recordings show their worst window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import nearfar
from nearfar.challenge.run import run_system
from nearfar.charts import Chart
from nearfar.config import load_recipe
from nearfar.explain.localisation import band_edges_hz
from nearfar.report import examples
from nearfar.report.detector_page import report_detector
from nearfar.report.examples import Example
from nearfar.report.run_page import report_run

RATE_HZ = 16_000


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """The examples of the pages that a test writes."""
    out: list[Example] = []

    def keep(*arguments: Any) -> list[Example]:
        found = examples.make_examples(*arguments)
        out.extend(found)
        return found

    for module in ("detector_page", "run_page"):
        monkeypatch.setattr(f"nearfar.report.{module}.make_examples", keep)
    return out


def framed(chart: Chart) -> tuple[float, float, float, float]:
    """Begin and end in seconds, lowest and highest edge in hertz, of the frame in a spectrogram."""
    begin, low, end, high = chart.figure.axes[0].patches[0].get_bbox().extents
    edges = band_edges_hz()
    return begin, end, edges[round(low / 16)], edges[round(high / 16)]


def named(example: Example) -> tuple[float, float, float, float]:
    found = example.departure
    assert found is not None
    return found.begin_s, found.end_s, found.low_hz, found.high_hz


def agree(drawn: list[Chart], made: list[Example], text: str, first_view: str) -> None:
    assert len(drawn) == len(made) > 0
    for chart, example in zip(drawn, made, strict=True):
        assert framed(chart) == pytest.approx(named(example))
        assert example.departure is not None
        assert example.sentence.startswith(example.departure.sentence)
        begin, end, low, high = named(example)
        kilo = [f"{hz / 1000:.1f} kHz" if hz >= 1000 else f"{hz:.0f} Hz" for hz in (low, high)]
        span = f"{kilo[0].split()[0] if (low >= 1000) == (high >= 1000) else kilo[0]} to {kilo[1]}"
        assert f", {span}: " in example.sentence
        assert "throughout, " in example.sentence or f"{begin:.1f} to {end:.1f} s, " in example.sentence
        assert example.sentence[1:] in text
        view = example.departure.view or first_view
        assert chart.figure.axes[0].get_title(loc="left").startswith(f"view {view}")
        assert f", view {view}</title>" in text
        others = {"near", "far", "cancelled"} - {view}
        assert not any(f"in the view {other}" in example.sentence for other in others)


def test_frame_sentence_and_numbers_of_a_run_are_of_one_region(
    small_factory: Path, tmp_path: Path, drawn: list[Chart], made: list[Example]
) -> None:
    recipe = load_recipe("nearfar-best").with_changes(
        **{"threshold.rule": "empirical", "threshold.false_alarm_rate": 0.5}
    )
    assert run_system(recipe, small_factory, tmp_path / "run") is not None
    text = report_run(tmp_path / "run", tmp_path / "page.html").read_text(encoding="utf-8")
    agree(drawn, made, text, "cancelled")
    assert {example.kind for example in made} == {"false alarm"}
    assert all(example.parts and example.anomalous for example in made)
    assert all("Nothing stands out" not in example.sentence for example in made)
    for example in made:
        total = sum(part.contribution.share for part in example.parts)
        assert total == pytest.approx(example.score, rel=1e-6)


def test_frame_sentence_and_numbers_of_a_detector_are_of_one_region(
    small_factory: Path, tmp_path: Path, drawn: list[Chart], made: list[Example]
) -> None:
    nearfar.Detector.fit(small_factory).save(tmp_path / "detector")
    page = report_detector(tmp_path / "detector", tmp_path / "page.html", data=small_factory)
    agree(drawn, made, page.read_text(encoding="utf-8"), "near")
    assert len(made) == 8
    assert all(example.parts for example in made)
    views = [example.departure.view for example in made if example.departure is not None]
    assert set(views) == {"near", "cancelled"}, "a case of each"


def test_recordings_that_were_held_out_are_explained_by_their_scores(
    small_factory: Path, tmp_path: Path, drawn: list[Chart], made: list[Example]
) -> None:
    recipe = load_recipe("nearfar-best").with_changes(**{"calibration.method": "split"})
    nearfar.Detector.fit(small_factory, recipe).save(tmp_path / "detector")
    page = report_detector(tmp_path / "detector", tmp_path / "page.html", data=small_factory)
    agree(drawn, made, page.read_text(encoding="utf-8"), "cancelled")
    for example in made:  # the bank is the one that gave the scores
        assert sum(part.contribution.share for part in example.parts) == pytest.approx(example.score, rel=1e-6)


def long_recording(seed: int, seconds: int, tone_at_s: float | None = None) -> np.ndarray:
    """(samples, 2) noise, with a second of a tone of 3.2 kHz."""
    samples = 0.02 * np.random.default_rng(seed).standard_normal((seconds * RATE_HZ, 2))
    if tone_at_s is not None:
        begin = round(tone_at_s * RATE_HZ)
        samples[begin : begin + RATE_HZ, 0] += 0.1 * np.sin(2 * np.pi * 3200 * np.arange(RATE_HZ) / RATE_HZ)
    return samples


def test_a_long_recording_shows_its_worst_window(tmp_path: Path, drawn: list[Chart], made: list[Example]) -> None:
    folder = tmp_path / "pump"
    folder.mkdir()
    for seed in range(6):
        tone_at_s = 81.0 if seed == 2 else None
        soundfile.write(folder / f"{seed}.wav", long_recording(seed, 100, tone_at_s), RATE_HZ, subtype="FLOAT")
    recipe = load_recipe("frozen-near").with_changes(**{"audio.clip_seconds": 4.0})
    nearfar.Detector.fit(folder, recipe).save(tmp_path / "detector")
    report_detector(tmp_path / "detector", tmp_path / "page.html", data=folder)
    (example,) = [example for example in made if example.clip.name == "2.wav"]
    assert example.window_s == (80.0, 84.0)
    assert example.departure is not None
    assert 80.9 <= example.departure.begin_s < example.departure.end_s <= 82.2
    assert example.departure.low_hz < 3200 < example.departure.high_hz
    chart = drawn[made.index(example)]
    assert framed(chart) == pytest.approx(named(example))
    left, right, *_ = chart.figure.axes[0].images[0].get_extent()
    assert (left, right) == (pytest.approx(80, abs=0.1), pytest.approx(84, abs=0.3)), "the window"
    assert example.sentence.endswith(" (Shown: the most anomalous window, 80 to 84 s of 100 s.)")
    assert all(chart.figure.axes[0].images[0].get_extent()[1] - framed(chart)[1] >= 0 for chart in drawn)


@pytest.mark.parametrize(
    ("samples_s", "window_s", "region_s", "shown_s"),
    [
        (30, (0, 30), (20, 22), (0, 30)),
        (60, (0, 60), (59, 60), (0, 60)),
        (600, (0, 600), (1, 3), (0, 60)),
        (600, (0, 600), (300, 310), (275, 335)),
        (600, (0, 600), (598, 600), (540, 600)),
        (600, (80, 84), (81, 82), (80, 84)),
        (600, (100, 300), (110, 112), (100, 160)),
        (600, (100, 300), (290, 292), (240, 300)),
    ],
)
def test_what_is_shown_by_hand(
    samples_s: int, window_s: tuple[int, int], region_s: tuple[int, int], shown_s: tuple[int, int]
) -> None:
    begin, end = window_s
    found = examples.shown_samples(RATE_HZ * samples_s, (RATE_HZ * begin, RATE_HZ * end), region_s)
    assert found == tuple(RATE_HZ * edge for edge in shown_s)
