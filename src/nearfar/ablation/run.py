"""Every combination of a grid on one data folder: extract features once, then score each.

``out`` holds ``statistics/`` (pieces of features), ``points/`` (scores of every combination, in files named by a
hash of their settings and inputs), ``models/`` where recipes train, ``reference/`` where a recipe is the
reference, and ``ablation.{json,csv,md}``. Rerun the same call to resume; with more values, only the new ones are
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.ablation.grid import Grid, Point, Skipped
from nearfar.ablation.points import (
    Pass,
    Preparation,
    ScoredPoint,
    clip_count,
    extract_all,
    passes_of,
    score_points,
)
from nearfar.ablation.statistics import RESAMPLES, Ablation, ablation
from nearfar.ablation.tables import to_csv, to_json, to_markdown
from nearfar.challenge.run import data_note, run_system
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.evaluation.results import complete_labels
from nearfar.evaluation.scorefiles import MachineClips, MachineScores, read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.executors import Executor, default_executor
from nearfar.extras import require_extras
from nearfar.files import write_text
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.preparation import prepare_run
from nearfar.pipeline.scoring import Groups, tested_groups
from nearfar.pipeline.training import needed_extras
from nearfar.progress import Progress, silent

CACHE_GIGABYTES = 10.0
"""Default limit of the features on disk."""


@dataclass(frozen=True, slots=True, eq=False)
class AblationRun:
    """A finished ablation.

    Attributes:
        table: rows, reference and leave-one-machine-out.
        skipped: combinations without a row, and the reasons.
        notes: lines about the data for the tables.
        computed, found: numbers of different combinations scored by this call and by earlier ones.
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
    announce: Callable[[str], None] = lambda _: None,
    executor: Executor | None = None,
) -> AblationRun | None:
    """Score every combination of a grid and write the tables into ``out``.

    Machines whose test clips hide their labels are left out.

    Args:
        grid: base recipe and axes.
        data: a folder of recordings.
        out: output folder; results of the same combinations and recordings in it are reused.
        cache_gigabytes: limit of the features on disk.
        resamples: of the paired bootstrap.
        note: a line for the tables; by default :func:`nearfar.challenge.run.data_note`.
        progress: called during long steps.
        announce: called before the extraction with a line on the size of the features to store.
        executor: where features are computed and combinations scored; by default this process, or all those of a
            distributed launch.

    Returns:
        the tables, or None on the helper processes of a distributed launch.

    Raises:
        InputError: if the base cannot be used with this data, no test clip has a label, the features would exceed
            the limit, the reference does not score the same clips, or an extra that a combination needs is not
            installed.
    """
    where = executor or default_executor()
    points, invalid = grid.points()
    recipes = [*grid.recipes(), *(point.recipe for point in points)]
    require_extras(grid.file, "report", *(extra for recipe in recipes for extra in needed_extras(recipe)))
    dataset, base = prepare_run(data, grid.base)  # raises where the whole grid is unusable
    truth = GroundTruth.from_clips(dataset.clips, dataset.layout)
    groups = _labelled_groups(dataset, truth)
    preparation = Preparation(dataset, out / "models", progress)
    ready, unusable = preparation.ready([Point({}, base), *points])
    _require_base(unusable)
    cache = FeatureCache(out / "statistics")
    passes = passes_of(ready)
    announce(_storage(passes, groups, cache_gigabytes, out / "statistics"))
    extract_all(passes, groups, cache, where, progress)
    folders = out / "points", out / "models"
    scored, undefined = score_points(ready, dataset, groups, cache, *folders, where, progress)
    _require_base(undefined)
    name, reference = _reference(grid, scored, data, out / "reference", where, progress)
    if not where.is_main:
        return None
    compared = [entry for entry in reference if entry.key in groups]
    rows = [(point.values, point.scores) for point in scored[1:]]
    table = ablation(rows, name, compared, truth, resamples=resamples)
    line = note or data_note(data)
    notes, skipped = (line,) if line else (), (*invalid, *unusable, *undefined)
    write_text(out / "ablation.json", to_json(table, skipped, notes))
    write_text(out / "ablation.csv", to_csv(table))
    write_text(out / "ablation.md", to_markdown(table, skipped, notes))
    fresh = {point.key: point.fresh for point in scored}
    computed = sum(fresh.values())
    return AblationRun(table, skipped, notes, computed, len(fresh) - computed)


def _labelled_groups(dataset: Dataset, truth: GroundTruth) -> Groups:
    """The machines that can be evaluated."""
    groups = tested_groups(dataset)
    entries = [MachineClips(*key, tuple(clip.name for clip in test)) for key, (_, test) in groups.items()]
    labelled = truth.evaluable(entries)
    if not labelled:
        raise InputError(
            dataset.root,
            found="test clips that hide their labels, or are all normal or all anomalous",
            expected="normal and anomalous test clips",
            remedy="Use a development set",
        )
    for entry in labelled:
        complete_labels(entry, truth)  # raises where a metric is undefined
    return {entry.key: groups[entry.key] for entry in labelled}


def _require_base(left_out: Sequence[Skipped]) -> None:
    for entry in left_out:
        if not entry.values:
            raise InputError(
                "base", found=entry.reason, expected="a recipe that works", remedy="Correct base or [set]"
            )


def _storage(passes: Sequence[Pass], groups: Groups, gigabytes: float, folder: Path) -> str:
    """The line on the size of the features to store; an error above the limit."""
    clips = clip_count(groups)
    size = clips * sum(each.clip_bytes() for each in passes)
    if size > gigabytes * 1e9:
        raise InputError(
            folder,
            found=f"{size / 1e9:.1f} GB of statistics to store",
            expected=f"at most {gigabytes:g} GB",
            remedy="Allow more (cache_gigabytes), or remove layers or poolings from the grid",
        )
    several = "passes" if len(passes) > 1 else "pass"
    return f"{len(passes)} {several} over {clips} clips; at most {size / 1e6:.1f} MB of statistics in {folder}."


def _reference(
    grid: Grid, scored: Sequence[ScoredPoint], data: Path, folder: Path, executor: Executor, progress: Progress
) -> tuple[str, Sequence[MachineScores]]:
    """Name and scores of the system that combinations are compared with; no scores in helper processes."""
    if grid.against == "base":
        return grid.base.name, scored[0].scores
    if isinstance(grid.against, str) and (run_folder := Path(grid.against)).is_dir():
        scores = run_folder / "scores"
        return run_folder.name, read_scores(scores if scores.is_dir() else run_folder)
    for recipe in grid.recipes()[1:]:
        run = run_system(recipe, data, folder / recipe.name, progress=progress, executor=executor)
        return recipe.name, () if run is None else run.scores
    for point in scored:
        if point.values == grid.against:
            return " ".join(point.values.values()), point.scores
    raise InputError(
        grid.file,
        found="against = a combination that was skipped",
        expected="one that has scores",
        remedy="Choose another",
    )
