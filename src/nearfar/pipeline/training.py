"""Make sure that the model of a recipe is trained, or reuse the one that is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.checkpoint import Identity, finished_steps
from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.data.fingerprint import clips_key
from nearfar.data.layouts import Dataset
from nearfar.encoders import encoder_hash
from nearfar.errors import InputError
from nearfar.executors import is_main_process
from nearfar.models import load_start, read_card
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.scoring import TENSORBOARD, workspace
from nearfar.pipeline.windows import Recording
from nearfar.progress import Progress, record_writer, silent
from nearfar.training.finetune import finetune
from nearfar.training.labels import label_samples
from nearfar.training.pseudo_labels import cluster_attributes

logger = logging.getLogger(__name__)


def needed_extras(recipe: Recipe) -> tuple[str, ...]:
    """The extras of nearfar that training a recipe's encoder needs, see :mod:`nearfar.extras`."""
    return ("train",) if recipe.trains else ()


def is_trained(recipe: Recipe, dataset: Dataset, folder: Path) -> bool:
    """Whether a model folder holds all that the recipe trains, trained on all training clips of the dataset.

    Raises:
        InputError: if it holds another model, or the checkpoint of another one.
    """
    if recipe.backend.is_fitted is not None:
        fitted = [
            recipe.backend.is_fitted(workspace(recipe, dataset, machine, folder)) for machine in _tested(dataset)
        ]
        return all(fitted)
    if not recipe.trains:
        return True
    identity = Identity(recipe.model_key(), clips_key(training_clips(dataset)))
    if (card := read_card(folder)) is None:
        finished_steps(folder, identity)
        return False
    trained = Recipe.model_validate(card["recipe"])
    same = Identity(trained.model_key(), card["training"]["data_key"]) == identity
    if same and _same_encoder(recipe, card["base_encoder"]["hash"]):
        return True
    raise InputError(
        folder,
        found=f"a model of another recipe, training clips or encoder weights (trained as {trained.name})",
        expected=f"no model, or one of {recipe.name} on this data",
        remedy="Choose another output folder, or remove this model",
    )


def _same_encoder(recipe: Recipe, expected: str) -> bool:
    """Whether the encoder's files still hold what the model was trained from; hub names are pinned instead."""
    return not Path(recipe.encoder.weights).exists() or encoder_hash(load_start(recipe)) == expected


def training_clips(dataset: Dataset) -> list[Clip]:
    """The training clips of all machines, by machine and name."""
    return [clip for machine in dataset.machines for clip in dataset.train(machine)]


def train_or_reuse(
    recipe: Recipe, dataset: Dataset, folder: Path, *, progress: Progress = silent, tensorboard: bool = False
) -> None:
    """Make sure that ``folder`` holds the recipe's encoder, fine-tuned on all training clips of the dataset.

    A complete model of the same recipe and clips is reused, an unfinished training resumes from its checkpoint.
    Back-ends that train do so when they are fitted. All processes of a distributed launch train together; the
    model is complete when any of them returns.
    """
    if not recipe.trains or is_trained(recipe, dataset, folder):
        return
    clips = training_clips(dataset)
    labelled_clips = clips
    if recipe.training.pseudo_labels:
        labelled_clips = _with_pseudo_labels(recipe, clips)
    labelled = label_samples(labelled_clips, recipe.training.views)
    if len(labelled.classes) == 1:
        logger.warning(
            "%s: all training samples are of one class (%s), so there is nothing to discriminate and the model "
            "stays as it starts. Add other machines or operating conditions (attributes), or use ae-mse.",
            dataset.root,
            labelled.classes[0],
        )
    task = f"training {recipe.training.adaptation} model"
    with record_writer(folder / TENSORBOARD if tensorboard and is_main_process() else None) as on_step:
        finetune(
            recipe,
            labelled,
            folder,
            data_key=clips_key(clips),
            progress=lambda done, total: progress(task, done, total),
            on_step=on_step,
        )


PSEUDO_LABEL_FEATURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "log-mel": ({"source": "log-mel", "lags": [1, 4, 16], "remove_level": True, "keep_bands": False}, "near"),
    "encoder": ({"source": "tokens", "pooling": "mean", "keep_bands": False}, None),
}
"""The table ``features`` for pseudo-labels, and the view; None is the first that is trained on."""


def _with_pseudo_labels(recipe: Recipe, clips: list[Clip]) -> list[Clip]:
    """Clips of machines without attributes get clusters of features as attributes."""
    features_table, view = PSEUDO_LABEL_FEATURES[recipe.training.pseudo_label_features]
    plain = recipe.with_changes(
        **{
            "training.adaptation": "none",
            "scoring.backend": "nearest-neighbours",
            "scoring.fusion": "mean",
            "scoring.views": [view or recipe.training.views[0]],
            "features": features_table,
        }
    )
    extractor = build_extractor(plain)
    (scored,) = plain.scoring.views

    def features(chosen: Sequence[Clip]) -> NDArray[np.float64]:
        recordings = [Recording.of_clip(clip) for clip in chosen]
        numbers: NDArray[np.float64] = (
            extract(extractor, recordings).features[scored][0].flatten(1).double().numpy()
        )
        return numbers

    return cluster_attributes(clips, features, recipe.training.pseudo_labels, recipe.seed)


def _tested(dataset: Dataset) -> list[str]:
    return [machine for machine in dataset.machines if dataset.test(machine)]
