"""Tables of an ablation: JSON with all digits, CSV for spreadsheets, text for Markdown, terminal and page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation, AblationRow
from nearfar.evaluation.results import Results
from nearfar.evaluation.uncertainty import Difference
from nearfar.metrics import MachineMetrics
from nearfar.rendering import TextRow, TextTable, csv_text, json_text, markdown

MOST_ROWS = 40
"""Rows of the Markdown table; all are in the CSV and JSON files."""
MOST_ROWS_IN_TERMINAL = 15
LEFT_OUT_TITLE = "Chosen by the official score of the other machines, scored on the one left out"


def to_tree(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> dict[str, Any]:
    """The whole ablation as plain values; fractions, not percent."""
    first = table.rows[0].difference
    return {
        "unit": "fraction",
        "notes": list(notes),
        "axes": list(table.axes),
        "against": {"name": table.reference_name, **_results(table.reference)},
        "resamples": first.resamples,
        "level": first.level,
        "rows": [_row(row) for row in table.rows],
        "left_out": [asdict(entry) for entry in table.left_out],
        "skipped": [asdict(entry) for entry in skipped],
    }


def to_json(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> str:
    """:func:`to_tree` as JSON."""
    return json_text(to_tree(table, skipped, notes))


def to_csv(table: Ablation) -> str:
    """A row per combination, in percent and percentage points with all digits."""
    quantities = ("score", *MachineMetrics._fields)
    head = ["rank", *table.axes, *quantities, "difference", "difference_low", "difference_high", "better"]
    for name in table.rows[0].machines:
        head += [f"{name} {quantity}" for quantity in quantities]
    for name in table.rows[0].without:
        head += [f"score without {name}", f"rank without {name}"]
    lines = []
    for row in table.rows:
        overall = row.difference.overall
        figures = [row.results.official_score, *row.results.means, overall.value, overall.low, overall.high]
        line: list[Any] = [row.rank, *row.values.values(), *(100 * figure for figure in figures), overall.a_better]
        for machine in row.results.machines:
            line += [100 * machine.score, *(100 * figure for figure in machine.metrics)]
        for name, score in row.without.items():
            line += [100 * score, row.ranks_without[name]]
        lines.append(line)
    return csv_text(head, lines)


def to_markdown(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> str:
    """The best rows, leave-one-machine-out, and the skipped combinations."""
    parts = [*(f"{note}\n" for note in notes), markdown(to_text(table, MOST_ROWS))]
    if table.left_out:
        parts.append(markdown(left_out_to_text(table)))
    if skipped:
        parts.append(f"{len(skipped)} combinations were skipped:\n")
        parts.append("".join(f"- {count} × {reason}\n" for reason, count in reasons(skipped).items()))
    return "\n".join(parts)


def to_text(table: Ablation, most: int | None = None) -> TextTable:
    """The best rows as text, at most ``most``, in percent and percentage points."""
    names = list(table.rows[0].machines) if len(table.rows[0].machines) > 1 else []
    headings = (
        "rank",
        *(axis.rpartition(".")[2] for axis in table.axes),
        *("score", "AUC (source)", "AUC (target)", "pAUC"),
        f"minus {table.reference_name}",
        f"{100 * table.rows[0].difference.level:g} % interval",
        *names,
        *(["ranks without a machine"] if table.left_out else []),
    )
    rows = tuple(TextRow(_cells(row)) for row in table.rows[:most])
    note = (
        f"{len(table.rows)} combinations (all are in ablation.csv, the best {len(rows)} here), in percent. "
        f"{table.reference_name} scores {100 * table.reference.official_score:.2f}. Intervals: paired stratified "
        f"bootstrap over test recordings, {table.rows[0].difference.resamples:,} resamples; they do not account "
        "for the choice among combinations."
    )
    return TextTable(headings, rows, tuple(range(1, 1 + len(table.axes))), notes=(note,))


def left_out_to_text(table: Ablation) -> TextTable:
    """Leave-one-machine-out as text."""
    headings = ("left out", "chosen on the others", "score", "rank", "best of all", table.reference_name)
    rows = []
    for entry in table.left_out:
        score, best, against = (f"{100 * fraction:.2f}" for fraction in (entry.score, entry.best, entry.against))
        choice = " ".join(entry.chosen.values())
        rows.append(TextRow((entry.machine, choice, score, str(entry.rank), best, against)))
    return TextTable(headings, tuple(rows), (0, 1), LEFT_OUT_TITLE)


def reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    """The number of combinations skipped for each reason."""
    return dict(Counter(entry.reason for entry in skipped))


def _cells(row: AblationRow) -> tuple[str, ...]:
    overall = row.difference.overall
    machines = [f"{100 * score:.1f}" for score in row.machines.values()] if len(row.machines) > 1 else []
    ranks = list(row.ranks_without.values())
    return (
        str(row.rank),
        *row.values.values(),
        f"{100 * row.results.official_score:.2f}",
        *(f"{100 * figure:.2f}" for figure in row.results.means),
        f"{100 * overall.value:+.2f}",
        f"[{100 * overall.low:+.2f}, {100 * overall.high:+.2f}]",
        *machines,
        *([" to ".join(map(str, sorted({min(ranks), max(ranks)})))] if ranks else []),
    )


def _row(row: AblationRow) -> dict[str, Any]:
    machines = {name: _difference(difference) for name, difference in row.difference.machines.items()}
    return {
        "rank": row.rank,
        "values": row.values,
        **_results(row.results),
        "difference": _difference(row.difference.overall) | {"machines": machines},
        "without": {
            name: {"score": score, "rank": row.ranks_without[name]} for name, score in row.without.items()
        },
    }


def _results(results: Results) -> dict[str, Any]:
    return {
        "score": results.official_score,
        **_finite(results.means._asdict()),
        "machines": {
            name: {"score": row.score, **_finite(row.metrics._asdict())}
            for name, row in zip(results.names, results.machines, strict=True)
        },
    }


def _difference(difference: Difference) -> dict[str, Any]:
    interval = [difference.low, difference.high]
    return {"value": difference.value, "interval": interval, "better": difference.a_better}


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: the figure of an absent domain is null."""
    return {name: value if value == value else None for name, value in figures.items()}
