"""Every combination of a grid on one data folder: listen once, then score each.

``out`` holds ``statistics/`` (pieces of features), ``points/`` (scores of every combination, named by what decides
them), ``models/`` where recipes train, ``reference/`` where a recipe is the reference, and
``ablation.{json,csv,md}``. Killed and run again, it goes on; with more values, it computes what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearfar.ablation.grid import Grid, Point, Skipped
from nearfar.ablation.points import (
    Groups,
    Preparation,
    ScoredPoint,
    clip_count,
    listen,
    passes_of,
    score_points,
)
from nearfar.ablation.statistics import RESAMPLES, Ablation, ablation
from nearfar.ablation.tables import to_csv, to_json, to_markdown
from nearfar.challenge.run import data_note, machine_groups, run_system
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import MachineScores, read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.features.piece_cache import Pass, StatisticsStore
from nearfar.files import write_text
from nearfar.preparation import prepare
from nearfar.progress import Progress, silent

CACHE_GIGABYTES = 10.0
"""Room that pieces of features may take on disk, unless the caller says otherwise."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class AblationRun:
    """A finished ablation.

    Attributes:
        table: rows, reference and leave-one-machine-out.
        skipped: combinations without a row, and why.
        notes: what tables must say of the data.
        computed, found: how many different combinations were scored now, and were there from before.
    """

    table: Ablation
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    computed: int
    found: int


def ablate(
    grid: Grid,
    data: Path,
    out: Path,
    *,
    cache_gigabytes: float = CACHE_GIGABYTES,
    resamples: int = RESAMPLES,
    note: str | None = None,
    progress: Progress = silent,
    say: Say = lambda _: None,
) -> AblationRun:
    """Score every combination of a grid and write the tables into ``out``.

    Machines whose test clips do not tell their labels are left out.

    Args:
        grid: what varies.
        data: a folder of recordings.
        out: what is there of the same combinations and recordings is used again.
        cache_gigabytes: refuse to begin if the pieces of features could take more on disk.
        resamples: of the paired bootstrap.
        note: a line for the tables; by default :func:`nearfar.challenge.run.data_note`.
        progress: called during long steps.
        say: called before listening with a line on how much is about to be stored.

    Raises:
        InputError: if the base cannot be used with this data, no test clip tells its label, the pieces would take
            too much room, or the reference does not score the same clips.
    """
    points, refused = grid.points()
    dataset, base = prepare(data, grid.base)  # an error of the base is one of the whole grid
    truth = GroundTruth.from_clips(dataset.clips, dataset.layout)
    groups = _labelled_groups(dataset, truth)
    everything = [Point({}, base), *points]
    ready, unfit = Preparation(data, dataset, out / "models", progress).ready(everything)
    _require_base(unfit)
    store = StatisticsStore(out / "statistics", base.scoring.batch_size)
    passes = passes_of(ready)
    say(_room(passes, groups, cache_gigabytes, store.folder))
    listen(passes, groups, store, progress)
    scored, unscorable = score_points(ready, groups, store, out / "points", progress)
    _require_base(unscorable)
    name, reference = _reference(grid, scored, data, out / "reference", progress)
    known = [entry for entry in reference if (entry.machine, entry.section) in groups]
    rows = [(point.values, point.scores) for point in scored[1:]]
    table = ablation(rows, name, known, truth, resamples=resamples)
    line = note or data_note(data)
    fresh = {point.key: point.fresh for point in scored}
    computed = sum(fresh.values())
    skipped = (*refused, *unfit, *unscorable)
    run = AblationRun(table, skipped, (line,) if line else (), computed, len(fresh) - computed)
    write_tables(run, out)
    return run


def write_tables(run: AblationRun, out: Path) -> None:
    """Write ``ablation.{json,csv,md}``."""
    write_text(out / "ablation.json", to_json(run.table, run.skipped, run.notes))
    write_text(out / "ablation.csv", to_csv(run.table))
    write_text(out / "ablation.md", to_markdown(run.table, run.skipped, run.notes))


def _labelled_groups(dataset: Dataset, truth: GroundTruth) -> Groups:
    """The machines that can be evaluated, found before anything long begins."""
    groups = machine_groups(dataset)
    entries = [
        MachineScores(*key, tuple(clip.name for clip in test), np.zeros(len(test)))
        for key, (_, test) in groups.items()
    ]
    labelled = truth.evaluable(entries)
    if not labelled:
        raise InputError(
            dataset.root,
            found="test clips that hide their labels, or are all normal or all anomalous",
            expected="normal and anomalous test clips",
            remedy="Give a development set",
        )
    evaluate_scores(labelled, truth)
    return {key: groups[key] for key in ((entry.machine, entry.section) for entry in labelled)}


def _require_base(left_out: Sequence[Skipped]) -> None:
    for entry in left_out:
        if not entry.values:
            raise InputError(
                "base", found=entry.reason, expected="a recipe that works", remedy="Correct base or [set]"
            )


def _room(passes: Sequence[Pass], groups: Groups, gigabytes: float, folder: Path) -> str:
    """How much is stored at most, or an error."""
    clips = clip_count(groups)
    size = clips * sum(which.clip_bytes() for which in passes)
    if size > gigabytes * 1e9:
        raise InputError(
            folder,
            found=f"{size / 1e9:.1f} GB of statistics to store",
            expected=f"at most {gigabytes:g} GB",
            remedy="Give more with --cache-gb, or take layers or poolings out of the grid",
        )
    several = "passes" if len(passes) > 1 else "pass"
    return f"{len(passes)} {several} over {clips} clips; at most {size / 1e6:.1f} MB of statistics in {folder}."


def _reference(
    grid: Grid,
    scored: Sequence[ScoredPoint],
    data: Path,
    folder: Path,
    progress: Progress,
) -> tuple[str, Sequence[MachineScores]]:
    """What combinations are compared with: its name, and its scores."""
    if grid.against == "base":
        return grid.base.name, scored[0].scores
    if isinstance(grid.against, str):
        place = Path(grid.against)
        if place.is_dir():
            return place.name, read_scores(place / "scores" if (place / "scores").is_dir() else place)
    if len(recipes := grid.recipes()) > 1:
        recipe = recipes[1]
        run = run_system(recipe, data, folder / recipe.name, progress=progress)
        assert run is not None, "a grid is one process"
        return recipe.name, run.scores
    for point in scored:
        if point.values == grid.against:
            return " ".join(point.values.values()), point.scores
    raise InputError(
        grid.where,
        found="against = a combination that was skipped",
        expected="one that has scores",
        remedy="Choose another",
    )
