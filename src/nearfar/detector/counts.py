"""False alarms and detections of a detector on labelled recordings, with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.data import Clip, Dataset, read_dataset
from nearfar.data.folders import read_labelled_folder
from nearfar.detector.machine import FittedMachine
from nearfar.detector.routing import choose_machine
from nearfar.errors import InputError
from nearfar.files import file_sha256
from nearfar.pipeline.windows import Recording
from nearfar.scores import Failure, Score
from nearfar.settings import Settings

LEVEL = 0.95


class Rate(Settings):
    """How many of some recordings are called anomalous, with the exact binomial interval of the rate.

    ``low`` and ``high`` are the 95 % interval of Clopper and Pearson ("The use of confidence or fiducial limits",
    Biometrika 1934), which assumes that recordings are independent of each other; for those of one session it is
    too narrow. None where there are no recordings.
    """

    alarms: int
    recordings: int
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """The fraction; None where there are no recordings."""
        return self.alarms / self.recordings if self.recordings else None


class FaultCount(Settings):
    """How many recordings of one kind of fault are called anomalous, and like which known faults."""

    fault: str
    rate: Rate
    like: dict[str, int]


class MachineCounts(Settings):
    """The counts of one machine, followed by the section where it has several.

    Attributes:
        machine: its name.
        false_alarms: of normal recordings, and ``detections`` of recordings of faults.
        faults: detections by kind of fault, where folders or names say more than that there is one.
        undecided: recordings that are neither: without a threshold, not comparable by their quality, or unusable.
    """

    machine: str
    false_alarms: Rate
    detections: Rate
    faults: tuple[FaultCount, ...] = ()
    undecided: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Labelled recordings of one machine, its number in the detector, and the kind of fault of each.

    The kind of a normal recording is None.
    """

    number: int
    clips: tuple[Clip, ...]
    kinds: tuple[str | None, ...]


def rate(alarms: int, recordings: int) -> Rate:
    """The rate of alarms of some recordings, with its interval."""
    from scipy.stats import beta

    if not recordings:
        return Rate(alarms=0, recordings=0, low=None, high=None)
    tail = (1 - LEVEL) / 2
    others = recordings - alarms
    low = float(beta.ppf(tail, alarms, others + 1)) if alarms else 0.0
    high = float(beta.ppf(1 - tail, alarms + 1, others)) if others else 1.0
    return Rate(alarms=alarms, recordings=recordings, low=low, high=high)


def labelled_recordings(
    machines: Sequence[FittedMachine],
    source: Dataset | Path | str,
    machine: str | None = None,
    *,
    without: Collection[Path] = (),
) -> tuple[Labelled, ...]:
    """The labelled test recordings of a folder, by machine of a detector.

    Args:
        machines: of the detector.
        source: a folder of any layout with test recordings, one with ``normal/`` and folders named after faults,
            or a dataset.
        machine: of all recordings; by default the folder that they lie in.
        without: files that are left out, and copies of them.

    Raises:
        InputError: if there are none, or it is unclear of which machine one is.
    """
    dataset = source if isinstance(source, Dataset) else read_dataset(source)
    tests = [clip for clip in dataset.clips if clip.split == "test" and clip.label is not None]
    if not tests and not isinstance(source, Dataset):
        tests = read_labelled_folder(dataset.root)
    if not tests:
        raise InputError(
            dataset.root,
            found="no labelled test recordings",
            expected="folders normal and <name of a fault>, there or in <machine>/test, or clips of the challenge",
            remedy="Arrange the folder as docs/layouts.md describes",
        )
    known = {name for entry in machines for name in (entry.machine, f"{entry.machine}/{entry.section}")}
    contents = {(path.stat().st_size, file_sha256(path)) for path in without if path.is_file()}
    sizes = {size for size, _ in contents}
    found: dict[int, list[Clip]] = {}
    for clip in tests:
        size = clip.path.stat().st_size
        if size in sizes and (size, file_sha256(clip.path)) in contents:
            continue
        named = machine or (clip.machine if clip.machine in known else None)
        number = choose_machine(machines, Recording.of_clip(clip), named)
        found.setdefault(number, []).append(clip)
    return tuple(
        Labelled(number, tuple(clips), tuple(map(kind_of_fault, clips))) for number, clips in sorted(found.items())
    )


def kind_of_fault(clip: Clip) -> str | None:
    """The folder below ``test/`` of a recording of a fault, or ``anomaly``; None for a normal recording."""
    if clip.label == "normal":
        return None
    return Path(clip.listed_as).parts[0] if "/" in clip.listed_as else "anomaly"


def counts_of(machine: str, scored: Sequence[Score | Failure], kinds: Sequence[str | None]) -> MachineCounts:
    """The counts of scores of one machine, with the kind of fault of each; None for normal recordings."""
    decided: list[tuple[str | None, Score]] = []
    for entry, kind in zip(scored, kinds, strict=True):
        if isinstance(entry, Score) and entry.anomalous is not None:
            decided.append((kind, entry))

    def of(wanted: Iterable[Score]) -> Rate:
        listed = list(wanted)
        return rate(sum(entry.anomalous is True for entry in listed), len(listed))

    faults = []
    for kind in dict.fromkeys(kind for kind, _ in decided if kind is not None):
        own = [entry for each, entry in decided if each == kind]
        like: dict[str, int] = {}
        for entry in own:
            if entry.like is not None:
                like[entry.like.fault] = like.get(entry.like.fault, 0) + 1
        faults.append(FaultCount(fault=kind, rate=of(own), like=like))
    return MachineCounts(
        machine=machine,
        false_alarms=of(entry for kind, entry in decided if kind is None),
        detections=of(entry for kind, entry in decided if kind is not None),
        faults=tuple(faults),
        undecided=len(scored) - len(decided),
    )
