"""The detectors of a watch: loaded once for all their machines, and again when their folder changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearfar.detector.detector import Detector
from nearfar.detector.store import read_card
from nearfar.errors import InputError
from nearfar.pipeline.windows import Recording, hop_seconds
from nearfar.scores import Failure, Score
from nearfar.watch.cutting import CutWindow


@dataclass(frozen=True, eq=False)
class WatchedMachine:
    """A machine of a loaded detector, and how its scores become levels.

    Attributes:
        detector: as loaded.
        name: of the machine in it.
        version: sixteen digits of a hash of the detector's files.
        text: its last change, or when it was fitted.
    """

    detector: Detector
    name: str
    version: str
    text: str

    @property
    def number(self) -> int:
        """Its place in the detector."""
        return self.detector.machines.index(self.name)

    @property
    def window_s(self) -> float:
        """Length of a window, in seconds."""
        seconds = self.detector.recipe.audio.clip_seconds
        assert not isinstance(seconds, str), "a recipe is resolved before it is used"
        return seconds

    @property
    def hop_s(self) -> float:
        """From window to window, in seconds."""
        return hop_seconds(self.detector.recipe)

    @property
    def normal_db(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest level of each channel among the normal recordings."""
        profile = self.detector.profiles[self.number]
        channels = {} if profile is None else profile.channels
        return {name: (entry.lowest_db, entry.highest_db) for name, entry in channels.items()}

    def level(self, score: Score) -> float | None:
        """A score relative to the threshold: 0 is the median of normal recordings, 1 the threshold.

        None where the recording cannot be compared with the normal ones.
        """
        if score.threshold is None or not all(problem.comparable for problem in score.quality):
            return None
        normal = self.detector.calibrations[self.number].scores(score.domain)
        median = float(np.median(normal)) if normal.size else 0.0
        unit = score.threshold - median
        if unit <= 0:  # a threshold that a person chose below half of the normal recordings
            unit = max(abs(score.threshold), 1e-9)
        return 1 + (score.score - score.threshold) / unit

    def scores(self, windows: Sequence[CutWindow], *, explain: bool) -> list[Score | Failure]:
        """The score of each window, or why it has none."""
        recordings = [Recording(window.name, window.samples, window.sample_rate_hz) for window in windows]
        return list(self.detector.score_many(recordings, self.name, keep_errors=True, explain=explain))


class WatchedDetectors:
    """The detectors of a watch, by folder."""

    def __init__(self) -> None:
        self._loaded: dict[Path, tuple[str, Detector]] = {}
        self._read_ns: dict[Path, int] = {}

    def machine(self, folder: Path, name: str | None) -> WatchedMachine:
        """A machine of the detector in a folder, loaded again if the folder has changed.

        Args:
            folder: of the detector.
            name: of the machine; None where it has one.

        Raises:
            InputError: if there is no such detector or machine, or it has no threshold.
        """
        version, detector = self._load(folder)
        chosen = _chosen(folder, detector, name)
        history = [entry for entry in detector.history if chosen.split("/")[0] == entry.machine]
        text = "as fitted"
        if history:
            last = history[-1]
            what = f"fault {last.fault}" if last.fault else "normal recordings"
            text = f"{'undone: ' if last.undone else ''}{len(last.files)} recordings added as {what}"
        return WatchedMachine(detector, chosen, version, text)

    def has_changed(self, folder: Path) -> bool:
        """Whether the folder has changed since it was last read."""
        return _changed_ns(folder) != self._read_ns[folder]

    def of(self, folder: Path) -> Detector:
        """The loaded detector of a folder."""
        return self._loaded[folder][1]

    def _load(self, folder: Path) -> tuple[str, Detector]:
        changed_ns = _changed_ns(folder)
        if folder not in self._loaded or self._read_ns[folder] != changed_ns:
            self._read_ns[folder] = changed_ns
            self._loaded[folder] = _version(folder), Detector.load(folder)
        return self._loaded[folder]


def _chosen(folder: Path, detector: Detector, name: str | None) -> str:
    names = detector.machines
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        raise InputError(
            folder,
            found=f"a detector of {', '.join(names)}" + (f", and no {name!r}" if name else ""),
            expected="the name of one of its machines",
            remedy="Set machine to it",
        )
    number = names.index(name)
    unit = detector.calibrations[number].machine, detector.calibrations[number].section
    limits = [entry for entry in detector.thresholds if (entry.machine, entry.section) == unit]
    if not limits or any(entry.value is None for entry in limits):
        raise InputError(
            folder,
            found=f"no threshold for {name}",
            expected="a threshold, without which there is no alarm",
            remedy="Set one with nearfar threshold",
        )
    return name


def _changed_ns(folder: Path) -> int:
    try:
        return max(path.stat().st_mtime_ns for path in (folder, *folder.glob("*.json")))
    except OSError:
        return 0


def _version(folder: Path) -> str:
    """Sixteen digits of a hash of the card, which names the hash of the banks, thresholds, scores and history."""
    read_card(folder)  # says what is wrong if there is no detector
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]
