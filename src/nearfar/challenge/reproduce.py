"""The report's Table 1: train its models once, score its systems and the baselines, and write their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nearfar.challenge.run import SystemRun, data_note, run_system
from nearfar.config import Recipe
from nearfar.data import read_dataset
from nearfar.errors import InputError
from nearfar.evaluation.results import Results
from nearfar.evaluation.tables import (
    ResultsTable,
    comparison_to_text,
    comparison_to_tree,
    results_table,
    write_table,
)
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import Comparison, compare
from nearfar.executors import Executor, LocalExecutor, default_executor
from nearfar.extras import require_extras
from nearfar.files import write_json, write_text
from nearfar.pipeline.training import needed_extras
from nearfar.progress import Progress, silent
from nearfar.rendering import markdown


@dataclass(frozen=True)
class Reproduction:
    """The table, None if the test clips hide their labels, and the runs of each system in the order of seeds.

    ``comparisons`` are of each other system minus the reference, if one was asked for.
    """

    table: ResultsTable | None
    runs: dict[str, tuple[SystemRun, ...]]
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)


def reproduce(
    recipes: Sequence[Recipe],
    data: Path,
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    note: str | None = None,
    remarks: Mapping[str, str] | None = None,
    progress: Progress = silent,
    executor: Executor | None = None,
    reference: str | None = None,
) -> Reproduction | None:
    """Run systems that share models, for every seed, and write the table into ``out``.

    ``out`` contains ``table.{md,csv,json}``, ``timing.json``, ``models/<autoencoder, full or lora>_<key>/`` and,
    per seed (in ``seed_N/`` if there are several), ``<system>/``, the folder of
    :func:`nearfar.challenge.run.run_system`. A repeated call continues an interrupted one; with more seeds, only
    the new ones are trained.

    Args:
        recipes: the systems.
        data: a folder of recordings.
        out: output folder.
        seeds: different seeds, for all systems; None: every recipe's own, such as the baselines' 13711.
        note: a line for all tables; by default :func:`nearfar.challenge.run.data_note`.
        remarks: by recipe name, a further line for the tables of that system.
        progress: called during long steps.
        executor: as of :func:`nearfar.challenge.run.run_system`. On a cluster, systems that share no model, and
            seeds, are whole tasks.
        reference: name of the system that the others are compared with on the same clips, in
            ``comparison.{md,json}``, over all seeds.

    Returns:
        the table and the runs, or None on the helper processes of a distributed launch.

    Raises:
        InputError: as :func:`nearfar.challenge.run.run_system`; extras are looked for before the first run.
    """
    require_extras("the systems", "report", *(extra for recipe in recipes for extra in needed_extras(recipe)))
    if seeds is not None and len(set(seeds)) != len(seeds):
        given = ", ".join(map(str, seeds))
        raise InputError("seeds", found=given, expected="each seed once", remedy="Remove the repeats")
    note, remarks = note or data_note(data), remarks or {}
    where = executor or default_executor()
    runs = _runs(recipes, data, out, seeds, note, remarks, progress, where)
    if not where.is_main:
        return None
    finished = {recipe.name: tuple(run for run in runs if run.recipe.name == recipe.name) for recipe in recipes}
    write_json(out / "timing.json", _timing(finished))
    results: dict[str, Sequence[Results]] = {
        name: [run.results for run in of_seeds if run.results is not None] for name, of_seeds in finished.items()
    }
    if any(len(results[name]) < len(of_seeds) for name, of_seeds in finished.items()):
        return Reproduction(None, finished)
    notes = [*filter(None, (note, *dict.fromkeys(remarks.values())))]
    table = results_table(results, notes=notes)
    write_table(table, out, "table")
    comparisons = {} if reference is None else _compared(finished, reference, data)
    if comparisons:
        _write_comparisons(comparisons, str(reference), out)
    return Reproduction(table, finished, comparisons)


def _timing(finished: Mapping[str, Sequence[SystemRun]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {
                "seed": run.recipe.seed,
                "training_seconds": round(run.timing.training_seconds, 1),
                "scoring_seconds": round(run.timing.scoring_seconds, 1),
                "peak_memory_bytes": run.timing.peak_memory_bytes,
            }
            for run in of_seeds
        ]
        for name, of_seeds in finished.items()
    }


def _write_comparisons(comparisons: Mapping[str, Comparison], reference: str, out: Path) -> None:
    texts = [markdown(comparison_to_text(each, name, reference)) for name, each in comparisons.items()]
    write_text(out / "comparison.md", "\n\n".join(texts) + "\n")
    trees = [comparison_to_tree(each, name, reference) for name, each in comparisons.items()]
    write_json(out / "comparison.json", trees)


def _compared(finished: Mapping[str, Sequence[SystemRun]], reference: str, data: Path) -> dict[str, Comparison]:
    """Every other system minus the reference, by name; none without the reference."""
    others = [name for name in finished if name != reference]
    if reference not in finished or not others:
        return {}
    dataset = read_dataset(data)
    truth = GroundTruth.from_clips(dataset.clips, dataset.layout)
    scores = {name: [truth.evaluable(run.scores) for run in runs] for name, runs in finished.items()}
    return dict(zip(others, compare([scores[name] for name in others], scores[reference], truth), strict=True))


@dataclass(frozen=True)
class _Planned:
    """A run of one system and seed: recipe, run and model folders, name, and a line for the tables."""

    recipe: Recipe
    folder: Path
    model: Path
    name: str
    line: str | None


def _runs(
    recipes: Sequence[Recipe],
    data: Path,
    out: Path,
    seeds: Sequence[int] | None,
    note: str | None,
    remarks: Mapping[str, str],
    progress: Progress,
    executor: Executor,
) -> list[SystemRun]:
    """The runs of all seeds and systems; none in helper processes of a launch."""
    several = seeds is not None and len(seeds) > 1
    by_model: dict[Path, list[_Planned]] = {}
    for seed in seeds or (None,):
        parent = out / f"seed_{seed}" if several else out
        for recipe in recipes:
            seeded = recipe if seed is None else recipe.with_changes(seed=seed)
            model = out / "models" / f"{seeded.model_kind()}_{seeded.model_key()}"  # the seed is in the key
            name = f"{recipe.name}, seed {seed}" if several else recipe.name
            line = " ".join(filter(None, (note, remarks.get(recipe.name)))) or None
            planned = _Planned(seeded, parent / recipe.name, model, name, line)
            by_model.setdefault(model, []).append(planned)
    if executor.is_cluster and len(by_model) > 1:
        work = partial(_run_group, data=data, executor=LocalExecutor())
        groups = executor.map(work, [*by_model.values()], task="runs", progress=progress)
    else:
        groups = [
            _run_group([planned], progress, data=data, executor=executor)
            for group in by_model.values()
            for planned in group
        ]
    return [run for group in groups for run in group]


def _run_group(
    group: Sequence[_Planned], progress: Progress, *, data: Path, executor: Executor
) -> list[SystemRun]:
    """The runs of systems that share a model, one after the other."""
    runs = []
    for planned in group:

        def named(task: str, done: int, total: int, name: str = planned.name) -> None:
            progress(f"{name}: {task}", done, total)

        run = run_system(
            planned.recipe,
            data,
            planned.folder,
            model_folder=planned.model,
            note=planned.line,
            progress=named,
            executor=executor,
        )
        if run is not None:  # None in helper processes, which the next model needs as well
            runs.append(run)
    return runs
