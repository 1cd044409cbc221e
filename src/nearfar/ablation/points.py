"""The combinations of a grid on one dataset: recipes are resolved, features extracted together, points scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.ablation.grid import Point, Skipped
from nearfar.config import Recipe
from nearfar.config.validation import digest
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.executors import Executor
from nearfar.features import WindowBatch
from nearfar.files import write_text
from nearfar.pipeline.cache import FeatureCache, Request
from nearfar.pipeline.extractor import Extractor, build_extractor, require_head
from nearfar.pipeline.preparation import check_recordings, resolve_run
from nearfar.pipeline.scoring import Groups, score_machines
from nearfar.pipeline.training import train_or_reuse
from nearfar.progress import Progress, silent
from nearfar.settings import Settings

COMPUTATION = 2
"""Version of the scoring in cache keys: increased when the same recipe and recordings give other scores."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadyPoint:
    """A combination that can be computed on the data; the extractor's recipe is resolved."""

    values: dict[str, str]
    extractor: Extractor


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPoint:
    """A combination's scores of the test clips; ``fresh`` is false if an earlier call computed them."""

    values: dict[str, str]
    scores: tuple[MachineScores, ...]
    key: str
    fresh: bool


@dataclass(frozen=True)
class Pass:
    """One view of all clips and one extractor, with all pieces of features that combinations need of them."""

    extractor: Extractor
    view: str
    pieces: tuple[Settings, ...]

    def clip_bytes(self) -> int:
        """Bytes stored per clip, measured on one clip of noise."""
        length = self.extractor.padded_samples
        noise = 0.01 * torch.randn(1, length, generator=torch.Generator().manual_seed(0))
        features = self.extractor(WindowBatch(noise, torch.tensor([length])), self.pieces)
        return sum(values.numel() * values.element_size() for values in features)


class Preparation:
    """Resolves recipes for a dataset and loads or trains their models, each only once.

    Args:
        dataset: what to score.
        models: folder of trained models, by their key.
        progress: called while training.
    """

    def __init__(self, dataset: Dataset, models: Path, progress: Progress = silent) -> None:
        self._dataset, self._models, self._progress = dataset, models, progress
        self._resolved: dict[str, Recipe | InputError] = {}
        self._extractors: dict[str, Extractor] = {}

    def ready(self, points: Sequence[Point]) -> tuple[list[ReadyPoint], list[Skipped]]:
        """The points that can be computed with this data and encoder, and the others with the reason.

        Raises:
            InputError: if an encoder or a trained model cannot be loaded.
        """
        ready, skipped = [], []
        for point in points:
            try:
                recipe = self._resolve(point.recipe)
            except InputError as error:
                skipped.append(Skipped(point.values, f"{error.where}: {error.found}; expected {error.expected}"))
                continue
            extractor = replace(self._extractor(recipe), recipe=recipe)
            wrong = extractor.source.check(extractor.settings, extractor.parts.depth)
            if wrong is None:
                ready.append(ReadyPoint(point.values, extractor))
            else:
                skipped.append(Skipped(point.values, wrong))
        return ready, skipped

    def _resolve(self, recipe: Recipe) -> Recipe:
        """The resolved recipe, computed once for all recipes with the same settings that resolving depends on."""
        require_head(recipe)
        audio_and_training = (recipe.audio, recipe.training, recipe.augmentation)
        scoring = (recipe.scoring.views, recipe.scoring.backend, recipe.features.source, recipe.threshold)
        key = repr((audio_and_training, scoring))
        if key not in self._resolved:
            try:
                self._resolved[key] = resolve_run(self._dataset, recipe)
            except InputError as error:
                self._resolved[key] = error
        resolved = self._resolved[key]
        if isinstance(resolved, InputError):
            raise resolved
        update = {name: getattr(resolved, name) for name in ("audio", "training", "threshold")}
        return recipe.model_copy(update=update)

    def _extractor(self, recipe: Recipe) -> Extractor:
        """An extractor with the default settings of the feature source, which serves all other settings."""
        model = recipe.model_identity() or [recipe.encoder.identity(), recipe.fbank.identity(), recipe.seed]
        inference = [recipe.encoder.mask_padding, recipe.inference.identity()]
        key = digest([recipe.features.source, recipe.audio.identity(), inference, model])
        if key not in self._extractors:
            plain = recipe.model_copy(update={"features": type(recipe.features)(source=recipe.features.source)})
            folder = self._models / recipe.model_key() if recipe.trains else None
            if folder is not None:
                if not folder.exists():
                    check_recordings(plain, self._dataset, self._progress)
                train_or_reuse(plain, self._dataset, folder, progress=self._progress)
            self._extractors[key] = build_extractor(plain, folder)
        return self._extractors[key]


def passes_of(points: Iterable[ReadyPoint]) -> list[Pass]:
    """One pass per extractor and view, with every piece that any of the points needs."""
    found: dict[str, tuple[Extractor, str, dict[Settings, None]]] = {}
    for point in points:
        recipe, extractor = point.extractor.recipe, point.extractor
        if not extractor.source.cached:
            continue
        pieces = dict.fromkeys(extractor.source.pieces(extractor.settings, extractor.parts.depth))
        for view in recipe.waveform_views:
            key = digest([extractor.weights_hash, recipe.features.source, recipe.view_identity(view)])
            found.setdefault(key, (extractor, view, {}))[2].update(pieces)
    return [Pass(extractor, view, tuple(pieces)) for extractor, view, pieces in found.values()]


def extract_all(
    passes: Sequence[Pass],
    groups: Groups,
    cache: FeatureCache,
    executor: Executor,
    progress: Progress = silent,
) -> None:
    """Compute and store the features of every pass and clip that are not stored yet."""
    requests = [
        Request(each.extractor, clips, (each.view,), each.pieces)
        for each in passes
        for pair in groups.values()
        for clips in pair
    ]
    cache.fill_all(requests, executor, progress)


def clip_count(groups: Groups) -> int:
    """Number of training and test clips of all machines."""
    return sum(len(train) + len(test) for train, test in groups.values())


def score_points(
    points: Sequence[ReadyPoint],
    dataset: Dataset,
    groups: Groups,
    cache: FeatureCache,
    folder: Path,
    models: Path,
    executor: Executor,
    progress: Progress = silent,
) -> tuple[list[ScoredPoint], list[Skipped]]:
    """Score every point, one file each in ``folder``; points with the same scoring are scored once.

    Trained back-ends are saved in ``models``, in a folder for each model key; points with the same model are one
    task.
    """
    recordings = clips_key(clip for train, test in groups.values() for clip in (*train, *test))
    keys = [_key(point, recordings) for point in points]
    by_model: dict[str, dict[str, ReadyPoint]] = {}
    for key, point in zip(keys, points, strict=True):
        recipe = point.extractor.recipe
        own = recipe.model_key() if recipe.backend.trains else key
        by_model.setdefault(own, {}).setdefault(key, point)
    work = _PointWork(dataset, groups, cache, folder, models)
    found = executor.map(
        work.score,
        [*by_model.values()],
        task="scoring combinations",
        progress=progress,
        sizes=[len(group) for group in by_model.values()],
    )
    by_key = {key: result for group in found for key, result in group.items()}
    scored, skipped = [], []
    for key, point in zip(keys, points, strict=True):
        result = by_key[key]
        if isinstance(result, str):
            skipped.append(Skipped(point.values, result))
        else:
            scored.append(replace(result, values=point.values))
    return scored, skipped


@dataclass(frozen=True)
class _PointWork:
    """What is the same for all points of :func:`score_points`."""

    dataset: Dataset
    groups: Groups
    cache: FeatureCache
    folder: Path
    models: Path

    def score(self, points: Mapping[str, ReadyPoint], progress: Progress) -> dict[str, ScoredPoint | str]:
        """The scores of points by their key, or why they have none."""
        found: dict[str, ScoredPoint | str] = {}
        for key, point in points.items():
            try:
                found[key] = self._score(point, key)
            except ValueError as error:  # the distance is not defined for these features
                found[key] = str(error)
        return found

    def _score(self, point: ReadyPoint, key: str) -> ScoredPoint:
        file = self.folder / f"{key}.json"
        if (stored := _read(file, self.groups)) is not None:
            return ScoredPoint(point.values, stored, key, fresh=False)
        recipe, extractor = point.extractor.recipe, point.extractor
        scored, _, _ = score_machines(
            recipe,
            self.dataset,
            self.groups,
            partial(self.cache.get, extractor),
            self.models / recipe.model_key(),
            leave_one_out=False,
        )
        entries = tuple(entry.test for entry in scored)
        machines = [
            {"machine": entry.machine, "section": entry.section, "scores": entry.scores.tolist()}
            for entry in entries
        ]
        write_text(file, json.dumps({"recipe": recipe.model_dump(mode="json"), "machines": machines}) + "\n")
        return ScoredPoint(point.values, entries, key, fresh=True)


def _read(file: Path, groups: Groups) -> tuple[MachineScores, ...] | None:
    """Scores of an earlier call; None if there are none or the file is damaged."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["machines"]
        entries = []
        for ((machine, section), (_, test)), row in zip(groups.items(), rows, strict=True):
            scores = np.array(row["scores"], dtype=np.float64)
            if scores.shape != (len(test),) or not np.isfinite(scores).all():
                return None
            entries.append(MachineScores(machine, section, tuple(clip.name for clip in test), scores))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tuple(entries)


def _key(point: ReadyPoint, recordings: str) -> str:
    """A hash of everything that affects the scores; keys of the recipe without an effect are left out."""
    recipe, extractor = point.extractor.recipe, point.extractor
    pieces = extractor.source.pieces(extractor.settings, extractor.parts.depth)
    tree: dict[str, Any] = {
        "computation": COMPUTATION,
        "recordings": recordings,
        "weights": extractor.weights_hash,
        "views": [recipe.view_identity(view) for view in recipe.waveform_views],
        "source": recipe.features.source,
        "pieces": [piece.identity() for piece in pieces],
        "settings": extractor.settings.identity(),
        "scoring": recipe.scoring_identity(),
    }
    return digest(tree)
