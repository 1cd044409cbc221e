"""Check a submission package against the rules of the challenge; every defect is listed, none is corrected.

A package of the challenge's evaluation machines must hold all of them with clips 0000 to 0199. In packages
of other machines, from simulated data for instance, the files decide which machines and clips there are.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.challenge.description import DEVELOPMENT_MACHINES, EVALUATION_MACHINES
from nearfar.challenge.submission import HIDDEN, LABEL, LABEL_FORM
from nearfar.errors import InputError
from nearfar.extras import require_extras
from nearfar.metrics import MachineMetrics

CLIPS = 200
"""Test clips of each evaluation machine."""

MOST_SYSTEMS = 4

_FILE = re.compile(r"(anomaly_score|decision_result)_(.+)_section_(\d\d)_test\.csv")
_Template = dict[str, Any]
"""Keys of a table; values are the templates of inner tables, None for other values."""

_META: _Template = {
    "submission": dict.fromkeys(("label", "name", "abbreviation", "authors")),
    "system": {
        "description": dict.fromkeys((
            "input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings",
            "machine_learning_method", "aggregation_method", "domain_adaptation_method",
            "domain_generalization_method", "ensemble_method_subsystem_count", "decision_making",
            "attribute_usage", "external_data_usage", "development_data_usage",
        )),
        "complexity": {"total_parameters": None},
        "external_datasets": None,
        "source_code": None,
    },
    "results": {"development_dataset": None},
}  # fmt: skip
_AUTHOR: _Template = {
    **dict.fromkeys(("firstname", "lastname", "email")),
    "affiliation": dict.fromkeys(("institution", "department", "location")),
}
_MOST_PROBLEMS = 5
"""Problems of the rows of a file that are listed; of more, their number."""


@dataclass(frozen=True, slots=True, order=True)
class Defect:
    """A defect of a file or folder of a package, whose path is relative to the checked folder."""

    file: str
    problem: str


@dataclass(frozen=True, slots=True)
class PackageReport:
    """The folders of the systems in a package, its defects, and notes on points that are not defects."""

    systems: tuple[str, ...]
    defects: tuple[Defect, ...]
    notes: tuple[str, ...]


def check_submission(folder: Path) -> PackageReport:
    """Check a package: a folder that holds ``task2``, ``task2`` itself or the folder of a single system.

    Raises:
        InputError: if there is no such folder, or PyYAML is not installed.
    """
    require_extras("the check of a submission", "report")
    if not folder.is_dir():
        raise InputError(
            folder, found="no such folder", expected="a submission package", remedy="Give the folder above task2"
        )
    root = folder / "task2" if (folder / "task2").is_dir() else folder
    is_system = any(root.glob("*.meta.yaml")) or any(root.glob("*_section_*.csv"))
    folders = [root] if is_system else [path for path in _visible(root) if path.is_dir()]
    systems = [folder.resolve() for folder in folders]
    defects: list[Defect] = []
    notes: list[str] = []
    if not systems:
        defects.append(Defect(root.name, "no system; expected task2/<label>/ with score files"))
    if len(systems) > MOST_SYSTEMS:
        defects.append(Defect(root.name, f"{len(systems)} systems; at most {MOST_SYSTEMS} may be submitted"))
    for system in systems:
        defects += _check_system(system)
        foreign = sorted({match[2] for match in _files(system)})
        if foreign and not set(foreign) & set(EVALUATION_MACHINES):
            notes.append(f"{system.name} is of other machines than the challenge's: {', '.join(foreign)}")
    if not any(root.rglob("*.technical_report.pdf")):
        notes.append("there is no technical report (*.technical_report.pdf), which the challenge asks for")
    return PackageReport(tuple(system.name for system in systems), tuple(defects), tuple(notes))


def _check_system(folder: Path) -> Iterator[Defect]:
    label, meta = folder.name, folder / f"{folder.name}.meta.yaml"
    found = {(match[2], match[3]) for match in _files(folder)}
    machines = sorted({machine for machine, _ in found})
    is_challenge = bool(set(machines) & set(EVALUATION_MACHINES))
    if not LABEL.fullmatch(label):
        yield Defect(label, f"a folder whose name is not {LABEL_FORM}")
    for path in _visible(folder):
        if not (_FILE.fullmatch(path.name) or path == meta or path.suffix == ".pdf"):
            expected = f"anomaly_score_<machine>_section_00_test.csv, decision_result_... or {meta.name}"
            yield Defect(f"{label}/{path.name}", f"wrong file name; expected {expected}")
    if is_challenge:
        for machine in machines:
            if machine not in EVALUATION_MACHINES:
                yield Defect(label, f"{machine} is not an evaluation machine of the challenge")
        found = {(machine, "00") for machine in EVALUATION_MACHINES}
    elif not found:
        yield Defect(label, "no files of scores and decisions")
    for machine, section in sorted(found):
        yield from _check_machine(folder, machine, section)
    yield from (Defect(f"{label}/{meta.name}", problem) for problem in _meta_problems(meta, is_challenge))


def _check_machine(folder: Path, machine: str, section: str) -> Iterator[Defect]:
    """Defects of the two files of a machine and section: of their rows, and clips that are missing or unknown.

    An evaluation machine has a known number of clips; others have all up to the last one in either file.
    """
    files: dict[str, tuple[set[str], list[str]]] = {}
    for kind in ("anomaly_score", "decision_result"):
        path = folder / f"{kind}_{machine}_section_{section}_test.csv"
        if path.is_file():
            files[path.name] = _read_listing(path, kind, section)
        else:
            yield Defect(f"{folder.name}/{path.name}", "missing file")
    last = max((int(clip[-8:-4]) for clips, _ in files.values() for clip in clips), default=-1)
    count = CLIPS if machine in EVALUATION_MACHINES else last + 1
    expected = {f"section_{section}_{number:04d}.wav" for number in range(count)}
    for name, (clips, problems) in files.items():
        if missing := sorted(expected - clips):
            problems.append(f"missing rows ({len(missing)}), such as {missing[0]}")
        if surplus := sorted(clips - expected):
            problems.append(f"rows of clips that do not exist ({len(surplus)}), such as {surplus[0]}")
        yield from (Defect(f"{folder.name}/{name}", problem) for problem in problems)


def _read_listing(path: Path, kind: str, section: str) -> tuple[set[str], list[str]]:
    """The clips that a file of scores or decisions names validly, and the problems of its rows."""
    problems: list[str] = []
    try:
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        return set(), [f"not CSV text ({error})"]
    if text.startswith("\ufeff"):
        problems.append("a byte order mark at the beginning; save the file as plain UTF-8")
    if not rows:
        problems.append("an empty file")
    clips: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        problem = _row_problem(row, kind, section)
        is_header = all(not HIDDEN.fullmatch(field) and math.isnan(_number(field)) for field in row)
        if problem and number == 1 and is_header:
            problem = f"a header ({','.join(row)}); expected none"
        if problem:
            problems.append(f"row {number}: {problem}")
        if row and (match := HIDDEN.fullmatch(row[0])) and match[1] == section:
            clips[row[0]] += 1
    repeated = [clip for clip, count in clips.items() if count > 1]
    if repeated:
        problems.append(f"duplicate names ({len(repeated)}), such as {repeated[0]}")
    further = len(problems) - _MOST_PROBLEMS
    if further > 1:
        problems[_MOST_PROBLEMS:] = [f"and {further} further problems"]
    return set(clips), problems


def _row_problem(row: list[str], kind: str, section: str) -> str | None:
    is_score = kind == "anomaly_score"
    if len(row) != 2:
        return f"{len(row)} columns; expected a file name and a {'score' if is_score else 'decision'}"
    name, value = row
    if (match := HIDDEN.fullmatch(name)) is None or match[1] != section:
        return f"the name {name!r}; expected one such as section_{section}_0000.wav"
    if is_score:
        return None if math.isfinite(_number(value)) else f"the score {value!r}; expected a finite number"
    return None if value in ("0", "1") else f"the decision {value!r}; expected 0 or 1"


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _meta_problems(path: Path, is_challenge: bool) -> Iterator[str]:
    if not path.is_file():
        yield "missing file"
        return
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        yield f"not YAML ({' '.join(str(error).split())})"
        return
    if not isinstance(tree, dict):
        yield "no keys; expected submission, system and results"
        return
    yield from _missing(tree, _META)
    submission, system, results = (_table(tree.get(name)) for name in _META)
    label = submission.get("label")
    if label not in (None, path.parent.name):
        yield f"submission.label is {label!r} in the folder {path.parent.name}"
    if "authors" in submission:
        yield from _author_problems(submission["authors"])
    parameters = _table(system.get("complexity")).get("total_parameters", 0)
    if not isinstance(parameters, int) or isinstance(parameters, bool) or parameters < 0:
        yield f"system.complexity.total_parameters is {parameters!r}; expected a whole number, 0 or more"
    datasets = system.get("external_datasets")
    if not isinstance(datasets, list | None):
        yield "system.external_datasets is not a list"
        datasets = None
    for position, entry in enumerate(datasets or ()):
        yield from _missing(
            _table(entry), dict.fromkeys(("name", "url")), f"system.external_datasets[{position}]."
        )
    if "development_dataset" in results:
        yield from _result_problems(results["development_dataset"], is_challenge)


def _missing(table: dict[str, Any], template: _Template, prefix: str = "") -> Iterator[str]:
    """Keys of a template that a table or its inner tables lack, and inner tables that are something else."""
    for key, inner in template.items():
        value = table.get(key)
        if key not in table or (inner and value is None):
            yield f"key missing: {prefix}{key}"
        elif inner and not isinstance(value, dict):
            yield f"{prefix}{key} is no table of keys"
        elif inner:
            yield from _missing(table[key], inner, f"{prefix}{key}.")


def _author_problems(authors: Any) -> Iterator[str]:
    if not isinstance(authors, list) or not authors:
        yield "submission.authors is not a list of at least one author"
        return
    for position, author in enumerate(authors):
        given = {key: value for key, value in _table(author).items() if value}
        yield from _missing({"affiliation": {}} | given, _AUTHOR, f"submission.authors[{position}].")
    if not any(_table(author).get("corresponding") is True for author in authors):
        yield "submission.authors: no author has corresponding: true"


def _result_problems(results: Any, is_challenge: bool) -> Iterator[str]:
    name = "results.development_dataset"
    if not isinstance(results, dict | None):
        yield f"{name} is not a table of machines"
    rows = _table(results)
    values = []
    for machine in dict.fromkeys([*(DEVELOPMENT_MACHINES if is_challenge else ()), *rows]):
        if not isinstance(row := rows.get(machine), dict):
            yield f"key missing: {name}.{machine}"
            continue
        yield from _missing(row, dict.fromkeys(MachineMetrics._fields), f"{name}.{machine}.")
        for quantity in MachineMetrics._fields:
            if (value := row.get(quantity)) is not None:
                values.append(value)
                if not _is_percentage(value):
                    yield f"{name}.{machine}.{quantity} is {value!r}; expected percent or !!null"
    if values and all(_is_percentage(value) and value <= 1 for value in values):
        yield f"{name} holds fractions; expected percent"


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_percentage(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _files(folder: Path) -> list[re.Match[str]]:
    return [match for path in _visible(folder) if (match := _FILE.fullmatch(path.name))]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
