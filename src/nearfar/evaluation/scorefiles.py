"""Files of anomaly scores and of decisions, in the form that the DCASE Task 2 evaluator reads.

One file per machine and section, without a header: ``anomaly_score_<machine>_section_NN_test.csv``, higher is more
anomalous, and ``decision_result_<machine>_section_NN_test.csv``, 1 for an anomaly::

    section_00_0000.wav,2.97879744
    section_00_0001.wav,0.51203001

The official baseline's longer names
(``anomaly_score_DCASE2026T2<machine>_section_00_test_seed13711_id(0_)_Eval.csv``) are read as well.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.errors import InputError
from nearfar.files import whole_file

_PATTERN = (
    r"_(?:DCASE20\d\dT2)?(?P<machine>.+)_section_(?P<section>\d\d)_test(?:_seed\d+_id\(\d+_\))?(?:_Eval)?\.csv"
)
_SCORES = "rows of a file name and a finite number, without a header"
_DECISIONS = "rows of a file name and 0 or 1, without a header"


@dataclass(frozen=True, slots=True, eq=False)
class MachineScores:
    """Anomaly scores of one machine's test clips.

    ``names[i]`` is the file name of the clip with score ``scores[i]``; ``scores`` is (clips,) float64, higher is
    more anomalous.
    """

    machine: str
    section: str
    names: tuple[str, ...]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MachineDecisions:
    """Decisions on one machine's test clips.

    ``decisions[i]`` is 1 if the clip ``names[i]`` is decided to be anomalous, else 0; (clips,) int64.
    """

    machine: str
    section: str
    names: tuple[str, ...]
    decisions: NDArray[np.int64]


def clip_name(file_name: str) -> str:
    """The name of a clip in a score file without its audio suffix: WAV and FLAC files of one clip match."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if dot and f".{suffix.casefold()}" in AUDIO_SUFFIXES else file_name


def decide(scores: MachineScores, threshold: float) -> MachineDecisions:
    """Decide that a clip is anomalous if its score is above the threshold; an equal score is normal."""
    above = (scores.scores > threshold).astype(np.int64)
    return MachineDecisions(scores.machine, scores.section, scores.names, above)


def write_scores(folder: Path, machine_scores: Iterable[MachineScores]) -> list[Path]:
    """Write one score file per machine and section; each appears whole or not at all.

    Scores are written with as many digits as it takes to read the same float64 back.

    Returns:
        the files, in the order of the scores.

    Raises:
        InputError: if scores are not finite, or names repeat or are not as many as the scores.
    """
    files = []
    for entry in machine_scores:
        path = folder / f"anomaly_score_{entry.machine}_section_{entry.section}_test.csv"
        values = [float(score) for score in entry.scores]
        _check_rows(path, entry.names, values)
        write_rows(path, zip(entry.names, map(repr, values), strict=True))
        files.append(path)
    return files


def read_scores(folder: Path) -> list[MachineScores]:
    """Read every anomaly score file of a folder, ordered by machine, ignoring case, and section.

    Other files of the folder are not read.

    Raises:
        InputError: if the folder holds no score files or two for one machine and section, or a file has a name
            that gives no machine, a row of another form, a score that is not finite, or a name twice.
    """
    entries = []
    for path, machine, section in files_of(folder, "anomaly_score"):
        names, texts = read_rows(path, _SCORES)
        values = [_number(path, row, text) for row, text in enumerate(texts, start=1)]
        _check_rows(path, names, values)
        entries.append(MachineScores(machine, section, names, np.array(values, dtype=np.float64)))
    return entries


def decision_file(machine: str, section: str) -> str:
    """The name of a machine and section's decision file."""
    return f"decision_result_{machine}_section_{section}_test.csv"


def write_decisions(folder: Path, machine_decisions: Iterable[MachineDecisions]) -> list[Path]:
    """Write one decision file per machine and section; each appears whole or not at all."""
    files = []
    for entry in machine_decisions:
        path = folder / decision_file(entry.machine, entry.section)
        write_rows(path, zip(entry.names, (str(int(decision)) for decision in entry.decisions), strict=True))
        files.append(path)
    return files


def read_decisions(folder: Path) -> list[MachineDecisions]:
    """Read every decision file of a folder, in the order of :func:`read_scores`.

    Raises:
        InputError: as :func:`read_scores`, or if a decision is not 0 or 1.
    """
    entries = []
    for path, machine, section in files_of(folder, "decision_result"):
        names, texts = read_rows(path, _DECISIONS)
        for row, text in enumerate(texts, start=1):
            if text not in ("0", "1"):
                raise InputError(
                    path,
                    found=f"the decision {text!r} in row {row}",
                    expected=_DECISIONS,
                    remedy="Correct the file",
                )
        entries.append(MachineDecisions(machine, section, names, np.array([int(text) for text in texts])))
    return entries


def holds_scores(folder: Path, machine_scores: Sequence[MachineScores]) -> bool:
    """Whether the score files of a folder are of these machines and clips and hold exactly these scores."""
    try:
        found = {(entry.machine, entry.section): entry for entry in read_scores(folder)}
    except InputError:
        return False
    given = {(entry.machine, entry.section): entry for entry in machine_scores}
    return found.keys() == given.keys() and all(
        found[key].names == entry.names and np.array_equal(found[key].scores, entry.scores)
        for key, entry in given.items()
    )


def remove_others(folder: Path, machine_scores: Sequence[MachineScores]) -> None:
    """Remove score and decision files of machines and sections that are not among these.

    They are left from a run on other data, and evaluating the folder would include them.
    """
    current = {(entry.machine, entry.section) for entry in machine_scores}
    for kind in ("anomaly_score", "decision_result"):
        for path in folder.glob(f"{kind}_*.csv"):
            match = re.fullmatch(kind + _PATTERN, path.name)
            if match and (match["machine"], match["section"]) not in current:
                path.unlink()


def files_of(folder: Path, kind: str) -> list[tuple[Path, str, str]]:
    """The files ``<kind>_<machine>_section_NN_test.csv`` of a folder, as (path, machine, section), in order.

    Args:
        kind: ``anomaly_score`` or ``decision_result``.

    Raises:
        InputError: if there are none, a name gives no machine and section, or two files give the same.
    """
    expected = f"files named {kind}_<machine>_section_NN_test.csv"
    remedy = "Give the folder that holds the CSV files of one system"
    if not folder.is_dir():
        raise InputError(folder, found="no such folder", expected=f"a folder with {expected}", remedy=remedy)
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob(f"{kind}_*.csv")):
        match = re.fullmatch(kind + _PATTERN, path.name)
        if match is None:
            raise InputError(
                path, found="a name without machine and section", expected=expected, remedy="Rename it"
            )
        key = (match["machine"], match["section"])
        if key in found:
            raise InputError(
                path,
                found=f"a second file for {key[0]} section {key[1]}, beside {found[key].name}",
                expected="one file per machine and section",
                remedy="Remove one of the two",
            )
        found[key] = path
    if not found:
        runs = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/scores"))]
        remedy = f"Give the folder of one run, such as {runs[0]}" if runs else remedy
        raise InputError(folder, found=f"no {kind} files", expected=expected, remedy=remedy)
    ordered = sorted(found.items(), key=lambda item: (item[0][0].casefold(), *item[0]))
    return [(path, machine, section) for (machine, section), path in ordered]


def read_rows(path: Path, expected: str) -> tuple[tuple[str, ...], list[str]]:
    """The two columns of a headerless CSV file, as text.

    Raises:
        InputError: if the file is empty or not text, a row has not two fields, or the first field is empty or
            in two rows.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, f"something that is not CSV text ({error})", expected) from None
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not row[0]:
            raise _bad(path, f"{','.join(row)!r} in row {number}", expected)
    if not rows:
        raise _bad(path, "an empty file", expected)
    names = tuple(row[0] for row in rows)
    _check_unique(path, names)
    return names, [row[1] for row in rows]


def write_rows(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write a headerless CSV file of two columns, whole or not at all; its folder is made if need be."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _number(path: Path, row: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _bad(path, f"the score {text!r} in row {row}", _SCORES) from None


def _check_rows(path: Path, names: Sequence[str], values: Sequence[float]) -> None:
    if len(names) != len(values):
        raise _bad(path, f"{len(names)} names and {len(values)} scores", "one score per name")
    for name, value in zip(names, values, strict=True):
        if not np.isfinite(value):
            raise _bad(path, f"the score {value} for {name}", _SCORES)
    _check_unique(path, names)


def _check_unique(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise _bad(path, f"{repeated[0]} more than once", "each clip once")


def _bad(path: Path, found: str, expected: str) -> InputError:
    return InputError(
        path, found=found, expected=expected, remedy="Score the test clips again or correct the file"
    )
