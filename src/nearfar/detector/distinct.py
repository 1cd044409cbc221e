"""Which normal recordings repeat others; these are left out of everything, and named."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data.audio import AudioHeader
from nearfar.data.clips import Clip
from nearfar.data.copies import SAME_SHARE, Copy, Landmarks, find_copies, joined_groups, without_copies
from nearfar.data.layouts import Dataset
from nearfar.detector.machine import Unit
from nearfar.errors import InputError
from nearfar.pipeline.windows import Recording, read_landmarks, read_samples
from nearfar.threads import parallel_map
from nearfar.thresholds import FEWEST_GROUPS

logger = logging.getLogger(__name__)


class Distinct(NamedTuple):
    """The recordings of one machine that repeat no other one.

    Attributes:
        keep: their indices.
        shared: the pairs of them that share some sound, with indices among them.
        repeats: names of those that are left out, each with that of one whose sound it holds.
        remark: what limits the promise of a threshold, in words.
    """

    keep: list[int]
    shared: list[Copy]
    repeats: tuple[tuple[str, str], ...]
    remark: str | None = None


def distinct_recordings(clips: Sequence[Clip], marks: Sequence[Landmarks], recipe: Recipe) -> Distinct:
    """The recordings of one machine without those of which half or more is in another one.

    Where all are joined by shared sound to fewer than three groups, as overlapping cuts of one long recording are,
    no group could be left out: then every recording that shares any sound with another one is left out. Of two
    recordings the shorter one is left out, of equally long ones the second. Those left out are logged.

    Args:
        clips: its recordings.
        marks: the landmarks of each.
        recipe: says which channel is compared.

    Raises:
        InputError: if all repeat one.
    """

    def read(index: int) -> NDArray[np.float32]:
        return read_samples(Recording.of_clip(clips[index]), recipe)

    copies, samples = find_copies(marks, read), [mark.samples for mark in marks]
    repeats, remark = without_copies(copies, samples=samples), None
    separate = set(joined_groups([str(index) for index in range(len(clips))], copies))
    if len(separate) < FEWEST_GROUPS and any(copy.share < SAME_SHARE for copy in copies):
        repeats = without_copies(copies, least=0.0, samples=samples)
        remark = (
            f"recordings that overlap, as cuts of {_few(len(separate))} do: the false-alarm rate is promised for "
            "the same session; record on more days for one that holds on other days"
        )
    keep = [index for index in range(len(clips)) if index not in repeats]
    if len(keep) == 1 and repeats:
        raise InputError(
            clips[keep[0]].path.parent,
            found=f"{len(clips)} recordings that all hold the same sound",
            expected="different recordings of the machine in normal operation",
            remedy="Record again: copies of one recording say nothing about how much normal sound varies",
        )
    number = {index: new for new, index in enumerate(keep)}
    shared = [
        Copy(number[copy.first], number[copy.second], copy.lag, copy.share)
        for copy in copies
        if copy.first in number and copy.second in number
    ]
    names = tuple((clips[second].name, clips[first].name) for second, first in sorted(repeats.items()))
    for second, first in names:
        shares = "holds the same sound as" if remark is None else "shares sound with"
        logger.warning("%s: %s %s %s and is left out", clips[0].machine, second, shares, first)
    return Distinct(keep, shared, names, remark)


def _few(recordings: int) -> str:
    return "one long recording" if recordings == 1 else f"{recordings} long recordings"


def without_repeats(dataset: Dataset, recipe: Recipe) -> tuple[Dataset, Mapping[Unit, Distinct]]:
    """Leave copies out before a length of windows is chosen or something is trained.

    Elsewhere they are left out once the features are there, without reading the recordings a second time.

    Args:
        dataset: normal recordings.
        recipe: may be unresolved.

    Returns:
        the dataset without copies, and what was found of each machine and section, if that was necessary. Files
        that cannot be read are kept: others list them together with those that have other defects.
    """
    headers = dataset.headers()
    seconds = {path: header.seconds for path, header in headers.items() if isinstance(header, AudioHeader)}
    if len(seconds) < len(headers):
        return dataset, {}
    found: dict[Unit, Distinct] = {}
    left_out: set[Path] = set()
    for unit, (clips, _) in dataset.groups().items():
        has_one_length = len({seconds[clip.path] for clip in clips}) == 1
        if has_one_length and not (recipe.trains or recipe.backend.trains):
            continue
        marks = list(parallel_map(partial(_landmarks_or_none, recipe=recipe), clips))
        if any(mark is None for mark in marks):
            return dataset, {}
        with suppress(InputError):  # it is raised when this machine is fitted, after others are
            found[unit] = distinct_recordings(clips, [mark for mark in marks if mark is not None], recipe)
        if unit not in found:
            continue
        keep = set(found[unit].keep)
        left_out.update(clip.path for index, clip in enumerate(clips) if index not in keep)
    return dataset.with_clips(clip for clip in dataset.clips if clip.path not in left_out), found


def _landmarks_or_none(clip: Clip, recipe: Recipe) -> Landmarks | None:
    try:
        return read_landmarks(clip.path, recipe)
    except InputError:
        return None
