"""``truth.csv`` beside score files: what clips are whose names are not of the challenge's form.

``nearfar run`` writes it for one's own folder::

    machine,file_name,label,domain
    pump,normal/0001.wav,normal,source
    pump,worn bearing/0001.wav,anomaly,source
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from nearfar.data.clips import Clip, Domain, Label
from nearfar.errors import InputError
from nearfar.evaluation.metrics import Told, hides_labels
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.files import whole_file

FILE = "truth.csv"
logger = logging.getLogger(__name__)

_HIDDEN = "hide their labels"
_HEAD = ["machine", "file_name", "label", "domain"]


def told_by(clips: Iterable[Clip]) -> dict[tuple[str, str], tuple[Label, Domain]]:
    """What clips of one's own folder are, by machine and name; clips that hide it are left out."""
    return {
        (clip.machine, clip.name): (clip.label, clip.domain)
        for clip in clips
        if clip.label is not None and clip.domain is not None
    }


def write_truth_table(folder: Path, told: Told) -> Path:
    """Write ``truth.csv`` into a folder of score files; the folder is made if need be."""
    path = folder / FILE
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEAD)
        writer.writerows([*key, *what] for key, what in told.items())
    return path


def read_truth_table(folder: Path) -> Told | None:
    """Read ``truth.csv`` of a folder of score files; None if there is none.

    Raises:
        InputError: if it is of another form or says something twice.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        head, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise _bad(path, f"something that is not CSV text ({error})") from None
    if head != _HEAD:
        raise _bad(path, f"the header {','.join(head)!r}")
    told: dict[tuple[str, str], tuple[Label, Domain]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(_HEAD) or row[2] not in ("normal", "anomaly") or row[3] not in ("source", "target"):
            raise _bad(path, f"{','.join(row)!r} in row {number}")
        if (row[0], row[1]) in told:
            raise _bad(path, f"{row[1]} of {row[0]} again in row {number}")
        label: Label = "normal" if row[2] == "normal" else "anomaly"
        told[row[0], row[1]] = (label, "source" if row[3] == "source" else "target")
    return told


def evaluable(entries: Sequence[MachineScores], told: Told | None) -> list[MachineScores]:
    """The machines whose test clips tell their labels and, of one's own folder, are both normal and anomalous.

    What the others lack is said in a warning, unless all hide their labels, as evaluation sets do. Machines of the
    challenge that lack a group that they ought to have are found when they are evaluated.
    """
    lacks = [_lack(entry, told) for entry in entries]
    for entry, lack in zip(entries, lacks, strict=True):
        if lack is not None and set(lacks) != {_HIDDEN}:
            logger.warning("%s: all test clips %s, so they are scored but not evaluated", entry.machine, lack)
    return [entry for entry, lack in zip(entries, lacks, strict=True) if lack is None]


def _lack(entry: MachineScores, told: Told | None) -> str | None:
    if hides_labels(entry, told):
        return _HIDDEN
    labels = {(told or {}).get((entry.machine, name), ("",))[0] for name in entry.names}
    return None if len(labels) > 1 or labels == {""} else f"are {labels.pop()}"


def _bad(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=f"the header {','.join(_HEAD)} and a row for each clip: normal or anomaly, source or target",
        remedy="Correct the file, or run the system again",
    )
