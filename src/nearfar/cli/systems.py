"""Commands that train, score and evaluate whole systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.encoders import NOTE, EncoderAtHand, noted
from nearfar.cli.options import (
    DataOption,
    EncoderOption,
    FarOption,
    JsonOption,
    NearOption,
    NoteOption,
    OutOption,
    SetOption,
    changed,
    whole_numbers,
)
from nearfar.cli.scores import print_table


def run(
    system: Annotated[str, typer.Argument(help="A recipe: eat-fusion, tiny-near, ae-mse..., or a TOML file.")],
    data: DataOption,
    out: OutOption,
    model: Annotated[Path | None, typer.Option(help="Model folder to share between systems.")] = None,
    encoder: EncoderOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    settings: SetOption = None,
    near: NearOption = None,
    far: FarOption = None,
    note: NoteOption = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one system: train its model (or reuse it), score the test clips, evaluate."""
    from nearfar.challenge.run import data_note, run_system
    from nearfar.config import load_recipe
    from nearfar.evaluation.tables import results_table
    from nearfar.terminal import progress_bars

    at_hand = EncoderAtHand(encoder, settings, system)
    recipe = at_hand(changed(load_recipe(system), encoder, seed, settings, near, far), out, model or out / "model")
    note = noted(note or data_note(data), recipe)
    with progress_bars() as progress:
        finished = run_system(
            recipe, data, out, model_folder=model, note=note, progress=progress, tensorboard=tensorboard
        )
    if finished is None:
        return
    notes, results = [note] if note else [], finished.results
    table = None if results is None else results_table({finished.recipe.name: [results]}, notes=notes)
    print_table(table, as_json, out)


def reproduce(
    data: DataOption,
    out: OutOption,
    suite: Annotated[
        str, typer.Option(help="report (EAT-base, as published) or tiny (small, from scratch).")
    ] = "report",
    systems: Annotated[
        str | None, typer.Option(help="Only these of the suite, comma-separated: eat-near,eat-fusion")
    ] = None,
    encoder: EncoderOption = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, comma-separated; several give mean ± deviation. By default each recipe's own."),
    ] = None,
    settings: SetOption = None,
    near: NearOption = None,
    far: FarOption = None,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what the report's four systems and the two baselines need, score them and print its Table 1."""
    from nearfar.challenge.reproduce import reproduce as run_suite
    from nearfar.challenge.reproduce import suite_recipes
    from nearfar.terminal import progress_bars

    chosen = suite_recipes(suite, None if systems is None else systems.split(","))
    at_hand = EncoderAtHand(encoder, settings)
    begun = [folder for recipe in chosen for folder in (out / recipe.name, *out.glob(f"seed_*/{recipe.name}"))]
    recipes = [at_hand(changed(recipe, encoder, None, settings, near, far), *begun) for recipe in chosen]
    with progress_bars() as progress:
        finished = run_suite(
            recipes,
            data,
            out,
            seeds=None if seeds is None else whole_numbers("--seeds", seeds),
            note=note,
            remarks={recipe.name: NOTE for recipe in recipes if noted(None, recipe)},
            progress=progress,
        )
    if finished is not None:
        print_table(finished.table, as_json, out)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write into; made if needed.")] = Path("demo"),
) -> None:
    """Simulate a small factory, run the four systems with a tiny encoder and nearfar-best: a few minutes."""
    from nearfar.challenge.demo import BEST, demonstrate
    from nearfar.evaluation.tables import to_text
    from nearfar.report.run_page import report_run
    from nearfar.terminal import progress_bars, show

    show("The recordings of this demonstration are simulated. The encoder starts from eat-tiny, which has heard")
    show("other recordings of the same simulator; EAT-base is one command away: nearfar download eat-base")
    with progress_bars() as progress:
        finished = demonstrate(out, progress)
        if finished is None or finished.table is None:
            return
        report_run(out / "results" / BEST, out / "report.html")
    show(to_text(finished.table))
    show("50 is chance. The data is simulated: these numbers say that nearfar works, not how well it hears.")
    show(f"Look at {out}/report.html in a browser and listen to {out}/factory.")
