"""Statistics of an ablation: the scores of every combination, differences from a reference, leave-one-machine-out.

The best of hundreds of combinations is biased upwards on the machines that it was chosen on. Leave-one-machine-out
measures by how much: the best combination by the official score of the *other* machines is scored on the one left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from nearfar.errors import InputError
from nearfar.evaluation.results import Results, evaluate_scores
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import Comparison, compare

RESAMPLES = 2_000
"""Bootstrap resamples of each comparison, of which there may be hundreds."""

_AT_ONCE = 50
"""Combinations whose resamples are in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class AblationRow:
    """One combination.

    Attributes:
        values: the name of its value, by axis.
        results: per machine; fractions.
        machines: score by row name, the harmonic mean of the machine's three metrics.
        without: the official score when that machine is left out.
        difference: this combination minus the reference on the same clips.
        rank: 1 is the highest official score; equal scores share the better rank.
        ranks_without: the rank by the official score without that machine.
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
        rank: of that row among all on the machine left out.
        best: the highest score of any row on it.
        against: the reference's score on it.
    """

    machine: str
    chosen: dict[str, str]
    score: float
    rank: int
    best: float
    against: float


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """All rows, the best first, and leave-one-machine-out, which is empty if there is only one machine."""

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
) -> Ablation:
    """Evaluate combinations and compare them with a reference.

    Args:
        points: values by axis, and scores of the same test clips for every combination.
        reference_name: the name of the reference in tables.
        reference: its scores of these clips.
        truth: labels and domains of the clips.
        resamples: of the paired bootstrap.

    Raises:
        InputError: if there are no points, or as :func:`nearfar.evaluation.uncertainty.compare`.
    """
    if not points:
        raise InputError("the grid", found="no combination", expected="one or more", remedy="Correct the grid")
    results = [evaluate_scores(scores, truth) for _, scores in points]
    machines = [_machine_scores(each) for each in results]
    without = [_scores_without(each) for each in results]
    ranks = _ranks([each.official_score for each in results])
    ranks_without = {name: _ranks([row[name] for row in without]) for name in without[0]}
    comparisons: list[Comparison] = []
    for begin in range(0, len(points), _AT_ONCE):
        batch = [[scores] for _, scores in points[begin : begin + _AT_ONCE]]
        comparisons += compare(batch, [reference], truth, resamples=resamples)
    rows = [
        AblationRow(
            values,
            results[index],
            machines[index],
            without[index],
            comparisons[index],
            ranks[index],
            {name: ranks_of_all[index] for name, ranks_of_all in ranks_without.items()},
        )
        for index, (values, _) in enumerate(points)
    ]
    rows.sort(key=lambda row: row.rank)
    baseline = evaluate_scores(reference, truth)
    of_reference = _machine_scores(baseline)
    left_out = []
    for name in without[0]:
        scores = [row.machines[name] for row in rows]
        choice = int(np.argmin([row.ranks_without[name] for row in rows]))
        values, score, rank = rows[choice].values, scores[choice], _ranks(scores)[choice]
        left_out.append(LeftOut(name, values, score, rank, max(scores), of_reference[name]))
    return Ablation(tuple(points[0][0]), reference_name, baseline, tuple(rows), tuple(left_out))


def _machine_scores(results: Results) -> dict[str, float]:
    return {name: row.score for name, row in zip(results.names, results.machines, strict=True)}


def _scores_without(results: Results) -> dict[str, float]:
    """The official score without each row; empty if there is only one."""
    rows, names = results.machines, results.names if len(results.machines) > 1 else []
    return {name: Results((*rows[:index], *rows[index + 1 :])).official_score for index, name in enumerate(names)}


def _ranks(scores: Sequence[float]) -> list[int]:
    """1 is the highest score; equal scores share the better rank."""
    return [int(rank) for rank in rankdata(np.negative(scores), method="min")]
