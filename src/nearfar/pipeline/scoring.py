"""Scores of every machine and section of a dataset, by the recipe's back-end and views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores
from nearfar.executors import Executor, LocalExecutor
from nearfar.progress import Progress, silent
from nearfar.scoring import FUSIONS, MachineScorer, ViewScores, Workspace
from nearfar.threads import parallel_map
from nearfar.thresholds import Calibration, NormalScore, Threshold, threshold_of

FOLDS = 25
"""Where leaving one recording out takes a new fit, recordings are left out in at most this many groups."""

TENSORBOARD = "tensorboard"
"""The folder of TensorBoard files in a model folder."""

Groups = dict[tuple[str, str], tuple[tuple[Clip, ...], tuple[Clip, ...]]]
"""Training and test clips by machine and section."""

Features = Callable[[Sequence[Clip]], dict[str, Tensor]]
"""From clips to features (clips, parts, dim) of every scored view."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredMachine:
    """The scores of one machine and section.

    Attributes:
        test: fused scores of the test clips, by name.
        views: (clips,) scores of the test clips by view, before fusion.
        normal: (normals,) leave-one-out scores of the normal clips, fused; empty for a single one.
        normal_views: the same by view, before fusion.
        calibration: scores of the normal clips for thresholds: by a back-end that is fitted without them.
        domains: of each test clip, the domain of its nearest normal clip; ``source`` where there is no nearest
            one.
        reason: the choices that scoring made for this machine and why, in a line; None where it makes none.
    """

    test: MachineScores
    views: dict[str, NDArray[np.float64]]
    normal: NDArray[np.float64]
    normal_views: dict[str, NDArray[np.float64]]
    calibration: Calibration
    domains: tuple[str, ...]
    reason: str | None = None

    def decide(self, thresholds: Iterable[Threshold]) -> MachineDecisions | None:
        """Decisions on the test clips: anomalous where the score is above the threshold; None without a threshold.

        Where domains have thresholds of their own, a clip's is that of the domain of its nearest normal clip.
        """
        machine, section = self.test.machine, self.test.section
        found = [threshold_of(thresholds, machine, section, domain) for domain in self.domains]
        values = [None if entry is None else entry.value for entry in found]
        if None in values:
            return None
        above = self.test.scores > np.array(values, dtype=np.float64)
        return MachineDecisions(machine, section, self.test.names, above.astype(np.int64))


def is_guaranteed(recipe: Recipe) -> bool:
    """Whether leave-one-out scores give conformal thresholds that are bounds."""
    backend = recipe.backend
    return (
        not recipe.trains
        and backend.leaves_out
        and backend.only_lowers(recipe.backend_settings())
        and not FUSIONS[recipe.scoring.fusion].uses_normals
    )


def trains_on_normals(recipe: Recipe) -> bool:
    """Whether a model is trained on all normal recordings that are not held out."""
    return recipe.trains or not recipe.backend.leaves_out


def normal_scores(
    clips: Sequence[Clip], scores: ViewScores, groups: Sequence[str] | None = None
) -> tuple[NormalScore, ...]:
    """Records of the scores of normal clips, and of the group of each; None: each is a group of its own."""
    return tuple(
        NormalScore(
            file=clip.name,
            domain="target" if clip.domain == "target" else "source",
            score=float(scores.fused[index]),
            channels={view: float(values[index]) for view, values in scores.views.items()},
            group=None if groups is None else groups[index],
        )
        for index, clip in enumerate(clips)
    )


def target_mask(clips: Sequence[Clip]) -> Tensor:
    """(clips,) bool, which clips are of the target domain."""
    return torch.tensor([clip.domain == "target" for clip in clips], dtype=torch.bool)


def tested_groups(dataset: Dataset) -> Groups:
    """Training and test clips of every machine and section that has test clips.

    Raises:
        InputError: if a section has test clips and no training clips.
    """
    groups = {key: pair for key, pair in dataset.groups().items() if pair[1]}
    for (machine, section), (train, _) in groups.items():
        if not train:
            raise InputError(
                dataset.root / machine,
                found=f"test clips of section {section} without training clips of it",
                expected="normal training clips of every section",
                remedy="Add them, or remove the section's test clips",
            )
    return groups


def score_machines(
    recipe: Recipe,
    dataset: Dataset,
    groups: Groups,
    features: Features,
    folder: Path | None = None,
    *,
    progress: Progress = silent,
    tensorboard: bool = False,
    leave_one_out: bool = True,
    executor: Executor | None = None,
) -> tuple[list[ScoredMachine], int, float]:
    """Score the test clips of every machine and section, and the training clips by leave-one-out.

    ``features`` gives features of clips by scored view; ``folder`` is where back-ends that train save their
    models. Each machine is a task of the executor, by default in this process.

    Returns:
        the scores, and the number of trained scalars and the seconds of training of the back-ends.
    """
    work = _MachineWork(recipe, features, folder, tensorboard, leave_one_out)
    by_machine: dict[str, Groups] = {}
    for key, pair in groups.items():
        by_machine.setdefault(key[0], {})[key] = pair
    items = []
    for machine, sections in by_machine.items():
        # The fewest clips that a worker needs, and no headers.
        own = dataset.train(machine) + tuple(clip for _, test in sections.values() for clip in test)
        items.append((Dataset(dataset.root, own, layout=dataset.layout), sections))
    results = (executor or LocalExecutor()).map(
        work.score,
        items,
        task="scoring machines",
        progress=progress,
        sizes=[len(sections) for sections in by_machine.values()],
        uses_all_cores=not recipe.backend.trains,
    )
    scored = [entry for entries, _, _ in results for entry in entries]
    return scored, sum(count for _, count, _ in results), sum(seconds for _, _, seconds in results)


def clip_lists(recipe: Recipe, dataset: Dataset, groups: Groups) -> list[tuple[Clip, ...]]:
    """The lists of clips whose features :func:`score_machines` asks for, each once and in its order."""
    lists: dict[tuple[Path, ...], tuple[Clip, ...]] = {}
    for (machine, _), (train, test) in groups.items():
        for clips in (dataset.train(machine) if recipe.backend.per_machine else train, test):
            lists[tuple(clip.path for clip in clips)] = clips
    return list(lists.values())


@dataclass(frozen=True)
class _MachineWork:
    """What is the same for all machines of :func:`score_machines`."""

    recipe: Recipe
    features: Features
    folder: Path | None
    tensorboard: bool
    leave_one_out: bool

    def score(self, item: tuple[Dataset, Groups], progress: Progress) -> tuple[list[ScoredMachine], int, float]:
        """The scores of one machine's sections, and the trained scalars and seconds of its back-ends."""
        dataset, sections = item
        backend = self.recipe.backend
        out: list[ScoredMachine] = []
        parameters, seconds = 0, 0.0
        shared: tuple[MachineScorer, ViewScores] | None = None
        for (machine, section), (train, test) in sections.items():
            fitted_on = dataset.train(machine) if backend.per_machine else train
            if shared is None or not backend.per_machine:
                shared = self._fitted(dataset, machine, fitted_on, progress)
                for one in shared[0].scorers.values():
                    parameters += getattr(one, "parameters", 0)
                    seconds += getattr(one, "seconds", 0.0)
            rows = np.array([clip.section == section for clip in fitted_on]) if backend.per_machine else None
            out.append(self._scored((machine, section), fitted_on, train, test, *shared, rows))
        return out, parameters, seconds

    def _fitted(
        self, dataset: Dataset, machine: str, clips: Sequence[Clip], progress: Progress
    ) -> tuple[MachineScorer, ViewScores]:
        """The fitted scorer, and the normal clips' scores for thresholds; none without ``leave_one_out``."""
        recipe, space = self.recipe, None
        if self.folder is not None and recipe.backend.trains:
            space = workspace(
                recipe, dataset, machine, self.folder, progress=progress, tensorboard=self.tensorboard
            )
        values, target = self.features(clips), target_mask(clips)
        scorer = MachineScorer(values, target, recipe.scoring_plan(), workspace=space)
        if not self.leave_one_out:
            return scorer, ViewScores(np.empty(0), {})
        return scorer, left_out_scores(values, target, np.arange(len(target)), recipe, scorer)

    def _scored(
        self,
        unit: tuple[str, str],
        fitted_on: Sequence[Clip],
        train: Sequence[Clip],
        test: Sequence[Clip],
        scorer: MachineScorer,
        left_out: ViewScores,
        rows: NDArray[np.bool_] | None,
    ) -> ScoredMachine:
        """One section's scores; ``rows`` are its clips among those that the scorer is fitted on, None for all."""
        scored = scorer.score(self.features(test))
        normal = _rows(scorer.normal, rows) if self.leave_one_out else ViewScores(np.empty(0), {})
        left_out = _rows(left_out, rows)
        return ScoredMachine(
            MachineScores(*unit, tuple(clip.name for clip in test), scored.fused),
            scored.views,
            normal.fused,
            normal.views,
            Calibration(
                machine=unit[0],
                section=unit[1],
                method="leave-one-out",
                guaranteed=is_guaranteed(self.recipe),
                recordings=normal_scores(train, left_out) if left_out.fused.size else (),
                in_training=trains_on_normals(self.recipe),
            ),
            _nearest_domains(fitted_on, scored.nearest, len(test)),
            scorer.reason,
        )


def left_out_scores(
    features: Mapping[str, Tensor],
    target: Tensor,
    group: NDArray[np.int64],
    recipe: Recipe,
    scorer: MachineScorer | None = None,
) -> ViewScores:
    """Scores of normal windows by banks without any window of their group; empty for a single group.

    One clip is left out at a time where the back-end does that exactly: groups of one window, and views that
    are not standardised. Otherwise groups are left out in up to :data:`FOLDS` folds, and everything is fitted
    without them: scores are then a little higher than against all others, which gives fewer false alarms. A
    back-end that cannot leave clips out gives the scores of its training clips.

    Args:
        features: (windows, parts, dim) of every scored view.
        target: (windows,) bool.
        group: (windows,) the group of each window, such as its recording, from 0.
        recipe: scoring and seed are used.
        scorer: fitted on all of them, where there is one already.
    """
    plan, backend, count = recipe.scoring_plan(), recipe.backend, int(group.max()) + 1
    if count == 1:
        return ViewScores(np.empty(0), {})
    exact = backend.exact_leave_one_out(plan.settings) and not FUSIONS[plan.fusion].uses_normals
    if not backend.leaves_out or (exact and count == len(group)):
        return (scorer or MachineScorer(features, target, plan)).normal
    folds = min(count, FOLDS)
    fold = torch.from_numpy((np.random.default_rng(recipe.seed).permutation(count) % folds)[group])

    def scores_of(left_out: int) -> ViewScores:
        inside = fold != left_out
        others = MachineScorer({view: values[inside] for view, values in features.items()}, target[inside], plan)
        return others.score({view: values[~inside] for view, values in features.items()})

    fused = np.empty(len(group))
    views = {view: np.empty(len(group)) for view in features}
    for left_out, scored in enumerate(parallel_map(scores_of, range(folds))):
        outside = (fold == left_out).numpy()
        fused[outside] = scored.fused
        for view, values in scored.views.items():
            views[view][outside] = values
    return ViewScores(fused, views)


def workspace(
    recipe: Recipe,
    dataset: Dataset,
    machine: str,
    folder: Path,
    *,
    progress: Progress = silent,
    tensorboard: bool = False,
) -> Workspace:
    """Where a back-end that trains keeps the model of one machine."""
    return Workspace(
        folder=folder,
        name=machine,
        identity=f"{recipe.model_key()} {clips_key(dataset.train(machine))}",
        card={"recipe": recipe.model_dump(mode="json")},
        source=str(dataset.root / machine),
        progress=progress,
        tensorboard=folder / TENSORBOARD if tensorboard else None,
    )


def _nearest_domains(normals: Sequence[Clip], nearest: NDArray[np.int64] | None, count: int) -> tuple[str, ...]:
    if nearest is None:
        return ("source",) * count
    return tuple(normals[index].domain or "source" for index in nearest)


def _rows(scores: ViewScores, rows: NDArray[np.bool_] | None) -> ViewScores:
    if rows is None or not scores.fused.size:
        return scores
    return ViewScores(scores.fused[rows], {view: values[rows] for view, values in scores.views.items()})
