"""Which normal recordings are held out of training and bank, so that thresholds are from scores of new recordings.

A model scores the recordings that it was trained on lower than new ones, so that thresholds from their scores give
more false alarms than promised, whether a recording is left out of the bank or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.data.grouping import find_groups
from nearfar.data.layouts import Dataset
from nearfar.detector.machine import Unit
from nearfar.errors import InputError
from nearfar.pipeline.scoring import trains_on_normals

logger = logging.getLogger(__name__)


def with_method(
    recipe: Recipe, dataset: Dataset, clips: Mapping[Unit, Sequence[Clip]], model: Path | None
) -> Recipe:
    """A recipe that says how normal recordings are scored for thresholds, where it did not.

    Recordings are held out (``split``) where a model is trained, if those of every machine give a threshold at the
    false-alarm rate, or if the back-end cannot leave one out. All are used for a model that was trained on all.
    """
    if recipe.calibration.method is not None:
        return recipe
    if not trains_on_normals(recipe):
        return recipe.with_changes(**{"calibration.method": "leave-one-out"})
    split = recipe.with_changes(**{"calibration.method": "split"})
    if not recipe.backend.leaves_out:
        return split
    if model is not None and _is_trained_on_all(recipe, dataset, model):
        logger.warning("%s: the model was trained on all recordings, so that none can be held out", model)
        return recipe.with_changes(**{"calibration.method": "leave-one-out"})
    rate = recipe.threshold.false_alarm_rate
    assert rate is not None, "a recipe is resolved before it is used"
    fewest = min(_group_count(clips[unit], held, recipe) for unit, held in held_out(clips, split).items())
    if 1 / (fewest + 1) <= rate + 1e-9:
        return split
    logger.warning(
        "%d independent recordings of a machine, as many as would be held out, are too few for a false-alarm rate "
        'of %g: the model is trained on all (calibration.method = "split" holds them out all the same)',
        fewest,
        rate,
    )
    return recipe.with_changes(**{"calibration.method": "leave-one-out"})


def _is_trained_on_all(recipe: Recipe, dataset: Dataset, model: Path) -> bool:
    from nearfar.pipeline.training import is_trained  # imports accelerate, which scoring does not need

    try:
        return is_trained(recipe, dataset, model)
    except InputError:  # trained on others, such as those that are not held out
        return False


def _group_count(clips: Sequence[Clip], held: NDArray[np.bool_], recipe: Recipe) -> int:
    labels = np.array(find_groups(clips, recipe.calibration.group_by).labels)
    return len(set(labels[held].tolist()))


def held_out(clips: Mapping[Unit, Sequence[Clip]], recipe: Recipe) -> dict[Unit, NDArray[np.bool_]]:
    """Recordings that are held out of training and banks, by machine and section; none without ``split``.

    Raises:
        InputError: if the back-end cannot leave recordings out and none are held out.
    """
    if recipe.calibration.method == "split":
        share, by = recipe.calibration.held_out, recipe.calibration.group_by
        return {
            unit: hold_out(entries, find_groups(entries, by).labels, share, recipe.seed)
            for unit, entries in clips.items()
        }
    if not recipe.backend.leaves_out:
        raise InputError(
            "calibration.method",
            found=f"'leave-one-out' with scoring.backend = {recipe.scoring.backend!r}",
            expected="'split', as this back-end cannot leave a recording out",
            remedy="Set calibration.method to 'split', or choose another recipe, such as nearfar-best",
        )
    return {unit: np.zeros(len(entries), dtype=np.bool_) for unit, entries in clips.items()}


def hold_out(clips: Sequence[Clip], groups: Sequence[str], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Recordings of one machine to hold out, (clips,) bool: about this fraction of every domain's groups.

    At least one group of a domain stays in the bank, and at least one is held out where there are several.
    """
    random = np.random.default_rng(seed)
    domains, group = np.array([clip.domain for clip in clips]), np.array(groups)
    out = np.zeros(len(clips), dtype=np.bool_)
    for domain in sorted(set(domains.tolist())):
        members = list(dict.fromkeys(group[domains == domain].tolist()))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen = [members[index] for index in random.permutation(len(members))[:count]]
        out |= (domains == domain) & np.isin(group, chosen)
    return out
