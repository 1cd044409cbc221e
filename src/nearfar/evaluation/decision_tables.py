"""How good a system's decisions are, put before a reader: terminal and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearfar.evaluation.results import DecisionMetrics, DecisionResults, row_names

if TYPE_CHECKING:
    from rich.table import Table


def decisions_to_rich(results: DecisionResults) -> Table:
    """Precision, recall and F1 in percent for a terminal: two rows per machine, and the means."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("machine", "decisions", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if len(table.columns) < 2 else "right")
    for name, row in zip(_names(results), results.machines, strict=True):
        table.add_row(name, "source", *_percent(row.source))
        table.add_row("", "target", *_percent(row.target), end_section=True)
    table.add_row("All", "mean", *_percent(results.arithmetic_means), style="bold")
    table.add_row("", "hmean", *_percent(results.harmonic_means), style="bold")
    return table


def decisions_to_tree(results: DecisionResults) -> dict[str, Any]:
    """The same for JSON, as fractions with all digits; null where the data lacks a domain."""
    machines = {
        name: {"source": row.source and row.source._asdict(), "target": row.target and row.target._asdict()}
        for name, row in zip(_names(results), results.machines, strict=True)
    }
    means = {"mean": results.arithmetic_means._asdict(), "hmean": results.harmonic_means._asdict()}
    return {"machines": machines, "all": means}


def _names(results: DecisionResults) -> list[str]:
    return row_names([(row.machine, row.section) for row in results.machines])


def _percent(metrics: DecisionMetrics | None) -> list[str]:
    if metrics is None:
        return ["–"] * len(DecisionMetrics._fields)
    return [f"{100 * value:.2f}" for value in metrics]
