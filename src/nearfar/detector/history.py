"""The record of changes of a detector, and what undoing them needs.

``changes.json`` has every change with its date, files and effect, also those that were undone. ``before.json`` has
what the last changes replaced: scores, thresholds and numbers of recordings. Features are only ever appended to,
so that the rest of the earlier state is the first recordings of the banks, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter

from nearfar.data.quality import Profile
from nearfar.detector.counts import MachineCounts
from nearfar.detector.machine import FittedMachine
from nearfar.explain.localisation import truncated
from nearfar.files import write_json
from nearfar.settings import Settings
from nearfar.thresholds import Calibration, Threshold

CHANGES, BEFORE = "changes.json", "before.json"
MOST_UNDONE = 20
"""So many of the last changes can be undone."""


class ChangedFile(Settings):
    """A recording that was added: its path, and the hexadecimal SHA-256 of its content."""

    file: str
    sha256: str


class Change(Settings):
    """A change of one machine and section of a detector.

    Attributes:
        kind: ``normal`` recordings that joined the bank, or recordings of a known ``fault``.
        machine, section: what was changed.
        date: when, in UTC, as 2026-05-03T08:30:00+00:00.
        files: the recordings that were added.
        skipped: names of recordings that were not added as they hold the sound of the one named second.
        fault, fault_date: name of the fault, and its date as 2026-05-03.
        note: of the person who made the change.
        thresholds_before, thresholds_after: of the machine.
        alarms_before, alarms_after: how many of the added recordings score above the threshold, before by the
            detector without them; after, normal recordings are scored by banks without them.
        tested_before, tested_after: counts on labelled recordings, where some were given.
        undone: when it was undone, in UTC; None if it has effect.
    """

    kind: Literal["normal", "fault"]
    machine: str
    section: str
    date: str
    files: tuple[ChangedFile, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    fault: str | None = None
    fault_date: str | None = None
    note: str | None = None
    thresholds_before: tuple[Threshold, ...]
    thresholds_after: tuple[Threshold, ...]
    alarms_before: int
    alarms_after: int
    tested_before: MachineCounts | None = None
    tested_after: MachineCounts | None = None
    undone: str | None = None


class Before(Settings):
    """The values that a change replaced, and the lengths of the lists that it appended to."""

    machine: str
    section: str
    recordings: int
    held: int
    faults: int
    repeats: int
    patches: tuple[int, int] | None
    """Patches per band, and clips that they are of."""
    normal_scores: dict[str, tuple[float, ...]]
    profile: Profile | None
    calibration: Calibration
    thresholds: tuple[Threshold, ...]


def before(fitted: FittedMachine, calibration: Calibration, thresholds: tuple[Threshold, ...]) -> Before:
    """The values to restore one machine from; ``thresholds`` are those of the machine."""
    patches = fitted.patches
    return Before(
        machine=fitted.machine,
        section=fitted.section,
        recordings=len(fitted.recordings),
        held=0 if fitted.held is None else len(fitted.held.files),
        faults=0 if fitted.faults is None else len(fitted.faults.recordings),
        repeats=len(fitted.repeats),
        patches=None if patches is None else (patches.patches.shape[1], len(patches.peaks)),
        normal_scores={view: tuple(values.tolist()) for view, values in fitted.normal_scores.items()},
        profile=fitted.profile,
        calibration=calibration,
        thresholds=thresholds,
    )


def restored(fitted: FittedMachine, earlier: Before) -> FittedMachine:
    """The machine as it was before a change, and all later ones."""
    count = earlier.recordings
    windows = int((fitted.recording < count).sum())
    patches = None
    if fitted.patches is not None and earlier.patches is not None:
        patches = truncated(fitted.patches, *earlier.patches)
    return replace(
        fitted,
        recordings=fitted.recordings[:count],
        files=fitted.files[:count],
        target=fitted.target[:count].copy(),
        features={view: values[:windows].clone() for view, values in fitted.features.items()},
        recording=fitted.recording[:windows].copy(),
        begins_s=fitted.begins_s[:windows].copy(),
        normal_scores={view: np.array(values, np.float64) for view, values in earlier.normal_scores.items()},
        patches=patches,
        profile=earlier.profile,
        repeats=fitted.repeats[: earlier.repeats],
        signals=None if fitted.signals is None else fitted.signals.first(count),
        held=fitted.held.first(earlier.held) if fitted.held is not None and earlier.held else None,
        faults=None if fitted.faults is None else fitted.faults.first(earlier.faults),
    )


def write_history(folder: Path, changes: tuple[Change, ...], earlier: tuple[Before, ...]) -> None:
    """Write both files; nothing for a detector that was never changed."""
    if changes:
        write_json(folder / CHANGES, [entry.model_dump(mode="json") for entry in changes])
        write_json(folder / BEFORE, [entry.model_dump(mode="json") for entry in earlier])


CHANGE_LIST, BEFORE_LIST = TypeAdapter(tuple[Change, ...]), TypeAdapter(tuple[Before, ...])
