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
from nearfar.evaluation.metrics import Told
from nearfar.files import whole_file
from nearfar.scoring.scorefiles import MachineScores

FILE = "truth.csv"
logger = logging.getLogger(__name__)

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
    """Those of one's own machines that have both normal and anomalous test clips, and all of the challenge's.

    The others are said in a warning; the challenge's, which ought to have both, are found when they are evaluated.
    """
    return [entry for entry in entries if _has_both_labels(entry, told)]


def _has_both_labels(entry: MachineScores, told: Told | None) -> bool:
    labels = {(told or {}).get((entry.machine, name), ("",))[0] for name in entry.names}
    if len(labels) > 1 or labels == {""}:
        return True
    logger.warning("%s: all test clips are %s, so they are scored but not evaluated", entry.machine, *labels)
    return False


def _bad(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=f"the header {','.join(_HEAD)} and a row for each clip: normal or anomaly, source or target",
        remedy="Correct the file, or run the system again",
    )
