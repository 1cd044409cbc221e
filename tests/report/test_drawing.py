"""Charts: what they draw is where the numbers are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nearfar.report.drawing import Axis, Series, axis_of, heat_map, histogram, legend, lines, scatter

NAME = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ET.Element:
    root = ET.fromstring(text)
    ids = root.get("aria-labelledby", "").split()
    assert [child.get("id") for child in root[:2]] == ids
    assert all((child.text or "").strip() for child in root[:2])
    return root


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 7, [-2, 0, 2, 4, 6]), (0.011, 0.019, None)],
)
def test_ticks_are_round_and_inside(low, high, expected):
    ticks = Axis(low, high, "").ticks()
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert 3 <= len(ticks) <= 6
    if expected is not None:
        assert ticks == pytest.approx(expected)


def test_an_axis_holds_all_values_even_if_they_are_one():
    for values in ([1.0, 5.0], [3.0], [0.0], [np.nan, 2.0, 4.0]):
        axis = axis_of(values, "x")
        finite = [value for value in values if np.isfinite(value)]
        assert axis.low < min(finite) <= max(finite) < axis.high
    assert axis_of([2.0, 3.0], "x", from_zero=True).low == 0


def test_lines_go_through_their_points():
    root = parsed(
        lines(
            [Series("a", "source", np.array([0.0, 1.0]), np.array([0.0, 1.0]))],
            "t",
            Axis(0, 1, "x"),
            Axis(0, 1, "y"),
        )
    )
    (line,) = root.findall("polyline")
    assert line.get("points") == "50.0,178.0 350.0,10.0"


def test_a_histogram_counts_every_clip():
    scores = np.random.default_rng(0).normal(size=50)
    text = histogram([("normal <b>", "source normal", scores)], "t", [("threshold <i>", 0.0)])
    root = parsed(text)
    (area,) = root.findall("polyline")
    heights = [float(point.split(",")[1]) for point in area.get("points", "").split()]
    per_clip = (178.0 - 10.0) / (1.2 * max(np.histogram(scores, np.linspace(*_edges(scores), 25))[0]))
    tops = heights[1:-1:2]
    assert sum((178.0 - top) / per_clip for top in tops) == pytest.approx(50, abs=0.2)
    assert "&lt;b&gt;" in text
    assert "&lt;i&gt;" in text
    assert len(root.findall("line[@class='threshold']")) == 1


def test_anomalies_are_counted_downwards():
    root = parsed(
        histogram([("n", "source normal", [1.0, 1.0, 2.0]), ("a", "target anomaly", [2.0, 3.0, 3.0, 3.0])], "t")
    )
    ups, downs = (
        [float(point.split(",")[1]) for point in area.get("points", "").split()]
        for area in root.findall("polyline")
    )
    (axis,) = root.findall("line[@class='axis']")
    zero, per_clip = float(axis.get("y1", "")), (178.0 - 10.0) / (1.2 * (2 + 3))
    assert max(ups) == zero == min(downs)
    assert zero - min(ups) == pytest.approx(2 * per_clip, abs=0.1)
    assert max(downs) - zero == pytest.approx(3 * per_clip, abs=0.1)
    shown = [text.text for text in root.findall("text") if text.text in ("normal", "anomalies")]
    assert shown == ["normal", "anomalies"], "the two are told apart without colour"


def test_descriptions_say_what_is_drawn():
    x, y = np.array([0.0, 1.0]), np.array([0.25, 0.75])
    root = parsed(lines([Series("a", "source", x, y)], "t", Axis(0, 1, "x"), Axis(0, 1, "y")))
    assert root[1].text == "y over x. a: from 0.25 at 0 to 0.75 at 1"
    root = parsed(scatter([Series("a", "source", x, y)], "t", "x", "y"))
    assert root[1].text == "y over x. a: 2 clips around 0.5, 0.5"
    root = parsed(heat_map([[50.0, None]], ["row"], ["p", "q"], "t"))
    assert root[1].text == "Columns p, q. row: 50, none"


def _edges(scores: np.ndarray) -> tuple[float, float]:
    axis = axis_of([*scores, 0.0], "")
    return axis.low, axis.high


def test_kinds_differ_in_shape():
    kinds = {
        "source normal": "circle",
        "target anomaly": "path",
        "source normal far": "rect",
        "source anomaly far": "path",
    }
    points, drawn = np.zeros(1), []
    for kind, shape in kinds.items():
        root = parsed(scatter([Series("n", kind, points, points)], "t", "x", "y"))
        (mark,) = list(root.find("g") or [])
        assert mark.tag == shape
        drawn.append((shape, mark.get("d", "").split("m", 1)[-1]))
    assert len(set(drawn)) == len(kinds)


def test_a_heat_map_shades_by_value_and_leaves_gaps():
    root = parsed(heat_map([[50.0, None], [75.0, 100.0]], ["a", "b"], ["x", "y"], "t"))
    shares = [float(re.search(r"--share:([\d.]+)", cell.get("style", ""))[1]) for cell in root.findall("rect")]
    assert shares == pytest.approx([0.0, 0.5, 1.0])
    assert [text.text for text in root.findall("text[@class='heat-number']")] == ["50.0", "75.0", "100.0"]


def test_a_legend_is_escaped():
    assert "a &lt; b" in legend([("a < b", "source")])
