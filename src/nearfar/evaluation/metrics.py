"""The challenge's metrics: AUC per domain, partial AUC and the official score.

A domain's AUC sets its normal clips against the anomalies of *both* domains, because a detector does not know
which domain an anomaly comes from. The partial AUC pools both domains up to a false-positive rate of 0.1 and is
standardised after McClish (1989), so that 0.5 is chance. The official score is the harmonic mean of the three
values of all machines. All values are fractions: 0.5, not 50 %. That is how it is from 2022 on; what other years
do, and what is done where a domain is absent, is in :mod:`nearfar.evaluation.official`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.data.clips import Domain, Label, edition_of, parse_test_name
from nearfar.errors import InputError
from nearfar.evaluation.official import (
    CURRENT,
    OFFICIAL_SCORES,
    OfficialScore,
    column_means,
    overall_score,
    section_scores,
)
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.thresholds.rules import MachineDecisions

MAX_FPR = 0.1
"""p: the partial AUC looks at false-positive rates from 0 to p."""

DOMAINS = ("source", "target")

Quantity = Literal["auc_source", "auc_target", "pauc", "score"]
QUANTITIES: tuple[Quantity, ...] = ("auc_source", "auc_target", "pauc", "score")
"""The four rows of every machine in the report's table; ``score`` is the harmonic mean of the other three."""


Told = Mapping[tuple[str, str], tuple[Label, Domain]]
"""Label and domain by machine and clip, for clips whose names are not of the challenge's form."""


class MachineMetrics(NamedTuple):
    """The three values of one machine that enter the official score; NaN where a domain is absent."""

    auc_source: float
    auc_target: float
    pauc: float


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the clips of one machine are.

    ``anomalous`` is (clips,) bool; ``domains`` is (clips,) of the strings ``source`` and ``target``; ``rule`` is
    how the year that the clips are of evaluates them.
    """

    anomalous: NDArray[np.bool_]
    domains: NDArray[np.str_]
    rule: OfficialScore = CURRENT


@dataclass(frozen=True, slots=True)
class MachineResult:
    """How well one section of one machine is told apart."""

    machine: str
    section: str
    metrics: MachineMetrics
    rule: OfficialScore = CURRENT

    @property
    def score(self) -> float:
        """The (harmonic) mean of the three metrics, as the report's table lists it."""
        return float(section_scores(self.rule, [self.metrics])[0])


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one system: a row per machine and section, and their harmonic means."""

    machines: tuple[MachineResult, ...]

    @property
    def rule(self) -> OfficialScore:
        """How the year that the clips are of evaluates them."""
        return self.machines[0].rule if self.machines else CURRENT

    @property
    def means(self) -> MachineMetrics:
        """The (harmonic) mean of each metric over the machines; NaN where no machine has it."""
        return MachineMetrics(*map(float, column_means(self.rule, self._names(), self._rows())))

    @property
    def official_score(self) -> float:
        """Omega: the (harmonic) mean of all metrics of all machines."""
        return float(overall_score(self.rule, self._names(), self._rows()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a table must say of these figures: the rule of another year, or a domain that is absent."""
        if self.rule.statement:
            return (self.rule.statement,)
        absent = np.isnan(self._rows())
        return tuple(
            f"Without normal test clips of the {domain} domain there is no AUC ({domain}); means are of the rest."
            for place, domain in enumerate(DOMAINS)
            if absent[:, place].any()
        )

    def _names(self) -> list[str]:
        return [result.machine for result in self.machines]

    def _rows(self) -> NDArray[np.float64]:
        return np.array([result.metrics for result in self.machines], dtype=np.float64)


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often an anomaly outscores a normal clip, a tie counting half.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        scores: (clips,) finite numbers, higher is more anomalous.

    Raises:
        ValueError: if the shapes differ, a score is not finite, or one of the two labels is absent.
    """
    normal, anomalous = _split(labels, scores)
    normal.sort()
    below = np.searchsorted(normal, anomalous, side="left")
    not_above = np.searchsorted(normal, anomalous, side="right")
    return float((below + not_above).sum() / (2 * normal.size * anomalous.size))


def pauc(labels: ArrayLike, scores: ArrayLike, max_fpr: float = MAX_FPR) -> float:
    """Partial area under the ROC curve up to ``max_fpr``, standardised after McClish so that 0.5 is chance.

    The curve is a sum of one step per anomaly: the step starts at the false-positive rate of the normal clips
    above the anomaly and, where normal clips tie with it, climbs linearly over theirs. The area under the curve
    up to ``max_fpr`` is thus the mean of the areas under the steps.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        scores: (clips,) finite numbers, higher is more anomalous.
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
    return float(standardised(step_area(above, tied, max_fpr).mean(), max_fpr))


def step_area(start: NDArray[np.float64], rise: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Area from 0 to ``end`` under steps that are 0 up to ``start``, climb over ``rise`` and are 1 thereafter."""
    climbed = np.clip(end - start, 0, rise)
    triangle = np.divide(climbed**2, 2 * rise, out=np.zeros_like(climbed), where=rise > 0)
    return triangle + np.maximum(end - start - rise, 0)


def standardised(area: NDArray[np.float64] | np.float64, max_fpr: float = MAX_FPR) -> NDArray[np.float64]:
    """McClish's standardisation of a partial area: 0.5 on the diagonal, 1 for a perfect detector."""
    chance = max_fpr**2 / 2
    return np.asarray((1 + (area - chance) / (max_fpr - chance)) / 2)


def harmonic_mean(values: Iterable[float]) -> float:
    """Harmonic mean of values clamped from below at the smallest float step, as the official evaluator does."""
    clamped = np.maximum(np.fromiter(values, dtype=np.float64), np.finfo(np.float64).eps)
    return float(clamped.size / np.sum(1 / clamped))


def official_score(machines: Iterable[Iterable[float]]) -> float:
    """Omega: the harmonic mean of the three values of every machine."""
    return harmonic_mean(value for values in machines for value in values)


def machine_metrics(
    labels: ArrayLike, domains: ArrayLike, scores: ArrayLike, rule: OfficialScore = CURRENT
) -> MachineMetrics:
    """AUC of either domain (its normal clips against the anomalies of both) and partial AUC of both together.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        domains: (clips,) of ``source`` and ``target``.
        scores: (clips,) finite numbers, higher is more anomalous.
        rule: of the year; in 2021 anomalies are those of the domain, and the partial AUC the harmonic mean of the
            domains'.

    Raises:
        ValueError: as :func:`auc`, in particular if a domain has no normal clip, unless the rule does without.
    """
    anomalous, domain, score = np.asarray(labels, dtype=bool), np.asarray(domains), np.asarray(scores)
    rows = [domain_rows(anomalous, domain, name, rule) for name in DOMAINS]
    source, target = (
        np.nan if not rule.needs_both_domains and anomalous[row].all() else auc(anomalous[row], score[row])
        for row in rows
    )
    if rule.own_anomalies:
        return MachineMetrics(source, target, harmonic_mean(pauc(anomalous[row], score[row]) for row in rows))
    return MachineMetrics(source, target, pauc(anomalous, score))


def domain_rows(
    anomalous: NDArray[np.bool_], domains: NDArray[np.str_], domain: str, rule: OfficialScore = CURRENT
) -> NDArray[np.bool_]:
    """Which clips the AUC of a domain is over, (clips,) bool."""
    return np.asarray(domains == domain if rule.own_anomalies else anomalous | (domains == domain))


def truth_from_names(entry: MachineScores | MachineDecisions, told: Told | None = None) -> Truth:
    """Labels and domains of a machine's test clips, from their file names, of whatever year.

    Args:
        entry: scores or decisions.
        told: what clips are whose names are not of the challenge's form.

    Raises:
        InputError: if a name hides its label, as those of evaluation clips do, or it is outside the grammar and
            nothing is told of it.
    """
    known = [(told or {}).get((entry.machine, name)) for name in entry.names]
    if any(map(_is_outside_grammar, entry.names)) and all(known):
        found = [what for what in known if what is not None]
        rule = OFFICIAL_SCORES["own"]
    else:
        found = [_told_by_name(name, entry) for name in entry.names]
        rule = OFFICIAL_SCORES[edition_of(entry.names[0])]
    return Truth(
        np.array([label == "anomaly" for label, _ in found], dtype=bool),
        np.array([domain for _, domain in found]),
        rule,
    )


def hides_labels(entry: MachineScores, told: Told | None = None) -> bool:
    """Whether no name tells a label, as those of evaluation clips do not."""
    for name in entry.names:
        if _is_outside_grammar(name):
            tells = (entry.machine, name) in (told or {})
        else:
            tells = parse_test_name(name, entry.machine).label is not None
        if tells:
            return False
    return True


def _is_outside_grammar(name: str) -> bool:
    """Names with a folder are those of one's own folder, whatever the file in it is called."""
    if "/" in name:
        return True
    try:
        parse_test_name(name, "")
    except InputError:
        return True
    return False


def _told_by_name(name: str, entry: MachineScores | MachineDecisions) -> tuple[Label, Domain]:
    where = f"{entry.machine} section {entry.section}"
    if "/" in name:
        raise InputError(
            where,
            found=f"{name}, a clip of one's own folder of which nothing is told",
            expected="truth.csv beside the score files, with a row for each clip",
            remedy="Take the whole scores folder that nearfar run wrote",
        )
    clip = parse_test_name(name, entry.machine)
    if clip.label is None or clip.domain is None:
        raise InputError(
            where,
            found=f"{clip.name}, an evaluation clip whose name hides domain and label",
            expected="names such as section_00_source_test_normal_0000_noAttribute.wav",
            remedy="Give the evaluator's ground truth with --truth, or put the true names in the score files",
        )
    return clip.label, clip.domain


def evaluate_scores(machine_scores: Sequence[MachineScores], told: Told | None = None) -> Results:
    """Evaluate a system's scores against the truth in the clips' names.

    Args:
        machine_scores: the scores.
        told: what clips are whose names are not of the challenge's form.

    Raises:
        InputError: if there are no scores, a name hides its label, a machine lacks anomalies or the normal clips
            of a domain, or the clips are of years that are evaluated differently.
    """
    if not machine_scores:
        raise InputError("scores", found="none", expected="scores of a machine", remedy="Score a machine first")
    results = Results(tuple(_evaluate_machine(entry, told) for entry in machine_scores))
    if any(result.rule != results.rule for result in results.machines):
        raise InputError(
            "scores",
            found="clips of years that are evaluated differently",
            expected="scores of one year's data",
            remedy="Put the score files of each into a folder of their own",
        )
    return results


def _evaluate_machine(entry: MachineScores, told: Told | None) -> MachineResult:
    truth = truth_from_names(entry, told)
    require_groups(entry, truth)
    metrics = machine_metrics(truth.anomalous, truth.domains, entry.scores, truth.rule)
    return MachineResult(entry.machine, entry.section, metrics, truth.rule)


def require_groups(entry: MachineScores, truth: Truth) -> None:
    """Check that every metric is defined.

    Raises:
        InputError: if the machine has no anomalies, or no normal clips of a domain.
    """
    normal = ~truth.anomalous
    if truth.rule.needs_both_domains:
        groups = {f"normal {name} clips": normal & (truth.domains == name) for name in DOMAINS}
        expected = "normal clips of the source and the target domain, and anomalies"
    else:
        groups, expected = {"normal clips": normal}, "normal clips and anomalies"
    if truth.rule.own_anomalies:
        groups |= {f"{name} anomalies": truth.anomalous & (truth.domains == name) for name in DOMAINS}
        expected += " of both"
    for kind, members in {**groups, "anomalies": truth.anomalous}.items():
        if not members.any():
            raise InputError(
                f"{entry.machine} section {entry.section}",
                found=f"no {kind}",
                expected=expected,
                remedy="Score all test clips of the machine, or leave the machine out",
            )


def row_names(keys: Sequence[tuple[str, str]]) -> list[str]:
    """What to call each (machine, section): the machine, and its section where the machine has several."""
    machines = [machine for machine, _ in keys]
    return [f"{machine} {section}" if machines.count(machine) > 1 else machine for machine, section in keys]


def _split(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    anomalous, score = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if anomalous.shape != score.shape or anomalous.ndim != 1:
        raise ValueError(f"labels {anomalous.shape} and scores {score.shape} are not of one length")
    if not np.isfinite(score).all():
        raise ValueError("a score is not finite")
    if anomalous.all() or not anomalous.any():
        raise ValueError("needs both normal and anomalous clips")
    return score[~anomalous], score[anomalous]
