"""One challenge system: train its model or reuse it, score the test clips, evaluate.

A run folder holds ``recipe.toml`` (complete and resolved), ``environment.json``, ``data.json`` (a summary of the
data), ``model/``, ``scores/`` (anomaly scores and decisions), ``thresholds.json``, ``view_scores.json``,
``choices.json``, ``quality.json``, ``figures/`` and ``results.{json,md,csv}``. Without
training, ``model/`` holds only cached features.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from nearfar.charts import machine_figure
from nearfar.config import Recipe, ThresholdTable
from nearfar.data.layouts import Dataset
from nearfar.data.quality_counts import MachineQuality, count_problems
from nearfar.data.signals import SignalFacts
from nearfar.data.summary import summarise
from nearfar.environment import environment, peak_memory_bytes
from nearfar.evaluation.results import Results, evaluate_scores
from nearfar.evaluation.scorefiles import (
    MachineScores,
    decision_file,
    holds_scores,
    remove_others,
    write_decisions,
    write_scores,
)
from nearfar.evaluation.tables import results_table, write_table
from nearfar.evaluation.truth import GroundTruth
from nearfar.executors import Executor, default_executor
from nearfar.extras import require_extras
from nearfar.files import exclusive, write_json, write_text
from nearfar.models import read_card
from nearfar.pipeline.cache import FeatureCache, Request
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.preparation import check_recordings, prepare_run
from nearfar.pipeline.scoring import ScoredMachine, clip_lists, score_machines, tested_groups
from nearfar.pipeline.training import is_trained, needed_extras, train_or_reuse
from nearfar.progress import Progress, silent
from nearfar.thresholds import usable_thresholds
from nearfar.thresholds.file import write_thresholds

logger = logging.getLogger(__name__)

CHOICES = "choices.json"
"""The file of the choices made for each machine."""

QUALITY = "quality.json"
"""The file of problems of the microphones and the recorder."""

FEATURES = "embeddings"
"""The folder of cached features in a model folder."""


def data_note(data: Path) -> str | None:
    """The note of tables on recordings that ``nearfar simulate`` made; None for other recordings."""
    return "Simulated data (nearfar simulate)." if (data / "SIMULATED.md").is_file() else None


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration and memory of a run; the model, and so its training time, may be shared or of an earlier run."""

    training_seconds: float
    scoring_seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class SystemRun:
    """A finished run. ``results`` is None where the test clips hide their labels, as in evaluation sets."""

    recipe: Recipe
    scores: tuple[MachineScores, ...]
    results: Results | None
    timing: Timing
    reasons: tuple[str, ...] = ()


def run_system(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    model_folder: Path | None = None,
    note: str | None = None,
    progress: Progress = silent,
    tensorboard: bool = False,
    executor: Executor | None = None,
) -> SystemRun | None:
    """Train or reuse the model, score, evaluate, and write everything into ``out``.

    Args:
        recipe: the system.
        data: a folder of recordings in any layout that :func:`nearfar.data.read_dataset` reads.
        out: the run folder; files that are still valid are reused. ``environment.json`` and ``timing.json`` are
            not written again while the scores are the same.
        model_folder: the folder of the model, existing or new; by default ``out/model``.
        note: a line for the tables, for instance that the data is simulated; by default :func:`data_note`.
        progress: called during long steps.
        tensorboard: also write the training curve for TensorBoard, into ``model/tensorboard``.
        executor: where features are computed and machines are scored; by default this process, or all those of a
            distributed launch, which train together as well.

    Returns:
        the scores and results, or None on the helper processes of a distributed launch.

    Raises:
        InputError: if an extra that the run needs is not installed, or the recipe or the data cannot be used.
    """
    require_extras(f"recipe {recipe.name}", "report", *needed_extras(recipe), *["tracking"] * tensorboard)
    folder, where = model_folder or out / "model", executor or default_executor()
    prepared = prepare_run(data, recipe)
    tested_groups(prepared[0])  # raises before anything is written
    with ExitStack() as locks:
        if where.is_main:
            for written in (out, folder):
                locks.enter_context(exclusive(written))
        where.wait()
        return _run(*prepared, out, folder, note or data_note(data), progress, tensorboard, where)


def _run(
    dataset: Dataset,
    recipe: Recipe,
    out: Path,
    folder: Path,
    note: str | None,
    progress: Progress,
    tensorboard: bool,
    executor: Executor,
) -> SystemRun | None:
    """The run of a prepared recipe, by the only process, or launch of processes, that writes into its folders."""
    groups = tested_groups(dataset)
    trained = is_trained(recipe, dataset, folder)  # raises before anything is overwritten
    executor.wait()  # all processes look at the folder before one of them writes into it
    if trained and tensorboard:
        logger.warning("tensorboard: nothing is left to train, so no curve is written")
    if not trained:
        check_recordings(recipe, dataset, progress if executor.is_main else silent)
    recipe_file, text = out / "recipe.toml", recipe.to_toml()
    is_repeat = trained and recipe_file.is_file() and recipe_file.read_text(encoding="utf-8") == text
    versions = environment()
    if executor.is_main:
        write_text(recipe_file, text)
        if not is_repeat:
            write_json(out / "environment.json", versions)
        write_json(out / "data.json", [summary.to_json() for summary in summarise(dataset)])
    train_or_reuse(recipe, dataset, folder, progress=progress, tensorboard=tensorboard)
    began = time.perf_counter()
    extractor = build_extractor(recipe, folder)
    stored = FeatureCache(folder / FEATURES, with_facts=True, is_shared=not executor.is_local)
    lists = clip_lists(recipe, dataset, groups)
    stored.fill_all([Request.of_recipe(extractor, clips) for clips in lists], executor, progress)
    features = partial(stored.get, extractor)
    scored, parameters, fit_seconds = score_machines(
        recipe, dataset, groups, features, folder, progress=progress, tensorboard=tensorboard, executor=executor
    )
    if not executor.is_main:
        return None
    stored.read_facts(extractor, lists)
    scores = tuple(entry.test for entry in scored)
    seconds = max(time.perf_counter() - began - (0.0 if trained else fit_seconds), 0.0)
    timing = _timing_of(out) if is_repeat and holds_scores(out / "scores", scores) else None
    if timing is None:
        card = read_card(folder) if recipe.trains else None
        training_seconds = 0.0 if card is None else float(card["training"].get("seconds", 0.0))
        timing = Timing(training_seconds + fit_seconds, seconds, peak_memory_bytes())
        count = {"total_parameters": extractor.parameters + parameters}
        write_json(out / "environment.json", versions | count)
        write_json(out / "timing.json", asdict(timing))
    truth = GroundTruth.from_clips(dataset.clips, dataset.layout)
    write_thresholds_and_decisions(scored, recipe.threshold, out)
    write_view_scores(scored, dataset.root, out)
    reasons = write_reasons(scored, out)
    write_quality(dataset, stored.facts, out)
    results = write_results(recipe.name, scores, out, truth, note=note)
    return SystemRun(recipe, scores, results, timing, reasons)


def _timing_of(out: Path) -> Timing | None:
    """The timing of the run that wrote a folder; None where it did not finish."""
    try:
        versions = json.loads((out / "environment.json").read_text(encoding="utf-8"))
        timing = Timing(**json.loads((out / "timing.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return timing if "total_parameters" in versions else None


def write_thresholds_and_decisions(scored: Sequence[ScoredMachine], threshold: ThresholdTable, out: Path) -> None:
    """Write ``thresholds.json`` and a decision file of every machine and section beside its scores.

    A machine without a threshold gets no decisions.
    """
    assert threshold.rule is not None, "a recipe is resolved before it is used"
    assert threshold.false_alarm_rate is not None
    thresholds = usable_thresholds(
        [entry.calibration for entry in scored], threshold.rule, threshold.false_alarm_rate, threshold.domains
    )
    units: dict[str, list[str]] = {}
    for found in thresholds:
        if found.remark is not None:
            units.setdefault(found.remark, []).append(f"{found.machine} section {found.section}")
    for remark, names in units.items():
        logger.warning("%s: %s", ", ".join(names), remark)
    decided = []
    for entry in scored:
        decisions = entry.decide(thresholds)
        if decisions is None:
            (out / "scores" / decision_file(*entry.test.key)).unlink(missing_ok=True)
        else:
            decided.append(decisions)
    write_decisions(out / "scores", decided)
    write_thresholds(out, thresholds)


def write_view_scores(scored: Sequence[ScoredMachine], data: Path, out: Path) -> None:
    """Write ``view_scores.json``: scores of test and normal clips, by view and fused, and the path of the data.

    ``normal`` holds leave-one-out scores, ``calibration`` the scores for thresholds; they differ where the
    back-end or the fusion scales scores by normal clips.
    """
    machines = [
        {
            "machine": entry.test.machine,
            "section": entry.test.section,
            "names": list(entry.test.names),
            "views": {view: values.tolist() for view, values in entry.views.items()},
            "normals": entry.calibration.normals,
            "normal": entry.normal.tolist(),
            "calibration": entry.calibration.scores().tolist(),
            "normal_names": [recording.file for recording in entry.calibration.recordings],
            "normal_domains": [recording.domain for recording in entry.calibration.recordings],
            "normal_views": {view: values.tolist() for view, values in entry.normal_views.items()},
        }
        for entry in scored
    ]
    write_json(out / "view_scores.json", {"data": str(data.resolve()), "machines": machines})


def write_reasons(scored: Sequence[ScoredMachine], out: Path) -> tuple[str, ...]:
    """Write ``choices.json``, the choices made in scoring each machine and why, and return them as lines.

    There is no file if nothing is chosen.
    """
    rows = [
        {"machine": entry.test.machine, "section": entry.test.section, "reason": entry.reason}
        for entry in scored
        if entry.reason is not None
    ]
    if rows:
        write_json(out / CHOICES, rows)
    else:
        (out / CHOICES).unlink(missing_ok=True)  # of another recipe
    lines = tuple(f"{row['machine']} section {row['section']}: {row['reason']}" for row in rows)
    for line in lines:
        logger.info("%s", line)
    return lines


def write_quality(dataset: Dataset, facts: Mapping[Path, SignalFacts], out: Path) -> tuple[MachineQuality, ...]:
    """Write ``quality.json``, problems of the microphones and the recorder by machine, and log a line for each.

    There is no file without problems.
    """
    found = []
    for machine in dataset.machines:
        of_split = [
            [(clip.name, facts[clip.path]) for clip in clips if clip.path in facts]
            for clips in (dataset.train(machine), dataset.test(machine))
        ]
        counts = count_problems(machine, *of_split)
        found += [] if counts is None else [counts]
    if found:
        write_json(out / QUALITY, [entry.to_json() for entry in found])
    else:
        (out / QUALITY).unlink(missing_ok=True)  # of other data
    for entry in found:
        _log_once(f"{dataset.root}: {entry}")
    return tuple(found)


@cache
def _log_once(text: str) -> None:
    """Cached: logged once and not for every system on the same recordings."""
    logger.warning("%s", text)


def write_results(
    name: str, scores: Sequence[MachineScores], out: Path, truth: GroundTruth, *, note: str | None = None
) -> Results | None:
    """Write score files and, of machines whose labels are known, tables and figures; returns the results.

    For one's own folder, whose names encode no labels, the ground truth is written beside the scores.
    """
    write_scores(out / "scores", scores)
    remove_others(out / "scores", scores)
    if truth.edition == "own":
        truth.write_csv(out / "scores")
    labelled = truth.evaluable(scores)
    if not labelled:
        for suffix in ("json", "md", "csv"):
            (out / f"results.{suffix}").unlink(missing_ok=True)  # of other data
        return None
    results = evaluate_scores(labelled, truth)
    write_table(results_table({name: [results]}, notes=[note] if note else []), out, "results")
    for entry in labelled:
        labels = truth.labels(entry)
        title = name if note is None else f"{name}. {note}"
        file = out / "figures" / f"{entry.machine}_section_{entry.section}.png"
        machine_figure(entry.machine, labels.anomalous, labels.domains, entry.scores, title, file, truth.rule)
    return results
