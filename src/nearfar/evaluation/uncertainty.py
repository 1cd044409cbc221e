"""Bootstrap intervals over test clips, of one system and of the difference between two on the same clips.

A resample draws, within each machine, domain and label, as many clips as there are, with replacement (see
:func:`nearfar.metrics.bootstrap_interval`). Intervals are percentile intervals. They describe other draws of test
clips, not other seeds or rooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
from numpy.typing import NDArray

from nearfar.evaluation.results import complete_labels, row_names
from nearfar.evaluation.scorefiles import Key, MachineScores, matched
from nearfar.evaluation.truth import GroundTruth
from nearfar.metrics import (
    LEVEL,
    QUANTITIES,
    RESAMPLES,
    Floats,
    OfficialRule,
    Quantity,
    column_means,
    machine_metrics,
    overall_score,
    percentile_interval,
    resampled_metrics,
    section_scores,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval over resamples."""

    value: float
    low: float
    high: float


Seeds = Sequence[Sequence[MachineScores]]
"""Scores of one system that was trained with one or more seeds."""
Intervals = dict[Quantity, Interval]
"""The intervals of a row of the table: three metrics and their harmonic mean."""


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Intervals for every cell of a system's table: of each machine (by the heading of its row), and of all."""

    machines: dict[str, Intervals]
    all_machines: Intervals
    resamples: int
    level: float


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """One system's value minus another's on the same clips.

    ``a_better`` is the fraction of resamples in which the first system scores higher, equal scores counting half.
    """

    a_better: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system minus a reference on the same clips.

    ``machines`` compares the score (harmonic mean of the three metrics) of each machine, ``overall`` the official
    score, and ``without`` the official score without that one machine; it is empty where there is only one.
    Keys are the headings of the machines' rows.
    """

    machines: dict[str, Difference]
    overall: Difference
    without: dict[str, Difference]
    resamples: int
    level: float


def uncertainty(
    entries: Sequence[MachineScores],
    truth: GroundTruth,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Uncertainty:
    """Intervals for every cell of a system's table and for its official score.

    ``level`` is the fraction of resamples inside an interval.

    Raises:
        InputError: as :func:`nearfar.evaluation.results.evaluate_scores`.
    """
    keys, points, draws = _metrics([entries], truth, resamples, seed)
    value, drawn = points[:, 0], draws[:, 0]  # (machines, 3) and (machines, 3, resamples)
    rule, machines = truth.rule, [machine for machine, _ in keys]
    cells, drawn_cells = (
        np.concatenate([part, section_scores(rule, part)[:, None]], 1) for part in (value, drawn)
    )
    rows = {name: _intervals(cells[row], drawn_cells[row], level) for row, name in enumerate(row_names(keys))}
    over_all, drawn_over_all = (
        np.concatenate([column_means(rule, machines, part), overall_score(rule, machines, part)[None]])
        for part in (value, drawn)
    )
    return Uncertainty(rows, _intervals(over_all, drawn_over_all, level), resamples, level)


def compare(
    systems: Sequence[Seeds],
    reference: Seeds,
    truth: GroundTruth,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare each of several systems with a reference on the same clips, with the same resamples for all.

    Values are means over the seeds that a system was trained with; the intervals describe other draws of test
    clips, not other seeds. Clips are matched by name without the audio suffix: scores of FLAC copies can be
    compared with those of WAVs. Memory grows with the number of systems: three numbers for each machine and
    resample.

    Args:
        systems, reference: the scores of each system, by seed.
        truth: labels and domains of the clips.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: if two sets of scores are not of the same clips, or as :func:`uncertainty`.
    """
    groups = [*systems, reference]
    keys, value, drawn = _metrics(list(chain.from_iterable(groups)), truth, resamples, seed)
    ends = accumulate(map(len, groups), initial=0)
    *sides, last = (range(begin, end) for begin, end in pairwise(ends))
    return [_comparison(keys, value, drawn, (side, last), truth.rule) for side in sides]


def _metrics(
    systems: Sequence[Sequence[MachineScores]], truth: GroundTruth, resamples: int, seed: int
) -> tuple[list[Key], Floats, Floats]:
    """Machines and sections; metrics, (machines, systems, 3), and those of resamples, (..., resamples)."""
    first = systems[0]
    points, draws = [], []
    for index, entries in enumerate(zip(first, *(matched(first, other) for other in systems[1:]), strict=True)):
        labels = complete_labels(entries[0], truth)
        points.append([machine_metrics(*labels, entry.scores, truth.rule) for entry in entries])
        scores = [entry.scores for entry in entries]
        draws.append(resampled_metrics(*labels, scores, resamples, (seed, index), truth.rule))
    return [entry.key for entry in first], np.array(points), np.stack(draws)


def _comparison(
    keys: Sequence[Key],
    value: Floats,
    drawn: Floats,
    sides: tuple[range, range],
    rule: OfficialRule,
) -> Comparison:
    """Compare the means over two sets of systems, given by indices, on the values of :func:`_metrics`."""
    names, everything = row_names(keys), np.arange(len(keys))

    def difference(rows: NDArray[np.intp]) -> Difference:
        machines = [keys[row][0] for row in rows]

        def score(part: Floats, side: range) -> Floats:
            scores = np.stack([overall_score(rule, machines, part[rows, index]) for index in side])
            return np.asarray(scores.mean(axis=0))

        point, drawn_difference = (score(part, sides[0]) - score(part, sides[1]) for part in (value, drawn))
        a_better = float(np.mean((drawn_difference > 0) + 0.5 * (drawn_difference == 0)))
        return Difference(float(point), *percentile_interval(drawn_difference, LEVEL), a_better)

    machines = {name: difference(everything[row : row + 1]) for row, name in enumerate(names)}
    without = {name: difference(np.delete(everything, row)) for row, name in enumerate(names) if len(names) > 1}
    return Comparison(machines, difference(everything), without, drawn.shape[-1], LEVEL)


def _intervals(values: Floats, resampled: Floats, level: float) -> Intervals:
    """Four intervals from the values of a row, (4,), and those of its resamples, (4, resamples)."""
    return {
        quantity: Interval(float(values[row]), *percentile_interval(resampled[row], level))
        for row, quantity in enumerate(QUANTITIES)
    }
