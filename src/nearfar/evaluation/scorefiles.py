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

Key = tuple[str, str]
"""Machine and section."""


@dataclass(frozen=True, slots=True, eq=False)
class MachineClips:
    """Test clips of one machine and section, by file name."""

    machine: str
    section: str
    names: tuple[str, ...]

    @property
    def key(self) -> Key:
        """Machine and section."""
        return self.machine, self.section


@dataclass(frozen=True, slots=True, eq=False)
class MachineScores(MachineClips):
    """Anomaly scores of the clips ``names``, (clips,) float64; higher is more anomalous."""

    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MachineDecisions(MachineClips):
    """Decisions on the clips ``names``, (clips,) int64: 1 for an anomaly, else 0."""

    decisions: NDArray[np.int64]


def heading(key: Key) -> str:
    """``fan section 00``."""
    return f"{key[0]} section {key[1]}"


def clip_name(file_name: str) -> str:
    """A file name without its audio suffix, which is the same for WAV and FLAC files of a clip."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if dot and f".{suffix.casefold()}" in AUDIO_SUFFIXES else file_name


def matched(first: Sequence[MachineScores], other: Sequence[MachineScores]) -> list[MachineScores]:
    """Another system's scores, with the first one's clip names and order of machines and clips.

    Clips are matched by name without the audio suffix.

    Raises:
        InputError: if the two are not of the same machines, sections and clips.
    """
    by_key = {entry.key: entry for entry in other}
    if differing := sorted({entry.key for entry in first} ^ set(by_key)):
        raise _mismatch(f"scores of {', '.join(map(heading, differing))} in only one of them")
    rows = []
    for entry in first:
        scores = by_key[entry.key].scores
        stems, other_stems = (list(map(clip_name, names)) for names in (entry.names, by_key[entry.key].names))
        if unmatched := sorted(set(stems) ^ set(other_stems)):
            raise _mismatch(f"{entry.machine} clip {unmatched[0]} in only one of them")
        index = {stem: position for position, stem in enumerate(other_stems)}
        if not len(index) == len(stems) == len(other_stems):
            raise _mismatch(f"{entry.machine} clips whose names differ only in the audio suffix")
        rows.append(MachineScores(*entry.key, entry.names, scores[[index[stem] for stem in stems]]))
    return rows


def _mismatch(found: str) -> InputError:
    return InputError(
        "the two systems",
        found=found,
        expected="scores of the same clips",
        remedy="Score the same test set with both systems",
    )


def write_scores(folder: Path, machine_scores: Iterable[MachineScores]) -> list[Path]:
    """Write one score file per machine and section, each atomically.

    Scores have as many digits as it takes to read the same float64 back.

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
        files.append(write_rows(path, zip(entry.names, map(repr, values), strict=True)))
    return files


def read_scores(folder: Path) -> list[MachineScores]:
    """Read all anomaly score files of a folder, ordered by machine, ignoring case, and section.

    Raises:
        InputError: if the folder holds no score files or two for one machine and section, or a file has a name
            that gives no machine, a row of another form, a score that is not finite, or a name twice.
    """
    entries = []
    for key, path in files_of(folder, "anomaly_score").items():
        names, texts = read_rows(path, _SCORES)
        values = []
        for row, text in enumerate(texts, start=1):
            try:
                values.append(float(text))
            except ValueError:
                raise _bad(path, f"the score {text!r} in row {row}", _SCORES) from None
        _check_rows(path, names, values)
        entries.append(MachineScores(*key, names, np.array(values, dtype=np.float64)))
    return entries


def decision_file(machine: str, section: str) -> str:
    """The name of a machine and section's decision file."""
    return f"decision_result_{machine}_section_{section}_test.csv"


def write_decisions(folder: Path, machine_decisions: Iterable[MachineDecisions]) -> list[Path]:
    """Write one decision file per machine and section, each atomically; returns the files."""
    files = []
    for entry in machine_decisions:
        texts = map(str, entry.decisions.astype(int))
        files.append(write_rows(folder / decision_file(*entry.key), zip(entry.names, texts, strict=True)))
    return files


def read_decisions(folder: Path) -> list[MachineDecisions]:
    """Read all decision files of a folder, in the order of :func:`read_scores`.

    Raises:
        InputError: as :func:`read_scores`, or if a decision is not 0 or 1.
    """
    entries = []
    for key, path in files_of(folder, "decision_result").items():
        names, texts = read_rows(path, _DECISIONS)
        for row, text in enumerate(texts, start=1):
            if text not in ("0", "1"):
                raise _bad(path, f"the decision {text!r} in row {row}", _DECISIONS)
        entries.append(MachineDecisions(*key, names, np.array(texts).astype(np.int64)))
    return entries


def holds_scores(folder: Path, machine_scores: Sequence[MachineScores]) -> bool:
    """True if the score files of a folder are of these machines and clips and hold exactly these scores."""

    def contents(entries: Sequence[MachineScores]) -> dict[Key, tuple[tuple[str, ...], list[float]]]:
        return {entry.key: (entry.names, entry.scores.tolist()) for entry in entries}

    try:
        return contents(read_scores(folder)) == contents(machine_scores)
    except InputError:
        return False


def remove_others(folder: Path, machine_scores: Sequence[MachineScores]) -> None:
    """Remove the score and decision files of other machines and sections.

    They are of an earlier run on other data, and evaluating the folder would include them.
    """
    current = {entry.key for entry in machine_scores}
    for kind in ("anomaly_score", "decision_result"):
        for path in folder.glob(f"{kind}_*.csv"):
            match = re.fullmatch(kind + _PATTERN, path.name)
            if match and match.groups() not in current:
                path.unlink()


def files_of(folder: Path, kind: str) -> dict[Key, Path]:
    """The files ``<kind>_<machine>_section_NN_test.csv`` of a folder, in the order of machine and section.

    Args:
        kind: ``anomaly_score``, ``decision_result`` or ``ground_truth``.

    Raises:
        InputError: if there are none, a name gives no machine and section, or two files give the same.
    """
    expected = f"files named {kind}_<machine>_section_NN_test.csv"
    remedy = "Give the folder that holds the CSV files of one system"
    if not folder.is_dir():
        raise InputError(folder, found="no such folder", expected=f"a folder with {expected}", remedy=remedy)
    found: dict[Key, Path] = {}
    for path in sorted(folder.glob(f"{kind}_*.csv")):
        match = re.fullmatch(kind + _PATTERN, path.name)
        if match is None:
            raise InputError(
                path, found="a name without machine and section", expected=expected, remedy="Rename it"
            )
        key = (match["machine"], match["section"])
        if key in found:
            repeated = f"a second file for {heading(key)}, beside {found[key].name}"
            wanted = "one file per machine and section"
            raise InputError(path, found=repeated, expected=wanted, remedy="Remove one of the two")
        found[key] = path
    if not found:
        runs = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/scores"))]
        remedy = f"Give the folder of one run, such as {runs[0]}" if runs else remedy
        raise InputError(folder, found=f"no {kind} files", expected=expected, remedy=remedy)
    return dict(sorted(found.items(), key=lambda item: (item[0][0].casefold(), *item[0])))


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


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    """Write a CSV file atomically, creating its folder if needed; returns its path."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


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
