"""How much the results would change with other test clips: a stratified bootstrap over clips.

A resample draws, within each machine, domain and label, as many clips as there are, with replacement. It is kept
as the number of times each clip was drawn, so the AUC of all resamples is a matrix product: with ``w`` the counts
of the normal clips, ``v`` those of the anomalies and ``K[i, j]`` 1 where anomaly j outscores normal clip i (0.5 in
a tie), the AUC is ``w K v / (sum(w) sum(v))``. The partial AUC follows from the rate of normal clips above each
anomaly, ``w A / sum(w)``, in the same way (see :func:`nearfar.evaluation.metrics.pauc`).

Intervals are percentile intervals. They speak of the clips that were tested, not of other seeds or rooms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import InputError
from nearfar.evaluation.metrics import (
    DOMAINS,
    MAX_FPR,
    QUANTITIES,
    Quantity,
    Told,
    Truth,
    machine_metrics,
    require_groups,
    row_names,
    standardised,
    step_area,
    truth_from_names,
)
from nearfar.evaluation.official import CURRENT, OfficialScore, column_means, overall_score, section_scores
from nearfar.evaluation.scorefiles import MachineScores

RESAMPLES = 10_000
LEVEL = 0.95

_CHUNK_ELEMENTS = 2_000_000
"""Counts held at once: some tens of megabytes, however many the resamples."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval over resamples."""

    value: float
    low: float
    high: float


Intervals = dict[Quantity, Interval]
"""The intervals of a row of the table: three metrics and their harmonic mean."""


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Intervals for every cell of a system's table: of each machine (by its row's name), and of all."""

    machines: dict[str, Intervals]
    all_machines: Intervals
    resamples: int
    level: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One system's value minus another's on the same clips, with its percentile interval over resamples.

    ``a_better`` is the share of resamples in which the first system is ahead, a draw counting half.
    """

    value: float
    low: float
    high: float
    a_better: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same clips: A minus B.

    ``machines`` compares the score (harmonic mean of the three metrics) of each machine, ``overall`` the official
    score, and ``without`` the official score when that one machine is left out; it is empty where there is only
    one. Machines go by their rows' names.
    """

    machines: dict[str, Difference]
    overall: Difference
    without: dict[str, Difference]
    resamples: int
    level: float


def uncertainty(
    machine_scores: Sequence[MachineScores],
    told: Told | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Uncertainty:
    """Intervals for every cell of a system's table and for its official score.

    Args:
        machine_scores: the system's scores; labels and domains are read from the clips' names.
        told: what clips are whose names are not of the challenge's form.
        level: the share of resamples that an interval holds.

    Raises:
        InputError: if a name hides its label, or a machine lacks anomalies or the normal clips of a domain.
    """
    points, draws = [], []
    rule = CURRENT
    for place, entry in enumerate(machine_scores):
        truth = _truth(entry, told)
        rule = truth.rule
        points.append(machine_metrics(truth.anomalous, truth.domains, entry.scores, rule))
        draws.append(_resampled_metrics(truth, [entry.scores], resamples, (seed, place))[0])
    value, drawn = np.array(points), np.stack(draws)  # (machines, 3) and (machines, 3, resamples)
    machines = [entry.machine for entry in machine_scores]
    names = row_names([(entry.machine, entry.section) for entry in machine_scores])
    cells, drawn_cells = (
        np.concatenate([part, section_scores(rule, part)[:, None]], 1) for part in (value, drawn)
    )
    rows = {name: _intervals(cells[place], drawn_cells[place], level) for place, name in enumerate(names)}
    over_all, drawn_over_all = (
        np.concatenate([column_means(rule, machines, part), overall_score(rule, machines, part)[None]])
        for part in (value, drawn)
    )
    return Uncertainty(rows, _intervals(over_all, drawn_over_all, level), resamples, level)


def compare(
    a: Sequence[MachineScores],
    b: Sequence[MachineScores],
    told: Told | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same clips, with the same resamples for both.

    Clips are matched by name without the audio suffix, so scores of a FLAC copy can be held against those of WAVs.

    Raises:
        InputError: if the two do not score the same clips, or as :func:`uncertainty`.
    """
    return compare_all([a], b, told, resamples=resamples, level=level, seed=seed)[0]


def compare_seeds(
    a: Sequence[Sequence[MachineScores]],
    b: Sequence[Sequence[MachineScores]],
    told: Told | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two systems that were trained from several seeds each, on the same clips.

    Values are means over the seeds; every resample of the clips is the same for all of them. The intervals say
    what another draw of test clips could change, not what other seeds could.

    Args:
        a, b: one or more sets of scores of each system.

    Raises:
        InputError: as :func:`compare`, also if two seeds do not score the same clips.
    """
    keys, value, drawn, rule = _metrics([*a, *b], told, resamples, seed)
    return _comparison(keys, value, drawn, (range(len(a)), range(len(a), len(a) + len(b))), rule, level)


def compare_all(
    systems: Sequence[Sequence[MachineScores]],
    b: Sequence[MachineScores],
    told: Told | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Comparison]:
    """Compare several systems with one, each as :func:`compare` does and with the same resamples.

    Memory grows with the number of systems: three numbers for each machine and resample.

    Raises:
        InputError: as :func:`compare`, also if two of the systems do not score the same clips.
    """
    if not systems:
        return []
    keys, value, drawn, rule = _metrics([*systems, b], told, resamples, seed)
    last = (len(systems),)
    return [_comparison(keys, value, drawn, ((place,), last), rule, level) for place in range(len(systems))]


def _metrics(
    systems: Sequence[Sequence[MachineScores]], told: Told | None, resamples: int, seed: int
) -> tuple[list[tuple[str, str]], NDArray[np.float64], NDArray[np.float64], OfficialScore]:
    """Machines and sections; metrics, (machines, systems, 3), and of resamples, (..., resamples); the rule."""
    first = list(systems[0])
    others = [[other for _, other in _aligned(first, system)] for system in systems[1:]]
    points, draws = [], []
    rule = CURRENT
    for place, entry in enumerate(first):
        truth = _truth(entry, told)
        rule = truth.rule
        every = [entry.scores, *(other[place].scores for other in others)]
        points.append([machine_metrics(truth.anomalous, truth.domains, scores, rule) for scores in every])
        draws.append(_resampled_metrics(truth, every, resamples, (seed, place)))
    keys = [(entry.machine, entry.section) for entry in first]
    return keys, np.array(points), np.stack(draws), rule


def _comparison(
    keys: Sequence[tuple[str, str]],
    value: NDArray[np.float64],
    drawn: NDArray[np.float64],
    sides: tuple[Sequence[int], Sequence[int]],
    rule: OfficialScore,
    level: float,
) -> Comparison:
    """From :func:`_metrics` and the places of the systems (several are seeds of one) on either side."""
    names, everything = row_names(keys), np.arange(len(keys))

    def difference(rows: NDArray[np.intp]) -> Difference:
        machines = [keys[row][0] for row in rows]

        def score(part: NDArray[np.float64], side: Sequence[int]) -> NDArray[np.float64]:
            scores = np.stack([overall_score(rule, machines, part[rows, place]) for place in side])
            return np.asarray(scores.mean(axis=0))

        point, ahead = (score(part, sides[0]) - score(part, sides[1]) for part in (value, drawn))
        interval = _interval(point, ahead, level)
        a_better = float(np.mean((ahead > 0) + 0.5 * (ahead == 0)))
        return Difference(interval.value, interval.low, interval.high, a_better)

    machines = {name: difference(everything[place : place + 1]) for place, name in enumerate(names)}
    without = {
        name: difference(np.delete(everything, place)) for place, name in enumerate(names) if len(names) > 1
    }
    return Comparison(machines, difference(everything), without, drawn.shape[-1], level)


def _truth(entry: MachineScores, told: Told | None) -> Truth:
    truth = truth_from_names(entry, told)
    require_groups(entry, truth)
    return truth


def _resampled_metrics(
    truth: Truth, systems: Sequence[NDArray[np.float64]], resamples: int, seed: tuple[int, ...]
) -> NDArray[np.float64]:
    """The three metrics of each system in every resample: (systems, 3, resamples)."""
    rng = np.random.default_rng(seed)
    out = np.empty((len(systems), 3, resamples))
    chunk = max(1, _CHUNK_ELEMENTS // truth.anomalous.size)
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        counts = draw_counts(truth, stop - start, rng)
        for place, scores in enumerate(systems):
            out[place, :, start:stop] = weighted_metrics(truth, scores, counts)
    return out


def draw_counts(truth: Truth, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each clip is drawn, (resamples, clips) float64; each domain and label keeps its size."""
    counts = np.zeros((resamples, truth.anomalous.size))
    for domain in DOMAINS:
        for anomalous in (False, True):
            members = np.flatnonzero((truth.domains == domain) & (truth.anomalous == anomalous))
            if members.size:
                drawn = rng.integers(members.size, size=(resamples, members.size))
                cells = drawn + members.size * np.arange(resamples)[:, None]
                tally = np.bincount(cells.ravel(), minlength=resamples * members.size)
                counts[:, members] = tally.reshape(resamples, members.size)
    return counts


def weighted_metrics(
    truth: Truth, scores: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The three metrics of clips that occur ``counts`` times: (3, resamples).

    Args:
        scores: (clips,) float64.
        counts: (resamples, clips), not negative; every row needs normal clips of both domains and anomalies.
    """
    normal = ~truth.anomalous
    rivals, faults = scores[normal][:, None], scores[truth.anomalous][None, :]
    comparison = _Comparison(counts[:, normal], counts[:, truth.anomalous], rivals > faults, rivals == faults)
    everything = (np.ones(len(rivals), bool), np.ones(faults.size, bool))
    of_domains = [
        (
            truth.domains[normal] == domain,
            truth.domains[truth.anomalous] == domain if truth.rule.own_anomalies else everything[1],
        )
        for domain in DOMAINS
    ]
    areas = [comparison.area(*chosen) for chosen in of_domains]
    if truth.rule.own_anomalies:
        parts = np.stack([comparison.partial_area(*chosen) for chosen in of_domains])
        return np.stack([*areas, len(parts) / np.sum(1 / np.maximum(parts, np.finfo(np.float64).eps), axis=0)])
    return np.stack([*areas, comparison.partial_area(*everything)])


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """Normal clips against anomalies in every resample.

    ``w`` (resamples, normal clips) and ``v`` (resamples, anomalies) are counts; ``above`` and ``tied``
    (normal clips, anomalies) say which normal clips score higher than an anomaly, or the same.
    """

    w: NDArray[np.float64]
    v: NDArray[np.float64]
    above: NDArray[np.bool_]
    tied: NDArray[np.bool_]

    def area(self, rivals: NDArray[np.bool_], faults: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The AUC of the chosen clips, (resamples,); NaN if no normal clip is chosen."""
        if not rivals.any():
            return np.full(len(self.w), np.nan)
        w, v = self.w[:, rivals], self.v[:, faults]
        outscored = 1 - self.above[rivals][:, faults] - 0.5 * self.tied[rivals][:, faults]  # K
        wins = np.einsum("rj,rj->r", w @ outscored, v)
        return np.asarray(wins / (w.sum(axis=1) * v.sum(axis=1)))

    def partial_area(self, rivals: NDArray[np.bool_], faults: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The standardised partial AUC of the chosen clips, (resamples,)."""
        w, v = self.w[:, rivals], self.v[:, faults]
        total = w.sum(axis=1, keepdims=True)
        above, tied = (w @ part[rivals][:, faults] / total for part in (self.above, self.tied))
        steps = np.einsum("rj,rj->r", step_area(above, tied, MAX_FPR), v) / v.sum(axis=1)
        return standardised(steps)


def _aligned(
    a: Sequence[MachineScores], b: Sequence[MachineScores]
) -> Iterator[tuple[MachineScores, MachineScores]]:
    """Pairs of the same machine and section, the second put in the first one's order of clips."""
    others = {(entry.machine, entry.section): entry for entry in b}
    keys = {(entry.machine, entry.section) for entry in a}
    if keys != set(others):
        only = sorted(f"{machine} section {section}" for machine, section in keys ^ set(others))
        raise _mismatch(f"scores of {', '.join(only)} in only one of them")
    for entry in a:
        other = others[entry.machine, entry.section]
        stems, other_stems = (
            [PurePath(name).with_suffix("").as_posix() for name in names] for names in (entry.names, other.names)
        )
        if unmatched := sorted(set(stems) ^ set(other_stems)):
            raise _mismatch(f"{entry.machine} clip {unmatched[0]} in only one of them")
        position = {stem: place for place, stem in enumerate(other_stems)}
        if not len(position) == len(stems) == len(other_stems):
            raise _mismatch(f"{entry.machine} clips whose names differ only in the audio suffix")
        order = [position[stem] for stem in stems]
        yield entry, MachineScores(other.machine, other.section, entry.names, other.scores[order])


def _mismatch(found: str) -> InputError:
    return InputError(
        "the two systems",
        found=found,
        expected="scores of the same clips",
        remedy="Score the same test set with both systems",
    )


def _intervals(values: NDArray[np.float64], resampled: NDArray[np.float64], level: float) -> Intervals:
    """Four intervals from the values of a row, (4,), and those of its resamples, (4, resamples)."""
    return {
        quantity: _interval(values[place], resampled[place], level) for place, quantity in enumerate(QUANTITIES)
    }


def _interval(value: float | NDArray[np.float64], drawn: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
