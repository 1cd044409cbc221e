"""Charts as inline SVG: small, sharp in print, coloured by the page's style sheet and readable without colour.

Every chart has a title and a description for those who do not see it. Marks of different kinds differ in shape or
dashes as well as in colour. Coordinates are in a box of 360 by 220 units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 42
_HEADROOM = 1.2
"""Of histograms, so that names of thresholds stand beside bars and not on them."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Points or a line with a name; ``kind`` is the class that the style sheet colours it by."""

    name: str
    kind: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Axis:
    """The range of an axis and what it shows."""

    low: float
    high: float
    label: str

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers inside the range."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / count))
        step *= next(factor for factor in (1.0, 2.0, 5.0, 10.0) if span / (step * factor) <= count)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(values: ArrayLike, label: str, *, from_zero: bool = False) -> Axis:
    """An axis that holds the finite values with a little room."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    low = min(low, 0.0) if from_zero else low
    room = 0.04 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(low if from_zero else low - room, high + room, label)


class _Canvas:
    def __init__(self, x: Axis, y: Axis) -> None:
        self.x_axis, self.y_axis = x, y
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        share = (value - self.x_axis.low) / (self.x_axis.high - self.x_axis.low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_axis.low) / (self.y_axis.high - self.y_axis.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def axes(self, *, ticks: bool = True, counts: bool = False) -> None:
        """Both axes; without ticks a frame. Counts are whole, stand at zero and have no sign."""
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in self.y_axis.ticks() if ticks else []:
            if counts and value != round(value):
                continue
            at, text = self.y(value), _short(abs(value) if counts else value)
            self.add(f'<line class="grid" x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
            self.add(f'<text class="tick" x="{_LEFT - 5}" y="{at + 4}" text-anchor="end">{text}</text>')
        for value in self.x_axis.ticks() if ticks else []:
            at = self.x(value)
            self.add(f'<text class="tick" x="{at}" y="{bottom + 14}" text-anchor="middle">{_short(value)}</text>')
        if ticks:
            base = self.y(0.0) if counts else bottom
            self.add(f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{right}" y2="{base}"/>')
        else:
            box = f'x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}"'
            self.add(f'<rect class="grid" {box}/>')
        middle = (_LEFT + right) / 2
        self.add(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_axis.label)}</text>')
        height = (_TOP + bottom) / 2
        self.add(
            f'<text transform="translate(13 {height}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_axis.label)}</text>"
        )

    def svg(self, title: str, description: str) -> str:
        return svg(title, description, self.parts)


def svg(title: str, description: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A drawing with its title and description."""
    number = next(_numbers)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{escape(title)}</title><desc id="d{number}">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """A line of names with the marks of their kinds, as HTML: (name, kind) pairs."""
    items = "".join(f'<li><span class="key {kind}"></span>{escape(name)}</li>' for name, kind in entries)
    return f'<ul class="legend">{items}</ul>'


def histogram(
    groups: Sequence[tuple[str, str, ArrayLike]], title: str, thresholds: Sequence[tuple[str, float]] = ()
) -> str:
    """Scores of several groups as overlaid outlines, (name, kind, scores): anomalies downwards, others upwards.

    ``thresholds`` are upright lines: (name, score).
    """
    every = np.concatenate([np.asarray(scores, dtype=np.float64) for _, _, scores in groups])
    x = axis_of([*every, *(score for _, score in thresholds)], "anomaly score")
    edges = np.linspace(x.low, x.high, 25)
    heights = []
    for _, kind, scores in groups:
        count = np.histogram(np.asarray(scores, dtype=np.float64), edges)[0]
        heights.append(-count if "anomaly" in kind.split() else count)
    low, high = (
        _HEADROOM * edge for edge in (min(int(h.min()) for h in heights), max(int(h.max()) for h in heights))
    )
    canvas = _Canvas(x, Axis(min(low, 0.0), max(1.0, high), "clips"))
    canvas.axes(counts=True)
    for (_, kind, _), height in zip(groups, heights, strict=True):
        corners = [(float(edges[0]), 0.0)]
        for left, right, top in zip(edges[:-1], edges[1:], height, strict=True):
            corners += [(float(left), float(top)), (float(right), float(top))]
        corners.append((float(edges[-1]), 0.0))
        points = " ".join(f"{canvas.x(a)},{canvas.y(b)}" for a, b in corners)
        canvas.add(f'<polyline class="area {kind}" points="{points}"/>')
    if low < 0:
        for name, shift in (("normal", -5), ("anomalies", 14)):
            beside = f'x="{WIDTH - _RIGHT - 3}" y="{canvas.y(0.0) + shift:.1f}" text-anchor="end"'
            canvas.add(f'<text class="tick halo" {beside}>{name}</text>')
    for line, (name, score) in enumerate(thresholds):
        at = canvas.x(score)
        canvas.add(f'<line class="threshold" x1="{at}" y1="{_TOP}" x2="{at}" y2="{HEIGHT - _BOTTOM}"/>')
        anchor, shift = ("end", -4) if at > WIDTH / 2 else ("start", 4)
        place = f'x="{at + shift}" y="{_TOP + 10 + 13 * line}" text-anchor="{anchor}"'
        canvas.add(f'<text class="tick halo" {place}>{escape(name)}</text>')
    told = [
        f"{name}: {len(np.asarray(scores))} clips, median {_short(float(np.median(np.asarray(scores))))}"
        for name, _, scores in groups
        if len(np.asarray(scores))
    ]
    told += [f"{name}: {_short(score)}" for name, score in thresholds]
    return canvas.svg(title, "; ".join(told))


def lines(
    series: Sequence[Series],
    title: str,
    x: Axis,
    y: Axis,
    *,
    shade_to: float | None = None,
    diagonal: bool = False,
) -> str:
    """Lines over a common axis; ``shade_to`` shades the region from the left edge to that x."""
    canvas = _Canvas(x, y)
    if shade_to is not None:
        left, right = canvas.x(x.low), canvas.x(shade_to)
        box = f'x="{left}" y="{_TOP}" width="{right - left:.1f}" height="{HEIGHT - _BOTTOM - _TOP}"'
        canvas.add(f'<rect class="shade" {box}/>')
    canvas.axes()
    if diagonal:
        ends = f'x1="{canvas.x(x.low)}" y1="{canvas.y(y.low)}" x2="{canvas.x(x.high)}" y2="{canvas.y(y.high)}"'
        canvas.add(f'<line class="chance" {ends}/>')
    for line in series:
        points = " ".join(
            f"{canvas.x(float(a))},{canvas.y(float(b))}" for a, b in zip(line.x, line.y, strict=True)
        )
        canvas.add(f'<polyline class="line {line.kind}" points="{points}"/>')
    told = (
        f"{line.name}: from {_short(line.y[0])} at {_short(line.x[0])} "
        f"to {_short(line.y[-1])} at {_short(line.x[-1])}"
        for line in series
    )
    return canvas.svg(title, f"{y.label} over {x.label}. " + "; ".join(told))


def scatter(series: Sequence[Series], title: str, x_label: str, y_label: str, *, ticks: bool = True) -> str:
    """Points of several kinds; anomalies are crosses, target clips hollow, far squares, training clips small."""
    x = axis_of(np.concatenate([entry.x for entry in series]), x_label)
    y = axis_of(np.concatenate([entry.y for entry in series]), y_label)
    canvas = _Canvas(x, y)
    canvas.axes(ticks=ticks)
    for entry in series:
        marks = [
            _mark(entry.kind, canvas.x(float(a)), canvas.y(float(b)))
            for a, b in zip(entry.x, entry.y, strict=True)
        ]
        canvas.add(f'<g class="points {entry.kind}">{"".join(marks)}</g>')
    told = "; ".join(
        f"{entry.name}: {len(entry.x)} clips around {_short(np.median(entry.x))}, {_short(np.median(entry.y))}"
        for entry in series
        if len(entry.x)
    )
    return canvas.svg(title, f"{y_label} over {x_label}. {told}")


def _mark(kind: str, x: float, y: float) -> str:
    words = kind.split()
    if "anomaly" in words:
        arms = "m0-3.2v6.4m-3.2-3.2h6.4" if "far" in words else "m-2.6-2.6l5.2 5.2m0-5.2l-5.2 5.2"
        return f'<path d="M{x} {y}{arms}"/>'
    radius = 2.0 if "train" in words else 2.7
    if "far" in words:
        side = round(1.8 * radius, 1)
        return f'<rect x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}"/>'
    return f'<circle cx="{x}" cy="{y}" r="{radius}"/>'


def heat_map(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """A table of numbers as shaded cells with the number inside; None is an empty cell."""
    left, top, cell_w, cell_h = 150, 84, 46, 20
    known: list[float] = [value for row in values for value in row if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    parts = []
    for place, name in enumerate(columns):
        x = left + (place + 0.5) * cell_w
        parts.append(f'<text class="tick" transform="translate({x} {top - 6}) rotate(-40)">{escape(name)}</text>')
    for line, (row_name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + line * cell_h
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 14}" text-anchor="end">{escape(row_name)}</text>')
        for place, value in enumerate(row):
            if value is None or not math.isfinite(value):
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            box = f'x="{left + place * cell_w}" y="{y}" width="{cell_w - 1}" height="{cell_h - 1}"'
            parts.append(f'<rect class="heat" style="--share:{share:.3f}" {box}/>')
            at = f'x="{left + (place + 0.5) * cell_w - 0.5}" y="{y + 13.5}" text-anchor="middle"'
            parts.append(f'<text class="heat-number" {at}>{value:.1f}</text>')
    width, height = left + len(columns) * cell_w + 60, top + len(rows) * cell_h + 6
    told = "; ".join(
        f"{name}: {', '.join('none' if value is None else _short(value) for value in row)}"
        for name, row in zip(rows, values, strict=True)
    )
    return svg(title, f"Columns {', '.join(columns)}. {told}", parts, width, height)


def _short(number: float | np.floating[Any]) -> str:
    return f"{number:.3g}" if abs(float(number)) < 1e5 else f"{number:.1e}"
