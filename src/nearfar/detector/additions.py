"""Recordings that are added to a fitted machine: which they are, and the machine with them.

Only their features are computed. The machine is then fitted as :mod:`nearfar.detector.machine` fits it on all,
with the features that are there already: scores do not depend on the order in which recordings were added, where
their groups are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data import Clip, Dataset, read_normals
from nearfar.data.clips import PARSERS, normal_clip
from nearfar.data.copies import Copy, find_copies, joined_groups, without_copies
from nearfar.data.folders import visible
from nearfar.data.grouping import GROUPINGS, Groups, added_groups
from nearfar.data.walk import recordings_in
from nearfar.detector.holdout import hold_out
from nearfar.detector.machine import FittedMachine, fit_machine, most_anomalous, scored_features
from nearfar.detector.routing import choose_machine
from nearfar.errors import InputError
from nearfar.explain.localisation import fit_patches, with_clips
from nearfar.files import as_path, as_text
from nearfar.pipeline.extraction import Extracted
from nearfar.pipeline.windows import Recording, read_samples
from nearfar.thresholds import Calibration, Threshold, threshold_of, usable_threshold, usable_thresholds

Recordings = Dataset | Path | str | Sequence[Clip | Path | str]


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """A machine with recordings that were added, and its new scores of normal recordings.

    Attributes:
        fitted, calibration: of all recordings.
        clips: those that were added.
        skipped: names of the others, each with the name of the recording whose sound it holds.
    """

    fitted: FittedMachine
    calibration: Calibration
    clips: tuple[Clip, ...]
    skipped: tuple[tuple[str, str], ...]


def given_clips(
    recordings: Recordings, machines: Sequence[FittedMachine], machine: str | None, domain: str | None = None
) -> dict[int, list[Clip]]:
    """Recordings to add, by the number of their machine in a detector.

    Args:
        recordings: files, clips, a plain folder, a folder with normal recordings of one or several machines, or a
            dataset. Of a test clip of the challenge, the name gives domain and attributes.
        machines: of the detector.
        machine: of all recordings; by default as for :meth:`nearfar.Detector.score`.
        domain: of all recordings; by default what names or folders say, else source.

    Raises:
        InputError: if there are none, a domain is unknown, or it is unclear of which machine one is.
    """
    if domain not in (None, "source", "target"):
        raise InputError("domain", found=repr(domain), expected="'source' or 'target'", remedy="Correct it")
    return _by_machine(_listed(recordings), machines, machine, domain)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The resolved paths of files, and of the recordings in and below folders."""
    return [file.resolve() for file in recordings_in(paths)]


def given_faults(
    recordings: Recordings, machines: Sequence[FittedMachine], machine: str | None
) -> dict[int, list[Clip]]:
    """Recordings of a fault, by the number of their machine; as :func:`given_clips`, whatever names say."""
    if isinstance(recordings, Dataset):
        clips = list(recordings.clips)
    else:
        listed = [recordings] if isinstance(recordings, Path | str) else recordings
        clips = [
            clip
            for entry in listed
            for clip in (
                [entry]
                if isinstance(entry, Clip)
                else [normal_clip(file, "") for file in recordings_in([Path(entry)])]
            )
        ]
    return _by_machine(clips, machines, machine, None)


def _by_machine(
    clips: Iterable[Clip], machines: Sequence[FittedMachine], machine: str | None, domain: str | None
) -> dict[int, list[Clip]]:
    known = {name for entry in machines for name in (entry.machine, f"{entry.machine}/{entry.section}")}
    found: dict[int, list[Clip]] = {}
    for clip in clips:
        named = machine or (clip.machine if clip.machine in known else None)
        number = choose_machine(machines, Recording.of_clip(clip), named)
        chosen = clip.domain if domain is None else "target" if domain == "target" else "source"
        own = replace(clip, machine=machines[number].machine, section=machines[number].section, domain=chosen)
        found.setdefault(number, []).append(own)
    if not found:
        raise InputError("recordings", found="none", expected="one recording or more", remedy="Name them")
    return found


def _listed(recordings: Recordings) -> list[Clip]:
    """The clips of normal recordings of any kind, each file once."""
    if isinstance(recordings, Dataset):
        return [clip for clip in recordings.clips if clip.split == "train"]
    listed = [recordings] if isinstance(recordings, Path | str) else recordings
    clips: dict[Path, Clip] = {}
    for entry in listed:
        found = [entry] if isinstance(entry, Clip) else _clips_at(Path(entry))
        clips |= {clip.path.resolve(): clip for clip in found if clip.path.resolve() not in clips}
    return list(clips.values())


def _clips_at(path: Path) -> list[Clip]:
    """The clips of a file or folder."""
    if not path.is_dir():
        return [_clip(path)]
    inside = [each for each in visible(path) if each.is_dir()]
    if inside and not any(each.is_file() for each in recordings_in([path]) if each.parent == path):
        try:
            return list(read_normals(path).clips)
        except InputError:
            pass  # folders of another meaning, such as one for each day
    return [_clip(file) for file in recordings_in([path])]


def _clip(path: Path) -> Clip:
    """A normal recording, with domain, index and attributes from a name of the challenge.

    Raises:
        InputError: if the name says that it is anomalous.
    """
    if "anomal" in path.stem.casefold():
        raise InputError(
            path,
            found='a name with "anomal"',
            expected="recordings of normal operation",
            remedy="Leave it out, or add it as a known fault",
        )
    for parse in PARSERS.values():
        for split in ("train", "test"):
            try:
                clip = parse(path, "", "train" if split == "train" else "test")
            except InputError:
                continue
            return replace(clip, split="train", label="normal", domain=clip.domain or "source")
    return normal_clip(path, "")


def named_apart(clips: Iterable[Clip], taken: Iterable[str]) -> list[Clip]:
    """The clips with names that are not taken: with their folder, or a number, where they would be."""
    names = set(taken)
    out = []
    for clip in clips:
        name, number = clip.name, 1
        if name in names:
            name = f"{clip.path.resolve().parent.name}/{clip.name}"
        while name in names:
            number += 1
            name = f"{clip.path.resolve().parent.name}/{clip.name} ({number})"
        names.add(name)
        out.append(replace(clip, listed_as=name))
    return out


def require_open(fitted: FittedMachine, recipe: Recipe) -> None:
    """Raise an InputError if no normal recordings can join a machine."""
    if recipe.backend.trains:
        raise InputError(
            fitted.machine,
            found=f"a model of its own, trained by the back-end {recipe.scoring.backend!r}",
            expected="a back-end that compares with a bank of recordings, such as that of nearfar-best",
            remedy="Copy the recordings to the others and fit the detector again",
        )
    if fitted.signals is None:
        raise InputError(
            fitted.machine,
            found="a detector that keeps no signals of its normal recordings, as earlier versions wrote",
            expected="what fit writes today",
            remedy="Copy the recordings to the others and fit the detector again",
        )


def with_clips_added(
    fitted: FittedMachine, calibration: Calibration, clips: Sequence[Clip], extracted: Extracted, recipe: Recipe
) -> Added:
    """A machine with more normal recordings, and scores of all normal recordings by banks without them.

    Args:
        fitted, calibration: the machine as it is.
        clips: the recordings, with names of their own.
        extracted: their windows, with landmarks.
        recipe: resolved.

    Raises:
        InputError: as :func:`require_open`; or if all of them repeat recordings that are there.
    """
    require_open(fitted, recipe)
    before, held = _present(fitted, calibration)
    keep, shared, repeats = _distinct(before, fitted, clips, extracted, recipe)
    added, own = [clips[index] for index in keep], extracted.of(keep)
    known = _known_groups(before, calibration)
    features = scored_features(own, recipe)
    first = np.unique(own.recording, return_index=True)[1]  # the first window of each recording
    values = next(iter(features.values())).flatten(1).double().numpy()[first]
    new = added_groups(added, set(known), calibration.grouped_by, recipe.calibration.group_by, values)
    labels = joined_groups((*known, *new), shared)
    machine, scores = fit_machine(
        (fitted.machine, fitted.section),
        [*before, *added],
        np.concatenate([held, _held_added(added, labels, held, recipe)]),
        Groups(labels, calibration.grouped_by or GROUPINGS["recording"].description, calibration.remark),
        _joined(fitted, own),
        {view: torch.cat([*_present_features(fitted, view), features[view]]) for view in fitted.features},
        recipe,
        fitted.workspace,
        (*fitted.repeats, *repeats),
    )
    log_mels = [own.log_mels[window] for window in sorted(own.log_mels)]
    patches = fitted.patches
    if log_mels:
        patches = fit_patches(log_mels) if patches is None else with_clips(patches, log_mels)
    return Added(replace(machine, patches=patches, faults=fitted.faults), scores, tuple(added), repeats)


def recalibrated(
    thresholds: Sequence[Threshold], earlier: Calibration, calibration: Calibration, recipe: Recipe
) -> tuple[Threshold, ...]:
    """The thresholds of one machine from its new scores, by the same rules and rates as before.

    Those that the recipe gave are found again as the recipe asks, also where there were too few scores before. A
    number that a person gave stays.

    Args:
        thresholds: of the machine, found from the ``earlier`` scores.
        earlier, calibration: its scores before and after.
        recipe: resolved.
    """
    table = recipe.threshold
    assert table.rule is not None, "a recipe is resolved before it is used"
    assert table.false_alarm_rate is not None
    asked = usable_thresholds([earlier], table.rule, table.false_alarm_rate, table.domains)
    if [_decides(entry) for entry in thresholds] == [_decides(entry) for entry in asked]:
        return usable_thresholds([calibration], table.rule, table.false_alarm_rate, table.domains)
    return tuple(
        entry
        if entry.false_alarm_rate is None
        else usable_threshold(calibration, entry.rule, entry.false_alarm_rate, entry.domain)
        for entry in thresholds
    )


def alarms(
    clips: Sequence[Clip], scores: Iterable[float | None], thresholds: Iterable[Threshold], fitted: FittedMachine
) -> int:
    """How many recordings score above the threshold of their domain; those without a score are not counted."""
    listed, count = list(thresholds), 0
    for clip, score in zip(clips, scores, strict=True):
        found = threshold_of(listed, fitted.machine, fitted.section, clip.domain or "source")
        count += score is not None and found is not None and found.value is not None and score > found.value
    return count


def highest_scores(fitted: FittedMachine, extracted: Extracted, recipe: Recipe) -> list[float]:
    """The score of each recording, that of its most anomalous window."""
    scores = fitted.score(scored_features(extracted, recipe)).fused
    highest: list[float] = scores[most_anomalous(extracted.recording, scores)].tolist()
    return highest


def require_new(fitted: FittedMachine, clips: Sequence[Clip], extracted: Extracted, recipe: Recipe) -> None:
    """Raise an InputError if a recording of a fault holds the sound of a normal one."""
    if fitted.signals is None:
        return
    normals = tuple(map(_clip_of_file, fitted.files, fitted.recordings))
    marks = [*fitted.signals.landmarks, *(extracted.landmarks[index] for index in range(len(clips)))]
    copies = find_copies(marks, _reader([*normals, *clips], len(normals), recipe), since=len(normals))
    for copy in copies:
        if copy.first < len(normals):
            raise InputError(
                clips[copy.second - len(normals)].path,
                found=f"the sound of the normal recording {normals[copy.first].name}",
                expected="a recording of the fault",
                remedy="Leave it out; if it is not normal, undo its change or fit the detector again",
            )


def _decides(threshold: Threshold) -> tuple[object, ...]:
    return threshold.domain, threshold.rule, threshold.false_alarm_rate, threshold.value


def _clip_of_file(file: str, name: str) -> Clip:
    return replace(normal_clip(as_path(file), ""), listed_as=name)


def _present(fitted: FittedMachine, calibration: Calibration) -> tuple[list[Clip], NDArray[np.bool_]]:
    """The recordings that a machine has, those of the bank first, and which of them are held out."""
    inside = [
        replace(_clip_of_file(file, name), domain="target" if of_target else "source")
        for file, name, of_target in zip(fitted.files, fitted.recordings, fitted.target.tolist(), strict=True)
    ]
    outside = []
    if fitted.held is not None:
        outside = [
            replace(_clip_of_file(file, entry.file), domain=entry.domain)
            for file, entry in zip(fitted.held.files, calibration.recordings, strict=True)
        ]
    clips = [replace(clip, machine=fitted.machine, section=fitted.section) for clip in (*inside, *outside)]
    return clips, np.arange(len(clips)) >= len(inside)


def _present_features(fitted: FittedMachine, view: str) -> list[torch.Tensor]:
    return [fitted.features[view], *([] if fitted.held is None else [fitted.held.features[view]])]


def _joined(fitted: FittedMachine, own: Extracted) -> Extracted:
    """The windows of all recordings, without features and spectrograms."""
    assert fitted.signals is not None
    signals, numbers, begins = [fitted.signals], [fitted.recording], [fitted.begins_s]
    if fitted.held is not None:
        signals.append(fitted.held.signals)
        numbers.append(fitted.held.recording + len(fitted.recordings))
        begins.append(np.zeros(len(fitted.held.recording)))  # nobody asks where recordings held out begin
    facts = [entry for part in signals for entry in part.facts]
    marks = [entry for part in signals for entry in part.landmarks]
    numbers.append(own.recording + len(facts))
    begins.append(own.begins_s)
    facts += [own.facts[index] for index in range(len(own.facts))]
    marks += [own.landmarks[index] for index in range(len(own.landmarks))]
    starts = np.concatenate(begins)
    return Extracted(
        {}, np.concatenate(numbers), starts, starts, {}, dict(enumerate(facts)), dict(enumerate(marks))
    )


def _reader(clips: Sequence[Clip], present: int, recipe: Recipe) -> Callable[[int], NDArray[np.float32] | None]:
    """A function that reads a recording; None where the file of one of the first ``present`` is gone."""

    def read(index: int) -> NDArray[np.float32] | None:
        try:
            return read_samples(Recording.of_clip(clips[index]), recipe)
        except InputError:
            if index < present:
                return None
            raise

    return read


def _distinct(
    before: Sequence[Clip], fitted: FittedMachine, clips: Sequence[Clip], extracted: Extracted, recipe: Recipe
) -> tuple[list[int], list[Copy], tuple[tuple[str, str], ...]]:
    """The recordings that repeat none that is there, nor another one of them.

    Returns:
        their indices; the pairs of all recordings that share some sound, with indices among those there before and
        these; and the names of the others, each with the name of the recording that it repeats.
    """
    assert fitted.signals is not None
    held = () if fitted.held is None else fitted.held.signals.landmarks
    new = [extracted.landmarks[index] for index in range(len(clips))]
    every, count = [*before, *clips], len(before)
    copies = find_copies([*fitted.signals.landmarks, *held, *new], _reader(every, count, recipe), since=count)
    repeats = without_copies(copies)
    keep = [index for index in range(len(clips)) if count + index not in repeats]
    if not keep:
        second, first = next(iter(repeats.items()))
        raise InputError(
            every[second].path,
            found=f"the sound of {every[first].name}, which is there already",
            expected="at least one recording that is not",
            remedy="Give other recordings; nothing was changed",
        )
    number = {index: index for index in range(count)} | {count + old: count + new for new, old in enumerate(keep)}
    shared = [
        replace(copy, first=number[copy.first], second=number[copy.second])
        for copy in copies
        if copy.first in number and copy.second in number
    ]
    return keep, shared, tuple((every[second].name, every[first].name) for second, first in repeats.items())


def _known_groups(clips: Sequence[Clip], calibration: Calibration) -> list[str]:
    """The groups of the recordings that are there: those of their scores, and else each is one of its own."""
    of_name = {entry.file: entry.group for entry in calibration.recordings}
    return [of_name.get(clip.name) or as_text(clip.path) for clip in clips]


def _held_added(
    clips: Sequence[Clip], labels: Sequence[str], held: NDArray[np.bool_], recipe: Recipe
) -> NDArray[np.bool_]:
    """Which recordings that are added are held out: with their group where it is there, else by lot."""
    if not held.any():
        return np.zeros(len(clips), dtype=np.bool_)
    sides = dict(zip(labels[: len(held)], held.tolist(), strict=True))
    own = labels[len(held) :]
    chosen = hold_out(clips, own, recipe.calibration.held_out, recipe.seed)
    return np.array([sides.get(label, out) for label, out in zip(own, chosen.tolist(), strict=True)], np.bool_)
