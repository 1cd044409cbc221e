"""Changes of a fitted detector: more normal recordings, known faults, their record, and how they are undone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch

from nearfar.data import Clip, Dataset
from nearfar.data.quality import problems
from nearfar.detector.additions import (
    Recordings,
    alarms,
    given_clips,
    given_faults,
    highest_scores,
    named_apart,
    recalibrated,
    require_new,
    require_open,
    with_clips_added,
)
from nearfar.detector.counts import Labelled, MachineCounts, counts_of, labelled_recordings
from nearfar.detector.faults import FaultRecording, checked_date, with_recordings
from nearfar.detector.history import MOST_UNDONE, Before, Change, ChangedFile, before, restored
from nearfar.detector.machine import FittedMachine, explained_recordings, most_anomalous, scored_features
from nearfar.detector.routing import machine_names
from nearfar.errors import InputError, raise_errors
from nearfar.files import as_text, file_sha256
from nearfar.pipeline.extraction import Extracted, default_device, extract
from nearfar.pipeline.windows import Recording
from nearfar.progress import Progress, silent
from nearfar.thresholds import Threshold, threshold_of

if TYPE_CHECKING:
    from nearfar.detector.detector import Detector, _Fitted

logger = logging.getLogger(__name__)

Labels = Dataset | Path | str
"""A folder with labelled test recordings, or a dataset."""


class Changeable:
    """The changes of a detector, each of which gives another detector and leaves this one as it is.

    >>> larger = detector.with_normals("monday", note="after the new belt")
    >>> larger.history[-1].thresholds_after
    >>> larger.undone().thresholds == detector.thresholds
    True
    """

    def __init__(self, fitted: _Fitted, device: torch.device | str | None = None) -> None:
        self._fitted = fitted
        self._device = default_device() if device is None else torch.device(device)

    @property
    def history(self) -> tuple[Change, ...]:
        """All changes since the detector was fitted, the last one last; also those that were undone."""
        return self._fitted.changes

    def with_normals(
        self,
        recordings: Recordings,
        machine: str | None = None,
        *,
        domain: str | None = None,
        note: str | None = None,
        labelled: Labels | None = None,
        progress: Progress = silent,
    ) -> Self:
        """The same detector with more normal recordings, and thresholds found again by the same rules and rates.

        Only features of the new recordings are computed; a trained encoder stays as it is. They are added to the
        bank and, where calibration holds recordings out, in the same share to those. Recordings that are there
        already, under any name, are skipped. There is one change of every machine that they are of.

        Args:
            recordings: files, clips, a folder or a dataset of normal recordings.
            machine: whose recordings they are; by default as for :meth:`nearfar.Detector.score`.
            domain: source or target; by default what names or folders say, else source.
            note: is recorded with the change.
            labelled: labelled test recordings, on which false alarms and detections are counted before and after;
                those that are added are left out.
            progress: called during long steps.

        Raises:
            InputError: if a recording cannot be used, all are there already, or the back-end trains a model.
        """
        machines = self._fitted.machines
        given = given_clips(recordings, machines, machine, domain)
        for number in given:
            require_open(machines[number], self._fitted.recipe)
        tested = self._labelled(labelled, [clip for clips in given.values() for clip in clips])
        changed = self
        for number, clips in given.items():
            changed = changed._with_clips(number, clips, note, tested.get(number), progress)
        return changed

    def with_fault(
        self,
        name: str,
        recordings: Recordings,
        machine: str | None = None,
        *,
        date: str | date | None = None,
        note: str | None = None,
        progress: Progress = silent,
    ) -> Self:
        """The same detector with recordings of a known fault, which anomalous recordings are compared with.

        Scores and thresholds stay as they are; see :attr:`nearfar.Score.like`.

        Args:
            name: of the fault, such as ``bearing fault``.
            recordings: files, clips, a folder or a dataset with the fault.
            machine: whose recordings they are; by default as for :meth:`nearfar.Detector.score`.
            date: of the fault, as 2026-05-03; by default today.
            note: is recorded with the change.
            progress: called during long steps.

        Raises:
            InputError: if a recording cannot be used or is a normal one of the detector, or the date is none.
        """
        if not name.strip():
            raise InputError("name", found="no name", expected="that of the fault", remedy="Give one")
        day = checked_date(date, _now().date())
        changed = self
        for number, clips in given_faults(recordings, self._fitted.machines, machine).items():
            changed = changed._with_faults(number, clips, name.strip(), day, note, progress)
        return changed

    def undone(self) -> Self:
        """The detector as it was before the last change that has effect, bit for bit.

        The record of the change stays, with the time at which it was undone. Thresholds that were changed since
        are found again by their rules and rates from the earlier scores; numbers that a person gave stay.

        Raises:
            InputError: if there is no such change, or it is too long ago.
        """
        last = max((i for i, entry in enumerate(self.history) if entry.undone is None), default=None)
        if last is None or not self._fitted.before:
            raise InputError(
                "history",
                found="no change with effect" if last is None else f"a change that is more than {MOST_UNDONE} ago",
                expected=f"one of the last {MOST_UNDONE} changes",
                remedy="Nothing was changed; fit the detector again for an earlier state",
            )
        change, earlier = self.history[last], self._fitted.before[-1]
        number = self._number(earlier.machine, earlier.section)
        current = self._thresholds_of(number)
        thresholds = earlier.thresholds
        if current != change.thresholds_after:
            now = self._fitted.calibrations[number]
            thresholds = recalibrated(current, now, earlier.calibration, self._fitted.recipe)
        changes = list(self.history)
        changes[last] = change.model_copy(update={"undone": _timestamp()})
        return self._changed(
            number,
            restored(self._fitted.machines[number], earlier),
            earlier.calibration,
            thresholds,
            changes=tuple(changes),
            before=self._fitted.before[:-1],
        )

    def tested(
        self,
        labelled: Labels,
        machine: str | None = None,
        *,
        without: Sequence[Path] = (),
        progress: Progress = silent,
    ) -> tuple[MachineCounts, ...]:
        """False alarms and detections on labelled test recordings, by machine, with 95 % intervals.

        Args:
            labelled: a folder of any layout with labelled test recordings, or a dataset.
            machine: of all recordings; by default the folder that they lie in.
            without: files that are left out, and copies of them.
            progress: called during long steps.

        Raises:
            InputError: if there are none, or it is unclear of which machine one is.
        """
        chosen = labelled_recordings(self._fitted.machines, labelled, machine, without=without)
        return tuple(self._counted(entry, progress) for entry in chosen)

    def _counted(self, labelled: Labelled, progress: Progress) -> MachineCounts:
        name = machine_names(self._fitted.machines)[labelled.number]
        scores = cast("Detector", self).score_many(
            [clip.path for clip in labelled.clips], name, keep_errors=True, progress=progress
        )
        return counts_of(name, list(scores), labelled.kinds)

    def _labelled(self, labelled: Labels | None, added: Sequence[Clip]) -> dict[int, Labelled]:
        if labelled is None:
            return {}
        without = {clip.path.resolve() for clip in added}
        return {
            entry.number: entry for entry in labelled_recordings(self._fitted.machines, labelled, without=without)
        }

    def _with_clips(
        self, number: int, clips: Sequence[Clip], note: str | None, tested: Labelled | None, progress: Progress
    ) -> Self:
        fitted, calibration = self._fitted.machines[number], self._fitted.calibrations[number]
        recipe, thresholds = self._fitted.recipe, self._thresholds_of(number)
        held = [entry.file for entry in calibration.recordings]
        clips = named_apart(clips, {*fitted.recordings, *held})
        extracted = self._extracted(clips, progress)
        self._warn_of_quality(fitted, clips, extracted)
        added = with_clips_added(fitted, calibration, clips, extracted, recipe)
        for second, first in added.skipped:
            logger.warning("%s: %s holds the same sound as %s and is skipped", fitted.machine, second, first)
        new = recalibrated(thresholds, calibration, added.calibration, recipe)
        scores = dict(zip((clip.name for clip in clips), highest_scores(fitted, extracted, recipe), strict=True))
        after = {entry.file: entry.score for entry in added.calibration.recordings}
        names = [clip.name for clip in added.clips]
        earlier = before(fitted, calibration, thresholds)
        changed = self._changed(number, added.fitted, added.calibration, new)
        change = Change(
            kind="normal",
            machine=fitted.machine,
            section=fitted.section,
            date=_timestamp(),
            files=_files(added.clips),
            skipped=added.skipped,
            note=note,
            thresholds_before=thresholds,
            thresholds_after=new,
            alarms_before=alarms(added.clips, [scores[name] for name in names], thresholds, fitted),
            alarms_after=alarms(added.clips, [after.get(name) for name in names], new, fitted),
            tested_before=None if tested is None else self._counted(tested, progress),
            tested_after=None if tested is None else changed._counted(tested, progress),
        )
        return changed._recorded(change, earlier)

    def _with_faults(
        self, number: int, clips: Sequence[Clip], name: str, day: str, note: str | None, progress: Progress
    ) -> Self:
        fitted, recipe = self._fitted.machines[number], self._fitted.recipe
        thresholds = self._thresholds_of(number)
        extracted = self._extracted(clips, progress)
        require_new(fitted, clips, extracted, recipe)
        features = scored_features(extracted, recipe)
        scores = fitted.score(features).fused
        most = most_anomalous(extracted.recording, scores)
        found = [
            threshold_of(thresholds, fitted.machine, fitted.section, clip.domain or "source") for clip in clips
        ]
        limits = np.array([np.inf if t is None or t.value is None else t.value for t in found])
        # The other windows of a longer recording may be as normal.
        rows = np.union1d(most, np.flatnonzero(scores > limits[extracted.recording]))
        windows = {view: values[torch.from_numpy(rows)] for view, values in features.items()}
        recordings = [
            FaultRecording(fault=name, date=day, name=clip.name, file=as_text(clip.path.resolve()))
            for clip in clips
        ]
        bank = with_recordings(fitted.faults, recordings, windows, extracted.recording[rows])
        calibration = self._fitted.calibrations[number]
        detected = alarms(clips, scores[most].tolist(), thresholds, fitted)
        if detected < len(clips):
            message = (
                "%s: %d of %d recordings of %s are not above the threshold, so recordings like them give no alarm"
            )
            logger.warning(message, fitted.machine, len(clips) - detected, len(clips), name)
        change = Change(
            kind="fault",
            machine=fitted.machine,
            section=fitted.section,
            date=_timestamp(),
            files=_files(clips),
            fault=name,
            fault_date=day,
            note=note,
            thresholds_before=thresholds,
            thresholds_after=thresholds,
            alarms_before=detected,
            alarms_after=detected,
        )
        changed = self._changed(number, replace(fitted, faults=bank), calibration, thresholds)
        return changed._recorded(change, before(fitted, calibration, thresholds))

    def _extracted(self, clips: Sequence[Clip], progress: Progress) -> Extracted:
        """The windows of recordings; an InputError that lists all that cannot be used."""
        done = 0

        def advance(recordings: int) -> None:
            nonlocal done
            done += recordings
            progress("reading recordings", done, len(clips))

        extracted = extract(
            self._fitted.extractor,
            [Recording.of_clip(clip) for clip in clips],
            device=self._device,
            spectrograms_of=explained_recordings(len(clips)),
            with_landmarks=True,
            keep_errors=True,
            advance=advance,
        )
        raise_errors(list(extracted.errors.values()))
        return extracted

    def _warn_of_quality(self, fitted: FittedMachine, clips: Sequence[Clip], extracted: Extracted) -> None:
        """Log how recordings differ from the normal ones by the microphones or the recorder."""
        window_s = self._fitted.extractor.padded_samples / self._fitted.recipe.audio.sample_rate_hz
        for index, clip in enumerate(clips) if fitted.profile is not None else ():
            assert fitted.profile is not None
            for problem in problems(extracted.facts[index], fitted.profile, window_s):
                logger.warning("%s: %s: %s; it is normal from now on", clip.path, problem.check, problem.message)

    def _number(self, machine: str, section: str) -> int:
        units = [(entry.machine, entry.section) for entry in self._fitted.machines]
        return units.index((machine, section))

    def _thresholds_of(self, number: int) -> tuple[Threshold, ...]:
        fitted = self._fitted.machines[number]
        unit = (fitted.machine, fitted.section)
        return tuple(t for t in self._fitted.thresholds if (t.machine, t.section) == unit)

    def _changed(
        self, number: int, machine: FittedMachine, calibration: Any, thresholds: Sequence[Threshold], **more: Any
    ) -> Self:
        """The detector with one machine replaced by another."""
        fitted = self._fitted
        every = [self._thresholds_of(index) for index in range(len(fitted.machines))]
        every[number] = tuple(thresholds)
        return type(self)(
            replace(
                fitted,
                machines=(*fitted.machines[:number], machine, *fitted.machines[number + 1 :]),
                calibrations=(*fitted.calibrations[:number], calibration, *fitted.calibrations[number + 1 :]),
                thresholds=tuple(entry for of_machine in every for entry in of_machine),
                **more,
            ),
            self._device,
        )

    def _recorded(self, change: Change, earlier: Before) -> Self:
        fitted = self._fitted
        return type(self)(
            replace(
                fitted,
                changes=(*fitted.changes, change),
                before=(*fitted.before, earlier)[-MOST_UNDONE:],
            ),
            self._device,
        )


def _files(clips: Sequence[Clip]) -> tuple[ChangedFile, ...]:
    return tuple(ChangedFile(file=as_text(clip.path.resolve()), sha256=file_sha256(clip.path)) for clip in clips)


def _now() -> datetime:
    return datetime.now(UTC)


def _timestamp() -> str:
    return _now().isoformat(timespec="seconds")
