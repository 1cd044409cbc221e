"""The commands for the challenge: run systems, reproduce the report, evaluate and compare scores, submit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from nearfar.cli import options
from nearfar.cli.encoders import NOTE, DefaultEncoder, noted
from nearfar.cli.messages import usage_error
from nearfar.cli.options import changed, numbers, sped_up
from nearfar.errors import InputError
from nearfar.rendering import json_text
from nearfar.terminal import progress_bars, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nearfar.challenge.submission_check import PackageReport
    from nearfar.config import Recipe
    from nearfar.evaluation.results import DecisionResults
    from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores
    from nearfar.evaluation.tables import ResultsTable
    from nearfar.evaluation.truth import GroundTruth
    from nearfar.executors import Executor

TruthOption = Annotated[
    Path | None,
    Option(
        "--truth",
        help="Folder with ground_truth_data/ and ground_truth_domain/, for evaluation sets; "
        "without it labels come from the file names, or from truth.csv.",
    ),
]


def run(
    data: options.Data,
    out: options.Out,
    system: Annotated[
        str, Argument(help="A recipe, such as eat-fusion, tiny-near or ae-mse, or a TOML file.")
    ] = "auto",
    model: Annotated[
        Path | None, Option(help="Model folder, to share a model between systems; default OUT/model.")
    ] = None,
    encoder: options.Encoder = None,
    fast: options.Fast = False,
    seed: Annotated[int | None, Option(help="Seed of the run.")] = None,
    seeds: Annotated[
        str | None,
        Option(help="Several seeds, a run each in OUT/seed_N: 0,1,2 or 0-4; prints mean and deviation."),
    ] = None,
    settings: options.Set = None,
    near: options.Near = None,
    far: options.Far = None,
    note: options.Note = None,
    tensorboard: Annotated[bool, Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Run one system: train its model (or use a trained one), score the test clips, evaluate."""
    from nearfar.challenge.run import data_note, run_system
    from nearfar.config import load_recipe
    from nearfar.evaluation.tables import results_table
    from nearfar.executors import default_executor

    if seeds is not None:
        for flag, value in (("--seed", seed), ("--model", model), ("--tensorboard", tensorboard or None)):
            if value is not None:
                raise usage_error("--seeds", f"{flag} as well", "runs of several seeds", f"Omit {flag}")
    recipe = sped_up(changed(load_recipe(system), encoder, seed, settings, near, far), fast)
    started = (out, model or out / "model", *sorted(out.glob(f"seed_*/{recipe.name}")))
    recipe = DefaultEncoder(encoder, settings, system)(recipe, *started)
    note, executor = noted(note or data_note(data), recipe), default_executor(ray=ray, dask=dask)
    if seeds is not None:
        _run_seeds(recipe, data, out, options.whole_numbers("--seeds", seeds), note, executor, as_json)
        return
    with progress_bars() as progress:
        finished = run_system(
            recipe,
            data,
            out,
            model_folder=model,
            note=note,
            progress=progress,
            tensorboard=tensorboard,
            executor=executor,
        )
    if finished is None:
        return
    for reason in finished.reasons:
        print(reason, file=sys.stderr)
    notes, results = [note] if note else [], finished.results
    table = None if results is None else results_table({finished.recipe.name: [results]}, notes=notes)
    print_table(table, as_json, out)


def _run_seeds(
    recipe: Recipe,
    data: Path,
    out: Path,
    seeds: Sequence[int],
    note: str | None,
    executor: Executor,
    as_json: bool,
) -> None:
    """Run one system with several seeds, and print its table of means and deviations."""
    from nearfar.challenge.reproduce import reproduce as run_suite

    with progress_bars() as progress:
        finished = run_suite([recipe], data, out, seeds=seeds, note=note, progress=progress, executor=executor)
    if finished is not None:
        print_table(finished.table, as_json, out)


def reproduce(
    out: options.Out,
    data: Annotated[
        Path | None, Option("--data", help="Folder of recordings; --dry-run does without.", show_default=False)
    ] = None,
    suite: Annotated[
        str,
        Option(
            help="report (EAT-base, as published), tiny (a small encoder from a random start) or frontier "
            "(report, the leader's recipe and noise-aware layers, three seeds)."
        ),
    ] = "report",
    systems: Annotated[
        str | None, Option(help="Run only these systems of the suite, comma-separated: eat-near,eat-fusion")
    ] = None,
    encoder: options.Encoder = None,
    layers: Annotated[
        str | None,
        Option(
            help="Noise-aware layers: a folder that nearfar pretrain wrote, or a recipe to pre-train them by on "
            "the training recordings; default: the suite's recipe."
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        Option(
            help="Seeds of all systems, 0,1,2 or 0-4; several give mean ± deviation. "
            "Default: the suite's, or every recipe's own."
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the plan of time and memory, and run nothing.")
    ] = False,
    device: Annotated[
        str | None, Option(help="Device of the plan: cpu, cuda; default: a GPU if there is one.")
    ] = None,
    label: Annotated[
        str | None,
        Option(help="Also write a submission, with this label and a number: <LastName>_<INST>_task2."),
    ] = None,
    authors: Annotated[Path | None, Option(help="TOML file with the authors of --label.")] = None,
    settings: options.Set = None,
    near: options.Near = None,
    far: options.Far = None,
    note: options.Note = None,
    as_json: options.Json = False,
    jobs: options.Jobs = None,
    ray: options.Ray = None,
    dask: options.Dask = None,
) -> None:
    """Train and score the report's four systems and the two baselines, and print its Table 1; or another suite."""
    from nearfar.challenge.reproduce import reproduce as run_suite
    from nearfar.challenge.suites import check_submitted, find_suite, prepare_layers, submit_suite, suite_recipes
    from nearfar.executors import default_executor

    wanted = find_suite(suite)
    chosen = suite_recipes(suite, None if systems is None else systems.split(","))
    if (label is None) != (authors is None):
        raise usage_error("nearfar reproduce", "--label or --authors alone", "both", "Add the other one")
    if label is not None and authors is not None:
        check_submitted(label, authors)
    with_default = DefaultEncoder(encoder, settings)
    started = [folder for recipe in chosen for folder in (out / recipe.name, *out.glob(f"seed_*/{recipe.name}"))]
    recipes = [changed(recipe, encoder, None, settings, near, far) for recipe in chosen]
    if not dry_run:
        recipes = [with_default(recipe, *started) for recipe in recipes]
    all_seeds = wanted.seeds if seeds is None else options.whole_numbers("--seeds", seeds)
    if dry_run or wanted.plans:
        _print_plan(
            recipes,
            data,
            len(all_seeds or (None,)),
            device,
            layers or wanted.layers,
            encoder,
            as_json=dry_run and as_json,
        )
    if dry_run:
        return
    if data is None:
        raise usage_error(
            "nearfar reproduce", "no --data", "a folder of recordings", "Add --data DIR, or --dry-run"
        )
    with progress_bars() as progress:
        recipes = prepare_layers(recipes, layers or wanted.layers, data, out / "layers", encoder, progress)
        finished = run_suite(
            recipes,
            data,
            out,
            seeds=all_seeds,
            note=note,
            remarks={recipe.name: NOTE for recipe in recipes if noted(None, recipe)},
            progress=progress,
            executor=default_executor(ray=ray, dask=dask),
            reference=wanted.reference,
        )
    if finished is None:
        return
    if label is not None and authors is not None:
        submit_suite(wanted, out, all_seeds, label, authors)
    print_table(finished.table, as_json, out)


def _print_plan(
    recipes: Sequence[Recipe],
    data: Path | None,
    seeds: int,
    device: str | None,
    layers: str | None,
    encoder: str | None,
    *,
    as_json: bool,
) -> None:
    import torch

    from nearfar.benchmark import product_rate
    from nearfar.challenge.plan import amount_of, amount_of_archives, plan_rows, plan_table
    from nearfar.challenge.suites import layers_recipe
    from nearfar.data import read_dataset
    from nearfar.pipeline.extraction import default_device

    target = default_device() if device is None else torch.device(device)
    amount, rate = amount_of_archives() if data is None else amount_of(read_dataset(data)), product_rate(target)
    rows = plan_rows(recipes, amount, rate, layers_recipe(recipes, layers, encoder))
    if as_json:
        tree = {"device": str(target), "operations_per_second": rate, "seeds": seeds, "data": amount._asdict()}
        print(json_text(tree | {"systems": [asdict(row) for row in rows]}), end="")
    else:
        show(plan_table(rows, amount, seeds, str(target), rate))


def evaluate(
    scores: Annotated[Path, Option("--scores", help="Folder of anomaly_score_*.csv files, or of a run.")],
    truth: TruthOption = None,
    intervals: Annotated[
        bool, Option("--intervals", help="Add 95 % bootstrap intervals over test clips.")
    ] = False,
    below: Annotated[
        float | None,
        Option(metavar="SCORE", help="Exit with 1 if the official score is below this one: 55 or 0.55."),
    ] = None,
    as_json: options.Json = False,
    note: options.Note = None,
) -> None:
    """Evaluate score files, and decision files beside them, by the official metrics."""
    from nearfar.evaluation.results import evaluate_decisions, evaluate_scores
    from nearfar.evaluation.tables import results_table
    from nearfar.evaluation.uncertainty import uncertainty

    if below is not None and not 0 <= below <= 100:
        raise usage_error("--below", f"{below:g}", "a score from 0 to 100", "Write 55 or 0.55 for 55 %")
    lowest = below / 100 if below is not None and below > 1 else below
    entries, decisions, labels = _read(scores, truth)
    results = evaluate_scores(entries, labels)
    notes, name = [note] if note else _run_notes(scores), _system_folder(scores).name
    by_name = {name: uncertainty(entries, labels)} if intervals else None
    table = results_table({name: [results]}, notes=notes, intervals=by_name)
    print_table(table, as_json, decisions=evaluate_decisions(decisions, labels) if decisions else None)
    if lowest is not None and results.official_score < lowest:
        print(f"The official score {100 * results.official_score:.2f} is below {100 * lowest:g}.", file=sys.stderr)
        raise Exit(1)


def compare(
    a: Annotated[
        str,
        Argument(metavar="A", help="Folder of score files or of a run; several seeds of one system: A0,A1,A2."),
    ],
    b: Annotated[str, Argument(metavar="B", help="The same of another system on the same clips.")],
    truth: TruthOption = None,
    resamples: Annotated[int, Option(min=1, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, Option(min=0, help="Seed of the resamples.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Compare two systems on the same clips: A minus B, with intervals and the probability that A is better."""
    from nearfar.evaluation.tables import comparison_to_text, comparison_to_tree
    from nearfar.evaluation.uncertainty import compare as compare_systems

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
        Path | None, Argument(metavar="RUN", help="Folder of a run on evaluation data.", show_default=False)
    ] = None,
    label: Annotated[str | None, Option(help="Label of the submission: <LastName>_<INST>_task2_<1 to 4>.")] = None,
    out: Annotated[Path | None, Option("--out", help="Folder to write task2/<label>/ into.")] = None,
    development: Annotated[
        Path | None,
        Option("--dev", help="Run of the same system on the development set, for its results; default RUN."),
    ] = None,
    authors: Annotated[
        Path | None,
        Option(
            help="TOML file with an array of tables [[authors]]: firstname, lastname, email, institution, "
            "department, location, corresponding = true."
        ),
    ] = None,
    author: Annotated[
        list[str] | None, Option(help="'First Last <address@host>'; may be repeated, also instead of --authors.")
    ] = None,
    institution: Annotated[str | None, Option(help="Institution of every --author.")] = None,
    department: Annotated[str | None, Option(help="Department of every --author.")] = None,
    location: Annotated[str | None, Option(help="Location of every --author.")] = None,
    name: Annotated[str | None, Option(help="Name of the system; default: the recipe's.")] = None,
    abbreviation: Annotated[str | None, Option(help="Short name of the system; default: the recipe's.")] = None,
    source_code: Annotated[str | None, Option(help="Address of the source code, if public.")] = None,
    check: Annotated[
        Path | None, Option("--check", metavar="DIR", help="Check a package instead of writing one.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a challenge submission from a run, or check one; exit with 1 if it has defects."""
    from nearfar.challenge.submission import write_submission
    from nearfar.challenge.submission_check import check_submission
    from nearfar.challenge.submission_meta import parse_author, read_authors

    if check is not None:
        if run is not None:
            raise usage_error("nearfar submit", "both a run and --check", "one of them", "Omit one")
        _report(check_submission(check), check, as_json)
        return
    if run is None or label is None or out is None:
        expected = "RUN --label LABEL --out DIR, or --check DIR"
        raise usage_error("nearfar submit", "no run, no --label or no --out", expected, "Add them")
    affiliation = {"institution": institution, "department": department, "location": location}
    listed = [] if authors is None else read_authors(authors)
    listed += [parse_author(text, **affiliation) for text in author or []]
    if not listed:
        expected = "--authors FILE, or --author 'First Last <address@host>'"
        raise usage_error("nearfar submit", "no author", expected, "Add one")
    details = {"name": name, "abbreviation": abbreviation, "source_code": source_code}
    written = write_submission(run, label, out, authors=listed, development=development, **details)
    _report(check_submission(written.parent), written.parent, as_json)


def _report(report: PackageReport, folder: Path, as_json: bool) -> None:
    """Print the defects and notes of a check; exit code 1 if there are defects."""
    if as_json:
        defects = [{"where": defect.file, "what": defect.problem} for defect in report.defects]
        tree = {"folder": str(folder), "systems": report.systems, "defects": defects, "notes": report.notes}
        print(json_text(tree), end="")
    else:
        for defect in report.defects:
            print(f"{defect.file}: {defect.problem}")
        for note in report.notes:
            print(f"note: {note}")
        count = len(report.defects)
        verdict = "no defects" if not count else "1 defect" if count == 1 else f"{count} defects"
        print(f"{folder}: {', '.join(report.systems) or 'no system'}: {verdict}")
    if report.defects:
        raise Exit(1)


def ensemble(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Folders of two or more runs.")],
    out: options.Out,
    weights: Annotated[
        str | None, Option("--weights", help="The weight of each run: 2,1,1. Default: equal weights.")
    ] = None,
    note: options.Note = None,
    as_json: options.Json = False,
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
        bool, Option("--published", help="The report's Table 1 as printed; inconsistent figures marked †.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print the report's Table 1 and list its inconsistent figures."""
    from nearfar.evaluation.published import check_published
    from nearfar.evaluation.tables import published_table, to_text, to_tree

    if not published:
        remedy = "Give --published; a table of your own systems is printed by nearfar evaluate and reproduce"
        raise usage_error("nearfar table", "no --published", "a table to print", remedy)
    if as_json:
        problems = [{**asdict(problem), "unit": "percent"} for problem in check_published()]
        print(json_text(to_tree(published_table()) | {"discrepancies": problems}), end="")
    else:
        show(to_text(published_table(), title="Table 1 of the technical report, in percent"))


def print_table(
    table: ResultsTable | None, as_json: bool, out: Path | None = None, decisions: DecisionResults | None = None
) -> None:
    """Print a table of results and one of decisions, as text or JSON; a note if there is no table."""
    from nearfar.evaluation.tables import ResultsTable, decisions_to_text, decisions_to_tree, to_text, to_tree

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
    """Scores with known labels, their decisions (if any) and ground truth, of a score or run folder."""
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
    """Notes in ``results.json`` of the run that made the scores; empty if the folder is not of a run."""
    try:
        tree = json.loads((_system_folder(folder) / "results.json").read_text(encoding="utf-8"))
        return [str(line) for line in tree["notes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _seeds_of(name: str, text: str) -> list[Path]:
    """The folder, or the folders of several seeds, separated by commas, in the argument ``name``."""
    if Path(text).exists():
        return [Path(text)]
    folders = text.split(",")
    if "" in folders or len(set(folders)) != len(folders):
        expected = "a folder, or several of other seeds, each once, separated by commas"
        raise usage_error(name, text, expected, "Correct the list")
    return [Path(folder) for folder in folders]


def _name_of_seeds(folders: list[Path]) -> str:
    """The name of a system's first run, and the number of its further runs."""
    more = len(folders) - 1
    return _system_folder(folders[0]).name + (f" (+{more} of other seeds)" if more else "")


def _system_folder(folder: Path) -> Path:
    """The folder with the name of a system: that of its run, or of its score files."""
    path = folder.resolve()
    return path.parent if path.name == "scores" else path
