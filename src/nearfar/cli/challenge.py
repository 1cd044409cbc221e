"""The commands for the challenge: run systems, reproduce the report, evaluate and compare scores, submit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.encoders import NOTE, DefaultEncoder, noted
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
    numbers,
)
from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.challenge.submission_check import PackageReport
    from nearfar.challenge.submission_meta import Author
    from nearfar.evaluation.results import DecisionResults
    from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores
    from nearfar.evaluation.tables import ResultsTable
    from nearfar.evaluation.truth import GroundTruth

TruthOption = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        help="Folder with ground_truth_data/ and ground_truth_domain/, for evaluation sets; "
        "without it labels come from the file names, or from truth.csv.",
    ),
]


def run(
    system: Annotated[
        str, typer.Argument(help="A recipe, such as eat-fusion, tiny-near or ae-mse, or a TOML file.")
    ],
    data: DataOption,
    out: OutOption,
    model: Annotated[
        Path | None, typer.Option(help="Model folder, to share a model between systems; default OUT/model.")
    ] = None,
    encoder: EncoderOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    settings: SetOption = None,
    near: NearOption = None,
    far: FarOption = None,
    note: NoteOption = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one system: train its model (or use a trained one), score the test clips, evaluate."""
    from nearfar.challenge.run import data_note, run_system
    from nearfar.config import load_recipe
    from nearfar.evaluation.tables import results_table
    from nearfar.terminal import progress_bars

    recipe = changed(load_recipe(system), encoder, seed, settings, near, far)
    recipe = DefaultEncoder(encoder, settings, system)(recipe, out, model or out / "model")
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
        str, typer.Option(help="report (EAT-base, as published) or tiny (a small encoder from a random start).")
    ] = "report",
    systems: Annotated[
        str | None, typer.Option(help="Run only these systems of the suite, comma-separated: eat-near,eat-fusion")
    ] = None,
    encoder: EncoderOption = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds of all systems, comma-separated; several give mean ± deviation. "
            "Default: every recipe's own seed."
        ),
    ] = None,
    settings: SetOption = None,
    near: NearOption = None,
    far: FarOption = None,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and score the report's four systems and the two baselines, and print its Table 1."""
    from nearfar.challenge.reproduce import reproduce as run_suite
    from nearfar.challenge.reproduce import suite_recipes
    from nearfar.terminal import progress_bars

    chosen = suite_recipes(suite, None if systems is None else systems.split(","))
    with_default = DefaultEncoder(encoder, settings)
    started = [folder for recipe in chosen for folder in (out / recipe.name, *out.glob(f"seed_*/{recipe.name}"))]
    recipes = [with_default(changed(recipe, encoder, None, settings, near, far), *started) for recipe in chosen]
    with progress_bars() as progress:
        finished = run_suite(
            recipes,
            data,
            out,
            seeds=None if seeds is None else numbers("--seeds", seeds, int, "whole numbers, as in 0,1,2"),
            note=note,
            remarks={recipe.name: NOTE for recipe in recipes if noted(None, recipe)},
            progress=progress,
        )
    if finished is not None:
        print_table(finished.table, as_json, out)


def evaluate(
    scores: Annotated[Path, typer.Option("--scores", help="Folder of anomaly_score_*.csv files, or of a run.")],
    truth: TruthOption = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals over test clips.")
    ] = False,
    below: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Exit with 1 if the official score is below this one: 55 or 0.55."),
    ] = None,
    as_json: JsonOption = False,
    note: NoteOption = None,
) -> None:
    """Evaluate score files, and decision files beside them, by the official metrics."""
    from nearfar.evaluation.results import evaluate_decisions, evaluate_scores
    from nearfar.evaluation.tables import results_table
    from nearfar.evaluation.uncertainty import uncertainty

    lowest = None if below is None else _fraction("--below", below)
    entries, decisions, labels = _read(scores, truth)
    results = evaluate_scores(entries, labels)
    notes = [note] if note else _run_notes(scores)
    table = results_table(
        {_name(scores): [results]},
        notes=notes,
        intervals={_name(scores): uncertainty(entries, labels)} if intervals else None,
    )
    print_table(table, as_json, decisions=evaluate_decisions(decisions, labels) if decisions else None)
    if lowest is not None and results.official_score < lowest:
        print(f"The official score {100 * results.official_score:.2f} is below {100 * lowest:g}.", file=sys.stderr)
        raise typer.Exit(1)


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Folder of score files or of a run; several seeds of one system: A0,A1,A2."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same of another system on the same clips.")],
    truth: TruthOption = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two systems on the same clips: A minus B, with intervals and the probability that A is better."""
    from nearfar.evaluation.tables import comparison_to_text, comparison_to_tree
    from nearfar.evaluation.uncertainty import compare as compare_systems
    from nearfar.rendering import json_text
    from nearfar.terminal import show

    sides = [_seeds_of(name, side) for name, side in (("A", a), ("B", b))]
    systems = [[_read(folder, truth) for folder in side] for side in sides]
    first, second = ([scores for scores, _, _ in system] for system in systems)
    labels = systems[0][0][2]  # all systems must score the clips of the first
    (comparison,) = compare_systems([first], second, labels, resamples=resamples, seed=seed)
    names = [_name_of_seeds(side) for side in sides]
    if names[0] == names[1]:
        names = [a, b]
    if as_json:
        print(json_text(comparison_to_tree(comparison, *names)), end="")
    else:
        show(comparison_to_text(comparison, *names))


def submit(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of a run on evaluation data.", show_default=False)
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label of the submission: <LastName>_<INST>_task2_<1 to 4>.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write task2/<label>/ into.")] = None,
    development: Annotated[
        Path | None,
        typer.Option("--dev", help="Run of the same system on the development set, for its results; default RUN."),
    ] = None,
    authors: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with an array of tables [[authors]]: firstname, lastname, email, institution, "
            "department, location, corresponding = true."
        ),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(help="'First Last <address@host>'; may be repeated, also instead of --authors."),
    ] = None,
    institution: Annotated[str | None, typer.Option(help="Institution of every --author.")] = None,
    department: Annotated[str | None, typer.Option(help="Department of every --author.")] = None,
    location: Annotated[str | None, typer.Option(help="Location of every --author.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the system; default: the recipe's.")] = None,
    abbreviation: Annotated[
        str | None, typer.Option(help="Short name of the system; default: the recipe's.")
    ] = None,
    source_code: Annotated[str | None, typer.Option(help="Address of the source code, if public.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Check a package instead of writing one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a challenge submission from a run, or check one; exit with 1 if it has defects."""
    from nearfar.challenge.submission import write_submission
    from nearfar.challenge.submission_check import check_submission

    if check is not None:
        if run is not None:
            raise InputError(
                "nearfar submit", found="both a run and --check", expected="one of them", remedy="Omit one"
            )
        _report(check_submission(check), check, as_json)
        return
    if run is None or label is None or out is None:
        raise InputError(
            "nearfar submit",
            found="no run, no --label or no --out",
            expected="RUN --label LABEL --out DIR, or --check DIR",
            remedy="Add them",
        )
    listed = _authors(authors, author or [], institution, department, location)
    if not listed:
        raise InputError(
            "nearfar submit",
            found="no author",
            expected="--authors FILE, or --author 'First Last <address@host>'",
            remedy="Add one",
        )
    written = write_submission(
        run,
        label,
        out,
        authors=listed,
        development=development,
        name=name,
        abbreviation=abbreviation,
        source_code=source_code,
    )
    _report(check_submission(written.parent), written.parent, as_json)


def _authors(
    file: Path | None, texts: list[str], institution: str | None, department: str | None, location: str | None
) -> list[Author]:
    from nearfar.challenge.submission_meta import parse_author, read_authors

    listed = [] if file is None else read_authors(file)
    affiliation = {"institution": institution, "department": department, "location": location}
    return listed + [parse_author(text, **affiliation) for text in texts]


def _report(report: PackageReport, folder: Path, as_json: bool) -> None:
    """Print what a check found; exit code 1 if there are defects."""
    if as_json:
        defects = [{"where": defect.file, "what": defect.problem} for defect in report.defects]
        tree = {"folder": str(folder), "systems": report.systems, "defects": defects, "notes": report.notes}
        print(json.dumps(tree, indent=2, ensure_ascii=False))
    else:
        for defect in report.defects:
            print(f"{defect.file}: {defect.problem}")
        for note in report.notes:
            print(f"note: {note}")
        count = len(report.defects)
        verdict = "no defects" if not count else "1 defect" if count == 1 else f"{count} defects"
        print(f"{folder}: {', '.join(report.systems) or 'no system'}: {verdict}")
    if report.defects:
        raise typer.Exit(1)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of two or more runs.")],
    out: OutOption,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="The weight of each run: 2,1,1. Default: equal weights."),
    ] = None,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Combine runs on the same recordings into one system: the mean of their standardised scores."""
    from nearfar.challenge.ensemble import ensemble as fuse_runs
    from nearfar.evaluation.tables import results_table

    given = None if weights is None else numbers("--weights", weights, float, "numbers, as in 2,1,1")
    results, notes = fuse_runs(runs, out, weights=given, note=note)
    table = None if results is None else results_table({out.name: [results]}, notes=notes)
    print_table(table, as_json, out)


def table(
    published: Annotated[
        bool, typer.Option("--published", help="The report's Table 1 as printed; inconsistent figures marked †.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the report's Table 1 and list its inconsistent figures."""
    from nearfar.evaluation.published import check_published
    from nearfar.evaluation.tables import published_table, to_text, to_tree
    from nearfar.rendering import json_text
    from nearfar.terminal import show

    if not published:
        raise InputError(
            "nearfar table",
            found="no --published",
            expected="a table to print",
            remedy="Give --published; a table of your own systems is printed by nearfar evaluate and reproduce",
        )
    if as_json:
        problems = [{**asdict(problem), "unit": "percent"} for problem in check_published()]
        print(json_text(to_tree(published_table()) | {"discrepancies": problems}), end="")
    else:
        show(to_text(published_table(), title="Table 1 of the technical report, in percent"))


def print_table(
    table: ResultsTable | None, as_json: bool, out: Path | None = None, decisions: DecisionResults | None = None
) -> None:
    """Print a table of results and one of decisions, as text or JSON; a note where there is no table."""
    from nearfar.evaluation.tables import ResultsTable, decisions_to_text, decisions_to_tree, to_text, to_tree
    from nearfar.rendering import json_text
    from nearfar.terminal import show

    if table is None:
        table = ResultsTable((), (), ("No table: the test clips hide their labels, or there are none.",))
    if as_json:
        tree = to_tree(table) | ({} if decisions is None else {"decisions": decisions_to_tree(decisions)})
        print(json_text(tree), end="")
        return
    show(to_text(table) if table.columns else table.notes[0])
    if decisions is not None:
        show(decisions_to_text(decisions))
    if out is not None:
        show(f"Everything is in {out}.")


def _read(
    folder: Path, truth_folder: Path | None
) -> tuple[list[MachineScores], list[MachineDecisions], GroundTruth]:
    """Scores that can be evaluated and decisions (if any) of a score or run folder, and their ground truth."""
    from nearfar.evaluation.scorefiles import read_decisions, read_scores
    from nearfar.evaluation.truth import GroundTruth

    files = folder / "scores" if (folder / "scores").is_dir() else folder
    entries = read_scores(files)
    if truth_folder is None:
        truth = GroundTruth.of_score_folder(files, entries)
    else:
        truth = GroundTruth.from_evaluator(truth_folder)
    entries = truth.evaluable(entries)
    if truth_folder is not None:
        truth.require_every_machine(entries)
    elif not entries:
        raise InputError(
            files,
            found="test clips that hide their labels, or are all normal or all anomalous",
            expected="normal and anomalous test clips",
            remedy="Give the evaluator's ground truth with --truth, or the scores of a development set",
        )
    decisions = read_decisions(files) if any(files.glob("decision_result_*.csv")) else []
    keys = {(entry.machine, entry.section) for entry in entries}
    return entries, [entry for entry in decisions if (entry.machine, entry.section) in keys], truth


def _run_notes(folder: Path) -> list[str]:
    """Notes in ``results.json`` of the run that made the scores; none if the folder is of no run."""
    path = folder.resolve()
    file = (path.parent if path.name == "scores" else path) / "results.json"
    try:
        return [str(line) for line in json.loads(file.read_text(encoding="utf-8"))["notes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _seeds_of(name: str, text: str) -> list[Path]:
    """A folder, or several, separated by commas."""
    if Path(text).exists():
        return [Path(text)]
    folders = text.split(",")
    if "" in folders or len(set(folders)) != len(folders):
        raise InputError(
            name,
            found=text,
            expected="a folder, or several of other seeds, each once, separated by commas",
            remedy="Correct the list",
        )
    return [Path(folder) for folder in folders]


def _name_of_seeds(folders: list[Path]) -> str:
    """The name of a system's first run, and the number of its further runs."""
    more = len(folders) - 1
    return _name(folders[0]) + (f" (+{more} of other seeds)" if more else "")


def _name(folder: Path) -> str:
    """The name of a system: its run's folder, or that of its score files."""
    path = folder.resolve()
    return path.parent.name if path.name == "scores" else path.name


def _fraction(option: str, number: float) -> float:
    """A score given as a fraction or, above 1, in percent."""
    if not 0 <= number <= 100:
        raise InputError(
            option, found=f"{number:g}", expected="a score from 0 to 100", remedy="Write 55 or 0.55 for 55 %"
        )
    return number / 100 if number > 1 else number
