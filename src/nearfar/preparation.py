"""Data and recipe fitted to each other, and found wanting before anything long begins."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from nearfar.config import FAR_CHANNEL, NEAR_CHANNEL, Recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, check_lengths, read_dataset, require_training_clips
from nearfar.data.prefetch import prefetched
from nearfar.errors import InputError
from nearfar.features.representation import channels_heard, waveform_views
from nearfar.frontends.kaldi import FRAME_SAMPLES, SAMPLE_RATE_HZ
from nearfar.progress import Progress, silent
from nearfar.views import channels_of

logger = logging.getLogger(__name__)


def prepare(data: Path, recipe: Recipe) -> tuple[Dataset, Recipe]:
    """Read a data folder and fit the recipe to it, finding what is wrong before anything long begins.

    Returns:
        the data, and the recipe with ``audio.clip_seconds`` as a number, with ``training.channels`` near alone
        where all recordings are mono and only the near channel is scored, and with a warm-up that ends before
        training does.

    Raises:
        InputError: if the data or the recipe cannot be used; see :func:`nearfar.data.layouts.read_dataset`. Clips
            of unequal length within a machine, with a missing channel or longer than the recipe's clip length are
            found here, from their headers.
    """
    dataset = read_dataset(data)
    tested = [machine for machine in dataset.machines if dataset.test(machine)]
    require_training_clips(dataset, tested)
    recipe = fit_recipe(recipe, dataset)
    lengths = check_lengths(dataset)
    for machine, seconds in lengths.items():
        if seconds * SAMPLE_RATE_HZ < FRAME_SAMPLES:
            raise InputError(
                dataset.root / machine,
                found=f"clips of {seconds:g} s",
                expected=f"at least one frame of {FRAME_SAMPLES / SAMPLE_RATE_HZ:g} s",
                remedy="Give longer recordings",
            )
    return dataset, _with_clip_length(recipe, dataset, lengths)


def check_recordings(recipe: Recipe, dataset: Dataset, progress: Progress = silent) -> None:
    """Read every clip as training and scoring will, so that a broken one is found before hours of training.

    About a millisecond of processor time per 10 s clip.

    Raises:
        InputError: naming the first clip with NaN, infinite or broken-off samples or a silent channel, of the
            channels that the recipe hears.
    """
    heard = {"train": channels_heard(recipe), "test": channels_of(waveform_views(recipe))}
    near, far = recipe.audio.near_channel, recipe.audio.far_channel

    def check(clip: Clip) -> None:
        read_waveform(clip.path, heard[clip.split], near=near, far=far)

    tested = {clip.machine for clip in dataset.clips if clip.split == "test"}
    shared = recipe.method != "autoencoder"  # one model of all machines, or one for each that is tested
    clips = [clip for clip in dataset.clips if shared or clip.machine in tested]
    for done, _ in enumerate(prefetched(check, clips, threads=2, ahead=8), start=1):
        progress("checking clips", done, len(clips))


def _with_warmup(recipe: Recipe) -> Recipe:
    """The recipe, with a tenth of its steps as warm-up where the warm-up would outlast training."""
    training = recipe.training
    if recipe.method == "autoencoder" or training.adaptation == "none":
        return recipe
    if training.warmup_steps <= training.steps:
        return recipe
    shorter = training.steps // 10
    _say_shorter_warmup(training.warmup_steps, training.steps, shorter)
    return recipe.with_changes(**{"training.warmup_steps": shorter})


@cache
def _say_shorter_warmup(warmup: int, steps: int, shorter: int) -> None:
    """Cached, so that it is said once and not for every system."""
    logger.warning(
        "training.warmup_steps is %d of %d steps, so the learning rate would never reach its maximum; "
        "%d are taken, a tenth of the steps, as published",
        warmup,
        steps,
        shorter,
    )


def fit_recipe(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe, trained on the near channel alone where there is no other, and not warmed up for too long.

    Raises:
        InputError: if the recipe scores channels that it does not train on, or a file lacks one that it hears.
    """
    recipe = _with_warmup(recipe)
    untrained = set() if recipe.training.adaptation == "none" else set(waveform_views(recipe)) - {"cancelled"}
    if missing := untrained - set(recipe.training.channels):
        raise InputError(
            "scoring.channels",
            found=f"{', '.join(sorted(missing))}, on which the model is not trained",
            expected=f"channels among training.channels ({', '.join(recipe.training.channels)})",
            remedy="Correct the recipe",
        )
    headers = dataset.require_headers()
    counts = [headers[clip.path].channels for clip in dataset.clips]
    if set(counts) == {1} and recipe.scoring.channels == ("near",) and "far" in recipe.training.channels:
        _say_near_only(dataset.root)
        recipe = recipe.with_changes(**{"training.channels": ["near"]})
    heard = channels_heard(recipe)
    near, far = recipe.audio.near_channel, recipe.audio.far_channel
    if len(heard) == 2 and near == far:
        raise InputError(
            "audio.far_channel",
            found=f"channel {far}, which is the near microphone as well",
            expected="two channels of a file",
            remedy="Correct --near and --far, or set training.channels and scoring.channels to ['near']",
        )
    needed = 1 + max(near if channel == "near" else far for channel in heard)
    for clip, count in zip(dataset.clips, counts, strict=True):
        if count < needed:
            raise _too_few_channels(clip, count, needed, recipe)
    return recipe


@cache
def _say_near_only(root: Path) -> None:
    """Cached, so that it is said once and not for every system."""
    logger.warning("%s: all recordings are mono: models that score the near channel are trained on it alone", root)


def _too_few_channels(clip: Clip, count: int, needed: int, recipe: Recipe) -> InputError:
    near, far = recipe.audio.near_channel, recipe.audio.far_channel
    if (near, far) == (NEAR_CHANNEL, FAR_CHANNEL):
        expected = "two: near microphone first, far microphone second"
        remedy = "Give two-channel recordings, or take a system that hears near alone, such as tiny-near or ae-mse"
        if recipe.augmentation.far_noise_probability > 0:
            remedy += "; or set augmentation.far_noise_probability to 0"
    else:
        expected = f"at least {needed}: channel {near} (from 0) is the near microphone, channel {far} the far one"
        remedy = "Correct --near and --far (audio.near_channel, audio.far_channel)"
    found = "one channel" if count == 1 else f"{count} channels"
    return InputError(clip.path, found=found, expected=expected, remedy=remedy)


def _with_clip_length(recipe: Recipe, dataset: Dataset, lengths: dict[str, float]) -> Recipe:
    longest = max(lengths.values())
    if recipe.audio.clip_seconds == "longest":
        return recipe.with_changes(**{"audio.clip_seconds": longest})
    if longest > recipe.audio.clip_seconds:
        machine = max(lengths, key=lambda name: lengths[name])
        clip = (*dataset.train(machine), *dataset.test(machine))[0]
        raise InputError(
            clip.path,
            found=f"a clip of {longest:g} s",
            expected=f"at most the recipe's {recipe.audio.clip_seconds:g} s",
            remedy=f'Set audio.clip_seconds to {longest:g} or more or to "longest", or cut the clips',
        )
    return recipe
