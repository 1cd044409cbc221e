"""From facts of a run to what the page's template places: texts, tables and charts of every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.evaluation.uncertainty import Interval, Intervals
from nearfar.metrics import auc, domain_rows
from nearfar.report.drawing import Axis, Series, axis_of, histogram, legend, lines, scatter
from nearfar.report.examples import Example, examples_of
from nearfar.report.gather import MachineFacts, Numbers, Plane, RunFacts, plane_of

QUANTITIES = {"auc_source": "AUC (source)", "auc_target": "AUC (target)", "pauc": "pAUC", "score": "score"}
KINDS = {
    ("source", False): ("source, normal", "source normal"),
    ("target", False): ("target, normal", "target normal"),
    ("source", True): ("source, anomaly", "source anomaly"),
    ("target", True): ("target, anomaly", "target anomaly"),
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its heading, a legend and a sentence on how to read it; all HTML but the texts."""

    heading: str
    drawing: str
    legend: str
    reading: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a heading; the first cell of a row is its name, ``sentences`` says that the last cell is text."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    sentences: bool = False


@dataclass(frozen=True, slots=True)
class MachineSection:
    """What the page says of one machine."""

    name: str
    anchor: str
    counts: str
    charts: tuple[Chart, ...]
    numbers: Table
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the summary table: (value, low, high) in percent by quantity."""

    name: str
    cells: tuple[tuple[float, float, float] | None, ...]


def summary_rows(run: RunFacts) -> list[Row]:
    """A row per machine and one over all; none where labels are hidden."""
    if run.intervals is None:
        return []
    rows = [_row(name, intervals) for name, intervals in run.intervals.machines.items()]
    return [*rows, _row("all machines", run.intervals.all_machines)]


def _row(name: str, intervals: Intervals) -> Row:
    found: dict[str, Interval] = {str(quantity): interval for quantity, interval in intervals.items()}
    cells = []
    for quantity in QUANTITIES:
        interval = found.get(quantity)
        cells.append(
            None
            if interval is None or not np.isfinite(interval.value)
            else (100 * interval.value, 100 * interval.low, 100 * interval.high)
        )
    return Row(name, tuple(cells))


def machine_section(facts: MachineFacts, run: RunFacts, number: int) -> MachineSection:
    """Charts and examples of one machine; what the data does not give is left out."""
    charts = [_histogram(facts)]
    if facts.anomalous is not None and facts.anomalous.any() and not facts.anomalous.all():
        charts.append(_roc(facts))
    if facts.normal.size > 1:
        charts.append(_false_alarms(facts))
    if len(facts.views) > 1:
        charts.append(_views(facts))
    plane = plane_of(facts, run)
    if plane is not None:
        charts.append(_map(facts, plane))
    clips = f"{facts.normal.size or len(facts.train)} normal training clips, {len(facts.scores.names)} test clips"
    return MachineSection(
        facts.name,
        f"machine-{number}",
        clips,
        tuple(charts),
        _numbers(facts),
        tuple(examples_of(facts, run.recipe)),
    )


def _numbers(facts: MachineFacts) -> Table:
    groups = [(name, facts.scores.scores[mask]) for name, _, mask in _groups(facts)]
    if facts.normal.size:
        groups.insert(0, ("training, normal", facts.normal))
    rows = [score_row(name, scores, facts.threshold) for name, scores in groups]
    return score_table(rows, facts.threshold)


def score_row(name: str, scores: Numbers, threshold: float | None) -> tuple[str, ...]:
    """A group of clips in a line of :func:`score_table`."""
    middle, high = np.quantile(scores, [0.5, 1.0])
    above = "–" if threshold is None else _above(scores, threshold)
    return name, str(len(scores)), f"{middle:.2g}", f"{high:.2g}", above


def score_table(rows: list[tuple[str, ...]], threshold: float | None) -> Table:
    """The scores of groups of clips as numbers, for those who do not see the charts."""
    caption = "" if threshold is None else f"The threshold is {threshold:.3g}."
    columns = ("clips", "number", "median", "highest", "above threshold")
    return Table("Scores in numbers", columns, tuple(rows), caption)


def percent(share: float) -> str:
    """A share for people, with two digits."""
    return f"{100 * share:.2g}\u00a0%" if share < 0.1 else f"{100 * share:.0f}\u00a0%"


def _groups(facts: MachineFacts) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """(name, kind, mask) of every group of test clips that has any."""
    if facts.anomalous is None or facts.domains is None:
        return [("test clips", "source normal", np.ones(len(facts.scores.names), dtype=bool))]
    out = []
    for (domain, anomalous), (name, kind) in KINDS.items():
        mask = (facts.domains == domain) & (facts.anomalous == anomalous)
        if mask.any():
            out.append((name, kind, mask))
    return out


def _histogram(facts: MachineFacts) -> Chart:
    groups = [(name, kind, facts.scores.scores[mask]) for name, kind, mask in _groups(facts)]
    return Chart(
        "Scores by domain and label",
        histogram(
            groups,
            f"Histogram of anomaly scores of {facts.name}",
            [] if facts.threshold is None else [("threshold", facts.threshold)],
        ),
        legend([(name, f"{kind} area") for name, kind, _ in groups]),
        "Anomalies count downwards and should lie to the right of the threshold, normal clips of both domains to "
        "the left.",
    )


def _roc(facts: MachineFacts) -> Chart:
    from sklearn.metrics import roc_curve

    assert facts.anomalous is not None
    assert facts.domains is not None
    series = []
    for domain in ("source", "target"):
        rows = domain_rows(facts.anomalous, facts.domains, domain, facts.rule)
        if 0 < facts.anomalous[rows].sum() < rows.sum():
            labels, scores = facts.anomalous[rows], facts.scores.scores[rows]
            false, true, _ = roc_curve(labels, scores)
            name = f"{domain} normals, {'own' if facts.rule.own_anomalies else 'all'} anomalies"
            series.append(Series(f"{name}: AUC {100 * auc(labels, scores):.1f}", domain, false, true))
    drawing = lines(
        series,
        f"ROC curves of {facts.name}",
        Axis(0.0, 1.0, "false-alarm rate"),
        Axis(0.0, 1.0, "detection rate"),
        shade_to=0.1,
        diagonal=True,
    )
    return Chart(
        "ROC",
        drawing,
        legend([(line.name, f"{line.kind} line") for line in series]),
        "The shaded strip, false-alarm rates up to 10 %, is what pAUC counts. The dotted diagonal is chance.",
    )


def _false_alarms(facts: MachineFacts) -> Chart:
    """How often normal clips, and anomalies, are above every possible threshold."""
    scores = facts.scores.scores
    every = np.unique(np.concatenate([facts.normal, scores]))
    grid = np.quantile(every, np.linspace(0.0, 1.0, 120))
    series = [Series("training clips, each against the others", "train", grid, share_above(facts.normal, grid))]
    if facts.anomalous is not None:
        for name, kind, mask in (
            ("normal test clips", "normal", ~facts.anomalous),
            ("anomalies", "anomaly", facts.anomalous),
        ):
            if mask.any():
                series.append(Series(name, kind, grid, share_above(scores[mask], grid)))
    if facts.threshold is not None:
        at = np.array([facts.threshold, facts.threshold])
        series.append(Series("threshold", "threshold", at, np.array([0.0, 1.0])))
    drawing = lines(
        series,
        f"Share of clips above a threshold, {facts.name}",
        axis_of(every, "threshold"),
        Axis(0.0, 1.0, "share of clips above it"),
    )
    return Chart(
        "Threshold and false alarms",
        drawing,
        legend([(line.name, f"{line.kind} line") for line in series]),
        _at_threshold(facts)
        + " If normal test clips alarm more often than training clips, conditions have changed.",
    )


def _at_threshold(facts: MachineFacts) -> str:
    """What is above the threshold, in a sentence."""
    if facts.threshold is None:
        return "No threshold is set."
    groups = [("training clips", facts.normal)]
    if facts.anomalous is not None:
        groups.append(("normal test clips", facts.scores.scores[~facts.anomalous]))
        groups.append(("anomalies", facts.scores.scores[facts.anomalous]))
    told = [
        f"{percent(float(np.mean(scores > facts.threshold)))} of {name}" for name, scores in groups if len(scores)
    ]
    return f"Above the threshold: {', '.join(told)}."


def _above(scores: Numbers, threshold: float) -> str:
    return percent(float(np.mean(scores > threshold)))


def share_above(scores: Numbers, grid: Numbers) -> Numbers:
    """The share of scores above every threshold of a grid."""
    share: Numbers = 1.0 - np.searchsorted(np.sort(scores), grid, side="right") / len(scores)
    return share


def _views(facts: MachineFacts) -> Chart:
    first, second = list(facts.views)[:2]
    groups = [
        (name, kind, facts.views[first][mask], facts.views[second][mask]) for name, kind, mask in _groups(facts)
    ]
    return views_chart(facts.name, (first, second), groups)


def views_chart(
    machine: str, views: tuple[str, str], groups: Sequence[tuple[str, str, Numbers, Numbers]]
) -> Chart:
    """Scores of two views of the same clips; groups are (name, kind, scores of the first view, of the second)."""
    first, second = views
    series = [Series(*group) for group in groups]
    reading = f"Each clip's score from {first} and from {second}: where they disagree, one of them hears more."
    if second == "far":
        reading = "A clip that is high in far alone is more likely the room than the machine."
    return Chart(
        f"{first.capitalize()} against {second}",
        scatter(series, f"Scores of {machine} by view", f"score, {first}", f"score, {second}"),
        legend([(entry.name, entry.kind) for entry in series]),
        reading,
    )


def _map(facts: MachineFacts, plane: Plane) -> Chart:
    target = np.array([clip.domain == "target" for clip in facts.train])
    place = {clip.name: number for number, clip in enumerate(facts.test)}
    order = [place[name] for name in facts.scores.names if name in place]
    groups = _groups(facts) if len(order) == len(facts.scores.names) else []
    return map_chart(
        facts.name, plane, target, [(name, kind, np.array(order)[mask]) for name, kind, mask in groups]
    )


def map_chart(
    machine: str, plane: Plane, target: NDArray[np.bool_], groups: Sequence[tuple[str, str, NDArray[np.int64]]]
) -> Chart:
    """The map of a machine's clips.

    Args:
        machine: its name.
        plane: where the clips are.
        target: (training clips,).
        groups: of test clips: (name, kind, rows).
    """
    series: list[Series] = []
    for view, (train, test) in plane.places.items():
        extra = " far" if view == "far" else ""
        for domain, mask in (("source", ~target), ("target", target)):
            if mask.any():
                name = f"{view}, training, {domain}"
                series.append(Series(name, f"{domain} train{extra}", train[mask, 0], train[mask, 1]))
        for name, kind, rows in groups:
            series.append(Series(f"{view}, test, {name}", kind + extra, test[rows, 0], test[rows, 1]))
    known = {entry.kind: entry.name.split(", ", 1)[1] for entry in series if " far" not in entry.kind}
    names = [(name, kind) for kind, name in known.items()]
    if len(plane.places) > 1 and "far" in plane.places:
        names += [("far: squares, and + for anomalies", "source far")]
    labels = (f"component {number} ({percent(share)})" for number, share in enumerate(plane.shares, start=1))
    return Chart(
        "Map of clips",
        scatter(series, f"Two principal components of {machine}", *labels, ticks=False),
        legend(names),
        "Clips that sound alike lie together, as far as two dimensions show it; in brackets, their shares of the "
        "variance of training clips.",
    )


def training_chart(run: RunFacts) -> Chart | None:
    """The training curve, or None where nothing was trained in this folder."""
    if run.curve is None:
        return None
    steps, losses = run.curve
    drawing = lines(
        [Series("loss", "source", steps, losses)],
        "Training loss",
        axis_of(steps, "step"),
        axis_of(losses, "loss", from_zero=True),
    )
    return Chart("Training", drawing, "", "Mean loss over short stretches of steps.")
