"""Charts of scores, curves, maps of recordings and spectrograms, drawn with matplotlib for PNG files and pages.

Every chart has a title and a description for screen readers. Groups of clips differ in marker or line style as
well as in colour; the colours are Okabe and Ito's, darkened to be readable as text on white.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.explain.dimensions import DECIBELS
from nearfar.explain.localisation import BANDS, band_edges_hz, time_edges_s
from nearfar.files import whole_file
from nearfar.frontends.kaldi import FRAME_SHIFT, PATCH_FRAMES, SAMPLE_RATE_HZ, mel_centres_hz
from nearfar.metrics import CURRENT, DOMAINS, MAX_FPR, OfficialRule, domain_rows, machine_metrics, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PALETTE = {
    "ink": "#1d2126", "soft": "#59616b", "rule": "#d9dce0", "shade": "#eef0f2", "card": "#ffffff",
    "blue": "#0067a3", "vermilion": "#b64a00", "green": "#00755a", "purple": "#8a3a78",
}  # fmt: skip
"""Colours by name; an inline SVG refers to them as CSS variables, which a page's style sheet defines."""


Groups = Sequence[tuple[str, str, ArrayLike]]
"""Groups of clips as (name, kind, scores (clips,)): for the kinds see :class:`Points`."""
Thresholds = Sequence[tuple[str, float]]
"""Thresholds as (name, score), drawn as vertical lines."""


class _Style(NamedTuple):
    colour: str
    line: str = "-"
    marker: str = "o"
    size: float = 5.0
    alpha: float = 0.8
    hollow: bool = False


_STYLES = {
    "source normal": _Style("blue"),
    "target normal": _Style("green", line="--", hollow=True),
    "source anomaly": _Style("vermilion", marker="x"),
    "target anomaly": _Style("purple", line="--", marker="x"),
    "source training": _Style("blue", size=3.5, alpha=0.5),
    "target training": _Style("green", line="--", size=3.5, alpha=0.6, hollow=True),
    "training": _Style("soft", line=":"),
    "normal": _Style("blue", line="--"),
    "anomaly": _Style("vermilion"),
    "new": _Style("vermilion", marker="x"),
}
_OTHER_MARKERS = {"o": "s", "x": "+"}
_BINS = 24
_MOST_STEPS = 200
_MOST_COLUMNS, _COLOURS = 320, 48
"""Largest number of time columns, and number of colours, of a spectrogram: fewer make a smaller file."""
_STEPS_OF_SCALE = 16
"""Colours of the scale beside a spectrogram."""
_DARKEST = 0.45
"""Opacity of the highest cell of a heat map: the number in it must be readable."""
_NAME = 14
"""Characters in a line of the name of a row of a heat map."""
_TICK, _LABEL = 11.0, 12.0
"""Font sizes of tick labels and axis labels in points."""
_RC: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": _LABEL,
    "svg.fonttype": "none", "figure.facecolor": "none", "axes.facecolor": "none", "text.color": PALETTE["ink"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.edgecolor": PALETTE["soft"], "axes.labelcolor": PALETTE["ink"], "axes.labelsize": _LABEL,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.6, "xtick.color": PALETTE["soft"], "ytick.color": PALETTE["soft"],
    "xtick.labelsize": _TICK, "ytick.labelsize": _TICK, "ytick.major.size": 0, "xtick.major.size": 3,
    "legend.frameon": False, "legend.fontsize": _TICK, "legend.handlelength": 1.6, "legend.borderaxespad": 0.3,
    "lines.linewidth": 1.8, "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A figure with its title and a description for screen readers; a page enlarges it at most so much."""

    figure: Figure
    title: str
    description: str
    enlarged: float = 1.5

    def svg(self) -> str:
        """An ``<svg class="chart">`` element for an HTML page that defines the colours of :data:`PALETTE`.

        Text stays text, and ids are unique among charts of different titles or descriptions.
        """
        from matplotlib import rc_context

        name = hashlib.sha256(f"{self.title}\n{self.description}".encode()).hexdigest()[:10]
        buffer = io.BytesIO()
        with rc_context(_RC | {"svg.hashsalt": name}):
            self.figure.savefig(buffer, format="svg")
        return _inline(buffer.getvalue(), name, self)

    def save_png(self, path: Path) -> None:
        """Write a PNG file at 150 dpi; it appears whole or not at all, and its folder is created if needed."""
        from matplotlib import rc_context

        with rc_context(_RC), whole_file(path) as partial:
            self.figure.savefig(partial, format="png", dpi=150, facecolor="white")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Clips in a scatter chart.

    Attributes:
        name: for the legend; empty for no entry in it.
        kind: such as ``source normal``, ``target anomaly`` or ``source training``: sets colour and marker.
        x, y: (clips,).
        other_view: whether to draw squares instead of circles and + instead of x, for clips of a second view.
    """

    name: str
    kind: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    other_view: bool = False


def histogram(groups: Groups, title: str, thresholds: Thresholds = ()) -> Chart:
    """Histogram of anomaly scores by group; anomalies are counted downwards."""
    with _figure(rows=len(groups) + len(thresholds)) as figure:
        _draw_histogram(figure.add_subplot(), groups, thresholds)
    parts = [
        f"{name}: {np.size(scores)} recordings, median {_median(scores)}"
        for name, _, scores in groups
        if np.size(scores)
    ]
    return Chart(figure, title, "; ".join(parts + _described(thresholds)))


def roc(
    labels: ArrayLike, domains: ArrayLike, scores: ArrayLike, title: str, rule: OfficialRule = CURRENT
) -> Chart:
    """ROC curves of one machine: of both domains and of all clips, with their areas in the legend.

    The AUC of a domain compares its normal clips with the anomalies of both domains, as the official metric does.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        domains: (clips,) of ``source`` and ``target``.
        scores: (clips,) finite, higher is more anomalous.
        title: of the chart.
        rule: of the clips' year; a domain without normal clips is left out if the rule allows it.

    Raises:
        ValueError: as :func:`nearfar.metrics.machine_metrics`.
    """
    with _figure(height=280, rows=3) as figure:
        areas = _draw_roc(figure.add_subplot(), labels, domains, scores, rule)
    return Chart(figure, title, f"Detection rate over false-alarm rate. {'; '.join(areas)}")


def exceedance(groups: Groups, thresholds: Thresholds, title: str) -> Chart:
    """The fraction of each group of scores that is above every possible threshold.

    ``groups`` must not be empty; their kinds may also be ``training``, ``normal`` and ``anomaly``.
    """
    grid = np.unique(np.concatenate([np.asarray(scores, dtype=np.float64) for _, _, scores in groups]))
    if len(grid) > _MOST_STEPS:
        grid = np.quantile(grid, np.linspace(0.0, 1.0, _MOST_STEPS))
    margin = 0.04 * float(np.ptp(grid)) or 0.5
    grid = np.concatenate([[grid[0] - margin], grid, [grid[-1] + margin]])
    parts = []
    with _figure(rows=len(groups) + len(thresholds)) as figure:
        axes = figure.add_subplot()
        for name, kind, scores in groups:
            style, above = _STYLES[kind], fraction_above(scores, grid)
            axes.step(grid, above, where="post", color=PALETTE[style.colour], linestyle=style.line, label=name)
            parts.append(f"{name}: median {_median(scores)}")
        _draw_thresholds(axes, thresholds)
        axes.set(ylim=(0, 1.02), xlabel="threshold", ylabel="fraction above")
        _legend(axes)
    return Chart(figure, title, "; ".join(parts + _described(thresholds)))


def curve(x: ArrayLike, y: ArrayLike, title: str, x_label: str, y_label: str) -> Chart:
    """One line through (points,) ``x`` and ``y``, with zero on the y axis."""
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    with _figure() as figure:
        axes = figure.add_subplot()
        axes.plot(across, up, color=PALETTE["blue"])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=min(0.0, float(up.min())))
    ends = f"from {_short(up[0])} at {_short(across[0])} to {_short(up[-1])} at {_short(across[-1])}"
    return Chart(figure, title, f"{y_label} over {x_label}, {ends}")


def scatter(
    groups: Sequence[Points],
    title: str,
    x_label: str,
    y_label: str,
    *,
    ticks: bool = True,
    levels: Thresholds = (),
) -> Chart:
    """Points by group, with lines at ``levels`` of y; without ``ticks`` the axes have no numbers, and along whole
    numbers they have only such."""
    from matplotlib.ticker import MaxNLocator

    with _figure(height=250, rows=sum(bool(group.name) for group in groups) + len(levels)) as figure:
        axes = figure.add_subplot()
        for group in groups:
            style = _STYLES[group.kind]
            colour = PALETTE[style.colour]
            axes.plot(
                group.x, group.y, linestyle="none", color=colour, alpha=style.alpha, markersize=style.size,
                marker=_OTHER_MARKERS[style.marker] if group.other_view else style.marker, markeredgewidth=1.2,
                markerfacecolor="none" if style.hollow else colour, label=group.name or "_unnamed",
            )  # fmt: skip
        _draw_thresholds(axes, levels, upright=False)
        if all((group.x == np.round(group.x)).all() for group in groups):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set(xlabel=x_label, ylabel=y_label)
        if not ticks:
            axes.set(xticks=[], yticks=[])
        _legend(axes)
    parts = [
        f"{group.name}: {len(group.x)} recordings around {_median(group.x)}, {_median(group.y)}"
        for group in groups
        if group.name and len(group.x)
    ]
    return Chart(figure, title, f"{y_label} over {x_label}. {'; '.join(parts + _described(levels))}")


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    x_label: str,
    y_label: str,
) -> Chart:
    """A heat map of (rows, columns) values with one decimal in every cell; None is an empty cell."""
    from matplotlib.patches import Rectangle

    table = np.array(values, dtype=np.float64)  # NaN for None
    finite = table[np.isfinite(table)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    names = [fill(row, _NAME, break_long_words=False) for row in rows]
    longest = max(len(line) for name in names for line in name.split("\n"))
    lines = max(name.count("\n") for name in names) + 1
    width = 46 * len(columns) + 7 * longest + 56
    height = (8 + 13 * lines) * len(rows) + 5 * max(map(len, columns)) + 44
    with _figure(width=width, height=height) as figure:
        axes = figure.add_subplot()
        for y, x in np.argwhere(np.isfinite(table)):
            opacity = _DARKEST * (0.1 + 0.9 * ((table[y, x] - low) / (high - low) if high > low else 1.0))
            axes.add_patch(Rectangle((x, y), 0.97, 0.95, facecolor=PALETTE["blue"], alpha=opacity))
            axes.text(x + 0.49, y + 0.5, f"{table[y, x]:.1f}", ha="center", va="center", size=_TICK)
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        slanted: Any = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, **slanted if max(map(len, columns)) > 5 else {})
        axes.set_yticks(np.arange(len(rows)) + 0.5, names)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.xaxis.set_label_position("top")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
    parts = (
        f"{name}: {', '.join('none' if value is None else _short(value) for value in row)}"
        for name, row in zip(rows, values, strict=True)
    )
    description = f"{y_label} in rows, {x_label} in columns {', '.join(columns)}. {'; '.join(parts)}"
    return Chart(figure, title, description, enlarged=1.15)


def spectrogram(
    log_mel: ArrayLike,
    title: str,
    description: str,
    *,
    view: str,
    region: tuple[float, float, float, float] | None = None,
    begin_s: float = 0.0,
) -> Chart:
    """A log-mel spectrogram that names its view, axes and scale, with a frame around a region.

    Args:
        log_mel: (frames, 128) natural logarithms of energy, a frame every 10 ms.
        title, description: of the chart.
        view: what it is a spectrogram of, written above it.
        region: begin and end in seconds of the recording, lowest and highest frequency in hertz, to frame.
        begin_s: of the spectrogram in its recording, in seconds.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    values = DECIBELS * np.asarray(log_mel, dtype=np.float64)
    step = -(-len(values) // _MOST_COLUMNS)
    thinned = values[: len(values) // step * step].reshape(-1, step, values.shape[1]).mean(axis=1)
    low, high = np.quantile(thinned, [0.05, 0.995])
    first_s = begin_s + time_edges_s(0)[0]
    end_s = first_s + len(thinned) * step * FRAME_SHIFT / SAMPLE_RATE_HZ
    with _figure(width=390, height=200) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(
            thinned.T - high, cmap=colormaps["magma"].resampled(_COLOURS), vmin=min(low - high, -1e-5), vmax=0.0,
            aspect="auto", origin="lower", interpolation="none", extent=(first_s, end_s, 0, values.shape[1]),
        )  # fmt: skip
        if region is not None:
            bottom, top = np.interp(region[2:], band_edges_hz(), PATCH_FRAMES * np.arange(BANDS + 1))
            place: Any = ((region[0], bottom), region[1] - region[0], top - bottom)
            for colour, linewidth in (("#000000", 3.2), ("#7df9ff", 1.6)):
                axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=linewidth))
        centres = mel_centres_hz().numpy()
        ticks = np.interp([500, 1000, 2000, 4000], centres, np.arange(len(centres)) + 0.5)
        axes.set_yticks(ticks, ["0.5", "1", "2", "4"])  # mel bin m reaches from m to m + 1
        axes.set(xlabel="time (s)", ylabel="frequency (kHz)", xlim=(first_s, end_s), ylim=(0, values.shape[1]))
        axes.set_title(view, loc="left", size=_LABEL)
        axes.grid(visible=False)
        _draw_scale(figure, image)
    return Chart(figure, title, description, enlarged=1.35)


def _draw_scale(figure: Figure, image: AxesImage) -> None:
    """The levels that the colours of an image in decibels stand for."""
    from matplotlib.ticker import MaxNLocator

    low, high = image.get_clim()
    bar = figure.colorbar(image, boundaries=np.linspace(low, high, _STEPS_OF_SCALE + 1), fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    bar.set_label("level (dB)")


def machine_figure(
    machine: str,
    labels: ArrayLike,
    domains: ArrayLike,
    scores: ArrayLike,
    title: str,
    path: Path,
    rule: OfficialRule = CURRENT,
) -> None:
    """Draw a machine's score histogram by domain and label beside its ROC curves, to a PNG file.

    Args:
        machine: the machine type, for the heading.
        labels, domains, scores, rule: as for :func:`roc`.
        title: the system and the data; follows the machine in the heading.
        path: the PNG file, see :meth:`Chart.save_png`.

    Raises:
        ValueError: as :func:`roc`.
    """
    anomalous, domain, score = np.asarray(labels, dtype=bool), np.asarray(domains), np.asarray(scores)
    kinds = [
        (f"{name} {label}", score[(domain == name) & (anomalous == is_anomaly)])
        for label, is_anomaly in (("normal", False), ("anomaly", True))
        for name in DOMAINS
    ]
    groups = [(f"{kind} ({len(of_kind)})", kind, of_kind) for kind, of_kind in kinds if len(of_kind)]
    with _figure(width=720, height=345.6) as figure:
        figure.suptitle(fill(f"{machine} – {title}", width=90), x=0.01, ha="left", size=13, weight="bold")
        left, right = figure.subplots(1, 2)
        _draw_histogram(left, groups, ())
        areas = _draw_roc(right, anomalous, domain, score, rule)
    Chart(figure, f"{machine} – {title}", "; ".join(areas)).save_png(path)


def fraction_above(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The fraction of (clips,) scores that are greater than each of (thresholds,)."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return np.asarray(1.0 - np.searchsorted(ordered, np.asarray(thresholds), side="right") / len(ordered))


@contextmanager
def _figure(width: float = 360, height: float = 235, rows: int = 0) -> Iterator[Figure]:
    """A figure of a size in points, with room for a legend of that many rows above the axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        yield Figure(figsize=(width / 72, (height + 16 * rows) / 72), layout="constrained")


def _legend(axes: Axes) -> None:
    names = axes.get_legend_handles_labels()[1]
    if names:
        columns = 2 if max(map(len, names)) <= 21 else 1
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, labelspacing=0.25, columnspacing=1.2)


def _draw_histogram(axes: Axes, groups: Groups, thresholds: Thresholds) -> None:
    from matplotlib.ticker import MaxNLocator

    edges = np.histogram_bin_edges(np.concatenate([np.asarray(scores) for _, _, scores in groups]), bins=_BINS)
    for name, kind, scores in groups:
        style, counts = _STYLES[kind], np.histogram(np.asarray(scores), edges)[0]
        colour = PALETTE[style.colour]
        axes.stairs(
            -counts if "anomaly" in kind else counts, edges, fill=True, facecolor=(colour, 0.16),
            edgecolor=colour, linestyle=style.line, linewidth=1.4, label=name,
        )  # fmt: skip
    axes.axhline(0.0, color=PALETTE["soft"], linewidth=0.8)
    axes.spines["bottom"].set_visible(False)
    _draw_thresholds(axes, thresholds)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(lambda count, _: f"{abs(count):g}")
    has_anomalies = any("anomaly" in kind for _, kind, _ in groups)
    axes.set(xlabel="anomaly score", ylabel="anomalies ↓   normal ↑" if has_anomalies else "recordings")
    _legend(axes)


def _draw_thresholds(axes: Axes, thresholds: Thresholds, *, upright: bool = True) -> None:
    for (name, score), style in zip(thresholds, ((0, (4, 2)), (0, (1, 1.5))), strict=False):
        draw = axes.axvline if upright else axes.axhline
        draw(score, color=PALETTE["ink"], linestyle=style, linewidth=1.4, label=f"{name} {_short(score)}")


def _draw_roc(
    axes: Axes, labels: ArrayLike, domains: ArrayLike, scores: ArrayLike, rule: OfficialRule
) -> list[str]:
    """Draw the curves; returns their names with their areas."""
    anomalous, domain, score = np.asarray(labels, dtype=bool), np.asarray(domains), np.asarray(scores)
    metrics = machine_metrics(anomalous, domain, score, rule)
    names = []
    axes.axvspan(0, MAX_FPR, color=PALETTE["shade"], linewidth=0)
    axes.plot((0, 1), (0, 1), color=PALETTE["soft"], linewidth=1, linestyle=":")
    for name, area in zip(DOMAINS, metrics[:2], strict=True):
        if np.isnan(area):
            continue
        rows, style = domain_rows(anomalous, domain, name, rule), _STYLES[f"{name} normal"]
        against = "own" if rule.own_anomalies else "all"
        names.append(f"{name} normals, {against} anomalies: AUC {100 * area:.1f}")
        axes.plot(
            *roc_curve(anomalous[rows], score[rows]), color=PALETTE[style.colour], linestyle=style.line,
            label=names[-1],
        )  # fmt: skip
    names.append(f"all recordings: pAUC {100 * metrics.pauc:.1f}")
    axes.plot(*roc_curve(anomalous, score), color=PALETTE["ink"], linewidth=1, label=names[-1])
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false-alarm rate", ylabel="detection rate")
    _legend(axes)
    return names


_XLINK = "{http://www.w3.org/1999/xlink}href"


def _inline(svg: bytes, name: str, chart: Chart) -> str:
    """Reduce matplotlib's SVG document to an element for a page: no namespaces, style sheet or excess digits."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.tag == "g":
            element.attrib.pop("id", None)
            _share_style(element)
        if _XLINK in element.attrib:
            element.set("href", element.attrib.pop(_XLINK))
        for key in {"x", "y", "d"} & set(element.keys()):
            element.set(key, re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", element.get(key, "")))
        if "style" in element.attrib:
            element.set("style", _page_style(element.get("style", "")))
    box = root.get("viewBox", "")
    root.attrib = {
        "class": "chart",
        "viewBox": box,
        "style": f"max-width: {chart.enlarged * float(box.split()[2]):.0f}px",
        "role": "img",
        "aria-labelledby": f"t{name} d{name}",
    }
    for tag, text in (("desc", chart.description), ("title", chart.title)):
        element = ElementTree.Element(tag, id=tag[0] + name)
        element.text = text
        root.insert(0, element)
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _share_style(group: ElementTree.Element) -> None:
    """Move the style that all markers of a group have to the group."""
    styles = {child.get("style") for child in group if child.tag.endswith("use")}
    if len(styles) == 1 and all(child.tag.endswith("use") for child in group):
        group.set("style", styles.pop() or "")
        for child in group:
            child.attrib.pop("style", None)


def _page_style(style: str) -> str:
    """Replace colours by CSS variables of the page, and remove the font."""
    for name, colour in PALETTE.items():
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font-family: [^;]*; ", "", style)


def _described(thresholds: Thresholds) -> list[str]:
    return [f"{name}: {_short(score)}" for name, score in thresholds]


def _median(values: ArrayLike) -> str:
    return _short(np.median(np.asarray(values, dtype=np.float64)))


def _short(number: float | np.floating[Any]) -> str:
    return f"{number:.3g}" if abs(float(number)) < 1e5 else f"{number:.1e}"
