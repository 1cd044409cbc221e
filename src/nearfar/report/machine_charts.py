"""Charts and tables of one machine that the pages of runs and of detectors share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.charts import Points, scatter
from nearfar.report.page import PageChart, PageTable

Numbers = NDArray[np.float64]


def percent(fraction: float) -> str:
    """A fraction in percent with two digits, such as ``5.3 %``."""
    return f"{100 * fraction:.2g}\u00a0%" if fraction < 0.1 else f"{100 * fraction:.0f}\u00a0%"


def percent_above(scores: ArrayLike, threshold: float) -> str:
    """How many of (clips,) scores are greater than the threshold, in percent."""
    return percent(float(np.mean(np.asarray(scores) > threshold)))


def named_thresholds(values: Iterable[tuple[str | None, float | None]]) -> list[tuple[str, float]]:
    """(name, score) for charts, of pairs of a domain, None for both, and a threshold, None where there is none."""
    return [
        ("threshold" if domain is None else f"threshold, {domain}", value)
        for domain, value in values
        if value is not None
    ]


def score_row(name: str, scores: Numbers, above: str | None) -> tuple[str, ...]:
    """A row of :func:`score_table`: one group of (clips,) scores, and how many are above the threshold."""
    return name, str(len(scores)), f"{np.median(scores):.2g}", f"{scores.max():.2g}", above or "–"


def score_table(rows: Sequence[tuple[str, ...]], thresholds: Sequence[tuple[str, float]]) -> PageTable:
    """The scores of groups of clips as numbers."""
    caption = f"The threshold is {thresholds[0][1]:.3g}." if len(thresholds) == 1 else ""
    columns = ("clips", "number", "median", "highest", "above threshold")
    return PageTable("Scores in numbers", columns, tuple(rows), caption)


def views_chart(machine: str, views: tuple[str, str], groups: Sequence[Points]) -> PageChart:
    """Scores of the same clips from two views: x from the first, y from the second."""
    first, second = views
    caption = f"The score of each clip from {first} and from {second}."
    if second == "far":
        caption += " A high score from far only suggests noise in the surroundings rather than a fault."
    chart = scatter(groups, f"Scores of {machine} by view", f"score, {first}", f"score, {second}")
    return PageChart(f"{first.capitalize()} against {second}", chart.svg(), caption)


@dataclass(frozen=True, slots=True, eq=False)
class ClipMap:
    """The first two principal components of a machine's clips.

    Attributes:
        points: by view, (training clips, 2) and (test clips, 2) float64.
        explained: the fraction of the variance of training clips along either axis.
    """

    points: dict[str, tuple[Numbers, Numbers]]
    explained: tuple[float, float]


def principal_components(features: dict[str, tuple[Numbers, Numbers]]) -> ClipMap:
    """Project clips to two dimensions, every feature scaled by its deviation over all training clips.

    Args:
        features: by view, (training clips, dim) and (test clips, dim).
    """
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
    return ClipMap(points, (float(explained[0]), float(explained[1])))


def map_chart(
    machine: str,
    clip_map: ClipMap,
    target: NDArray[np.bool_],
    groups: Sequence[tuple[str, str, NDArray[np.int64]]],
) -> PageChart:
    """A scatter chart of a machine's clips by their embeddings.

    Args:
        machine: its name.
        clip_map: the points.
        target: (training clips,), true for the target domain.
        groups: of test clips: (name, kind, rows), kinds as in :class:`nearfar.charts.Points`.
    """
    series: list[Points] = []
    for number, (train, test) in enumerate(clip_map.points.values()):
        parts = [
            (f"training, {domain}", f"{domain} training", train[mask])
            for domain, mask in (("source", ~target), ("target", target))
            if mask.any()
        ] + [(f"test, {name}", kind, test[rows]) for name, kind, rows in groups]
        for name, kind, points in parts:
            # One legend for all views: colours are the same.
            series.append(Points("" if number else name, kind, points[:, 0], points[:, 1], other_view=number > 0))
    caption = (
        "Clips with similar embeddings lie close together, as far as two dimensions can show it. In brackets: the "
        "fraction of the training clips' variance."
    )
    first, *others = clip_map.points
    if others:
        caption += f" Circles and × are from {first}, squares and + from {' and '.join(others)}."
    labels = [f"component {number} ({percent(part)})" for number, part in enumerate(clip_map.explained, start=1)]
    chart = scatter(series, f"Two principal components of {machine}", labels[0], labels[1], ticks=False)
    return PageChart("Map of clips", chart.svg(), caption)
