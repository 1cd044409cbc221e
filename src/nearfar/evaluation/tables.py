"""Tables of results, comparisons and decisions: as rounded text, in CSV, and with all digits in JSON.

The table of results has the form of the report's Table 1: rows are the machines' AUC (source), AUC (target), pAUC
and score, and at the end their harmonic means; columns are systems. A system run with several seeds shows mean ±
standard deviation over the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nearfar.evaluation.published import PUBLISHED, check_published
from nearfar.evaluation.results import DecisionMetrics, DecisionResults, MachineDecisionResult, Results, row_names
from nearfar.evaluation.uncertainty import Comparison, Difference, Intervals, Uncertainty
from nearfar.files import write_text
from nearfar.metrics import QUANTITIES, Quantity
from nearfar.rendering import TextRow, TextTable, csv_text, json_text, markdown

QUANTITY_NAMES: dict[Quantity, str] = {
    "auc_source": "AUC (source)",
    "auc_target": "AUC (target)",
    "pauc": "pAUC",
    "score": "score",
}
ALL = "All (hmean)"
OFFICIAL = "All (official score)"
PUBLISHED_SUFFIX = " (published)"
_ABSENT = "–"
_MARK = " †"


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table, as a fraction: the mean over seeds, and the sample standard deviation if several.

    ``interval`` is the bootstrap interval, if requested. ``mark`` is true if a note of the table is about the
    figure.
    """

    mean: float
    std: float | None = None
    interval: tuple[float, float] | None = None
    mark: bool = False

    def percent(self) -> str:
        """In percent: ``61.56``, ``61.56 ± 0.42``, ``61.56 [55.20, 67.10]`` or ``56.66 †``."""
        spread = "" if self.std is None else f" ± {100 * self.std:.2f}"
        bounds = "" if self.interval is None else " [{:.2f}, {:.2f}]".format(*(100 * end for end in self.interval))
        return f"{100 * self.mean:.2f}{spread}{bounds}{_MARK if self.mark else ''}"


Cells = dict[Quantity, Cell]
"""A row's figures; one that is not defined, such as the AUC of an absent domain, is left out."""


@dataclass(frozen=True, slots=True)
class Column:
    """A system's cells by row name: a machine (with its section, where it has several), or ``ALL``.

    ``seeds`` is the number of seeds that the cells are means over; None for published figures.
    """

    name: str
    rows: dict[str, Cells]
    seeds: int | None = None


@dataclass(frozen=True, slots=True)
class ResultsTable:
    """Systems side by side: their columns, the machines in the order of the rows, and the notes below."""

    columns: tuple[Column, ...]
    machines: tuple[str, ...]
    notes: tuple[str, ...] = ()


def results_table(
    systems: Mapping[str, Sequence[Results]],
    *,
    notes: Sequence[str] = (),
    intervals: Mapping[str, Uncertainty] | None = None,
) -> ResultsTable:
    """Set systems side by side, with the report's columns if the clips are the DCASE 2026 development set.

    The rule of another year and an absent domain become notes.

    Args:
        systems: per system its results, one per seed, all over the same machines.
        notes: lines below, for instance that the data is simulated.
        intervals: bootstrap intervals for the cells of systems with a single seed.

    Raises:
        ValueError: if a system has no results, its seeds do not cover the same machines, or it has several seeds
            and intervals.
    """
    columns = [_system_column(name, runs, (intervals or {}).get(name)) for name, runs in systems.items()]
    machines = tuple(dict.fromkeys(row for column in columns for row in column.rows if row != ALL))
    of_results = [note for runs in systems.values() for run in runs for note in run.notes]
    if all(run.is_dcase2026_development_set for runs in systems.values() for run in runs):
        published = [_system_column(entry.name + PUBLISHED_SUFFIX, [entry.results()]) for entry in PUBLISHED]
        columns += [replace(column, seeds=None) for column in published]
    return ResultsTable(tuple(columns), machines, tuple(dict.fromkeys((*notes, *of_results))))


def published_table() -> ResultsTable:
    """The report's Table 1 as printed; inconsistent figures are marked and explained in notes."""
    problems = check_published()
    marked = {(problem.column, problem.machine or ALL, problem.quantity) for problem in problems}
    columns = []
    for entry in PUBLISHED:
        rows: dict[str, Cells] = {}
        for name, row in {**entry.machines, ALL: entry.all_machines}.items():
            rows[name] = {
                quantity: Cell(figure / 100, mark=(entry.name, name, quantity) in marked)
                for quantity, figure in zip(QUANTITIES, row, strict=True)
            }
        columns.append(Column(entry.name, rows))
    notes = tuple(
        f"† {problem.column}, {problem.machine or ALL}, {QUANTITY_NAMES[problem.quantity]}: {problem.where} "
        f"prints {problem.printed:.2f}, but the figures in Table 1 give {problem.computed:.2f}."
        for problem in problems
    )
    return ResultsTable(tuple(columns), tuple(PUBLISHED[0].machines), notes)


def to_text(table: ResultsTable, title: str = "") -> TextTable:
    """The table as text, in percent."""
    rows = []
    for machine, quantity, cells in _rows(table):
        is_first, is_last = quantity == QUANTITIES[0], quantity == QUANTITIES[-1]
        figures = [_ABSENT if cell is None else cell.percent() for cell in cells]
        texts = (machine if is_first else "", QUANTITY_NAMES[quantity], *figures)
        rows.append(TextRow(texts, "strong" if is_last else "", ends_group=is_last))
    headings = ("machine", "", *(column.name for column in table.columns))
    return TextTable(headings, tuple(rows), (0, 1), title, table.notes, unwrapped=2)


def to_markdown(table: ResultsTable) -> str:
    """:func:`to_text` in Markdown."""
    return markdown(to_text(table))


def to_csv(table: ResultsTable) -> str:
    """The table as CSV in percent with two decimals.

    Columns are the systems, with their standard deviations over seeds or intervals if there are any, and the
    notes, which every row repeats.
    """
    heads = [column.name + suffix for column in table.columns for suffix in _csv_figures(column)]
    rows = []
    for machine, quantity, cells in _rows(table):
        figures = [
            figure
            for column, cell in zip(table.columns, cells, strict=True)
            for figure in _csv_figures(column, cell).values()
        ]
        rows.append([machine, quantity, *figures, " ".join(table.notes)])
    return csv_text(["machine", "quantity", *heads, "notes"], rows)


def to_json(table: ResultsTable) -> str:
    """:func:`to_tree` as text."""
    return json_text(to_tree(table))


def write_table(table: ResultsTable, folder: Path, name: str) -> None:
    """Write ``<name>.md``, ``<name>.csv`` and ``<name>.json`` into a folder."""
    for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("json", to_json(table))):
        write_text(folder / f"{name}.{suffix}", text)


def to_tree(table: ResultsTable) -> dict[str, Any]:
    """The table for JSON with all digits: fractions, not percent; cells, ``std`` and ``interval`` may be null."""
    systems = [
        {
            "name": column.name,
            "seeds": column.seeds,
            "machines": {row: _plain(cells) for row, cells in column.rows.items() if row != ALL},
            "all": _plain(column.rows[ALL]),
        }
        for column in table.columns
    ]
    return {"unit": "fraction", "notes": list(table.notes), "systems": systems}


def _system_column(name: str, runs: Sequence[Results], uncertainty: Uncertainty | None = None) -> Column:
    names = [run.names for run in runs]
    if not runs or any(other != names[0] for other in names):
        raise ValueError(f"the seeds of {name} do not cover the same machines: {names}")
    if uncertainty is not None and len(runs) > 1:
        raise ValueError(f"{name} has several seeds; intervals over clips belong to a single one")
    intervals = {} if uncertainty is None else {**uncertainty.machines, ALL: uncertainty.all_machines}
    figures = {
        machine: [(*row.metrics, row.score) for row in by_seed]
        for machine, *by_seed in zip(names[0], *(run.machines for run in runs), strict=True)
    }
    figures[ALL] = [(*run.means, run.official_score) for run in runs]
    return Column(name, {row: _cells(by_seed, intervals.get(row)) for row, by_seed in figures.items()}, len(runs))


def _cells(by_seed: Sequence[tuple[float, ...]], intervals: Intervals | None) -> Cells:
    cells = {}
    for quantity, values in zip(QUANTITIES, zip(*by_seed, strict=True), strict=True):
        if not any(map(math.isnan, values)):
            std = statistics.stdev(values) if len(values) > 1 else None
            interval = None if intervals is None else (intervals[quantity].low, intervals[quantity].high)
            cells[quantity] = Cell(statistics.fmean(values), std, interval)
    return cells


def _rows(table: ResultsTable) -> list[tuple[str, Quantity, list[Cell | None]]]:
    return [
        (name, quantity, [column.rows.get(name, {}).get(quantity) for column in table.columns])
        for name in (*table.machines, ALL)
        for quantity in QUANTITIES
    ]


def _csv_figures(column: Column, cell: Cell | None = None) -> dict[str, str]:
    """A cell's figures by the suffix of their column's heading; empty strings for an absent cell."""
    values: dict[str, float | None] = {"": cell.mean if cell else None}
    if column.seeds is not None and column.seeds > 1:
        values[" std"] = cell.std if cell else None
    if column.rows[ALL]["score"].interval is not None:
        values[" low"], values[" high"] = cell.interval if cell and cell.interval else (None, None)
    return {suffix: "" if value is None else f"{100 * value:.2f}" for suffix, value in values.items()}


def _plain(cells: Cells) -> dict[str, Any]:
    return {
        quantity: None if cell is None else {"mean": cell.mean, "std": cell.std, "interval": cell.interval}
        for quantity, cell in ((quantity, cells.get(quantity)) for quantity in QUANTITIES)
    }


def comparison_to_text(comparison: Comparison, a: str, b: str) -> TextTable:
    """A comparison as text, in percentage points of the score; ``a`` and ``b`` are the systems' names."""
    without = {f"All without {name}": difference for name, difference in comparison.without.items()}
    rows = []
    for name, difference in {**comparison.machines, OFFICIAL: comparison.overall, **without}.items():
        is_total = name == OFFICIAL
        value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
        cells = (name, f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]", f"{difference.a_better:.3f}")
        rows.append(TextRow(cells, "strong" if is_total else "", ends_group=is_total))
    interval = f"{100 * comparison.level:.0f} % interval"
    note = (
        f"Stratified bootstrap over test clips, {comparison.resamples:,} resamples, the same for both systems. "
        "It does not account for other seeds or other machines."
    )
    headings = ("machine", "difference", interval, f"probability that {a} is better")
    return TextTable(headings, tuple(rows), (0,), f"{a} minus {b}, in points of the score", (note,))


def comparison_to_tree(comparison: Comparison, a: str, b: str) -> dict[str, Any]:
    """A comparison for JSON with all digits: fractions, not points."""
    return {
        "unit": "fraction",
        "a": a,
        "b": b,
        "resamples": comparison.resamples,
        "level": comparison.level,
        "machines": {name: _difference(difference) for name, difference in comparison.machines.items()},
        "all": _difference(comparison.overall),
        "without": {name: _difference(difference) for name, difference in comparison.without.items()},
    }


def decisions_to_text(results: DecisionResults) -> TextTable:
    """Precision, recall and F1 as text, in percent: two rows per machine, and the means."""
    rows = []
    for name, row in _decision_rows(results):
        rows.append(TextRow((name, "source", *_percent(row.source))))
        rows.append(TextRow(("", "target", *_percent(row.target)), ends_group=True))
    rows.append(TextRow(("All", "mean", *_percent(results.arithmetic_means)), "strong"))
    rows.append(TextRow(("", "hmean", *_percent(results.harmonic_means)), "strong"))
    return TextTable(("machine", "decisions", "precision", "recall", "F1"), tuple(rows), (0, 1))


def decisions_to_tree(results: DecisionResults) -> dict[str, Any]:
    """Precision, recall and F1 for JSON, as fractions with all digits; null where the data lacks a domain."""
    machines = {
        name: {"source": row.source and row.source._asdict(), "target": row.target and row.target._asdict()}
        for name, row in _decision_rows(results)
    }
    means = {"mean": results.arithmetic_means._asdict(), "hmean": results.harmonic_means._asdict()}
    return {"machines": machines, "all": means}


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "a_better": difference.a_better,
    }


def _decision_rows(results: DecisionResults) -> Iterable[tuple[str, MachineDecisionResult]]:
    names = row_names([(row.machine, row.section) for row in results.machines])
    return zip(names, results.machines, strict=True)


def _percent(metrics: DecisionMetrics | None) -> list[str]:
    if metrics is None:
        return [_ABSENT] * len(DecisionMetrics._fields)
    return [f"{100 * value:.2f}" for value in metrics]
