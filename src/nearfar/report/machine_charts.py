"""Charts and tables of one machine on the pages of runs and detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.charts import Points, scatter
from nearfar.report.page import PageChart, PageTable

Scores = NDArray[np.float64]
TrainTest = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Features of training and of test recordings, (recordings, dim) each."""
Groups = Sequence[tuple[str, str, NDArray[Any]]]
"""Groups as (name, kind, rows of recordings): kinds as in :class:`nearfar.charts.Points`, rows mask or indices."""


def percent(fraction: float) -> str:
    """A fraction in percent with two digits, such as ``5.3 %``."""
    return f"{100 * fraction:.2g}\u00a0%" if fraction < 0.1 else f"{100 * fraction:.0f}\u00a0%"


def percent_above(scores: Scores, threshold: float | None) -> str | None:
    """The percentage of (recordings,) scores above a threshold; None without one or without recordings."""
    return None if threshold is None or not scores.size else percent(float((scores > threshold).mean()))


def threshold_name(domain: str | None) -> str:
    """The legend entry of the threshold of a domain, or of both domains for None."""
    return "threshold" if domain is None else f"threshold, {domain}"


def score_table(
    rows: Sequence[tuple[str, Scores, str | None]], thresholds: Sequence[tuple[str, float]]
) -> PageTable:
    """The number, median and maximum of scores.

    Args:
        rows: (name, scores (recordings,), percentage above the threshold).
        thresholds: (name, score).
    """
    cells = tuple(
        (name, str(len(scores)), f"{np.median(scores):.2g}", f"{scores.max():.2g}", above or "–")
        for name, scores, above in rows
    )
    caption = f"The threshold is {thresholds[0][1]:.3g}." if len(thresholds) == 1 else ""
    columns = ("recordings", "number", "median", "highest", "above threshold")
    return PageTable("Scores in numbers", columns, cells, caption)


def view_chart(machine: str, views: Mapping[str, Scores], groups: Groups) -> PageChart:
    """Scores of the same recordings from two views: x from the first, y from the second.

    Args:
        machine: its name.
        views: (recordings,) scores by view, of at least two views.
        groups: of the recordings.
    """
    (first, x), (second, y) = list(views.items())[:2]
    caption = f"The score of each recording from {first} and from {second}."
    if second == "far":
        caption += " A high score from far only suggests noise in the surroundings rather than a fault."
    points = [Points(name, kind, x[rows], y[rows]) for name, kind, rows in groups]
    chart = scatter(points, f"Scores of {machine} by view", f"score, {first}", f"score, {second}")
    return PageChart(f"{first.capitalize()} against {second}", chart.svg(), caption)


@dataclass(frozen=True, slots=True, eq=False)
class RecordingMap:
    """The first two principal components of a machine's recordings.

    Attributes:
        points: the components by view, ``dim`` is 2.
        explained: the explained variance of either component, as a fraction of that of training recordings.
    """

    points: dict[str, TrainTest]
    explained: tuple[float, float]


def principal_components(features: Mapping[str, TrainTest]) -> RecordingMap:
    """Project features, by view, to two dimensions after standardising each by all training recordings."""
    normal = np.concatenate([train for train, _ in features.values()])
    mean, deviation = normal.mean(axis=0), normal.std(axis=0)
    scale = np.where(deviation > 1e-9, deviation, np.inf)
    _, lengths, axes = np.linalg.svd((normal - mean) / scale, full_matrices=False)
    energy = np.append(lengths**2, 0.0)
    explained = energy / max(energy.sum(), 1e-12)
    axes = axes[:2] if len(axes) > 1 else np.vstack([axes, np.zeros_like(axes)])
    points = {
        view: (((train - mean) / scale) @ axes.T, ((test - mean) / scale) @ axes.T)
        for view, (train, test) in features.items()
    }
    return RecordingMap(points, (float(explained[0]), float(explained[1])))


def recording_map(
    machine: str, features: Mapping[str, TrainTest], target: NDArray[np.bool_], groups: Groups = ()
) -> PageChart:
    """A scatter chart of the principal components of a machine's recordings.

    Args:
        machine: its name.
        features: as for :func:`principal_components`.
        target: (training recordings,), true for the target domain.
        groups: of test recordings.
    """
    projected = principal_components(features)
    series: list[Points] = []
    for number, (train, test) in enumerate(projected.points.values()):
        parts = [
            (f"training, {domain}", f"{domain} training", train[mask])
            for domain, mask in (("source", ~target), ("target", target))
            if mask.any()
        ] + [(f"test, {name}", kind, test[rows]) for name, kind, rows in groups]
        for name, kind, points in parts:
            # One legend for all views: colours are the same.
            series.append(Points("" if number else name, kind, points[:, 0], points[:, 1], other_view=number > 0))
    caption = (
        "Recordings with similar features lie close together, as far as two dimensions can show it. In brackets: "
        "the fraction of the training recordings' variance."
    )
    first, *others = projected.points
    if others:
        caption += f" Circles and × are from {first}, squares and + from {' and '.join(others)}."
    labels = [f"component {number} ({percent(part)})" for number, part in enumerate(projected.explained, start=1)]
    chart = scatter(series, f"Two principal components of {machine}", labels[0], labels[1], ticks=False)
    return PageChart("Map of recordings", chart.svg(), caption)
