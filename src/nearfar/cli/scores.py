"""Commands on score files, and the report's own table."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.options import JsonOption, NoteOption
from nearfar.errors import InputError

if TYPE_CHECKING:
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


def evaluate(
    scores: Annotated[Path, typer.Option("--scores", help="Folder of anomaly_score_*.csv files, or of a run.")],
    truth: TruthOption = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals over test clips.")
    ] = False,
    below: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Exit with 1 if the official score is below this: 55 or 0.55."),
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
        typer.Argument(metavar="A", help="Folder of score files, or of a run; seeds of one system: A0,A1,A2."),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, of the same clips.")],
    truth: TruthOption = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the resamples.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two systems on the same clips: A minus B, with intervals and the probability that A is better."""
    from nearfar.evaluation.tables import comparison_to_text, comparison_to_tree
    from nearfar.evaluation.uncertainty import compare_seeds
    from nearfar.rendering import json_text
    from nearfar.terminal import show

    sides = [_seeds_of(name, side) for name, side in (("A", a), ("B", b))]
    systems = [[_read(folder, truth) for folder in side] for side in sides]
    first, second = ([scores for scores, _, _ in system] for system in systems)
    labels = systems[0][0][2]  # all systems must score the clips of the first
    comparison = compare_seeds(first, second, labels, resamples=resamples, seed=seed)
    names = [_name_of_seeds(side) for side in sides]
    if names[0] == names[1]:
        names = [a, b]
    if as_json:
        print(json_text(comparison_to_tree(comparison, *names)), end="")
    else:
        show(comparison_to_text(comparison, *names))


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
