"""Normal recordings and a recipe fitted to each other, before a detector is made of them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Recipe, load_recipe
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset
from nearfar.errors import InputError
from nearfar.frontends.kaldi import FRAME_SAMPLES, SAMPLE_RATE_HZ
from nearfar.preparation import fit_recipe
from nearfar.thresholds.calibration import held_out

logger = logging.getLogger(__name__)

DEFAULT_RECIPE, MONO_RECIPE = "nearfar-best", "frozen-near"
"""What a detector is made by where no recipe is named; of mono recordings, the second."""

SHORTEST_SHARE = 0.5
"""Where recordings of a machine differ in length, they are heard in windows as long as the shortest, unless that
is less than this share of the longest."""

Groups = dict[tuple[str, str], list[Clip]]


def starting_recipe(name: str | None, dataset: Dataset) -> Recipe:
    """The recipe of that name or path, or where none is named the default for the recordings.

    Raises:
        InputError: if there is no such recipe, or a recording cannot be read.
    """
    if name is not None:
        return load_recipe(name)
    mono = all(header.channels == 1 for header in dataset.require_headers().values())
    if mono:
        logger.warning("all recordings are mono: the detector hears the near channel (%s)", MONO_RECIPE)
    return load_recipe(MONO_RECIPE if mono else DEFAULT_RECIPE)


def resolve(recipe: Recipe | str | None, dataset: Dataset) -> Recipe:
    """The recipe fitted to the recordings: clip length as a number, and channels that they have.

    Args:
        recipe: a recipe, the name or path of one, or None for the default.
        dataset: normal recordings.

    Raises:
        InputError: if the recipe makes no detectors, or the recordings are not what it needs.
    """
    headers = dataset.require_headers()
    if not isinstance(recipe, Recipe):
        recipe = starting_recipe(recipe, dataset)
    if recipe.method == "autoencoder":
        raise InputError(
            f"recipe {recipe.name}",
            found="a system of the challenge's autoencoders",
            expected="a recipe with a bank of normal recordings",
            remedy=f"Choose another, such as {DEFAULT_RECIPE}",
        )
    recipe = fit_recipe(recipe, dataset)
    return _with_clip_length(
        recipe, dataset, [headers[clip.path].frames_at(SAMPLE_RATE_HZ) for clip in dataset.clips]
    )


def _with_clip_length(recipe: Recipe, dataset: Dataset, samples: list[int]) -> Recipe:
    shortest, longest = min(samples), max(samples)
    short = dataset.clips[samples.index(shortest)].path
    if shortest < FRAME_SAMPLES:
        raise InputError(
            short,
            found=f"a recording of {shortest / SAMPLE_RATE_HZ:g} s",
            expected=f"at least one frame of {FRAME_SAMPLES / SAMPLE_RATE_HZ:g} s",
            remedy="Give longer recordings",
        )
    if recipe.audio.clip_seconds == "longest":
        alike = len({*zip((clip.machine for clip in dataset.clips), samples, strict=True)}) == len(
            dataset.machines
        )
        if not alike and shortest < SHORTEST_SHARE * longest:
            raise InputError(
                short,
                found=f"{shortest / SAMPLE_RATE_HZ:g} s beside a recording of {longest / SAMPLE_RATE_HZ:g} s",
                expected="recordings of about one length, or a length of the windows they are heard in",
                remedy="Give that length in seconds (--seconds, audio.clip_seconds), or take this one out",
            )
        whole = alike or recipe.training.adaptation != "none"
        recipe = recipe.with_changes(**{"audio.clip_seconds": (longest if whole else shortest) / SAMPLE_RATE_HZ})
    seconds = recipe.audio.clip_seconds
    assert not isinstance(seconds, str)
    if recipe.training.adaptation != "none" and longest > round(seconds * SAMPLE_RATE_HZ):
        raise InputError(
            dataset.clips[samples.index(longest)].path,
            found=f"a recording of {longest / SAMPLE_RATE_HZ:g} s",
            expected=f"at most the {seconds:g} s of a clip, as this recipe trains on whole recordings",
            remedy="Cut it, give more --seconds, or take a recipe that trains nothing, such as nearfar-best",
        )
    return recipe


def held_out_of(groups: Groups, recipe: Recipe) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Which recordings are held out of training and banks, by machine and section; none without ``split``."""
    if recipe.detection.calibration == "leave-one-out":
        return {unit: np.zeros(len(clips), dtype=np.bool_) for unit, clips in groups.items()}
    return {unit: held_out(clips, recipe.detection.held_out, recipe.seed) for unit, clips in groups.items()}
