"""Commands that work on score files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearfar.cli.options import (
    JsonOption,
    NoteOption,
)


def evaluate(
    scores: Annotated[Path, typer.Option("--scores", help="Folder of anomaly_score_*.csv files.")],
    as_json: JsonOption = False,
    note: NoteOption = None,
) -> None:
    """Evaluate score files by the official metrics; labels come from the file names in them."""
    from nearfar.evaluation.metrics import evaluate_scores
    from nearfar.scoring.scorefiles import read_scores

    print_results({scores.name: evaluate_scores(read_scores(scores))}, note, as_json, None)


def print_results(results: dict[str, Any], note: str | None, as_json: bool, out: Path | None) -> None:
    from nearfar.evaluation.tables import results_table, to_json, to_rich
    from nearfar.terminal import show

    if any(value is None for value in results.values()):
        show(f"Scores are in {out}; there is no table, as the test clips hide their labels.")
        return
    table = results_table({name: [value] for name, value in results.items()}, notes=[note] if note else [])
    if as_json:
        print(to_json(table), end="")
        return
    show(to_rich(table))
    if out is not None:
        show(f"Table, scores and figures are in {out}.")
