"""Commands that set many systems beside one another, or make one of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.encoders import EncoderAtHand, noted
from nearfar.cli.options import DataOption, EncoderOption, JsonOption, NoteOption, OutOption, numbers
from nearfar.cli.scores import print_table


def ablate(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="A TOML file of axes, or a grid of the package.")],
    data: DataOption,
    out: OutOption,
    encoder: EncoderOption = None,
    cache_gb: Annotated[
        float, typer.Option("--cache-gb", min=0.0, help="Room on disk that features may take, in gigabytes.")
    ] = 10.0,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples.")] = 2_000,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every combination of a grid of recipe keys: listen once, then hundreds in minutes."""
    import sys

    from nearfar.ablation.grid import load_grid
    from nearfar.ablation.run import ablate as ablate_grid
    from nearfar.ablation.tables import MOST_ROWS_IN_TERMINAL, left_out_to_text, reasons, to_json, to_text
    from nearfar.challenge.run import data_note
    from nearfar.report.ablation_page import write_ablation_page
    from nearfar.terminal import progress_bars, show

    chosen = EncoderAtHand(encoder).grid(load_grid(grid).with_encoder(encoder))
    note = noted(note or data_note(data), *chosen.recipes())
    with progress_bars() as progress:
        run = ablate_grid(
            chosen,
            data,
            out,
            cache_gigabytes=cache_gb,
            resamples=resamples,
            note=note,
            progress=progress,
            announce=lambda line: print(line, file=sys.stderr),
        )
    title = f"{Path(grid).stem} on {data.resolve().name}"
    write_ablation_page(run.table, out / "ablation.html", title=title, skipped=run.skipped, notes=run.notes)
    for reason, count in reasons(run.skipped).items():
        print(f"skipped {count}: {reason}", file=sys.stderr)
    if as_json:
        print(to_json(run.table, run.skipped, run.notes), end="")
        return
    for line in run.notes:
        show(line)
    show(to_text(run.table, MOST_ROWS_IN_TERMINAL))
    if run.table.left_out:
        show(left_out_to_text(run.table))
    show(f"{run.computed} combinations scored, {run.found} found from before. Everything is in {out}.")


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of two runs or more.")],
    out: OutOption,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="A number for each run: 2,1,1. By default all alike."),
    ] = None,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one system of several runs on the same recordings: the mean of their standardised scores."""
    from nearfar.challenge.ensemble import ensemble as fuse_runs
    from nearfar.evaluation.tables import results_table

    shares = None if weights is None else numbers("--weights", weights)
    results, notes = fuse_runs(runs, out, weights=shares, note=note)
    table = None if results is None else results_table({out.name: [results]}, notes=notes)
    print_table(table, as_json, out)
