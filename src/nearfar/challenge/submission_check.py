"""Check a submission package against the rules of the challenge; every defect is listed, none is corrected.

A package of the challenge's evaluation machines must hold all of them with clips 0000 to 0199. Packages of other
machines, from simulated data for instance, are judged by themselves.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nearfar.challenge.description import DEVELOPMENT_MACHINES, EVALUATION_MACHINES
from nearfar.challenge.submission import HIDDEN, LABEL, LABEL_FORM
from nearfar.errors import InputError
from nearfar.metrics import MachineMetrics

CLIPS = 200
"""Test clips of each evaluation machine."""

MOST_SYSTEMS = 4

_FILE = re.compile(r"(anomaly_score|decision_result)_(.+)_section_(\d\d)_test\.csv")
_KINDS = ("anomaly_score", "decision_result")
_KEYS = {
    "submission": ("label", "name", "abbreviation", "authors"),
    "system": ("description", "complexity", "external_datasets", "source_code"),
    "system.description": (
        "input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings",
        "machine_learning_method", "aggregation_method", "domain_adaptation_method",
        "domain_generalization_method", "ensemble_method_subsystem_count", "decision_making", "attribute_usage",
        "external_data_usage", "development_data_usage",
    ),
    "system.complexity": ("total_parameters",),
    "results": ("development_dataset",),
}  # fmt: skip
"""Keys that must be there, by the table that holds them."""


@dataclass(frozen=True, slots=True, order=True)
class Defect:
    """A defect of a file or folder of a package; ``where`` is relative to the checked folder."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class PackageReport:
    """The folders of the systems in a package, its defects, and notes on points that are not defects."""

    systems: tuple[str, ...]
    defects: tuple[Defect, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listing:
    """A score or decision file: the clips it names validly, and what is wrong with its rows."""

    clips: frozenset[str]
    problems: tuple[str, ...]


def check_submission(folder: Path) -> PackageReport:
    """Check a package: a folder that holds ``task2``, ``task2`` itself or the folder of a single system.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            folder, found="no such folder", expected="a submission package", remedy="Give the folder above task2"
        )
    root = folder / "task2" if (folder / "task2").is_dir() else folder
    systems = [root] if _is_system(root) else [path for path in _visible(root) if path.is_dir()]
    defects: list[Defect] = []
    notes: list[str] = []
    if not systems:
        defects.append(Defect(root.name, "no system; expected task2/<label>/ with score files"))
    if len(systems) > MOST_SYSTEMS:
        defects.append(Defect(root.name, f"{len(systems)} systems; at most {MOST_SYSTEMS} may be submitted"))
    for system in systems:
        defects += _check_system(system.resolve())
        if (foreign := _machines(system)) and not set(foreign) & set(EVALUATION_MACHINES):
            notes.append(
                f"{system.resolve().name} is of other machines than the challenge's: {', '.join(foreign)}"
            )
    if not any(path.suffix == ".pdf" for path in root.rglob("*.technical_report.pdf")):
        notes.append("there is no technical report (*.technical_report.pdf), which the challenge asks for")
    return PackageReport(tuple(system.resolve().name for system in systems), tuple(defects), tuple(notes))


def _check_system(folder: Path) -> list[Defect]:
    label = folder.name
    is_challenge = bool(set(_machines(folder)) & set(EVALUATION_MACHINES))
    defects = []
    if not LABEL.fullmatch(label):
        defects.append(Defect(label, f"a folder whose name is not {LABEL_FORM}"))
    for path in _visible(folder):
        if not (_FILE.fullmatch(path.name) or path.name == f"{label}.meta.yaml" or path.suffix == ".pdf"):
            what = "wrong file name; expected anomaly_score_<machine>_section_00_test.csv, "
            defects.append(Defect(f"{label}/{path.name}", f"{what}decision_result_... or {label}.meta.yaml"))
    for machine in _machines(folder):
        if is_challenge and machine not in EVALUATION_MACHINES:
            defects.append(Defect(label, f"{machine} is not an evaluation machine of the challenge"))
    if is_challenge:
        wanted = {(machine, "00") for machine in EVALUATION_MACHINES}
    else:
        wanted = {(match[2], match[3]) for match in _files(folder)}
        if not wanted:
            defects.append(Defect(label, "no files of scores and decisions"))
    for machine, section in sorted(wanted):
        defects += _check_machine(folder, machine, section)
    return [*defects, *_check_meta(folder / f"{label}.meta.yaml", is_challenge)]


def _check_machine(folder: Path, machine: str, section: str) -> Iterator[Defect]:
    """Both files of a machine and section: each by itself, and that they name the clips they should."""
    listings: dict[str, _Listing] = {}
    for kind in _KINDS:
        path = folder / f"{kind}_{machine}_section_{section}_test.csv"
        if path.is_file():
            listings[path.name] = _read_listing(path, kind, section)
        else:
            yield Defect(f"{folder.name}/{path.name}", "missing file")
    expected = _expected_clips(machine, section, [listing.clips for listing in listings.values()])
    for name, listing in listings.items():
        where = f"{folder.name}/{name}"
        yield from (Defect(where, problem) for problem in listing.problems)
        if missing := sorted(expected - listing.clips):
            yield Defect(where, f"missing rows ({len(missing)}), such as {missing[0]}")
        if surplus := sorted(listing.clips - expected):
            yield Defect(where, f"rows of clips that do not exist ({len(surplus)}), such as {surplus[0]}")


def _expected_clips(machine: str, section: str, named: Sequence[frozenset[str]]) -> set[str]:
    """The clips of an evaluation machine; of other machines, all up to the last that either file names."""
    numbers = [int(match[2]) for clips in named for clip in clips if (match := HIDDEN.fullmatch(clip))]
    clips = CLIPS if machine in EVALUATION_MACHINES else max(numbers, default=-1) + 1
    return {f"section_{section}_{number:04d}.wav" for number in range(clips)}


def _read_listing(path: Path, kind: str, section: str) -> _Listing:
    problems: list[str] = []
    try:
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        return _Listing(frozenset(), (f"not CSV text ({error})",))
    if text.startswith("\ufeff"):
        problems.append("a byte order mark at the beginning; save the file as plain UTF-8")
    if not rows:
        problems.append("an empty file")
    clips: list[str] = []
    for number, row in enumerate(rows, start=1):
        problem = _row_problem(row, kind, section)
        if problem and number == 1 and _is_header(row):
            problem = f"a header ({','.join(row)}); expected none"
        if problem:
            problems.append(f"row {number}: {problem}")
        if row and (match := HIDDEN.fullmatch(row[0])) and match[1] == section:
            clips.append(row[0])
    repeated = [clip for clip, count in Counter(clips).items() if count > 1]
    if repeated:
        problems.append(f"duplicate names ({len(repeated)}), such as {repeated[0]}")
    return _Listing(frozenset(clips), tuple(_shortened(problems)))


def _row_problem(row: list[str], kind: str, section: str) -> str | None:
    if len(row) != 2:
        return f"{len(row)} columns; expected a file name and a {'score' if kind == _KINDS[0] else 'decision'}"
    name, value = row
    if (match := HIDDEN.fullmatch(name)) is None or match[1] != section:
        return f"the name {name!r}; expected one such as section_{section}_0000.wav"
    if kind == "decision_result":
        return None if value in ("0", "1") else f"the decision {value!r}; expected 0 or 1"
    return None if math.isfinite(_number(value)) else f"the score {value!r}; expected a finite number"


def _is_header(row: list[str]) -> bool:
    return not any(HIDDEN.fullmatch(field) for field in row) and all(math.isnan(_number(field)) for field in row)


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _shortened(problems: list[str], most: int = 5) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 1 else [*problems[:most], f"and {rest} further problems"]


def _check_meta(path: Path, is_challenge: bool) -> Iterator[Defect]:
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        yield Defect(where, "missing file")
        return
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        yield Defect(where, f"not YAML ({' '.join(str(error).split())})")
        return
    if not isinstance(tree, dict):
        yield Defect(where, "no keys; expected submission, system and results")
        return
    yield from (Defect(where, problem) for problem in _meta_problems(tree, path.parent.name, is_challenge))


def _meta_problems(tree: dict[str, Any], label: str, is_challenge: bool) -> Iterator[str]:
    for table, keys in _KEYS.items():
        parent, _, name = table.rpartition(".")
        found = _at(tree, table)
        if isinstance(found, dict):
            yield from (f"key missing: {table}.{key}" for key in keys if key not in found)
        elif not parent or name in (_at(tree, parent) or ()):
            yield f"{table} is no table of keys" if found is not None else f"key missing: {table}"
    said = _at(tree, "submission.label")
    if said is not None and said != label:
        yield f"submission.label is {said!r} in the folder {label}"
    checks: dict[str, Callable[[Any], Iterator[str]]] = {
        "submission.authors": _author_problems,
        "system.complexity.total_parameters": _parameter_problems,
        "system.external_datasets": _dataset_problems,
        "results.development_dataset": partial(_result_problems, is_challenge=is_challenge),
    }
    for dotted, check in checks.items():
        parent, _, key = dotted.rpartition(".")
        if key in (_at(tree, parent) or ()):
            yield from check(_at(tree, dotted))


def _parameter_problems(parameters: Any) -> Iterator[str]:
    if not isinstance(parameters, int) or isinstance(parameters, bool) or parameters < 0:
        yield f"system.complexity.total_parameters is {parameters!r}; expected a whole number, 0 or more"


def _author_problems(authors: Any) -> Iterator[str]:
    if not isinstance(authors, list) or not authors:
        yield "submission.authors is not a list of at least one author"
        return
    for position, author in enumerate(authors):
        where = f"submission.authors[{position}]"
        given = author if isinstance(author, dict) else {}
        yield from (
            f"key missing: {where}.{key}" for key in ("firstname", "lastname", "email") if not given.get(key)
        )
        affiliation = given.get("affiliation")
        affiliation = affiliation if isinstance(affiliation, dict) else {}
        for key in ("institution", "department", "location"):
            if key not in affiliation:
                yield f"key missing: {where}.affiliation.{key}"
    if not any(isinstance(author, dict) and author.get("corresponding") is True for author in authors):
        yield "submission.authors: no author has corresponding: true"


def _dataset_problems(datasets: Any) -> Iterator[str]:
    if datasets is None:
        return
    if not isinstance(datasets, list):
        yield "system.external_datasets is not a list"
        return
    for position, entry in enumerate(datasets):
        for key in ("name", "url"):
            if not isinstance(entry, dict) or key not in entry:
                yield f"key missing: system.external_datasets[{position}].{key}"


def _result_problems(results: Any, is_challenge: bool) -> Iterator[str]:
    where = "results.development_dataset"
    if not isinstance(results, dict):
        if results is not None:
            yield f"{where} is not a table of machines"
        results = {}
    values = []
    for machine in dict.fromkeys([*(DEVELOPMENT_MACHINES if is_challenge else ()), *results]):
        row = results.get(machine)
        if not isinstance(row, dict):
            yield f"key missing: {where}.{machine}"
            continue
        for quantity in MachineMetrics._fields:
            if quantity not in row:
                yield f"key missing: {where}.{machine}.{quantity}"
            elif row[quantity] is not None:
                values.append(row[quantity])
                if not _is_percentage(row[quantity]):
                    yield f"{where}.{machine}.{quantity} is {row[quantity]!r}; expected percent or !!null"
    if values and all(_is_percentage(value) and value <= 1 for value in values):
        yield f"{where} holds fractions; expected percent"


def _at(tree: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _is_percentage(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _is_system(folder: Path) -> bool:
    return any(folder.glob("*.meta.yaml")) or any(folder.glob("*_section_*.csv"))


def _files(folder: Path) -> list[re.Match[str]]:
    return [match for path in _visible(folder) if (match := _FILE.fullmatch(path.name))]


def _machines(folder: Path) -> list[str]:
    return sorted({match[2] for match in _files(folder)})


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
