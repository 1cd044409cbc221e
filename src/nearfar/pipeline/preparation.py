"""Validate a recipe against a dataset and resolve it before long steps; all defects are listed at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from nearfar.config import FAR_CHANNEL, NEAR_CHANNEL, Recipe, ThresholdTable
from nearfar.data.audio import AudioHeader, read_waveform
from nearfar.data.clips import CHANNELS, Clip
from nearfar.data.cutting import too_short
from nearfar.data.layouts import Dataset, machine_lengths, read_dataset, require_training_clips
from nearfar.data.walk import log_left_out
from nearfar.encoders import SPEEDUPS
from nearfar.errors import InputError, raise_errors
from nearfar.frontends.kaldi import FRAME_SAMPLES, SAMPLE_RATE_HZ
from nearfar.pipeline.extractor import require_head
from nearfar.progress import Progress, silent
from nearfar.scoring import FUSIONS
from nearfar.threads import parallel_map
from nearfar.views import channels_of

logger = logging.getLogger(__name__)

MOST_PADDING = 0.5
"""The share of padding in the input of an encoder that is worth a warning."""

SHORTEST_FRACTION = 0.5
"""Where a detector's recordings differ in length, windows are as long as the shortest, unless that is less than
this fraction of the longest."""


@dataclass(frozen=True)
class Purpose:
    """What a recipe is resolved for.

    Attributes:
        rule, false_alarm_rate: of thresholds where the recipe does not set them.
        near_only: recipes to recommend for recordings without a far channel.
        equal_lengths: whether all clips of a machine must have one length.
    """

    rule: str
    false_alarm_rate: float
    near_only: str
    equal_lengths: bool

    def completed(self, threshold: ThresholdTable) -> ThresholdTable:
        """Settings of thresholds with a rule and a rate."""
        defaults = {"rule": self.rule, "false_alarm_rate": self.false_alarm_rate}
        return ThresholdTable.model_validate(defaults | threshold.model_dump(exclude_none=True))


RUN = Purpose("gamma", 0.1, "tiny-near or ae-mse", equal_lengths=True)
DETECTOR = Purpose("conformal", 0.05, "frozen-near", equal_lengths=False)


def prepare_run(data: Path, recipe: Recipe) -> tuple[Dataset, Recipe]:
    """Read the folder of a challenge system and resolve its recipe.

    Returns:
        the dataset, and the recipe with ``audio.clip_seconds`` as a number, a rule and rate of thresholds,
        ``training.views`` near alone where all recordings are mono and only near is scored, and a warm-up that
        ends before training does.

    Raises:
        InputError: if the data or the recipe cannot be used; see :func:`nearfar.data.layouts.read_dataset`. All
            unusable files are listed together.
    """
    dataset = read_dataset(data)
    _log_left_out(dataset)
    return dataset, resolve_run(dataset, recipe)


def resolve_run(dataset: Dataset, recipe: Recipe) -> Recipe:
    """The recipe of a challenge system, resolved for a dataset; see :func:`prepare_run`."""
    require_training_clips(dataset, [machine for machine in dataset.machines if dataset.test(machine)])
    recipe, headers = resolve(recipe, dataset, RUN)
    lengths, _ = machine_lengths(dataset, headers)
    longest = max(lengths.values())
    _log_padding(recipe, [lengths[clip.machine] for clip in dataset.clips if clip.machine in lengths])
    if recipe.audio.clip_seconds == "longest":
        return recipe.with_changes(**{"audio.clip_seconds": longest})
    if longest > recipe.audio.clip_seconds:
        machine = max(lengths, key=lambda name: lengths[name])
        clip = next(clip for clip in dataset.clips if clip.machine == machine)
        raise InputError(
            clip.path,
            found=f"a clip of {longest:g} s",
            expected=f"at most the recipe's {recipe.audio.clip_seconds:g} s",
            remedy=f'Set audio.clip_seconds to {longest:g} or more or to "longest", or cut the clips',
        )
    return recipe


def prepare_detector(dataset: Dataset, recipe: Recipe) -> Recipe:
    """Resolve a recipe for a detector of normal recordings, which may differ in length.

    Raises:
        InputError: as :func:`prepare_run`; also if recordings are so unequal that the length of windows is
            unclear.
    """
    recipe, headers = resolve(recipe, dataset, DETECTOR)
    samples = [headers[clip.path].frames_at(SAMPLE_RATE_HZ) for clip in dataset.clips]
    shortest, longest = min(samples), max(samples)
    equal = len({*zip((clip.machine for clip in dataset.clips), samples, strict=True)}) == len(dataset.machines)
    whole = equal or recipe.trains or recipe.backend.trains
    if recipe.audio.clip_seconds == "longest":
        if not equal and shortest < SHORTEST_FRACTION * longest:
            raise InputError(
                dataset.clips[samples.index(shortest)].path,
                found=f"{shortest / SAMPLE_RATE_HZ:g} s beside a recording of {longest / SAMPLE_RATE_HZ:g} s",
                expected="recordings of about one length, or a length of windows",
                remedy="Set that length in seconds (audio.clip_seconds), or remove this recording",
            )
        recipe = recipe.with_changes(**{"audio.clip_seconds": (longest if whole else shortest) / SAMPLE_RATE_HZ})
    seconds = recipe.audio.clip_seconds
    assert not isinstance(seconds, str)
    _log_padding(recipe, [count / SAMPLE_RATE_HZ for count in samples])
    if recipe.trains and longest > round(seconds * SAMPLE_RATE_HZ):
        raise InputError(
            dataset.clips[samples.index(longest)].path,
            found=f"a recording of {longest / SAMPLE_RATE_HZ:g} s",
            expected=f"at most the {seconds:g} s of a window, as this recipe trains on whole recordings",
            remedy="Cut it, set a longer audio.clip_seconds, or use a recipe that does not train (nearfar-best)",
        )
    return recipe


def resolve(recipe: Recipe, dataset: Dataset, purpose: Purpose) -> tuple[Recipe, dict[Path, AudioHeader]]:
    """What runs and detectors share: defaults of thresholds, channels that the files have, and their headers.

    Raises:
        InputError: if the recipe's choices do not fit each other; listing all files that cannot be read, lack
            channels or are too short, and where the purpose asks for equal lengths, those of another length.
    """
    require_head(recipe)
    recipe = _with_warmup(recipe.with_changes(threshold=purpose.completed(recipe.threshold).model_dump()))
    _require_source(recipe)
    _require_trained_views(recipe)
    read = dataset.headers()
    headers = {path: header for path, header in read.items() if isinstance(header, AudioHeader)}
    mono = all(header.channels == 1 for header in headers.values())
    if mono and recipe.trains and recipe.scoring.views == ("near",) and recipe.training.views != ("near",):
        _log_near_only(dataset.root)
        recipe = recipe.with_changes(**{"training.views": ["near"]})
    if mono and FUSIONS[recipe.scoring.fusion].weigh is not None:
        recipe = _without_far(recipe, dataset.root)
    readable = dataset.with_clips(clip for clip in dataset.clips if clip.path in headers)
    defects = {
        ("cannot be read", "cannot be read"): [error for error in read.values() if isinstance(error, InputError)],
        ("has too few channels", "have too few channels"): _missing_channels(recipe, readable, headers, purpose),
        ("is too short", "are too short"): [
            too_short(clip.path, headers[clip.path].seconds)
            for clip in readable.clips
            if headers[clip.path].frames_at(SAMPLE_RATE_HZ) < FRAME_SAMPLES
        ],
        ("has another length", "have another length"): machine_lengths(readable, headers)[1]
        if purpose.equal_lengths
        else [],
    }
    single = [path for path, header in headers.items() if header.channels == 1]
    if single and len(single) == len(defects["has too few channels", "have too few channels"]):
        defects["is mono", "are mono"] = defects.pop(("has too few channels", "have too few channels"))
    if any(defects.values()):  # those that only reading finds are listed with them
        named = {str(error.where) for kind in defects.values() for error in kind}
        others = [clip for clip in readable.clips if str(clip.path) not in named]
        found = parallel_map(partial(_defect, recipe=recipe), others)
        defects["cannot be used", "cannot be used"] = [error for error in found if error is not None]
    _raise_defects(defects, len(read))
    return recipe, headers


def _raise_defects(defects: Mapping[tuple[str, str], Sequence[InputError]], recordings: int) -> None:
    """Raise the errors of all kinds, if any, after a line for each kind that concerns a minority of recordings.

    Args:
        defects: errors by their kind, in the words for one recording and for several.
        recordings: number of all recordings.
    """
    errors = [error for kind in defects.values() for error in kind]
    summary = []
    for (one, several), kind in defects.items():
        count = len({str(error.where) for error in kind})
        if 0 < 2 * count < recordings:
            words, them = (one, "it") if count == 1 else (several, "them")
            summary.append(f"{count} of {recordings} recordings {words}: take {them} out")
    if summary and len(errors) == 1:
        (error,) = errors
        remedy = f"{summary[0]}. {error.remedy}"
        raise InputError(error.where, found=error.found, expected=error.expected, remedy=remedy)
    raise_errors(errors, summary)


def check_recordings(recipe: Recipe, dataset: Dataset, progress: Progress = silent) -> None:
    """Read every clip as training and scoring will, so that broken ones are found before hours of training.

    About a millisecond of processor time per 10 s clip.

    Raises:
        InputError: listing the clips with NaN, infinite or missing samples or a silent channel, of the channels
            that the recipe uses.
    """
    tested = {clip.machine for clip in dataset.clips if clip.split == "test"}
    shared = not recipe.backend.per_machine  # one model of all machines, or one for each that is tested
    clips = [clip for clip in dataset.clips if shared or clip.machine in tested]
    errors = []
    for done, error in enumerate(parallel_map(partial(_defect, recipe=recipe), clips), start=1):
        if error is not None:
            errors.append(error)
        progress("checking clips", done, len(clips))
    _raise_defects({("cannot be used", "cannot be used"): errors}, len(clips))


def _defect(clip: Clip, recipe: Recipe) -> InputError | None:
    """Why a clip cannot be used: what is wrong with the samples of the channels that the recipe reads."""
    channels = recipe.channels if clip.split == "train" else channels_of(recipe.waveform_views)
    try:
        read_waveform(clip.path, channels, near=recipe.audio.near_channel, far=recipe.audio.far_channel)
    except InputError as error:
        return error
    return None


def _with_warmup(recipe: Recipe) -> Recipe:
    """The recipe, with a tenth of its steps as warm-up where the warm-up would be longer than training."""
    training = recipe.training
    if not recipe.trains or training.warmup_steps <= training.steps:
        return recipe
    shorter = training.steps // 10
    _log_shorter_warmup(training.warmup_steps, training.steps, shorter)
    return recipe.with_changes(**{"training.warmup_steps": shorter})


@cache
def _log_shorter_warmup(warmup: int, steps: int, shorter: int) -> None:
    """Cached: logged once and not for every system."""
    logger.warning(
        "training.warmup_steps is %d of %d steps, so the learning rate would never reach its maximum; "
        "%d are used, a tenth of the steps, as published",
        warmup,
        steps,
        shorter,
    )


def _log_left_out(dataset: Dataset) -> None:
    if os.environ.get("RANK", "0") == "0":  # only the first process of a distributed launch
        _log_once(dataset.root, dataset.warnings, dataset.hidden)


@cache
def _log_once(root: Path, warnings: tuple[str, ...], hidden: int) -> None:
    """Cached: logged once and not for every system."""
    log_left_out(warnings, hidden, root)


def _log_padding(recipe: Recipe, lengths: Sequence[float]) -> None:
    """Warn where an encoder would compute more padding than sound; ``lengths`` of the recordings in seconds."""
    seconds = recipe.audio.clip_seconds
    speedups = [SPEEDUPS[name] for name in recipe.inference.speedups]
    own_length = recipe.encoder.mask_padding or any(speedup.own_length for speedup in speedups)
    if isinstance(seconds, str) or not recipe.uses_encoder or own_length:
        return
    sound = sum(min(length, seconds) for length in lengths) / len(lengths)
    if sound < (1 - MOST_PADDING) * seconds:
        also = "" if recipe.trains else " or --fast"
        _log_padded_share(round(sound, 2), seconds, also)


@cache
def _log_padded_share(sound: float, seconds: float, also: str) -> None:
    """Cached: logged once and not for every system."""
    logger.warning(
        "recordings of about %g s are padded to %g s (audio.clip_seconds): the encoder takes about %.1f times as "
        "long as without padding. audio.clip_seconds = 'longest'%s avoids it, and changes scores",
        sound,
        seconds,
        seconds / sound,
        also,
    )


def _without_far(recipe: Recipe, root: Path) -> Recipe:
    """The recipe without the views that mono recordings lack, where others are left."""
    kept = [view for view in recipe.scoring.views if channels_of([view]) == ("near",)]
    if not kept or len(kept) == len(recipe.scoring.views):
        return recipe
    logger.warning("%s: all recordings are mono: the near channel alone is scored", root)
    return recipe.with_changes(**{"scoring.views": kept})


@cache
def _log_near_only(root: Path) -> None:
    """Cached: logged once and not for every system."""
    logger.warning("%s: all recordings are mono: models that score the near channel are trained on it alone", root)


def _require_source(recipe: Recipe) -> None:
    source = recipe.backend.source
    if source is not None and recipe.features.source != source:
        raise InputError(
            "features.source",
            found=f"{recipe.features.source!r} with scoring.backend = {recipe.scoring.backend!r}",
            expected=f"{source!r}, the only features that this back-end uses",
            remedy="Correct the recipe",
        )
    if source is not None and recipe.backend.per_machine and recipe.scoring.views != ("near",):
        raise InputError(
            "scoring.views",
            found=f"{list(recipe.scoring.views)} with scoring.backend = {recipe.scoring.backend!r}",
            expected='["near"], the only view of the baselines',
            remedy="Correct the recipe",
        )


def _require_trained_views(recipe: Recipe) -> None:
    """A model that is trained scores recorded channels only if it was trained on them."""
    if not recipe.trains:
        return
    scored = {view for view in recipe.waveform_views if view in CHANNELS}
    if missing := scored - set(recipe.training.views):
        raise InputError(
            "scoring.views",
            found=f"{', '.join(sorted(missing))}, on which the model is not trained",
            expected=f"views among training.views ({', '.join(recipe.training.views)})",
            remedy="Correct the recipe",
        )


def _missing_channels(
    recipe: Recipe, dataset: Dataset, headers: Mapping[Path, AudioHeader], purpose: Purpose
) -> list[InputError]:
    channels = recipe.channels
    near, far = recipe.audio.near_channel, recipe.audio.far_channel
    if len(channels) == 2 and near == far:
        raise InputError(
            "audio.far_channel",
            found=f"channel {far}, which is the near microphone as well",
            expected="two channels of a file",
            remedy="Correct audio.near_channel or audio.far_channel, or score and train on the view near alone",
        )
    needed = 1 + max(near if channel == "near" else far for channel in channels)
    return [
        _too_few_channels(clip, headers[clip.path].channels, needed, recipe, purpose)
        for clip in dataset.clips
        if headers[clip.path].channels < needed
    ]


def _too_few_channels(clip: Clip, count: int, needed: int, recipe: Recipe, purpose: Purpose) -> InputError:
    near, far = recipe.audio.near_channel, recipe.audio.far_channel
    if (near, far) == (NEAR_CHANNEL, FAR_CHANNEL):
        expected = "two: near microphone first, far microphone second"
        remedy = f"Use two-channel recordings, or a recipe that uses near alone, such as {purpose.near_only}"
        if recipe.trains and recipe.augmentation.far_noise_probability > 0:
            remedy += "; or set augmentation.far_noise_probability to 0"
    else:
        expected = f"at least {needed}: channel {near} (from 0) is the near microphone, channel {far} the far one"
        remedy = "Correct audio.near_channel and audio.far_channel"
    found = "one channel" if count == 1 else f"{count} channels"
    return InputError(clip.path, found=found, expected=expected, remedy=remedy)
