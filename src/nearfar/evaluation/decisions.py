"""Precision, recall and F1 of decisions, per domain, as the official evaluator computes them.

Unlike the AUC, each domain is judged on its own clips only, its normal ones and its anomalies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import InputError
from nearfar.evaluation.metrics import DOMAINS, Told, harmonic_mean, truth_from_names
from nearfar.thresholds.rules import MachineDecisions


class DecisionMetrics(NamedTuple):
    """How good decisions are; all between 0 and 1, and 0 where a denominator is."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class MachineDecisionResult:
    """One section of one machine, judged in either domain; None where the data lacks the domain."""

    machine: str
    section: str
    source: DecisionMetrics | None
    target: DecisionMetrics | None


@dataclass(frozen=True, slots=True)
class DecisionResults:
    """The decisions of one system; its means run over both domains of all machines alike."""

    machines: tuple[MachineDecisionResult, ...]

    @property
    def arithmetic_means(self) -> DecisionMetrics:
        """The arithmetic mean of each metric."""
        return DecisionMetrics(*(float(np.mean(values)) for values in self._columns()))

    @property
    def harmonic_means(self) -> DecisionMetrics:
        """The harmonic mean of each metric; a single 0 takes it to nearly 0."""
        return DecisionMetrics(*(harmonic_mean(values) for values in self._columns()))

    def _columns(self) -> list[tuple[float, ...]]:
        rows = [metrics for machine in self.machines for metrics in (machine.source, machine.target) if metrics]
        return list(zip(*rows, strict=True))


def precision_recall_f1(labels: ArrayLike, decisions: ArrayLike) -> DecisionMetrics:
    """Judge decisions on one set of clips.

    Args:
        labels: (clips,) bool or 0/1, true for an anomaly.
        decisions: (clips,) bool or 0/1, true where a clip is called anomalous.

    Raises:
        ValueError: if the shapes differ.
    """
    anomalous, called = np.asarray(labels, dtype=bool), np.asarray(decisions, dtype=bool)
    if anomalous.shape != called.shape:
        raise ValueError(f"labels {anomalous.shape} and decisions {called.shape} are not of one length")
    hits = float(np.sum(anomalous & called))
    precision, recall = _ratio(hits, float(called.sum())), _ratio(hits, float(anomalous.sum()))
    return DecisionMetrics(precision, recall, _ratio(2 * precision * recall, precision + recall))


def evaluate_decisions(machine_decisions: Sequence[MachineDecisions], told: Told | None = None) -> DecisionResults:
    """Judge a system's decisions against the truth in the clips' names, or what is told of clips of other names.

    Raises:
        InputError: if there are no decisions, or a name hides its label.
    """
    if not machine_decisions:
        raise InputError(
            "decisions", found="none", expected="decisions of a machine", remedy="Decide on a machine first"
        )
    return DecisionResults(tuple(_evaluate_machine(entry, told) for entry in machine_decisions))


def _evaluate_machine(entry: MachineDecisions, told: Told | None) -> MachineDecisionResult:
    truth = truth_from_names(entry, told)
    rows = [truth.domains == domain for domain in DOMAINS]
    source, target = (
        precision_recall_f1(truth.anomalous[row], entry.decisions[row]) if row.any() else None for row in rows
    )
    return MachineDecisionResult(entry.machine, entry.section, source, target)


def _ratio(part: float, whole: float) -> float:
    return part / max(whole, float(np.finfo(np.float64).eps))
