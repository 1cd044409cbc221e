"""Several finished runs as one system: the weighted mean of their scores on the scale of normal clips.

With s_m the scores of member m on a machine, and n_m the leave-one-out scores that it gave the machine's normal
training clips, the ensemble's score is ``sum_m w_m (s_m - mean(n_m)) / std(n_m) / sum_m w_m``: the scale does not
depend on test clips. Members may be of other recipes, layers or seeds, or ensembles themselves.

The folder it writes is like a run's, with ``ensemble.json`` (members, weights and recipes) for ``recipe.toml``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.challenge.run import write_results, write_thresholds_and_decisions, write_view_scores
from nearfar.config import ThresholdTable, load_recipe
from nearfar.config.renamed import modernised
from nearfar.data.clips import Domain
from nearfar.environment import environment
from nearfar.errors import InputError
from nearfar.evaluation.results import Results
from nearfar.evaluation.scorefiles import Key, MachineScores, matched, read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.extras import require_extras
from nearfar.files import write_json
from nearfar.metrics import Floats
from nearfar.pipeline.preparation import RUN
from nearfar.pipeline.scoring import ScoredMachine
from nearfar.scoring.fusion import standardised
from nearfar.thresholds import Calibration, NormalScore

FILE = "ensemble.json"


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A finished run.

    Attributes:
        folder: of the run.
        scores: of its test clips.
        normal: (clips,) leave-one-out scores of normal training clips, by machine and section.
        normal_clips: their names and domains, by machine and section.
        data: the folder of its recordings.
        description: its recipe as plain values, or its own members.
        threshold: its settings of thresholds.
        in_training: machines and sections whose normal clips a model was trained on.
    """

    folder: Path
    scores: tuple[MachineScores, ...]
    normal: dict[Key, Floats]
    normal_clips: dict[Key, list[tuple[str, Domain]]]
    data: Path
    description: dict[str, Any]
    threshold: ThresholdTable
    in_training: frozenset[Key]


def read_member(folder: Path) -> Member:
    """Read a run, or an ensemble.

    Raises:
        InputError: if the folder holds no finished run.
    """
    try:
        tree = json.loads((folder / "view_scores.json").read_text(encoding="utf-8"))
        rows = {(row["machine"], row["section"]): row for row in tree["machines"]}
        normal = {key: np.array(row["normal"], dtype=np.float64) for key, row in rows.items()}
        normal_clips = {key: _normal_clips(row) for key, row in rows.items()}
        data = Path(tree["data"])
        in_training = frozenset(key for key, row in rows.items() if row.get("normals") == "in training")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            folder,
            found=f"no view_scores.json that can be read ({type(error).__name__})",
            expected="the folder of a finished run",
            remedy="Give the output folder of nearfar run, or rerun its command to finish it",
        ) from None
    scores = tuple(read_scores(folder / "scores"))
    if missing := {entry.key for entry in scores} - normal.keys():
        raise InputError(
            folder / "view_scores.json",
            found=f"no scores of {', '.join(' '.join(key) for key in sorted(missing))}",
            expected="scores of normal clips of every machine in scores/",
            remedy="Run the same command again",
        )
    if (folder / FILE).is_file():
        described = json.loads((folder / FILE).read_text(encoding="utf-8"))
        threshold = ThresholdTable.model_validate(modernised(described)["threshold"])
    else:
        recipe = load_recipe(folder / "recipe.toml")
        described, threshold = recipe.model_dump(mode="json"), recipe.threshold
    completed = RUN.completed(threshold)
    return Member(folder, scores, normal, normal_clips, data, described, completed, in_training)


def _normal_clips(row: Mapping[str, Any]) -> list[tuple[str, Domain]]:
    """Names and domains of a machine's normal clips; runs of earlier versions did not write them."""
    count = len(row["normal"])
    names, domains = row.get("normal_names", [""] * count), row.get("normal_domains", ["source"] * count)
    return [
        (name, "target" if domain == "target" else "source") for name, domain in zip(names, domains, strict=True)
    ]


def ensemble(
    runs: Sequence[Path], out: Path, *, weights: Sequence[float] | None = None, note: str | None = None
) -> tuple[Results | None, list[str]]:
    """Fuse runs and write a folder like a run's.

    Args:
        runs: two folders or more, of runs on the same recordings.
        out: another folder.
        weights: a positive number for each run, equal by default; only their ratios matter.
        note: a line for the tables; by default the notes of the members' tables.

    Returns:
        the results, or None where the test clips hide their labels, and the notes.

    Raises:
        InputError: if there are fewer than two runs, one twice, other weights than runs, or the runs are of
            different recordings, or the extra ``report`` is not installed.
    """
    require_extras("the figures of an ensemble", "report")
    shares = _shares(runs, weights)
    if out.resolve() in {run.resolve() for run in runs}:
        raise InputError("out", found=f"{out}, one of the runs", expected="another folder", remedy="Correct it")
    members = [read_member(run) for run in runs]
    names = _names(runs)
    scored = [_fused(entries, members, names, shares) for entries in zip(*_matched(members), strict=True)]
    first = members[0]
    truth = GroundTruth.of_score_folder(first.folder / "scores", first.scores)
    notes = [note] if note else list(dict.fromkeys(text for member in members for text in _notes(member.folder)))
    line = " ".join(notes) or None
    results = write_results(out.name, [entry.test for entry in scored], out, truth, note=line)
    write_thresholds_and_decisions(scored, first.threshold, out)
    write_view_scores(scored, first.data, out)
    write_json(
        out / FILE,
        {
            "members": [
                {"name": name, "run": str(member.folder), "weight": share, "recipe": member.description}
                for name, member, share in zip(names, members, shares, strict=True)
            ],
            "threshold": first.threshold.model_dump(mode="json"),
        },
    )
    write_json(out / "environment.json", environment())
    return results, notes


def _shares(runs: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise InputError(
            "runs",
            found="a run twice" if len(runs) > 1 else f"{len(runs)}",
            expected="two runs or more, each once",
            remedy="Give their folders",
        )
    given = [1.0] * len(runs) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(runs) or not all(np.isfinite(weight) and weight > 0 for weight in given):
        raise InputError(
            "weights",
            found=", ".join(f"{weight:g}" for weight in given),
            expected=f"{len(runs)} positive numbers, one for each run",
            remedy="Correct it, or leave it out for equal weights",
        )
    return [weight / sum(given) for weight in given]


def _names(runs: Sequence[Path]) -> list[str]:
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def _matched(members: Sequence[Member]) -> list[tuple[MachineScores, ...]]:
    """Scores of each member, in the order of machines and clips of the first."""
    first, rows = members[0], [members[0].scores]
    for member in members[1:]:
        try:
            rows.append(tuple(matched(first.scores, member.scores)))
        except InputError as error:
            raise _mismatch(member, first, error.found) from None
        for entry in first.scores:
            if len(member.normal[entry.key]) != len(first.normal[entry.key]):
                raise _mismatch(member, first, f"{entry.machine}: normal training clips")
    return rows


def _mismatch(member: Member, first: Member, difference: str) -> InputError:
    return InputError(
        member.folder,
        found=f"other recordings than in {first.folder} ({difference})",
        expected="runs on the same recordings",
        remedy="Run all members on the same data folder",
    )


def _fused(
    entries: Sequence[MachineScores], members: Sequence[Member], names: Sequence[str], shares: Sequence[float]
) -> ScoredMachine:
    key = entries[0].key
    normals = [member.normal[key] for member in members]
    test = [standardised(entry.scores, normal) for entry, normal in zip(entries, normals, strict=True)]
    normal = [standardised(scores, scores) for scores in normals]
    fused, training = (np.average(scores, axis=0, weights=shares) for scores in (test, normal))
    recordings = tuple(
        NormalScore(
            file=name,
            domain=domain,
            score=float(training[index]),
            channels={member: float(values[index]) for member, values in zip(names, normal, strict=True)},
        )
        for index, (name, domain) in enumerate(members[0].normal_clips[key])
    )
    calibration = Calibration(
        machine=key[0],
        section=key[1],
        method="leave-one-out",
        guaranteed=False,
        recordings=recordings,
        in_training=any(key in member.in_training for member in members),
    )
    return ScoredMachine(
        MachineScores(*key, entries[0].names, fused),
        dict(zip(names, test, strict=True)),
        training,
        dict(zip(names, normal, strict=True)),
        calibration,
        ("source",) * len(entries[0].names),
    )


def _notes(folder: Path) -> list[str]:
    """The notes of a run's tables; none if it has no tables."""
    try:
        return [str(line) for line in json.loads((folder / "results.json").read_text(encoding="utf-8"))["notes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
