"""An ablation put before a reader: JSON with all digits, CSV for spreadsheets, Markdown, terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation, AblationRow, LeftOut
from nearfar.evaluation.results import Results, row_names

if TYPE_CHECKING:
    from rich.table import Table

MOST_LINES = 40
"""Rows of the Markdown table and of the terminal's; all are in the CSV and JSON files."""


def to_tree(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> dict[str, Any]:
    """Everything as plain values; fractions, not percent."""
    first = table.rows[0].difference
    return {
        "unit": "fraction",
        "notes": list(notes),
        "axes": list(table.axes),
        "against": {"name": table.reference_name, **_results(table.reference)},
        "resamples": first.resamples,
        "level": first.level,
        "rows": [_row(row) for row in table.rows],
        "left_out": [
            {
                "machine": entry.machine,
                "chosen": entry.chosen,
                "score": entry.score,
                "rank": entry.rank,
                "best": entry.best,
                "against": entry.reference,
            }
            for entry in table.left_out
        ],
        "skipped": [{"values": entry.values, "reason": entry.reason} for entry in skipped],
    }


def to_json(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> str:
    """:func:`to_tree` as JSON."""
    return json.dumps(to_tree(table, skipped, notes), indent=1, ensure_ascii=False) + "\n"


def to_csv(table: Ablation) -> str:
    """A row per combination, in percent and points with all digits."""
    names = list(table.rows[0].machines)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["rank", *table.axes, "score", "auc_source", "auc_target", "pauc"]
    head += ["difference", "difference_low", "difference_high", "better"]
    for name in names:
        head += [f"{name} {quantity}" for quantity in ("score", "auc_source", "auc_target", "pauc")]
    for name in table.rows[0].without:
        head += [f"score without {name}", f"rank without {name}"]
    writer.writerow(head)
    for row in table.rows:
        overall = row.difference.overall
        figures = [row.results.official_score, *row.results.means, overall.value, overall.low, overall.high]
        line: list[Any] = [row.rank, *row.values.values(), *(100 * figure for figure in figures), overall.a_better]
        for machine in row.results.machines:
            line += [100 * machine.score, *(100 * figure for figure in machine.metrics)]
        for name, score in row.without.items():
            line += [100 * score, row.ranks_without[name]]
        writer.writerow(line)
    return out.getvalue()


def to_markdown(table: Ablation, skipped: Sequence[Skipped], notes: Sequence[str]) -> str:
    """The best rows, what the choice is worth, and what was skipped."""
    parts = [f"{note}\n" for note in notes]
    parts.append(_markdown(headings(table), [cells(row) for row in table.rows[:MOST_LINES]]))
    parts.append(footnote(table) + "\n")
    if table.left_out:
        parts.append(f"{LEFT_OUT_CAPTION}\n")
        parts.append(_markdown(left_out_headings(table), [left_out_cells(entry) for entry in table.left_out]))
    if skipped:
        parts.append(f"{len(skipped)} combinations were skipped:\n")
        parts.append("".join(f"- {count} × {reason}\n" for reason, count in reasons(skipped).items()))
    return "\n".join(parts)


def to_rich(table: Ablation, rows: int = 15) -> Table:
    """The best rows for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, caption=footnote(table, rows))
    shown.caption_justify, shown.caption_style = "left", "default"
    for place, heading in enumerate(headings(table)):
        is_text = 0 < place <= len(table.axes)
        shown.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    for row in table.rows[:rows]:
        shown.add_row(*cells(row))
    return shown


def left_out_to_rich(table: Ablation) -> Table:
    """Leave-one-machine-out for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, title=LEFT_OUT_CAPTION)
    for heading in left_out_headings(table):
        shown.add_column(heading, overflow="fold")
    for entry in table.left_out:
        shown.add_row(*left_out_cells(entry))
    return shown


LEFT_OUT_CAPTION = "Chosen by the official score of the other machines, scored on the one left out"


def headings(table: Ablation) -> list[str]:
    """Columns of the table for people."""
    names = list(table.rows[0].machines)
    figures = ["score", "AUC (source)", "AUC (target)", "pAUC", f"minus {table.reference_name}", "95 % interval"]
    if table.rows[0].difference.level != 0.95:
        figures[-1] = f"{100 * table.rows[0].difference.level:g} % interval"
    if len(names) < 2:
        names = []
    ranks = ["ranks without a machine"] if table.left_out else []
    axes = [axis.rpartition(".")[2] for axis in table.axes]
    return [
        "rank",
        *axes,
        *figures,
        *names,
        *ranks,
    ]


def cells(row: AblationRow) -> list[str]:
    """A row for people, in percent and points."""
    overall = row.difference.overall
    low, high = 100 * overall.low, 100 * overall.high
    machines = [f"{100 * score:.1f}" for score in row.machines.values()] if len(row.machines) > 1 else []
    ranks = [row.ranks_without[name] for name in row.ranks_without]
    return [
        str(row.rank),
        *row.values.values(),
        f"{100 * row.results.official_score:.2f}",
        *(f"{100 * figure:.2f}" for figure in row.results.means),
        f"{100 * overall.value:+.2f}",
        f"[{low:+.2f}, {high:+.2f}]",
        *machines,
        *([_span(ranks)] if ranks else []),
    ]


def left_out_headings(table: Ablation) -> list[str]:
    """Columns of leave-one-machine-out."""
    return ["left out", "chosen on the others", "score", "rank", "best of all", table.reference_name]


def left_out_cells(entry: LeftOut) -> list[str]:
    """A row of leave-one-machine-out."""
    figures = [f"{100 * number:.2f}" for number in (entry.score, entry.best, entry.reference)]
    return [entry.machine, " ".join(entry.chosen.values()), figures[0], str(entry.rank), *figures[1:]]


def footnote(table: Ablation, most: int = MOST_LINES) -> str:
    """What the numbers are, under a table of at most so many rows."""
    reference = 100 * table.reference.official_score
    shown = min(most, len(table.rows))
    return (
        f"{len(table.rows)} combinations (all are in ablation.csv, the best {shown} here), in percent. "
        f"{table.reference_name} scores {reference:.2f}. Intervals: paired stratified bootstrap over test clips, "
        f"{table.rows[0].difference.resamples:,} resamples; they do not account for the choice among combinations."
    )


def reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    """How many combinations were skipped for each reason."""
    out: dict[str, int] = {}
    for entry in skipped:
        out[entry.reason] = out.get(entry.reason, 0) + 1
    return out


def _span(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"


def _row(row: AblationRow) -> dict[str, Any]:
    overall = row.difference.overall
    return {
        "rank": row.rank,
        "values": row.values,
        **_results(row.results),
        "difference": {
            "value": overall.value,
            "interval": [overall.low, overall.high],
            "better": overall.a_better,
            "machines": {
                name: {"value": each.value, "interval": [each.low, each.high], "better": each.a_better}
                for name, each in row.difference.machines.items()
            },
        },
        "without": {
            name: {"score": score, "rank": row.ranks_without[name]} for name, score in row.without.items()
        },
    }


def _results(results: Results) -> dict[str, Any]:
    names = row_names([(row.machine, row.section) for row in results.machines])
    return {
        "score": results.official_score,
        **_finite(results.means._asdict()),
        "machines": {
            name: {"score": row.score, **_finite(row.metrics._asdict())}
            for name, row in zip(names, results.machines, strict=True)
        },
    }


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN: the figure of an absent domain is null."""
    return {name: value if value == value else None for name, value in figures.items()}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
