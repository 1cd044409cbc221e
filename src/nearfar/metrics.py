"""Metrics of anomaly scores on plain arrays: AUC per domain, partial AUC, the official score, bootstrap intervals.

Throughout, ``labels`` is (clips,) bool or 0/1, true for an anomaly; ``domains`` is (clips,) of the strings
``"source"`` and ``"target"``; ``scores`` is (clips,) finite, higher is more anomalous. Results are fractions: 0.5,
not 50 %.

DCASE Task 2 has computed one official score of AUC and partial AUC (pAUC) differently over the years:

=============  ==================================================================================================
2022 to 2026   AUC per section and domain, its normal clips against the anomalies of both; pAUC per section over
               both domains; the harmonic mean of all of them. *Sure*: the evaluators of 2022 to 2024 and the
               baselines from 2022 on compute it so.
2021           AUC and pAUC per section and domain, each domain with its own anomalies; the harmonic mean of all of
               them. *Sure* for the values and for the harmonic means of AUC and of pAUC (the year's evaluator);
               that both enter one mean with equal weight is *inferred* from the years that follow.
2020           AUC and pAUC per machine id, averaged over the ids of a machine type (arithmetic mean; *sure*, the
               year's evaluator). The challenge ranked systems by ranks, which need other systems; the arithmetic
               mean of both averages over machine types replaces it here, which is *inferred*.
own folder     As 2022 to 2026; a domain without normal test clips has no AUC and is left out of the means.
=============  ==================================================================================================

A partial AUC is the standardised one up to a false-positive rate of 0.1 in all of them. A section has three
values: AUC (source), AUC (target) and pAUC. In 2021 the third is the harmonic mean of the two domains' pAUC, which
then counts twice, so that the mean of all is the same; in 2020 the first is the AUC and the second is absent.

Papers: T. Nishida et al., "Description and discussion on DCASE 2026 challenge task 2", arXiv 2606.10097 (AUC per
domain, pAUC, the harmonic mean); D. K. McClish, "Analyzing a portion of the ROC curve", Medical Decision Making
1989 (standardised partial AUC); B. Efron and R. Tibshirani, "An introduction to the bootstrap", 1993.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "auc",
    "auc_source_target",
    "bootstrap_interval",
    "harmonic_mean",
    "official_score",
    "partial_auc",
    "roc_curve",
]

MAX_FPR = 0.1
"""p: the partial AUC covers false-positive rates from 0 to p."""
DOMAINS = ("source", "target")
RESAMPLES = 10_000
LEVEL = 0.95

Quantity = Literal["auc_source", "auc_target", "pauc", "score"]
QUANTITIES: tuple[Quantity, ...] = ("auc_source", "auc_target", "pauc", "score")
"""The four values of a machine; ``score`` is the mean of the other three."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.str_]

_EPSILON = float(np.finfo(np.float64).eps)
_CHUNK_ELEMENTS = 2_000_000
"""Counts in memory at once, which bounds it to some tens of megabytes for any number of resamples."""


class MachineMetrics(NamedTuple):
    """The three values of one machine and section; NaN where a domain is absent."""

    auc_source: float
    auc_target: float
    pauc: float


@dataclass(frozen=True, slots=True)
class OfficialRule:
    """Rule of the official score of one or more years.

    Attributes:
        own_anomalies: a domain's AUC compares its normal clips with its own anomalies only.
        mean: of the values of a section, and over sections and machines.
        weights: of AUC (source), AUC (target) and pAUC in means over all of them.
        needs_both_domains: a domain without normal test clips is an error.
        statement: the note of a table of such values; empty for the rule of the current challenge.
    """

    own_anomalies: bool = False
    mean: Literal["harmonic", "arithmetic"] = "harmonic"
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    needs_both_domains: bool = True
    statement: str = ""


CURRENT = OfficialRule()
"""The rule of 2022 to 2026."""

OFFICIAL_RULES: dict[str, OfficialRule] = {
    "dcase2020": OfficialRule(
        mean="arithmetic",
        needs_both_domains=False,
        statement="DCASE 2020: AUC (source) is the AUC, as that year had no domains; means are arithmetic, over "
        "machine ids and then machine types. The challenge itself ranked by ranks.",
    ),
    "dcase2021": OfficialRule(
        own_anomalies=True,
        weights=(1.0, 1.0, 2.0),
        statement="DCASE 2021: each domain with its own anomalies; pAUC is the harmonic mean of both domains' and "
        "counts twice in the score.",
    ),
    "dcase2022": CURRENT,
    "own": OfficialRule(needs_both_domains=False),
}
"""By layout of the data (:data:`nearfar.data.layouts.Layout`)."""


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the fraction of (anomaly, normal) pairs in order, a tie counting half.

    Raises:
        ValueError: if the shapes differ, a score is not finite, or one of the two labels is absent.
    """
    normal, anomalous = _split(labels, scores)
    normal.sort()
    below = np.searchsorted(normal, anomalous, side="left")
    not_above = np.searchsorted(normal, anomalous, side="right")
    return float((below + not_above).sum() / (2 * normal.size * anomalous.size))


def partial_auc(labels: ArrayLike, scores: ArrayLike, max_fpr: float = MAX_FPR) -> float:
    """Area under the ROC curve up to ``max_fpr``, standardised after McClish (1989) so that 0.5 is chance.

    The same as scikit-learn's ``roc_auc_score(labels, scores, max_fpr=max_fpr)``. The curve is a sum of one step
    per anomaly: the step starts at the false-positive rate of the normal clips above the anomaly and, where
    normal clips tie with it, climbs linearly over theirs. The area is the mean of the areas under the steps.

    Args:
        labels, scores: as in the module's description.
        max_fpr: in (0, 1].

    Raises:
        ValueError: as :func:`auc`, or if ``max_fpr`` is outside its range.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr}, not in (0, 1]")
    normal, anomalous = _split(labels, scores)
    normal.sort()
    not_above = np.searchsorted(normal, anomalous, side="right")
    tied = (not_above - np.searchsorted(normal, anomalous, side="left")) / normal.size
    above = (normal.size - not_above) / normal.size
    return float(_standardised(_step_area(above, tied, max_fpr).mean(), max_fpr))


def auc_source_target(labels: ArrayLike, domains: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """AUC of the source and of the target domain: its normal clips against the anomalies of both domains.

    The anomalies of both count because a detector is not given the domain of an anomaly.

    Raises:
        ValueError: as :func:`auc`, also if a domain has no normal clip.
    """
    source, target, _ = machine_metrics(labels, domains, scores)
    return source, target


def official_score(values: Iterable[Iterable[float] | float]) -> float:
    """Official score of 2022 to 2026: the harmonic mean of AUC (source), AUC (target) and pAUC of all machines.

    Args:
        values: fractions, three per machine or flat.

    Raises:
        ValueError: if there are none.
    """
    return harmonic_mean(
        number for value in values for number in (value if isinstance(value, Iterable) else (value,))
    )


def harmonic_mean(values: Iterable[float]) -> float:
    """Harmonic mean of values clamped from below at the float epsilon, as the official evaluator does.

    Raises:
        ValueError: if there are none.
    """
    clamped = np.maximum(np.fromiter(values, dtype=np.float64), _EPSILON)
    if not clamped.size:
        raise ValueError("no values")
    return float(clamped.size / np.sum(1 / clamped))


def bootstrap_interval(
    labels: ArrayLike,
    domains: ArrayLike,
    scores: ArrayLike,
    metric: Quantity = "score",
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over test clips, stratified by domain and label.

    Args:
        labels, domains, scores: of one machine, as in the module's description.
        metric: ``auc_source``, ``auc_target``, ``pauc`` or ``score``, the harmonic mean of the three.
        resamples: number of times the clips are drawn with replacement.
        level: the fraction of resamples inside the interval.
        seed: of the draws.

    Returns:
        the lower and the upper end.

    Raises:
        ValueError: as :func:`auc_source_target`, or if there is no such metric.
    """
    if metric not in QUANTITIES:
        raise ValueError(f"metric is {metric!r}, not one of {', '.join(QUANTITIES)}")
    anomalous, domain, score = np.asarray(labels, dtype=bool), np.asarray(domains), np.asarray(scores, np.float64)
    machine_metrics(anomalous, domain, score)  # raises where a metric is undefined
    drawn = resampled_metrics(anomalous, domain, [score], resamples, (seed, 0))
    cells = np.concatenate([drawn, section_scores(CURRENT, drawn)[:, None]], axis=1)[0]
    return percentile_interval(cells[QUANTITIES.index(metric)], level)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); tied clips move both at once.

    Returns:
        two arrays (distinct scores + 1,).

    Raises:
        ValueError: as :func:`auc`.
    """
    normal, anomalous = _split(labels, scores)
    negated = np.unique(-np.concatenate([normal, anomalous]))  # thresholds from the highest to the lowest
    false_positives, true_positives = (
        np.append(0.0, np.searchsorted(np.sort(-group), negated, side="right") / group.size)
        for group in (normal, anomalous)
    )
    return false_positives, true_positives


# --- by the rule of a year -------------------------------------------------------------------------------------


def machine_metrics(
    labels: ArrayLike, domains: ArrayLike, scores: ArrayLike, rule: OfficialRule = CURRENT
) -> MachineMetrics:
    """AUC of the source and of the target domain, and partial AUC over both, by the rule of a year.

    Raises:
        ValueError: as :func:`auc`, in particular if a domain has no normal clip, unless the rule allows it.
    """
    anomalous, domain, score = np.asarray(labels, dtype=bool), np.asarray(domains), np.asarray(scores)
    if domain.shape != anomalous.shape:
        raise ValueError(f"labels {anomalous.shape} and domains {domain.shape} are not of one length")
    rows = [domain_rows(anomalous, domain, name, rule) for name in DOMAINS]
    source, target = (
        np.nan if not rule.needs_both_domains and anomalous[row].all() else auc(anomalous[row], score[row])
        for row in rows
    )
    if rule.own_anomalies:
        parts = (partial_auc(anomalous[row], score[row]) for row in rows)
        return MachineMetrics(source, target, harmonic_mean(parts))
    return MachineMetrics(source, target, partial_auc(anomalous, score))


def domain_rows(anomalous: Bools, domains: Texts, domain: str, rule: OfficialRule = CURRENT) -> Bools:
    """Mask of the clips that enter the AUC of a domain, (clips,) bool."""
    return np.asarray(domains == domain if rule.own_anomalies else anomalous | (domains == domain))


def section_scores(rule: OfficialRule, values: ArrayLike) -> Floats:
    """One score per section.

    Args:
        rule: the year's.
        values: (sections, 3, ...) fractions, NaN where one is absent.

    Returns:
        (sections, ...).
    """
    return _mean(rule, np.asarray(values, dtype=np.float64), axis=(1,))


def column_means(rule: OfficialRule, machines: Sequence[str], values: ArrayLike) -> Floats:
    """The mean of each of the three values over sections; by arithmetic means, over those of a machine first.

    Args:
        rule: the year's.
        machines: (sections,) the machine of each section.
        values: (sections, 3, ...) fractions, NaN where one is absent.

    Returns:
        (3, ...), NaN where no section has the value.
    """
    return _mean(rule, _by_machine(rule, machines, values), axis=(0,))


def overall_score(rule: OfficialRule, machines: Sequence[str], values: ArrayLike) -> Floats:
    """The official score; arguments as :func:`column_means`, returns (...)."""
    return _mean(rule, _by_machine(rule, machines, values), axis=(0, 1))


def _by_machine(rule: OfficialRule, machines: Sequence[str], values: ArrayLike) -> Floats:
    """For arithmetic means, the averages over each machine's sections, so that all machines have one weight."""
    array, names = np.asarray(values, dtype=np.float64), np.asarray(machines)
    if rule.mean == "harmonic":
        return array
    return np.stack([array[names == name].mean(axis=0) for name in dict.fromkeys(machines)])


def _mean(rule: OfficialRule, values: Floats, axis: tuple[int, ...]) -> Floats:
    """Mean of (sections, 3, ...) weighted by the rule, over the values that are not NaN.

    Harmonic means clamp values from below at the float epsilon, as the official evaluators do.
    """
    weights = np.where(np.isnan(values), 0.0, np.reshape(rule.weights, (3, *[1] * (values.ndim - 2))))
    filled, total = np.where(np.isnan(values), 1.0, values), weights.sum(axis=axis)
    if rule.mean == "arithmetic":
        parts, whole = (weights * filled).sum(axis=axis), total
    else:
        parts, whole = total, (weights / np.maximum(filled, _EPSILON)).sum(axis=axis)
    return np.asarray(np.divide(parts, whole, out=np.full_like(total, np.nan), where=total > 0))


# --- the bootstrap ---------------------------------------------------------------------------------------------
#
# A resample is stored as the number of times each clip was drawn, so the AUC of all resamples is a matrix product:
# with w the counts of the normal clips, v those of the anomalies and K[i, j] 1 where anomaly j scores above normal
# clip i (0.5 in a tie), the AUC is w K v / (sum(w) sum(v)). The partial AUC follows from the rate of normal clips
# above each anomaly, w A / sum(w), in the same way (see partial_auc).


def percentile_interval(resampled: Floats, level: float) -> tuple[float, float]:
    """The lower and the upper end of the central fraction ``level`` of resampled values, (resamples,)."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_metrics(
    anomalous: Bools,
    domains: Texts,
    systems: Sequence[Floats],
    resamples: int,
    seed: tuple[int, ...],
    rule: OfficialRule = CURRENT,
) -> Floats:
    """The three metrics of each system in every resample, the same resamples for all: (systems, 3, resamples)."""
    rng = np.random.default_rng(seed)
    out = np.empty((len(systems), 3, resamples))
    chunk = max(1, _CHUNK_ELEMENTS // anomalous.size)
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        counts = draw_counts(anomalous, domains, stop - start, rng)
        for index, scores in enumerate(systems):
            out[index, :, start:stop] = weighted_metrics(anomalous, domains, scores, counts, rule)
    return out


def draw_counts(anomalous: Bools, domains: Texts, resamples: int, rng: np.random.Generator) -> Floats:
    """Number of times each clip is drawn, (resamples, clips) float64; each domain and label keeps its size."""
    counts = np.zeros((resamples, anomalous.size))
    for domain in DOMAINS:
        for label in (False, True):
            members = np.flatnonzero((domains == domain) & (anomalous == label))
            if members.size:
                drawn = rng.integers(members.size, size=(resamples, members.size))
                cells = drawn + members.size * np.arange(resamples)[:, None]
                tally = np.bincount(cells.ravel(), minlength=resamples * members.size)
                counts[:, members] = tally.reshape(resamples, members.size)
    return counts


def weighted_metrics(
    anomalous: Bools, domains: Texts, scores: Floats, counts: Floats, rule: OfficialRule = CURRENT
) -> Floats:
    """The three metrics of clips that occur ``counts`` times: (3, resamples).

    Args:
        anomalous, domains, scores: (clips,).
        counts: (resamples, clips), not negative; every row needs normal clips of both domains and anomalies.
        rule: the year's.
    """
    rows = [domain_rows(anomalous, domains, domain, rule) for domain in DOMAINS]
    areas = [_weighted_auc(anomalous[row], scores[row], counts[:, row]) for row in rows]
    if rule.own_anomalies:
        parts = np.stack([_weighted_partial_auc(anomalous[row], scores[row], counts[:, row]) for row in rows])
        return np.stack([*areas, len(parts) / np.sum(1 / np.maximum(parts, _EPSILON), axis=0)])
    return np.stack([*areas, _weighted_partial_auc(anomalous, scores, counts)])


def _weighted_auc(anomalous: Bools, scores: Floats, counts: Floats) -> Floats:
    """The AUC in every resample, (resamples,); NaN without normal clips."""
    if anomalous.all():
        return np.full(len(counts), np.nan)
    w, v, above, tied = _weighted_pairs(anomalous, scores, counts)
    in_order = 1 - above - 0.5 * tied  # K
    wins = np.einsum("rj,rj->r", w @ in_order, v)
    return np.asarray(wins / (w.sum(axis=1) * v.sum(axis=1)))


def _weighted_partial_auc(anomalous: Bools, scores: Floats, counts: Floats) -> Floats:
    """The standardised partial AUC in every resample, (resamples,)."""
    w, v, *pairs = _weighted_pairs(anomalous, scores, counts)
    above, tied = (w @ pair / w.sum(axis=1, keepdims=True) for pair in pairs)
    return _standardised(np.einsum("rj,rj->r", _step_area(above, tied, MAX_FPR), v) / v.sum(axis=1))


def _weighted_pairs(anomalous: Bools, scores: Floats, counts: Floats) -> tuple[Floats, Floats, Bools, Bools]:
    """Counts of normal clips and of anomalies, (resamples, ...), and masks (normal clips, anomalies).

    The masks mark normal clips that score higher than an anomaly, and those that score the same.
    """
    normal, faulty = scores[~anomalous][:, None], scores[anomalous]
    return counts[:, ~anomalous], counts[:, anomalous], normal > faulty, normal == faulty


def _step_area(start: Floats, rise: Floats, end: float) -> Floats:
    """Area from 0 to ``end`` under steps that are 0 up to ``start``, climb over ``rise`` and are 1 thereafter."""
    climbed = np.clip(end - start, 0, rise)
    triangle = np.divide(climbed**2, 2 * rise, out=np.zeros_like(climbed), where=rise > 0)
    return triangle + np.maximum(end - start - rise, 0)


def _standardised(area: Floats | np.float64, max_fpr: float = MAX_FPR) -> Floats:
    """McClish's standardisation of a partial area: 0.5 on the diagonal, 1 for a perfect detector."""
    chance = max_fpr**2 / 2
    return np.asarray((1 + (area - chance) / (max_fpr - chance)) / 2)


def _split(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    anomalous, score = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if anomalous.shape != score.shape or anomalous.ndim != 1:
        raise ValueError(f"labels {anomalous.shape} and scores {score.shape} are not of one length")
    if not np.isfinite(score).all():
        raise ValueError("a score is not finite")
    if anomalous.all() or not anomalous.any():
        raise ValueError("needs both normal and anomalous clips")
    return score[~anomalous], score[anomalous]
