"""Commands that work on score files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.options import (
    JsonOption,
    NoteOption,
)

if TYPE_CHECKING:
    from nearfar.evaluation.tables import ResultsTable


def evaluate(
    scores: Annotated[Path, typer.Option("--scores", help="Folder of anomaly_score_*.csv files.")],
    as_json: JsonOption = False,
    note: NoteOption = None,
) -> None:
    """Evaluate score files by the official metrics; labels come from the file names in them."""
    from nearfar.evaluation.metrics import evaluate_scores
    from nearfar.evaluation.tables import results_table
    from nearfar.scoring.scorefiles import read_scores

    results = evaluate_scores(read_scores(scores))
    print_table(results_table({scores.resolve().name: [results]}, notes=[note] if note else []), as_json)


def print_table(table: ResultsTable | None, as_json: bool, out: Path | None = None) -> None:
    """Print a table, or say why there is none; with ``--json`` that is JSON, too."""
    from nearfar.evaluation.tables import ResultsTable, to_json, to_rich
    from nearfar.terminal import show

    if table is None:
        table = ResultsTable((), (), ("No table: the test clips hide their labels, or there are none.",))
    if as_json:
        print(to_json(table), end="")
        return
    show(to_rich(table) if table.columns else table.notes[0])
    if out is not None:
        show(f"Everything is in {out}.")
