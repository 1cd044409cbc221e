"""Results on labelled test clips: official metrics of scores; precision, recall and F1 of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import Key, MachineClips, MachineDecisions, MachineScores, heading
from nearfar.evaluation.truth import ClipLabels, GroundTruth, is_dcase2026_development_set
from nearfar.metrics import (
    CURRENT,
    DOMAINS,
    MachineMetrics,
    OfficialRule,
    column_means,
    harmonic_mean,
    machine_metrics,
    overall_score,
    section_scores,
)


@dataclass(frozen=True, slots=True)
class MachineResult:
    """The metrics of one section of one machine."""

    machine: str
    section: str
    metrics: MachineMetrics
    rule: OfficialRule = CURRENT

    @property
    def score(self) -> float:
        """The (harmonic) mean of the three metrics, as the report's table lists it."""
        return float(section_scores(self.rule, [self.metrics])[0])


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one system: a row per machine and section, and their (harmonic) means.

    ``is_dcase2026_development_set`` is true if the technical report's figures are of the same test clips.
    """

    machines: tuple[MachineResult, ...]
    is_dcase2026_development_set: bool = False

    @property
    def rule(self) -> OfficialRule:
        """The rule of the official score."""
        return self.machines[0].rule if self.machines else CURRENT

    @property
    def means(self) -> MachineMetrics:
        """The (harmonic) mean of each metric over the machines; NaN where no machine has it."""
        return MachineMetrics(*map(float, column_means(self.rule, self._machines(), self._rows())))

    @property
    def official_score(self) -> float:
        """Omega: the (harmonic) mean of all metrics of all machines."""
        return float(overall_score(self.rule, self._machines(), self._rows()))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for a table of these results: the rule of another year, or a domain that is absent."""
        if self.rule.statement:
            return (self.rule.statement,)
        absent = np.isnan(self._rows())
        return tuple(
            f"Without normal test clips of the {domain} domain there is no AUC ({domain}); means are of the rest."
            for column, domain in enumerate(DOMAINS)
            if absent[:, column].any()
        )

    @property
    def names(self) -> list[str]:
        """Row headings, as of :func:`row_names`."""
        return row_names([(result.machine, result.section) for result in self.machines])

    def _machines(self) -> list[str]:
        return [result.machine for result in self.machines]

    def _rows(self) -> NDArray[np.float64]:
        return np.array([result.metrics for result in self.machines], dtype=np.float64)


def evaluate_scores(entries: Sequence[MachineScores], truth: GroundTruth) -> Results:
    """Evaluate a system's scores.

    Raises:
        InputError: if there are no scores, a clip has no label, or a machine lacks anomalies or the normal clips
            of a domain.
    """
    if not entries:
        raise InputError("scores", found="none", expected="scores of a machine", remedy="Score a machine first")
    rows = []
    for entry in entries:
        labels = complete_labels(entry, truth)
        metrics = machine_metrics(*labels, entry.scores, truth.rule)
        rows.append(MachineResult(*entry.key, metrics, truth.rule))
    return Results(tuple(rows), is_dcase2026_development_set(entries, truth))


def complete_labels(entry: MachineClips, truth: GroundTruth) -> ClipLabels:
    """Labels and domains of an entry, checked so that every metric is defined.

    Raises:
        InputError: as :meth:`GroundTruth.labels`, or if the machine has no anomalies, or no normal clips of a
            domain where the rule needs both.
    """
    labels, rule = truth.labels(entry), truth.rule
    normal = ~labels.anomalous
    if rule.needs_both_domains:
        groups = {f"normal {name} clips": normal & (labels.domains == name) for name in DOMAINS}
        expected = "normal clips of the source and the target domain, and anomalies"
    else:
        groups, expected = {"normal clips": normal}, "normal clips and anomalies"
    if rule.own_anomalies:
        groups |= {f"{name} anomalies": labels.anomalous & (labels.domains == name) for name in DOMAINS}
        expected += " of both"
    for kind, members in {**groups, "anomalies": labels.anomalous}.items():
        if not members.any():
            raise InputError(
                heading(entry.key),
                found=f"no {kind}",
                expected=expected,
                remedy="Score all test clips of the machine, or leave the machine out",
            )
    return labels


def row_names(keys: Sequence[Key]) -> list[str]:
    """Row headings for (machine, section) pairs: the machine, and its section where the machine has several."""
    machines = [machine for machine, _ in keys]
    return [f"{machine} {section}" if machines.count(machine) > 1 else machine for machine, section in keys]


class DecisionMetrics(NamedTuple):
    """Precision, recall and F1 of decisions, between 0 and 1; 0 if the denominator is 0."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class MachineDecisionResult:
    """Decisions on one section of one machine by domain; None where the data lacks the domain."""

    machine: str
    section: str
    source: DecisionMetrics | None
    target: DecisionMetrics | None


@dataclass(frozen=True, slots=True)
class DecisionResults:
    """The decisions of one system; means are over both domains of all machines."""

    machines: tuple[MachineDecisionResult, ...]

    @property
    def arithmetic_means(self) -> DecisionMetrics:
        """The arithmetic mean of each metric."""
        return DecisionMetrics(*(float(np.mean(values)) for values in self._columns()))

    @property
    def harmonic_means(self) -> DecisionMetrics:
        """The harmonic mean of each metric; nearly 0 if one value is 0."""
        return DecisionMetrics(*(harmonic_mean(values) for values in self._columns()))

    def _columns(self) -> list[tuple[float, ...]]:
        rows = [metrics for machine in self.machines for metrics in (machine.source, machine.target) if metrics]
        return list(zip(*rows, strict=True))


def precision_recall_f1(labels: ArrayLike, decisions: ArrayLike) -> DecisionMetrics:
    """Precision, recall and F1 of decisions on one set of clips.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        decisions: (clips,) bool or 0/1, true for a decided anomaly.

    Raises:
        ValueError: if the shapes differ.
    """
    anomalous, decided = np.asarray(labels, dtype=bool), np.asarray(decisions, dtype=bool)
    if anomalous.shape != decided.shape:
        raise ValueError(f"labels {anomalous.shape} and decisions {decided.shape} are not of one length")
    hits = float(np.sum(anomalous & decided))
    precision, recall = _ratio(hits, float(decided.sum())), _ratio(hits, float(anomalous.sum()))
    return DecisionMetrics(precision, recall, _ratio(2 * precision * recall, precision + recall))


def evaluate_decisions(entries: Sequence[MachineDecisions], truth: GroundTruth) -> DecisionResults:
    """Evaluate a system's decisions as the official evaluator does: each domain on its own normal clips and
    anomalies.

    Raises:
        InputError: if there are no decisions, or a clip has no label.
    """
    if not entries:
        raise InputError(
            "decisions", found="none", expected="decisions of a machine", remedy="Decide on a machine first"
        )
    results = []
    for entry in entries:
        labels = truth.labels(entry)
        rows = [labels.domains == domain for domain in DOMAINS]
        source, target = (
            precision_recall_f1(labels.anomalous[row], entry.decisions[row]) if row.any() else None for row in rows
        )
        results.append(MachineDecisionResult(*entry.key, source, target))
    return DecisionResults(tuple(results))


def _ratio(part: float, whole: float) -> float:
    return part / max(whole, float(np.finfo(np.float64).eps))
