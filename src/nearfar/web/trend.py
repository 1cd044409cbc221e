"""The trend of a machine's levels over hours to months as an SVG, with threshold and alarms.

The curves are in a nested SVG that is stretched to the width of the page, and the texts beside it are not: the
chart is as readable on a phone as on a desk. Colours are those of the page's style sheet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from html import escape
from statistics import median
from typing import NamedTuple

from nearfar.watch.records import AlarmRecord, TrendPoint

WIDTH, HEIGHT = 1000, 200
"""Units of the stretched part."""
MOST_TICKS = 5
GAP = 3.0
"""A line is broken where points are this many times farther apart than usual, and than they are long."""
THRESHOLD = 1.0
"""The level of the threshold."""
LEAST_TOP = 1.6
"""The chart reaches up to this level at least, so that calm machines look calm."""

_HOUR, _DAY = 3600.0, 86400.0
_STEPS_S = (
    *(60.0, 300.0, 600.0, 1800.0, _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 56 * _DAY, 91 * _DAY, 182 * _DAY, 365 * _DAY),
)
_Scale = Callable[[float], float]


class _Levels(NamedTuple):
    """Of one point."""

    begin_s: float
    end_s: float
    lowest: float
    mean: float
    highest: float

    @property
    def middle_s(self) -> float:
        return (self.begin_s + self.end_s) / 2


def trend(
    points: Sequence[TrendPoint],
    *,
    begin_s: float,
    end_s: float,
    alarms: Sequence[AlarmRecord] = (),
    raise_level: float = THRESHOLD,
    title: str,
    zone: tzinfo,
) -> str:
    """An ``<svg class="trend">`` element.

    Args:
        points: in the order of time.
        begin_s, end_s: what is shown, in seconds since 1970.
        alarms: of the machine; each leads to its page at ``/alarms/<number>``.
        raise_level: that raises an alarm; a line of its own where it is not the threshold.
        title: for screen readers.
        zone: of the texts on the time axis.
    """
    shown = _compared(points, begin_s, end_s)
    bottom, top = value_range(shown)
    top = max(top, 1.1 * raise_level)
    x, y = _scale(begin_s, end_s, 0.0, WIDTH), _scale(bottom, top, HEIGHT, 0.0)
    areas = _alarm_areas(alarms, begin_s, end_s, x)
    grid = "".join(f'<path class="grid" d="M0 {y(value):.1f}H{WIDTH}"/>' for value in value_ticks(bottom, top))
    words, raising = [title, "no windows", "threshold 1"], ""
    if shown:
        words[1] = f"levels from {min(p.lowest for p in shown):.2f} to {max(p.highest for p in shown):.2f}"
    if raise_level != THRESHOLD:
        raising = f'<path class="raising" d="M0 {y(raise_level):.1f}H{WIDTH}"/>'
        words.append(f"alarm level {raise_level:g}")
    words.append(f"{len(alarms)} alarm{'' if len(alarms) == 1 else 's'}")
    return (
        f'<svg class="trend" role="img" aria-label="{escape(", ".join(words))}">'
        f"{_curves(areas + grid + _lines(shown, x, y) + raising)}"
        f"{_value_texts(bottom, top)}{_time_texts(begin_s, end_s, zone)}</svg>"
    )


def sparkline(points: Sequence[TrendPoint], *, begin_s: float, end_s: float) -> str:
    """A small trend without texts, hidden from screen readers, as the numbers stand beside it."""
    shown = _compared(points, begin_s, end_s)
    x, y = _scale(begin_s, end_s, 0.0, WIDTH), _scale(*value_range(shown), HEIGHT, 0.0)
    return f'<svg class="sparkline" aria-hidden="true">{_curves(_lines(shown, x, y))}</svg>'


def value_range(points: Sequence[_Levels]) -> tuple[float, float]:
    """The lowest and highest level of a chart: the threshold is always inside."""
    top = max([LEAST_TOP, *(1.05 * point.highest for point in points)])
    bottom = min([-0.5, *(1.05 * point.lowest for point in points)])
    return bottom, top


def value_ticks(bottom: float, top: float) -> list[float]:
    """Round numbers between two levels."""
    unit = 10.0 ** math.floor(math.log10(top - bottom))
    step = next(part * unit for part in (0.2, 0.25, 0.5, 1, 2) if (top - bottom) / (part * unit) <= MOST_TICKS)
    return [number * step for number in range(math.ceil(bottom / step), math.floor(top / step) + 1)]


def time_ticks(begin_s: float, end_s: float, zone: tzinfo) -> list[tuple[float, str]]:
    """(seconds since 1970, text) of at most :data:`MOST_TICKS` + 1 round times of day, or days."""
    step = next((step for step in _STEPS_S if (end_s - begin_s) / step <= MOST_TICKS), _STEPS_S[-1])
    midnight = datetime.fromtimestamp(begin_s, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    out: list[tuple[float, str]] = []
    for number in itertools.count():
        # Added on the calendar: a day on which clocks are changed is not one of 24 hours.
        moment = midnight + timedelta(seconds=number * step)
        time_s = moment.timestamp()
        if time_s > end_s:
            return out
        if time_s >= begin_s:
            is_day = moment.hour == moment.minute == 0
            text = f"{moment.day} {moment:%b}" if is_day else f"{moment:%H:%M}"
            out.append((time_s, f"{moment:%b %Y}" if step >= 56 * _DAY else text))
    return out


def _scale(low: float, high: float, first: float, last: float) -> _Scale:
    """A function from values between ``low`` and ``high`` to those between ``first`` and ``last``."""
    span = max(high - low, 1e-9)

    def scaled(value: float) -> float:
        return first + (last - first) * (min(max(value, low), high) - low) / span

    return scaled


def _compared(points: Sequence[TrendPoint], begin_s: float, end_s: float) -> list[_Levels]:
    """The points in a span of time that have levels."""
    return [
        _Levels(point.begin_s, point.end_s, point.lowest, point.mean, point.highest)
        for point in points
        if point.lowest is not None and point.mean is not None and point.highest is not None
        if point.end_s >= begin_s and point.begin_s <= end_s
    ]


def _curves(content: str) -> str:
    size = f'x="0" y="0" width="100%" height="100%" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg class="curves" {size} preserveAspectRatio="none">{content}</svg>'


def _lines(points: Sequence[_Levels], x: _Scale, y: _Scale) -> str:
    """The range and mean of levels, broken at gaps, and the threshold."""
    out = []
    for run in _runs(points):
        # From begin to end: a single point would be no line.
        times = [x(run[0].begin_s), *(x(point.middle_s) for point in run[1:-1]), x(run[-1].end_s)]
        run = run if len(run) > 1 else run * 2
        upper = [(time, y(point.highest)) for time, point in zip(times, run, strict=True)]
        lower = [(time, y(point.lowest)) for time, point in zip(times, run, strict=True)]
        mean = [(time, y(point.mean)) for time, point in zip(times, run, strict=True)]
        out.append(
            f'<path class="range" d="{_path(upper + lower[::-1])}Z"/><path class="mean" d="{_path(mean)}"/>'
        )
    return "".join(out) + f'<path class="threshold" d="M0 {y(THRESHOLD):.1f}H{WIDTH}"/>'


def _runs(points: Sequence[_Levels]) -> list[list[_Levels]]:
    """Points without gaps between them; recordings of some seconds every hour have none."""
    usual = median([after.begin_s - before.begin_s for before, after in itertools.pairwise(points)] or [0.0])
    runs: list[list[_Levels]] = []
    for point in points:
        if runs:
            last = runs[-1][-1]
            if point.begin_s - last.end_s <= GAP * max(
                usual, point.end_s - point.begin_s, last.end_s - last.begin_s
            ):
                runs[-1].append(point)
                continue
        runs.append([point])
    return runs


def _alarm_areas(alarms: Sequence[AlarmRecord], begin_s: float, end_s: float, x: _Scale) -> str:
    out = []
    for alarm in alarms:
        end = end_s if alarm.closed_s is None else alarm.closed_s
        if end < begin_s or alarm.raised_s > end_s:
            continue
        left, width = x(alarm.raised_s), max(x(end) - x(alarm.raised_s), 3.0)
        # The table of alarms has the same links, for the keyboard and screen readers.
        out.append(
            f'<a href="/alarms/{alarm.number}" tabindex="-1" aria-hidden="true">'
            f"<title>alarm {alarm.number}</title>"
            f'<rect class="alarm" x="{left:.1f}" y="0" width="{width:.1f}" height="{HEIGHT}"/></a>'
        )
    return "".join(out)


def _value_texts(bottom: float, top: float) -> str:
    return "".join(
        f'<text class="value" x="2" y="{100 * (top - value) / (top - bottom):.1f}%" dy="-3">{value:.3g}</text>'
        for value in value_ticks(bottom, top)
        if (top - value) / (top - bottom) > 0.08
    )


def _time_texts(begin_s: float, end_s: float, zone: tzinfo) -> str:
    texts = []
    for time_s, text in time_ticks(begin_s, end_s, zone):
        across = 100 * (time_s - begin_s) / (end_s - begin_s)
        anchor = "start" if across < 6 else "end" if across > 94 else "middle"
        texts.append(f'<text class="time" x="{across:.2f}%" y="100%" dy="16" text-anchor="{anchor}">{text}</text>')
    return "".join(texts)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
