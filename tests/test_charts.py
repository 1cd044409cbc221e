"""Charts: drawn coordinates against the data, PNG files and inline SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nearfar.charts import (
    PALETTE,
    Points,
    curve,
    exceedance,
    fraction_above,
    heat_map,
    histogram,
    machine_figure,
    roc,
    scatter,
    spectrogram,
)
from nearfar.explain.localisation import band_edges_hz
from nearfar.frontends.kaldi import mel_centres_hz
from nearfar.metrics import machine_metrics


def parsed(chart) -> ET.Element:
    """The inline SVG of a chart, after the checks that hold for all."""
    text = chart.svg()
    root = ET.fromstring(text)
    assert root.tag == "svg"
    assert (root[0].tag, root[1].tag) == ("title", "desc")
    assert [root[0].text, root[1].text] == [chart.title, chart.description]
    assert root.get("aria-labelledby", "").split() == [root[0].get("id"), root[1].get("id")]
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    used = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert set(used) <= set(ids)
    assert not re.search(r"https?:|<style|<metadata", text)
    return root


def texts(root: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter("text")]


def values_of_line(root: ET.Element, colour: str) -> np.ndarray:
    """(points, 2) of the path that is stroked in a colour, in the SVG's units, legend keys left out."""
    paths = [
        path.get("d", "")
        for path in root.iter("path")
        if f"stroke: var(--{colour})" in path.get("style", "") and path.get("clip-path")
    ]
    (path,) = paths
    return np.array(re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path), dtype=float)


# --- the numbers behind the charts ------------------------------------------------------------------------------


def test_the_fraction_above_a_threshold_by_hand():
    assert fraction_above([1.0, 2.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.9, 4.0]).tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]


# --- what is drawn ----------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_clip():
    scores = np.random.default_rng(0).normal(size=50)
    chart = histogram([("normal <b>", "source normal", scores)], "t", [("threshold <i>", 0.0)])
    (panel,) = chart.figure.axes
    (bars,) = panel.patches
    assert bars.get_data().values.sum() == 50
    assert "&lt;b&gt;" in chart.svg()
    root = parsed(chart)
    assert "threshold <i> 0" in texts(root)
    assert chart.description == f"normal <b>: 50 recordings, median {np.median(scores):.3g}; threshold <i>: 0"


def test_anomalies_are_counted_downwards():
    chart = histogram(
        [("n", "source normal", [1.0, 1.0, 2.0]), ("a", "target anomaly", [2.0, 3.0, 3.0, 3.0])], "t"
    )
    (panel,) = chart.figure.axes
    normal, anomalies = (bars.get_data().values for bars in panel.patches)
    assert normal.min() == 0
    assert normal.sum() == 3
    assert anomalies.max() == 0
    assert anomalies.sum() == -4
    root = parsed(chart)
    assert any("anomalies" in text and "normal" in text for text in texts(root)), "distinguishable without colour"
    assert not any(
        re.match("[-\u2212]", text) for text in texts(root) if text.strip("-\u2212").isdigit() and text != "0"
    )


def test_an_roc_chart_shows_the_official_metrics():
    labels, domains, scores = sample(1.0)
    metrics = machine_metrics(labels, domains, scores)
    root = parsed(roc(labels, domains, scores, "t"))
    for text in (
        f"source normals, all anomalies: AUC {100 * metrics.auc_source:.1f}",
        f"target normals, all anomalies: AUC {100 * metrics.auc_target:.1f}",
        f"all recordings: pAUC {100 * metrics.pauc:.1f}",
    ):
        assert text in texts(root)
        assert text in (root[1].text or "")
    drawn = values_of_line(root, "blue")
    left, right = drawn[:, 0].min(), drawn[:, 0].max()
    bottom, top = drawn[:, 1].max(), drawn[:, 1].min()
    across, up = (drawn[:, 0] - left) / (right - left), (bottom - drawn[:, 1]) / (bottom - top)
    area = np.sum(np.diff(across) * (up[1:] + up[:-1]) / 2)
    assert area == pytest.approx(metrics.auc_source, abs=2e-3)


def test_exceedance_steps_down_at_every_score():
    chart = exceedance([("a", "normal", [1.0, 2.0, 4.0])], [("threshold", 3.0)], "t")
    line, threshold = chart.figure.axes[0].lines
    x, y = (np.asarray(values) for values in line.get_data())
    for at, expected in ((0.99, 1.0), (1.01, 2 / 3), (2.01, 1 / 3), (3.9, 1 / 3), (4.01, 0.0)):
        assert y[np.searchsorted(x, at) - 1] == pytest.approx(expected)
    assert line.get_drawstyle() == "steps-post"
    assert set(threshold.get_xdata()) == {3.0}
    assert parsed(chart)[1].text == "a: median 2; threshold: 3"


def test_equal_scores_can_be_drawn():
    assert parsed(exceedance([("a", "normal", [1.0, 1.0])], [], "t")) is not None
    assert parsed(histogram([("a", "source normal", [0.25] * 3)], "t")) is not None


def test_descriptions_state_what_is_drawn():
    x, y = np.array([0.0, 1.0]), np.array([0.25, 0.75])
    assert parsed(curve(x, y, "t", "x", "y"))[1].text == "y over x, from 0.25 at 0 to 0.75 at 1"
    chart = scatter(
        [Points("a", "source normal", x, y), Points("", "source normal", x, y, other_view=True)], "t", "x", "y"
    )
    assert parsed(chart)[1].text == "y over x. a: 2 recordings around 0.5, 0.5"
    chart = heat_map([[50.0, None]], ["row"], ["p", "q"], "t", x_label="view", y_label="scorer")
    assert parsed(chart)[1].text == "scorer in rows, view in columns p, q. row: 50, none"


def test_points_lie_at_their_coordinates():
    x, y = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 3.0, 1.0, 2.0])
    root = parsed(scatter([Points("a", "source normal", x, y)], "t", "x", "y", ticks=False))
    groups = [group for group in root.iter("g") if group.get("clip-path")]
    marks = [use for group in groups for use in group.iter("use")]
    at = np.array([[float(use.get("x")), float(use.get("y"))] for use in marks])
    assert at.shape == (4, 2)
    np.testing.assert_allclose((at[:, 0] - at[0, 0]) / (at[3, 0] - at[0, 0]), x / 4, atol=1e-3)
    np.testing.assert_allclose((at[:, 1] - at[0, 1]) / (at[1, 1] - at[0, 1]), y / 3, atol=1e-3)


def test_recordings_are_counted_in_whole_numbers_beside_lines_at_levels():
    number, scores = np.arange(1.0, 4.0), np.array([2.0, 3.0, 9.0])
    chart = scatter([Points("a", "new", number, scores)], "t", "recording", "score", levels=[("threshold", 5.0)])
    (axes,) = chart.figure.axes
    assert [tick for tick in axes.get_xticks() if 1 <= tick <= 3] == [1, 2, 3]
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("threshold")]
    np.testing.assert_array_equal(line.get_ydata(), [5, 5])
    assert chart.description.endswith("; threshold: 5")


def test_kinds_differ_in_shape():
    points, drawn = np.zeros(1), []
    for kind, other in (
        ("source normal", False),
        ("target anomaly", False),
        ("source normal", True),
        ("source anomaly", True),
    ):
        root = parsed(scatter([Points("n", kind, points, points, other_view=other)], "t", "x", "y", ticks=False))
        (mark,) = {path.get("d") for path in root.iter("path") if path.get("id", "").startswith("m")}
        drawn.append(mark)
    assert len(set(drawn)) == len(drawn)


def test_a_heat_map_shades_by_value_and_leaves_gaps():
    chart = heat_map(
        [[50.0, None], [75.0, 100.0]],
        ["a", "of two lines at least"],
        ["x", "y"],
        "t",
        x_label="view",
        y_label="scorer",
    )
    root = parsed(chart)
    cells = [path for path in root.iter("path") if "fill: var(--blue)" in path.get("style", "")]
    opacity = np.array([float(re.search(r"opacity: ([\d.]+)", cell.get("style", ""))[1]) for cell in cells])
    np.testing.assert_allclose(opacity / opacity.max(), [0.1, 0.55, 1.0], atol=1e-5)
    assert [text for text in texts(root) if "." in text] == ["50.0", "75.0", "100.0"]
    assert {"view", "scorer", "of two lines", "at least"} <= set(texts(root))


def test_a_spectrogram_frames_marked_patches_and_marks_frequencies():
    edges = band_edges_hz()
    region = (0.0075 + 2 * 0.16, 0.0075 + 4 * 0.16, edges[5], edges[6])
    log_mel = np.random.default_rng(0).normal(size=(98, 128))
    chart = spectrogram(log_mel, "t", "d", view="view far", region=region)
    panel, scale = chart.figure.axes
    left, right, bottom, top = panel.images[0].get_extent()
    assert (left, right) == pytest.approx((0.0075, 0.9875))
    assert (bottom, top) == (0, 128)
    for frame in panel.patches:
        assert frame.get_bbox().extents == pytest.approx([0.0075 + 2 * 0.16, 5 * 16, 0.0075 + 4 * 0.16, 6 * 16])
    assert len(panel.patches) == 2
    centres = mel_centres_hz().numpy()
    for tick, hertz in zip(panel.get_yticks(), (500, 1000, 2000, 4000), strict=True):
        assert tick == pytest.approx(int(np.argmin(np.abs(centres - hertz))) + 0.5, abs=0.5)
    root = parsed(chart)
    assert {"view far", "time (s)", "frequency (kHz)", "level (dB)"} <= set(texts(root))
    drawn = 10 / np.log(10) * log_mel.T
    low, high = np.quantile(drawn, [0.05, 0.995])
    assert scale.get_ylim() == pytest.approx((low - high, 0))
    np.testing.assert_allclose(panel.images[0].get_array(), drawn - high)
    (image,) = root.iter("image")
    assert image.get("href", "").startswith("data:image/png;base64,")


def test_the_lowest_frequency_is_at_the_bottom():
    quiet_high = np.zeros((32, 128))
    quiet_high[:, 64:] = -10
    chart = spectrogram(quiet_high, "t", "d", view="near")
    (image,) = chart.figure.axes[0].images
    assert image.origin == "lower"
    assert np.asarray(image.get_array())[0].mean() > np.asarray(image.get_array())[-1].mean()


def test_colours_are_variables_and_charts_of_a_page_share_no_ids():
    scores = np.arange(5.0)
    first = histogram([("a", "source normal", scores)], "first", [("threshold", 2.0)]).svg()
    second = histogram([("a", "source normal", scores)], "second", [("threshold", 2.0)]).svg()
    assert not any(colour in first for colour in PALETTE.values())
    assert "var(--blue)" in first
    assert not set(re.findall(r'id="([^"]+)"', first)) & set(re.findall(r'id="([^"]+)"', second))
    assert histogram([("a", "source normal", scores)], "first", [("threshold", 2.0)]).svg() == first


# --- figures of runs --------------------------------------------------------------------------------------------


def sample(separation):
    rng = np.random.default_rng(0)
    labels, domains = np.tile([False, True], 60), np.repeat(["source", "target"], 60)
    return labels, domains, rng.normal(size=120) + separation * labels


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_writes_a_legible_png_and_nothing_else(tmp_path):
    path = tmp_path / "figures" / "fan.png"
    machine_figure("fan", *sample(1.0), "eat-near, simulated data", path)
    assert png_size(path) == (1500, 720)
    assert list(path.parent.iterdir()) == [path]
    first = path.read_bytes()
    machine_figure("fan", *sample(1.0), "eat-near, simulated data", path)
    assert path.read_bytes() == first
    machine_figure("fan", *sample(2.0), "eat-near, simulated data", path)
    assert path.read_bytes() != first


def test_constant_scores_can_be_drawn(tmp_path):
    labels, domains, _ = sample(0.0)
    machine_figure("fan", labels, domains, np.full(labels.size, 0.25), "eat-near", tmp_path / "fan.png")
    assert png_size(tmp_path / "fan.png") == (1500, 720)


def test_a_failure_leaves_no_file(tmp_path):
    labels, domains, scores = sample(1.0)
    with pytest.raises(ValueError, match="both normal and anomalous"):
        machine_figure("fan", np.ones_like(labels), domains, scores, "eat-near", tmp_path / "fan.png")
    assert list(tmp_path.iterdir()) == []
