"""The combinations of a grid on one data folder: fitted to the data, listened to together, scored one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.ablation.grid import Point, Skipped
from nearfar.challenge.run import train_or_reuse
from nearfar.config import Features, Recipe, Scoring
from nearfar.data.clips import Clip, View
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.features.piece_cache import Pass, StatisticsStore, depth_of
from nearfar.features.pieces import pieces_of
from nearfar.features.representation import Representation, represent, scored_features, waveform_views
from nearfar.files import write_text
from nearfar.models import start_weights
from nearfar.preparation import check_recordings, prepare
from nearfar.progress import Progress, silent
from nearfar.scoring.machine import MachineScorer

COMPUTATION = 1
"""Rises when the same recipe and recordings come to other scores, so that old ones are not read."""

Groups = dict[tuple[str, str], tuple[list[Clip], list[Clip]]]
"""Training and test clips by machine and section."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadyPoint:
    """A combination that the data can be listened to with; its representation's recipe is resolved."""

    values: dict[str, str]
    representation: Representation

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.representation.recipe


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPoint:
    """A combination's scores of the test clips. ``fresh`` is false where they were there from before."""

    values: dict[str, str]
    scores: tuple[MachineScores, ...]
    key: str
    fresh: bool


class Preparation:
    """Fits recipes to a data folder and loads or trains what they listen with, each only once.

    Args:
        data: the folder, read already.
        models: where trained models are kept, by their key.
        progress: called while training.
    """

    def __init__(self, data: Path, dataset: Dataset, models: Path, progress: Progress = silent) -> None:
        self._data, self._dataset, self._models, self._progress = data, dataset, models, progress
        self._fitted: dict[str, Recipe | InputError] = {}
        self._representations: dict[str, Representation] = {}

    def ready(self, points: Sequence[Point]) -> tuple[list[ReadyPoint], list[Skipped]]:
        """The points that can be had with this data and encoder, and the others with the reason.

        Raises:
            InputError: if an encoder or a trained model cannot be had at all.
        """
        ready, skipped = [], []
        for point in points:
            try:
                recipe = self._fit(point.recipe)
                _require_head(recipe)
                representation = replace(self._representation(recipe), recipe=recipe)
                _require_layers(representation)
            except _NotForThisGridError as error:
                skipped.append(Skipped(point.values, str(error)))
            else:
                ready.append(ReadyPoint(point.values, representation))
        return ready, skipped

    def _fit(self, recipe: Recipe) -> Recipe:
        """The resolved recipe; what decides it is looked at once however many recipes share it."""
        deciding = (recipe.audio, recipe.training, recipe.augmentation, waveform_views(recipe))
        key = repr(deciding)
        if key not in self._fitted:
            try:
                self._fitted[key] = prepare(self._data, recipe)[1]
            except InputError as error:
                self._fitted[key] = error
        fitted = self._fitted[key]
        if isinstance(fitted, InputError):
            raise _NotForThisGridError(f"{fitted.where}: {fitted.found}; expected {fitted.expected}")
        return recipe.model_copy(update={"audio": fitted.audio, "training": fitted.training})

    def _representation(self, recipe: Recipe) -> Representation:
        """Made with the last layer, from which all others can be had."""
        trained = recipe.training.adaptation != "none"
        model = recipe.model_key() if trained else (start_weights(recipe), recipe.encoder, recipe.fbank)
        source = recipe.features.source
        key = repr((source, recipe.audio, model if trained or source == "tokens" else recipe.fbank))
        if key not in self._representations:
            last = recipe.model_copy(update={"features": Features(source=source)})
            folder = self._models / recipe.model_key() if trained else None
            if folder is not None:
                if not folder.exists():
                    check_recordings(last, self._dataset, self._progress)
                train_or_reuse(last, self._dataset, folder, progress=self._progress)
            self._representations[key] = represent(last, folder)
        return self._representations[key]


class _NotForThisGridError(Exception):
    """Why a combination is left out."""


def _require_head(recipe: Recipe) -> None:
    if recipe.training.adaptation == "none" and recipe.features.source == "embedding":
        raise _NotForThisGridError("features.source = 'embedding' in a recipe that trains nothing")
    if recipe.training.adaptation == "none" and recipe.features.pooling == "asp":
        raise _NotForThisGridError("features.pooling = 'asp' in a recipe that trains nothing")


def _require_layers(representation: Representation) -> None:
    features, depth = representation.recipe.features, depth_of(representation)
    if features.source == "tokens" and max(features.layers or (1,)) > depth:
        layers = ", ".join(map(str, features.layers or ()))
        raise _NotForThisGridError(f"features.layers = {layers}; expected layers from 1 to {depth}")


def passes_of(points: Iterable[ReadyPoint]) -> list[Pass]:
    """One pass per encoder (or front end) and view, with every piece that any of the points wants of it."""
    found: dict[str, tuple[ReadyPoint, View, dict[Features, None]]] = {}
    for point in points:
        recipe = point.recipe
        wanted = dict.fromkeys(pieces_of(recipe.features, depth_of(point.representation)))
        for view in waveform_views(recipe):
            cancellation = recipe.cancellation if view == "cancelled" else None
            key = repr(
                (point.representation.weights_hash, recipe.features.source, recipe.audio, view, cancellation)
            )
            found.setdefault(key, (point, view, {}))[2].update(wanted)
    return [Pass(point.representation, view, tuple(pieces)) for point, view, pieces in found.values()]


def listen(passes: Sequence[Pass], groups: Groups, store: StatisticsStore, progress: Progress = silent) -> None:
    """Make every pass over every clip, as far as it was not made before."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    total = len(passes) * clip_count(groups)
    done = 0

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        progress("listening", done, total)

    for which in passes:
        for train, test in groups.values():
            for clips in (train, test):
                store.listen(which, clips, device, advance)


def clip_count(groups: Groups) -> int:
    """Training and test clips of all machines."""
    return sum(len(train) + len(test) for train, test in groups.values())


def score_points(
    points: Sequence[ReadyPoint], groups: Groups, store: StatisticsStore, folder: Path, progress: Progress = silent
) -> tuple[list[ScoredPoint], list[Skipped]]:
    """Score every point, one file each in ``folder``; the same recipe under several names is scored once."""
    recordings = clips_key(clip for train, test in groups.values() for clip in (*train, *test))
    scored, skipped = [], []
    known: dict[str, ScoredPoint] = {}
    for place, point in enumerate(points, start=1):
        key = _key(point, recordings)
        if key not in known:
            try:
                known[key] = _score(point, key, groups, store, folder / f"{key}.json")
            except ValueError as error:  # features that a distance is not defined for
                skipped.append(Skipped(point.values, str(error)))
        if key in known:
            scored.append(replace(known[key], values=point.values))
        progress("scoring combinations", place, len(points))
    return scored, skipped


def _score(point: ReadyPoint, key: str, groups: Groups, store: StatisticsStore, file: Path) -> ScoredPoint:
    if (before := _read(file, groups)) is not None:
        return ScoredPoint(point.values, before, key, fresh=False)
    recipe = point.recipe

    def features(clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        made = {
            view: store.get(point.representation, recipe.features, clips, view) for view in waveform_views(recipe)
        }
        return scored_features(made, recipe)

    entries = []
    for (machine, section), (train, test) in groups.items():
        target = torch.tensor([clip.domain == "target" for clip in train])
        scorer = MachineScorer(features(train), target, recipe.scoring, recipe.seed)
        names = tuple(clip.name for clip in test)
        entries.append(MachineScores(machine, section, names, scorer.score(features(test)).fused))
    machines = [
        {"machine": entry.machine, "section": entry.section, "scores": entry.scores.tolist()} for entry in entries
    ]
    tree = {"recipe": recipe.model_dump(mode="json", exclude={"autoencoder"}), "machines": machines}
    write_text(file, json.dumps(tree) + "\n")
    return ScoredPoint(point.values, tuple(entries), key, fresh=True)


def _read(file: Path, groups: Groups) -> tuple[MachineScores, ...] | None:
    """Scores from before; None where there are none, or the file is damaged."""
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
    """What the scores depend on, in 32 hexadecimal digits: no key of the recipe that is not read enters."""
    recipe, views = point.recipe, waveform_views(point.recipe)
    tree: dict[str, Any] = {
        "computation": COMPUTATION,
        "recordings": recordings,
        "weights": point.representation.weights_hash,
        "seed": recipe.seed,
        "audio": recipe.audio.model_dump(mode="json"),
        "cancellation": recipe.cancellation.model_dump(mode="json") if "cancelled" in views else None,
        "pieces": [
            piece.model_dump(mode="json") for piece in pieces_of(recipe.features, depth_of(point.representation))
        ],
        "keep_bands": recipe.features.keep_bands and recipe.features.source != "embedding",
        "scoring": _scoring_read(recipe.scoring),
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def _scoring_read(scoring: Scoring) -> dict[str, Any]:
    tree = scoring.model_dump(mode="json")
    unread = {"batch_size"}
    for kind in ("memmix", "smote"):
        if scoring.enrichment != kind:
            unread |= {key for key in tree if key.startswith(f"{kind}_")}
    if scoring.normalisation == "none":
        unread.add("density_neighbours")
    if scoring.normalisation == "none" or scoring.domains == "pooled":
        unread.add("target_density_neighbours")
    if "residual" not in scoring.channels:
        unread.add("residual_alpha")
    return {key: value for key, value in tree.items() if key not in unread}
