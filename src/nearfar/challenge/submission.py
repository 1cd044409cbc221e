"""The submission package of the challenge: scores and decisions on the evaluation machines, and meta.yaml.

The files that the evaluator reads::

    task2/<label>/anomaly_score_<machine>_section_00_test.csv      section_00_0000.wav,2.97879744
    task2/<label>/decision_result_<machine>_section_00_test.csv    section_00_0000.wav,1
    task2/<label>/<label>.meta.yaml
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

from nearfar.challenge.submission_meta import Author, dump_yaml, metadata
from nearfar.config import Recipe, load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import (
    MachineClips,
    MachineDecisions,
    MachineScores,
    heading,
    read_decisions,
    read_scores,
    write_decisions,
    write_scores,
)
from nearfar.extras import require_extras
from nearfar.files import write_text
from nearfar.metrics import MachineMetrics
from nearfar.thresholds.file import THRESHOLDS, checked

LABEL = re.compile(r"[A-Za-z][A-Za-z0-9-]*_[A-Za-z0-9-]+_task2_[1-4]")
LABEL_FORM = "<LastName>_<INST>_task2_<1 to 4>, such as Last_INST_task2_1"
HIDDEN = re.compile(r"section_(\d\d)_(\d{4})\.wav")
"""File names of evaluation clips; the groups are section and number."""

_Listed = TypeVar("_Listed", bound=MachineClips)


def write_submission(
    run: Path,
    label: str,
    out: Path,
    *,
    authors: Sequence[Author],
    development: Path | None = None,
    name: str | None = None,
    abbreviation: str | None = None,
    source_code: str | None = None,
) -> Path:
    """Write ``out/task2/<label>/`` for a run on evaluation data.

    Args:
        run: a folder that ``nearfar run`` wrote. Machines whose clips do not hide their labels are left out.
        label: the system's, ``<LastName>_<INST>_task2_<1 to 4>``.
        out: the folder of the package, which up to four systems share.
        authors: at least one.
        development: the run of the same system on the development set, for its results; by default those of the
            machines of ``run`` itself whose labels are known, if there are any.
        name, abbreviation, source_code: as :func:`nearfar.challenge.submission_meta.metadata`.

    Returns:
        the system's folder.

    Raises:
        InputError: if the label is of another form, there are no authors, the system's folder exists already, a
            run lacks something, the development run is of another system, or PyYAML is not installed.
    """
    require_extras("a submission", "report")
    if not LABEL.fullmatch(label):
        raise InputError("label", found=label, expected=LABEL_FORM, remedy="Correct it")
    if not authors:
        raise InputError("authors", found="none", expected="at least one", remedy="Name one")
    folder = out / "task2" / label
    if folder.exists():
        raise InputError(
            folder,
            found="a submission that is there already",
            expected="a label of its own for each system",
            remedy="Remove the folder to write it anew, or choose another label",
        )
    recipe = _recipe_of(run)
    if development is None and (run / "results.json").is_file():
        development = run
    results = None if development is None else _results_of(development, recipe)
    scores, decisions = _evaluation_machines(run)
    trained_on = [
        entry["machine"]
        for entry in _read_json(run / "data.json")
        if any(clips["split"] == "train" for clips in entry["clips"])
    ]
    tree = metadata(
        recipe,
        label=label,
        authors=authors,
        parameters=_read_json(run / "environment.json").get("total_parameters"),
        trained_on=trained_on,
        rules=_rules_of(run, {entry.machine for entry in scores}),
        development=results,
        name=name,
        abbreviation=abbreviation,
        source_code=source_code,
    )
    write_scores(folder, scores)
    write_decisions(folder, decisions)
    write_text(folder / f"{label}.meta.yaml", dump_yaml(tree))
    return folder


def _recipe_of(run: Path) -> Recipe:
    if not (run / "recipe.toml").is_file():
        raise InputError(
            run, found="no recipe.toml", expected="a folder that nearfar run wrote", remedy="Give the run's folder"
        )
    return load_recipe(run / "recipe.toml")


def _evaluation_machines(run: Path) -> tuple[list[MachineScores], list[MachineDecisions]]:
    """Scores and decisions of the machines whose clips hide their labels, by names ending in .wav."""
    scores = [
        entry
        for entry in map(_as_wav, read_scores(run / "scores"))
        if all(HIDDEN.fullmatch(name) for name in entry.names)
    ]
    if not scores:
        raise InputError(
            run,
            found="only clips whose names contain their label",
            expected="a run on evaluation data, whose clips are named section_00_0000.wav",
            remedy="Run the system on evaluation data, and pass this run beside it (development)",
        )
    decided = {entry.key: entry for entry in map(_as_wav, read_decisions(run / "scores"))}
    for entry in scores:
        if entry.key not in decided or set(decided[entry.key].names) != set(entry.names):
            raise InputError(
                run / "scores",
                found=f"no decisions on the clips of {heading(entry.key)}",
                expected="a decision for every score",
                remedy="Run the system again; its model and embeddings are used again",
            )
    return scores, [decided[entry.key] for entry in scores]


def _as_wav(entry: _Listed) -> _Listed:
    """The clips under names ending in .wav, as the challenge has them, also for recordings copied to FLAC."""
    return replace(entry, names=tuple(str(PurePath(name).with_suffix(".wav")) for name in entry.names))


def _results_of(run: Path, recipe: Recipe) -> dict[str, MachineMetrics]:
    """The results of a development run by machine, from ``results.json``."""
    other = _recipe_of(run)
    if other.system_identity() != recipe.system_identity():
        raise InputError(
            run,
            found=f"results of another system ({other.name})",
            expected=f"a run of {recipe.name} whose recipe differs at most in seed and clip length",
            remedy="Run the submitted recipe on the development set",
        )
    cells = _read_json(run / "results.json").get("systems", [{}])[0].get("machines")
    try:
        return {
            machine: MachineMetrics(*(row[quantity]["mean"] for quantity in MachineMetrics._fields))
            for machine, row in cells.items()
        }
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            run / "results.json",
            found="no results by machine",
            expected="the results of a run",
            remedy="Run the recipe on the development set again",
        ) from None


def _rules_of(run: Path, machines: Collection[str]) -> list[str]:
    """The threshold rules of some machines; none if the run wrote no thresholds.

    The key ``rule`` of ``thresholds.json`` was ``kind`` in earlier versions.
    """
    file = run / THRESHOLDS
    entries = _read_json(file) if file.is_file() else []
    return [
        entry.get("rule") or entry["kind"]
        for entry in (checked(file, row) for row in entries)
        if entry["machine"] in machines and entry["value"] is not None
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            path,
            found=f"no JSON that can be read ({error})",
            expected="the file that nearfar run writes",
            remedy="Give the folder of a finished run",
        ) from None
