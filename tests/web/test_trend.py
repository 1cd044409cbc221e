"""The chart of levels: ticks, gaps, alarms and the threshold, against hand cases."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest

from nearfar.watch.alarm import Status
from nearfar.watch.records import AlarmRecord, TrendPoint
from nearfar.web.trend import HEIGHT, WIDTH, sparkline, time_ticks, trend, value_ticks

BERLIN = ZoneInfo("Europe/Berlin")
HOUR_S, DAY_S = 3600.0, 86400.0


def at(*date: int, zone: Any = UTC) -> float:
    return datetime(*date, tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("begin", "end", "zone", "texts"),
    [
        ((2026, 5, 1, 10, 30), (2026, 5, 1, 16, 30), UTC, ["12:00", "14:00", "16:00"]),
        ((2026, 5, 1, 18), (2026, 5, 2, 18), UTC, ["18:00", "2 May", "06:00", "12:00", "18:00"]),
        ((2026, 5, 1), (2026, 5, 8), UTC, ["1 May", "3 May", "5 May", "7 May"]),
        # Clocks are set forward on 29 March 2026 at 2:00: midnights stay midnights.
        ((2026, 3, 27, 12), (2026, 3, 31, 12), BERLIN, ["28 Mar", "29 Mar", "30 Mar", "31 Mar"]),
    ],
)
def test_ticks_are_round_times(begin: Any, end: Any, zone: Any, texts: list[str]) -> None:
    ticks = time_ticks(at(*begin, zone=zone), at(*end, zone=zone), zone)
    assert [text for _, text in ticks] == texts
    for time_s, text in ticks:
        moment = datetime.fromtimestamp(time_s, zone)
        assert text in (f"{moment:%H:%M}", f"{moment.day} {moment:%b}")
        assert (moment.hour, moment.minute) == (0, 0) or ":" in text


@pytest.mark.parametrize("days", [0.01, 0.25, 1, 3, 7, 31, 92, 366, 2000])
def test_there_are_neither_too_many_ticks_nor_none(days: float) -> None:
    begin_s = at(2026, 5, 1, 7, 13)
    assert 1 <= len(time_ticks(begin_s, begin_s + days * DAY_S, UTC)) <= 6


@pytest.mark.parametrize(
    ("bottom", "top", "values"),
    [(-0.5, 1.6, [-0.5, 0, 0.5, 1, 1.5]), (-0.5, 2.5, [0, 1, 2]), (-0.5, 18, [0, 5, 10, 15])],
)
def test_levels_have_round_ticks(bottom: float, top: float, values: list[float]) -> None:
    assert value_ticks(bottom, top) == pytest.approx(values)


def points(*levels: float | None, step_s: float = 60.0, seconds: float = 60.0) -> list[TrendPoint]:
    return [
        TrendPoint(number * step_s, number * step_s + seconds, 1, int(level is not None), 0, level, level, level)
        for number, level in enumerate(levels)
    ]


def chart(found: list[TrendPoint], end_s: float = 600.0, **options: Any) -> ElementTree.Element:
    text = trend(found, begin_s=0.0, end_s=end_s, title="Levels of <pump> & fan", zone=UTC, **options)
    return ElementTree.fromstring(text)


def paths(found: ElementTree.Element, style: str) -> list[list[tuple[float, float]]]:
    """The corners of paths of a class."""
    out = []
    for element in found.iter("path"):
        if element.get("class") == style:
            numbers = list(map(float, re.findall(r"-?\d+\.?\d*", element.get("d", ""))))
            out.append(list(zip(numbers[::2], numbers[1::2], strict=False)))
    return out


def test_a_line_goes_through_the_levels() -> None:
    (line,) = paths(chart(points(0.0, 1.0, 0.5, 0.0)), "mean")
    assert [x for x, _ in line] == [0.0, 150.0, 250.0, 400.0]
    scale = HEIGHT / (1.6 + 0.5)
    assert [y for _, y in line] == pytest.approx(
        [scale * (1.6 - level) for level in (0.0, 1.0, 0.5, 0.0)], abs=0.06
    )


def test_the_threshold_is_level_one_across_the_chart() -> None:
    (element,) = [each for each in chart(points(0.2)).iter("path") if each.get("class") == "threshold"]
    assert element.get("d") == f"M0 {HEIGHT * 0.6 / 2.1:.1f}H{WIDTH}"


def test_a_level_that_raises_alarms_has_a_line_of_its_own() -> None:
    assert paths(chart(points(0.2)), "raising") == []
    found = chart(points(0.2), raise_level=2.0)
    (element,) = [each for each in found.iter("path") if each.get("class") == "raising"]
    assert element.get("d") == f"M0 {HEIGHT * 0.2 / 2.7:.1f}H{WIDTH}", "inside the chart, which reaches up to 2.2"
    assert ", threshold 1, alarm level 2, " in str(found.get("aria-label"))


def test_a_line_is_broken_where_windows_are_missing() -> None:
    gone = points(0.1, 0.2, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert len(paths(chart(gone), "mean")) == 1
    assert len(paths(chart(gone[:2] + gone[7:]), "mean")) == 2
    not_compared = points(0.1, 0.2, None, None, None, None, 0.1, 0.1)
    assert len(paths(chart(not_compared), "mean")) == 2


def test_recordings_now_and_then_are_one_line() -> None:
    rare = points(0.1, 0.2, 0.3, 0.2, step_s=1800.0, seconds=4.0)
    assert len(paths(chart(rare, end_s=7200.0), "mean")) == 1


def test_one_point_is_drawn_from_its_begin_to_its_end() -> None:
    (line,) = paths(chart(points(0.2)), "mean")
    assert [x for x, _ in line] == [0.0, 100.0]


def test_the_range_is_the_area_between_lowest_and_highest() -> None:
    wide = [replace(point, lowest=0.1, highest=0.9) for point in points(0.5, 0.5)]
    (area,) = paths(chart(wide), "range")
    scale = HEIGHT / 2.1
    assert sorted({y for _, y in area}) == pytest.approx([scale * 0.7, scale * 1.5], abs=0.06)


def alarm(number: int, raised_s: float, closed_s: float | None) -> AlarmRecord:
    return AlarmRecord(
        number, "pump", Status.NORMAL, raised_s, closed_s, None, "", "", {}, 1.2, 1.2, "", 0.0, None
    )  # fmt: skip


def test_alarms_are_areas_that_lead_to_their_pages() -> None:
    alarms = [alarm(1, 60.0, 120.0), alarm(2, 300.0, None), alarm(3, -500.0, -400.0), alarm(4, 700.0, None)]
    found = chart(points(0.2), alarms=alarms)
    areas = {
        link.get("href"): [float(link.find("rect").get(key)) for key in ("x", "width")]  # type: ignore[union-attr]
        for link in found.iter("a")
    }
    assert areas == {"/alarms/1": [100.0, 100.0], "/alarms/2": [500.0, 500.0]}


def test_screen_readers_hear_the_numbers() -> None:
    label = chart(points(0.25, 1.5), alarms=[alarm(1, 0.0, None)]).get("aria-label")
    assert label == "Levels of <pump> & fan, levels from 0.25 to 1.50, threshold 1, 1 alarm"
    assert chart([]).get("aria-label") == "Levels of <pump> & fan, no windows, threshold 1, 0 alarms"


def test_a_small_trend_has_the_same_line_and_no_texts() -> None:
    small = ElementTree.fromstring(sparkline(points(0.0, 1.0, 0.5), begin_s=0.0, end_s=600.0))
    assert paths(small, "mean") == paths(chart(points(0.0, 1.0, 0.5)), "mean")
    assert list(small.iter("text")) == []
    assert small.get("aria-hidden") == "true"
