"""What an operator says about an alarm: its sound becomes a normal recording, or one of a known fault.

Nothing is changed before it is applied, and every change can be undone (see :mod:`nearfar.detector.changes`). A
running watch uses the changed detector from the next window on.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from nearfar.detector.detector import Detector
from nearfar.detector.history import Change
from nearfar.detector.saving import save_changed
from nearfar.errors import InputError
from nearfar.files import whole_file
from nearfar.watch.detectors import WatchedDetectors, WatchedMachine
from nearfar.watch.events import NoteAdded
from nearfar.watch.memory import Memory
from nearfar.watch.records import AudioPart

NORMAL = "normal"
"""What is kept of an alarm that an operator calls normal."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What feedback changes, or would change.

    Attributes:
        change: of the detector: its recordings, and thresholds before and after.
        windows: how many windows of the alarm are added; all that reach the threshold.
        alarms_before, alarms_after: how many of them reach the threshold, before, and after with each window left
            out of its own comparison.
    """

    change: Change
    windows: int
    alarms_before: int
    alarms_after: int


class Feedback:
    """Feedback on the alarms of one machine.

    >>> feedback = Feedback(memory, "pump 7", Path("pump7.detector"), Path("recordings"))
    >>> feedback.preview(alarm=12, fault=None)      # this is normal
    >>> feedback.apply(alarm=12, fault="worn belt", by="Ada")
    >>> feedback.undo(by="Ada")

    Args:
        memory: with the alarms.
        machine: its name in the configuration.
        detector: the folder of its detector.
        recordings: a folder in which the sound of feedback is kept.
        name: of the machine in the detector; None where it has one.
        clock: the time in seconds since 1970.
    """

    def __init__(
        self,
        memory: Memory,
        machine: str,
        detector: Path,
        recordings: Path,
        name: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._memory, self._machine, self._name = memory, machine, name
        self._folder, self._recordings = detector, recordings

    def preview(self, alarm: int, fault: str | None) -> Effect:
        """The effect of adding the sound of an alarm as normal (``fault`` None) or as a fault of that name.

        Raises:
            InputError: if no sound of the alarm is kept, or it cannot be added.
        """
        watched = self._watched()
        with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
            changed, count = self._changed(watched, alarm, fault, Path(folder), note=None)
            return _effect(changed, count)

    def apply(self, alarm: int, fault: str | None, *, by: str, note: str | None = None) -> Effect:
        """Add it: the detector's folder is replaced, once the new one is complete.

        Raises:
            InputError: as :meth:`preview`; if another program changes the detector meanwhile.
        """
        watched = self._watched()
        said = "this is normal" if fault is None else f"this is a fault: {fault}"
        text = ": ".join(filter(None, [by, said, note]))
        changed, count = self._changed(watched, alarm, fault, self._recordings, note=text)
        save_changed(watched.detector, changed, self._folder)
        with self._memory.writing() as writer:
            writer.set_feedback(alarm, NORMAL if fault is None else fault)
            writer.add_event(self._note(alarm, by, ": ".join(filter(None, [said, note]))))
        return _effect(changed, count)

    def undo(self, *, by: str) -> Change:
        """Undo the last change of the detector.

        Raises:
            InputError: if there is none.
        """
        before = self._watched().detector
        after = before.undone()
        save_changed(before, after, self._folder)
        change = next(
            now for was, now in zip(before.history, after.history, strict=True) if was.undone != now.undone
        )
        with self._memory.writing() as writer:
            writer.add_event(self._note(None, by, f"undone: {change.note or change.kind}"))
        return change

    def _note(self, alarm: int | None, by: str, text: str) -> NoteAdded:
        return NoteAdded(time_s=self._clock(), machine=self._machine, alarm=alarm, by=by, text=text)

    def _watched(self) -> WatchedMachine:
        return WatchedDetectors().machine(self._folder, self._name)

    def _changed(
        self, watched: WatchedMachine, alarm: int, fault: str | None, folder: Path, note: str | None
    ) -> tuple[Detector, int]:
        """The changed detector, and how many windows were added."""
        record = self._memory.alarm(alarm)
        parts = _anomalous(self._memory.audio(alarm))
        if record.machine != self._machine or not parts:
            raise InputError(
                f"alarm {alarm}",
                found="no sound that is kept of it"
                if record.machine == self._machine
                else f"one of {record.machine}",
                expected=f"an alarm of {self._machine} whose sound is kept",
                remedy="Record the sound again and add it with nearfar add",
            )
        files = [
            _write(part, folder / f"{self._machine}-alarm{alarm}-{part.window}.flac", watched) for part in parts
        ]
        detector = watched.detector
        if fault is None:
            return detector.with_normals(files, watched.name, note=note), len(files)
        return detector.with_fault(fault, files, watched.name, note=note), len(files)


def _anomalous(parts: Sequence[AudioPart]) -> list[AudioPart]:
    """The windows that reach the threshold, or else the most anomalous one."""
    compared = [part for part in parts if part.level is not None]
    found = [part for part in compared if part.level is not None and part.level >= 1]
    return found or sorted(compared, key=lambda part: -(part.level or 0.0))[:1]


def _write(part: AudioPart, path: Path, watched: WatchedMachine) -> Path:
    """Write a window with its channels where the detector expects them."""
    audio = watched.detector.recipe.audio
    samples, rate = soundfile.read(io.BytesIO(part.flac), dtype="int32", always_2d=True)
    places = (audio.near_channel, audio.far_channel)[: samples.shape[1]]
    placed = np.zeros((len(samples), max(places) + 1), np.int32)
    placed[:, list(places)] = samples
    with whole_file(path) as partial:
        soundfile.write(partial, placed, rate, subtype="PCM_24")
    return path


def _effect(changed: Detector, windows: int) -> Effect:
    change = changed.history[-1]
    return Effect(change, windows, change.alarms_before, change.alarms_after)
