"""Statistics of an ablation: the scores of every combination, differences from a reference, leave-one-machine-out.

The best of hundreds of combinations is biased upwards on the machines that it was chosen on. Leave-one-machine-out
measures by how much: the best combination by the official score of the *other* machines is scored on the one left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nearfar.errors import InputError
from nearfar.evaluation.results import Results, evaluate_scores, row_names
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import Comparison, compare_all

RESAMPLES = 2_000
"""Bootstrap resamples of each comparison, of which there may be hundreds."""

_AT_ONCE = 50


@dataclass(frozen=True, slots=True, eq=False)
class AblationRow:
    """One combination.

    Attributes:
        values: the name of its value, by axis.
        results: per machine; fractions.
        machines: score by row name, the harmonic mean of the machine's three metrics.
        without: the official score when that machine is left out.
        difference: this minus the reference on the same clips.
        rank: 1 is the highest official score; equal scores have the same, better rank.
        ranks_without: the same of the official score without that machine.
    """

    values: dict[str, str]
    results: Results
    machines: dict[str, float]
    without: dict[str, float]
    difference: Comparison
    rank: int
    ranks_without: dict[str, int]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The combination chosen on the other machines, scored on the machine left out.

    Attributes:
        machine: the one left out.
        chosen: the values of the first row with the highest official score on the others.
        score: of that row on the machine left out.
        best: the highest score of any row on it.
        reference: the reference's score on it.
        rank: of the chosen row among all on the machine left out.
    """

    machine: str
    chosen: dict[str, str]
    score: float
    best: float
    reference: float
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """All rows, the best first, and leave-one-machine-out, which is empty for one machine."""

    axes: tuple[str, ...]
    reference_name: str
    reference: Results
    rows: tuple[AblationRow, ...]
    left_out: tuple[LeftOut, ...]


def ablation(
    points: Sequence[tuple[dict[str, str], Sequence[MachineScores]]],
    reference_name: str,
    reference: Sequence[MachineScores],
    truth: GroundTruth,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ablation:
    """Evaluate combinations and compare them with a reference.

    Args:
        points: values by axis, and scores of the same test clips for every combination.
        reference_name: the name of the reference in tables.
        reference: its scores of these clips.
        truth: labels and domains of the clips.
        resamples: of the paired bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: if there are no points, or as :func:`nearfar.evaluation.uncertainty.compare`.
    """
    if not points:
        raise InputError("the grid", found="no combination", expected="one or more", remedy="Correct the grid")
    results = [evaluate_scores(scores, truth) for _, scores in points]
    names = row_names([(row.machine, row.section) for row in results[0].machines])
    machines = [_by_name(each, names) for each in results]
    without = [_without(each, names) for each in results]
    totals = [each.official_score for each in results]
    comparisons: list[Comparison] = []
    for begin in range(0, len(points), _AT_ONCE):
        some = [scores for _, scores in points[begin : begin + _AT_ONCE]]
        comparisons += compare_all(some, reference, truth, resamples=resamples, seed=seed)
    rows = [
        AblationRow(
            values,
            results[index],
            machines[index],
            without[index],
            comparisons[index],
            _rank(totals, index),
            {name: _rank([row[name] for row in without], index) for name in without[index]},
        )
        for index, (values, _) in enumerate(points)
    ]
    rows.sort(key=lambda row: row.rank)
    baseline = evaluate_scores(reference, truth)
    keys = [(row.machine, row.section) for row in results[0].machines]
    of_reference = {(row.machine, row.section): row.score for row in baseline.machines}
    scores = {name: of_reference[key] for name, key in zip(names, keys, strict=True)}
    left_out = tuple(_left_out(name, rows, scores[name]) for name in without[0])
    return Ablation(tuple(points[0][0]), reference_name, baseline, tuple(rows), left_out)


def _by_name(results: Results, names: Sequence[str]) -> dict[str, float]:
    return {name: row.score for name, row in zip(names, results.machines, strict=True)}


def _without(results: Results, names: Sequence[str]) -> dict[str, float]:
    """The official score without each row; empty if there is only one."""
    if len(names) < 2:
        return {}
    rows = results.machines
    return {name: Results((*rows[:index], *rows[index + 1 :])).official_score for index, name in enumerate(names)}


def _rank(values: Sequence[float], index: int) -> int:
    return 1 + sum(value > values[index] for value in values)


def _left_out(machine: str, rows: Sequence[AblationRow], reference: float) -> LeftOut:
    chosen = min(rows, key=lambda row: row.ranks_without[machine])
    on_machine = [row.machines[machine] for row in rows]
    score = chosen.machines[machine]
    return LeftOut(
        machine, chosen.values, score, max(on_machine), reference, 1 + sum(value > score for value in on_machine)
    )
